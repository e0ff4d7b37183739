//! Budgets, pauses, rates and breakers: nobody gets more than is set, by no number of calls at a time, and no restart.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_gate::api::{Redeem, WaitOutcome};
use countersign_gate::breakers::BreakerRule;
use countersign_gate::budgets::{Budget, Period, Scope};
use countersign_gate::limits::Rate;
use countersign_gate::load::LoadRule;
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
    let shares: Vec<_> = world.gate.budget_shares().await.expect("read").into_iter().collect();
    assert_eq!(shares, [("monthly.calls".to_owned(), 1.0)]);
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

#[tokio::test]
async fn every_rate_refuses_what_is_its_own() {
    let two = Rate { calls: NonZeroU32::new(2).expect("two"), per: Duration::from_secs(3600) };
    for limit in ["principal", "tool", "principal with this tool", "workspace", "node"] {
        let world = world_with(|settings| {
            let rates = &mut settings.rates;
            match limit {
                "principal" => rates.per_principal = two,
                "tool" => rates.per_tool = two,
                "principal with this tool" => rates.per_principal_and_tool = Some(two),
                "workspace" => rates.per_workspace = Some(two),
                _ => rates.global = Some(two),
            }
        })
        .await;
        for _ in 0..2 {
            done(world.call(&robot(), "bank:balance", json!({})).await);
        }
        let refusal = refused(&world, world.call(&robot(), "bank:balance", json!({})).await, "rate-limited").await;
        assert_eq!((refusal.extra["limit"].as_str(), refusal.retry_after.is_some()), (Some(limit), true));
        let counted = world.gate.meter().limited().find(|(kind, of, _)| kind.slug() == "rate-limited" && *of == limit);
        assert_eq!(counted.map(|(.., count)| count), Some(1), "{limit}");
        let other_tool = world.call(&robot(), "bank:restart", json!({})).await;
        assert_eq!(other_tool.is_ok(), ["tool", "principal with this tool"].contains(&limit), "{limit}");
        let other_agent = world.call(&adas_agent(), "bank:balance", json!({})).await;
        assert_eq!(other_agent.is_ok(), ["principal", "principal with this tool"].contains(&limit), "{limit}");
    }
}

fn quick(rule: &mut Option<BreakerRule>) {
    let open_for = Duration::from_millis(300);
    *rule = Some(BreakerRule { consecutive: 3, open_for, ..BreakerRule::default() });
}

#[tokio::test]
async fn an_upstream_that_fails_is_left_alone_and_tried_again() {
    let world = world_with(|settings| quick(&mut settings.breakers)).await;
    world.bank.act("pay", Act::Lose);
    for amount in 1..=3 {
        world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": amount})).await.expect_err("lost");
    }
    assert_eq!(world.bank.count("pay"), 3);
    let refusal = refused(&world, world.call(&robot(), "bank:balance", json!({})).await, "circuit-open").await;
    assert_eq!((refusal.retry_after, world.bank.count("balance")), (Some(1), 0));
    // A tool that one may not see does not say how it stands.
    refused(&world, world.call(&robot(), "bank:nothing", json!({})).await, "unknown-tool").await;
    world.bank.act("pay", Act::Slowly(Duration::from_millis(100), "done"));
    tokio::time::sleep(Duration::from_millis(350)).await;
    let robot = robot();
    let pay = |amount: u32| world.call(&robot, "bank:pay", json!({"to": "bob", "amount": amount}));
    let outcomes = join_all([pay(4), pay(5), pay(6)]).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1, "one probe, and no more");
    done(pay(7).await);
    done(world.call(&robot, "bank:balance", json!({})).await);
    let kinds = world.kinds("breaker.").await;
    assert_eq!(kinds, ["breaker.opened", "breaker.opened", "breaker.closed", "breaker.closed"], "upstream and tool");
}

