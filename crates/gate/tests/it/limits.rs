//! Budgets, pauses, rates and breakers: nobody gets more than is set, by no number of calls at a time, and no restart.

use countersign_gate::api::Redeem;
use countersign_gate::budgets::{Budget, Period, Scope};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Act, World, adas_agent, done, pending, person, refused, robot, settings, world, world_with};

fn budget(calls: Option<u64>, cost: Option<u64>) -> Budget {
    // A month: long enough that no test runs over its end but once in a blue moon, and then a day earlier or later.
    Budget { name: "monthly".into(), period: Period::Month, calls, cost, scope: Scope::default() }
}

async fn with_budget(calls: Option<u64>, cost: Option<u64>) -> World {
    world_with(|settings| settings.budgets = vec![budget(calls, cost)]).await
}

#[tokio::test]
async fn a_budget_of_cost_is_never_overspent_by_calls_at_a_time() {
    let world = with_budget(None, Some(10_000_000)).await;
    let robot = robot();
    let pay = |amount: u32| world.call(&robot, "bank:pay", json!({"to": "bob", "amount": amount}));
    let outcomes = join_all((0..12).map(|_| pay(3))).await;
    let (paid, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((paid.len(), refused.len()), (3, 9), "3 of 3 fit into 10");
    assert_eq!(world.bank.count("pay"), 3, "nothing more reached the upstream");
    for refusal in refused {
        let refusal = refusal.expect_err("refused");
        assert_eq!(refusal.kind.slug(), "budget-exhausted");
        assert!(refusal.retry_after.is_some_and(|s| s <= 32 * 86_400), "{refusal:?}");
    }
    // What still fits is still possible, and another principal has a budget of its own.
    done(pay(1).await);
    done(world.call(&adas_agent(), "bank:pay", json!({"to": "bob", "amount": 3})).await);
    let reports = world.gate.budgets(&person("olivia", &["operator"])).await.expect("reports");
    let mut used: Vec<_> = reports.iter().map(|r| (r.row.key.budget.as_str(), r.row.used, r.limit)).collect();
    used.sort_unstable();
    assert_eq!(used, [("monthly.cost", 3_000_000, Some(10_000_000)), ("monthly.cost", 10_000_000, Some(10_000_000))]);
}

#[tokio::test]
async fn a_budget_survives_a_restart() {
    let world = with_budget(Some(2), None).await;
    done(world.call(&robot(), "bank:balance", json!({})).await);
    done(world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": 1})).await);
    let mut settings = settings();
    settings.budgets = vec![budget(Some(2), None)];
    let world = world.restart_with(settings).await;
    refused(&world, world.call(&robot(), "bank:balance", json!({})).await, "budget-exhausted").await;
}

#[tokio::test]
async fn reads_at_a_time_are_answered_no_more_than_the_budget_has() {
    let world = with_budget(Some(4), None).await;
    let robot = robot();
    let outcomes = join_all((0..12).map(|_| world.call(&robot, "bank:balance", json!({})))).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 4);
}

#[tokio::test]
async fn a_read_that_costs_is_claimed_before_it_is_sent() {
    let world = with_budget(None, Some(1_000_000)).await;
    let robot = robot();
    let outcomes = join_all((0..12).map(|_| world.call(&robot, "bank:quote", json!({})))).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 3);
    assert_eq!(world.bank.count("quote"), 3);
}

#[tokio::test]
async fn what_never_reached_the_upstream_is_given_back() {
    let world = with_budget(Some(1), Some(5_000_000)).await;
    world.bank.act("pay", Act::Unreachable);
    let pay = json!({"to": "bob", "amount": 5});
    for _ in 0..3 {
        let refusal = world.call(&robot(), "bank:pay", pay.clone()).await.expect_err("not sent");
        assert_eq!(refusal.kind.slug(), "upstream-unavailable");
    }
    world.bank.act("pay", Act::Answer("done"));
    done(world.call(&robot(), "bank:pay", pay.clone()).await);
    refused(&world, world.call(&robot(), "bank:pay", pay).await, "budget-exhausted").await;
}

#[tokio::test]
async fn a_lost_write_stays_paid() {
    let world = with_budget(Some(1), None).await;
    world.bank.act("pay", Act::Lose);
    world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": 5})).await.expect_err("lost");
    refused(&world, world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": 6})).await, "budget-exhausted")
        .await;
}

#[tokio::test]
async fn people_are_not_asked_for_what_no_budget_has() {
    let world = with_budget(None, Some(2_000_000_000)).await;
    let too_much = world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": 2001})).await;
    refused(&world, too_much, "budget-exhausted").await;
    // Two requests that fit one by one and not together: the second is refused when it is redeemed.
    let first = pending(world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": 1500})).await);
    let second = pending(world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": 1501})).await);
    for request in [&first, &second] {
        let treasurer = person("tess", &["treasurer"]);
        world.gate.answer(&treasurer, request.request_id, true, None).await.expect("approved");
    }
    let robot = robot();
    let redeem = |id| world.gate.redeem(&robot, Redeem::Request(id), "test", crate::harness::quiet());
    done(redeem(first.request_id).await);
    let refusal = redeem(second.request_id).await.expect_err("no budget is left");
    assert_eq!(refusal.kind.slug(), "budget-exhausted");
    assert_eq!(world.bank.count("pay"), 1);
}

#[tokio::test]
async fn a_budget_without_a_number_to_count_refuses() {
    let world = with_budget(None, Some(10_000_000)).await;
    refused(&world, world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": -1})).await, "invalid-arguments")
        .await;
    assert_eq!(world.bank.count("pay"), 0);
}

#[tokio::test]
async fn the_same_service_is_restarted_once_in_ten_minutes() {
    let world = world().await;
    let restart = |who: Value, service: &'static str| {
        let agent = if who == "ada" { adas_agent() } else { robot() };
        let world = &world;
        async move { world.call(&agent, "bank:restart", json!({"service": service})).await }
    };
    done(restart(json!("robot"), "db").await);
    let refusal = refused(&world, restart(json!("robot"), "db").await, "cooling-down").await;
    assert!(refusal.retry_after.is_some_and(|s| (590..=600).contains(&s)), "{refusal:?}");
    done(restart(json!("robot"), "web").await);
    done(restart(json!("ada"), "db").await);
    assert_eq!(world.bank.count("restart"), 3);
    let world = world.restart().await;
    let again = world.call(&robot(), "bank:restart", json!({"service": "db"})).await;
    refused(&world, again, "cooling-down").await;
}

#[tokio::test]
async fn a_pause_is_not_used_up_by_a_call_that_never_left() {
    let world = world().await;
    world.bank.act("restart", Act::Unreachable);
    world.call(&robot(), "bank:restart", json!({"service": "db"})).await.expect_err("not sent");
    world.bank.act("restart", Act::Answer("done"));
    done(world.call(&robot(), "bank:restart", json!({"service": "db"})).await);
}