#[tokio::test]
async fn an_operator_sees_and_closes_breakers() {
    let world = world_with(|settings| quick(&mut settings.breakers)).await;
    let operator = person("olivia", &["operator"]);
    world.bank.act("balance", Act::Unreachable);
    for _ in 0..3 {
        world.call(&robot(), "bank:balance", json!({})).await.expect_err("not sent");
    }
    let open = world.gate.breakers(&operator).expect("allowed");
    let seen: Vec<_> = open.iter().map(|b| (b.name.as_str(), b.state, b.last_failure.as_deref())).collect();
    assert_eq!(seen, [("bank", "open", Some("not-sent")), ("bank:balance", "open", Some("not-sent"))]);
    assert_eq!(world.gate.breakers(&robot()).expect_err("not an operator").kind.slug(), "forbidden");
    let counts: Vec<_> = world.gate.breaker_counts().into_iter().collect();
    assert_eq!(counts, [(("bank".to_owned(), false, "open"), 1), (("bank".to_owned(), true, "open"), 1)]);
    assert_eq!(world.gate.meter().openings().collect::<Vec<_>>(), [("bank", [1, 1])]);
    world.bank.act("balance", Act::Answer("done"));
    for name in ["bank", "bank:balance"] {
        world.gate.reset_breaker(&operator, name, "mended").await.expect("reset");
    }
    done(world.call(&robot(), "bank:balance", json!({})).await);
    assert_eq!(world.kinds("breaker.reset").await.len(), 2);
    let gone = world.gate.reset_breaker(&operator, "bank:nothing", "").await.expect_err("no such breaker");
    assert_eq!(gone.kind.slug(), "not-found");
}

#[tokio::test]
async fn tool_errors_and_hurried_callers_open_no_breaker() {
    let world = world_with(|settings| quick(&mut settings.breakers)).await;
    world.bank.act("pay", Act::Refuse);
    world.bank.act("balance", Act::Hang);
    for amount in 1..=5 {
        assert!(done(world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": amount})).await).is_error);
        let mut hurried = crate::harness::request(&robot(), "bank:balance", &json!({}));
        hurried.timeout = Some(Duration::from_millis(20));
        assert_eq!(world.gate.call(hurried).await.expect_err("too slow").kind.slug(), "upstream-timeout");
    }
    world.bank.act("balance", Act::Answer("done"));
    done(world.call(&robot(), "bank:balance", json!({})).await);
}

#[tokio::test]
async fn a_callers_deadline_only_shortens() {
    let world = world().await;
    world.bank.act("balance", Act::Hang);
    let mut request = crate::harness::request(&robot(), "bank:balance", &json!({}));
    request.timeout = Some(Duration::from_secs(3600));
    let start = Instant::now();
    assert_eq!(world.gate.call(request.clone()).await.expect_err("the tool's own").kind.slug(), "upstream-timeout");
    assert!(start.elapsed() < Duration::from_secs(10), "the manifest gives a second");
    request.timeout = Some(Duration::from_nanos(1));
    let before = world.bank.count("balance");
    refused(&world, world.gate.call(request).await, "deadline-exceeded").await;
    assert_eq!(world.bank.count("balance"), before, "nothing was sent");
}

#[tokio::test]
async fn more_calls_than_there_are_places_are_refused_at_once() {
    let world = world_with(|settings| settings.load = LoadRule { node: 2, per_workspace: 2 }).await;
    world.bank.act("balance", Act::Slowly(Duration::from_millis(300), "done"));
    let (robot, ada) = (robot(), adas_agent());
    let calls = [&robot, &robot, &robot, &ada].map(|who| world.call(who, "bank:balance", json!({})));
    let outcomes = join_all(calls).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 2);
    for refusal in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!((refusal.kind.slug(), refusal.retry_after), ("overloaded", Some(1)));
    }
    done(world.call(&robot, "bank:balance", json!({})).await);
}

/// CPU time of the calling thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says");
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number"))
}

/// On a runtime of one thread, so that its CPU time is that of everybody who waits.
#[tokio::test(flavor = "current_thread")]
async fn ten_thousand_who_wait_cost_nothing_until_there_is_an_answer() {
    const WAITERS: usize = 10_000;
    let world = world().await;
    let asked = pending(world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": 5000})).await);
    let wait = |_| {
        let gate = Arc::clone(&world.gate);
        tokio::spawn(async move { gate.wait(&robot(), asked.request_id, Duration::from_secs(120)).await })
    };
    let waiters: Vec<_> = (0..WAITERS).map(wait).collect();
    // Each looks once at its start; then it is quiet.
    let settled = Instant::now() + Duration::from_secs(60);
    loop {
        let before = cpu();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if cpu() - before < Duration::from_millis(5) {
            break;
        }
        assert!(Instant::now() < settled, "they never came to rest");
    }
    let before = cpu();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = cpu() - before;
    assert!(idle < Duration::from_millis(60), "{WAITERS} waiters took {idle:?} of CPU in 3 s");
    let treasurer = person("tess", &["treasurer"]);
    world.gate.answer(&treasurer, asked.request_id, true, None).await.expect("approved");
    for outcome in join_all(waiters).await {
        assert_eq!(outcome.expect("ran").expect("allowed"), WaitOutcome::Met);
    }
}
