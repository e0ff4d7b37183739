//! People agree, refuse, or may not.

use std::sync::Arc;
use std::time::Duration;

use countersign_gate::api::{Redeem, WaitOutcome};
use countersign_ledger::state::{FreezeTarget, RequestStatus};
use serde_json::json;

use crate::harness::{accept_all, adas_agent, berts_agent, done, pending, person, quiet, refused, robot, tool, world};

fn large() -> serde_json::Value {
    json!({"to": "bob", "amount": 5000})
}

fn token(token: &str, arguments: Option<serde_json::Value>) -> Redeem {
    Redeem::Token {
        tool: tool("bank:pay"),
        token: token.into(),
        arguments: arguments.map(|a| a.to_string().into_bytes()),
    }
}

#[tokio::test]
async fn two_people_one_execution() {
    let world = world().await;
    let asked = pending(world.call(&robot(), "bank:pay", large()).await);
    assert_eq!(asked.owed.approvals, 1);
    let early = pending(world.gate.redeem(&robot(), token(&asked.action_token, Some(large())), "c", quiet()).await);
    assert_eq!(early.request_id, asked.request_id);

    let treasurer = person("tess", &["treasurer"]);
    let view = world.gate.approval(&treasurer, asked.request_id).await.expect("may see it");
    assert_eq!(view.preview, "to: \"bob\"\namount: 5000");
    world.gate.answer(&treasurer, asked.request_id, true, Some("fine".into())).await.expect("approved");
    let twice = world.gate.answer(&treasurer, asked.request_id, true, None).await.expect_err("only once");
    assert_eq!(twice.kind.slug(), "not-open");

    let answer = done(world.gate.redeem(&robot(), token(&asked.action_token, Some(large())), "c", quiet()).await);
    assert_eq!(world.bank.count("pay"), 1);
    refused(
        &world,
        world.gate.redeem(&robot(), token(&asked.action_token, None), "c", quiet()).await,
        "already-redeemed",
    )
    .await;
    assert_eq!(world.bank.count("pay"), 1);
    // By its id the requester gets the recorded answer again.
    let again = done(world.gate.redeem(&robot(), Redeem::Request(asked.request_id), "c", quiet()).await);
    assert!(again.replayed);
    assert_eq!(again.event, answer.event);
    assert_eq!(world.bank.count("pay"), 1);
    let receipt = world.gate.receipt(&robot(), answer.event, vec![]).await.expect("a receipt");
    let kinds: Vec<_> = receipt.events.iter().filter_map(|e| e.event["type"].as_str()).collect();
    for kind in ["call.pending", "approval.granted", "call.intent", "call.completed"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
}

#[tokio::test]
async fn who_may_not_agree() {
    let world = world().await;
    let asked = pending(world.call(&adas_agent(), "bank:pay", large()).await);
    let cases = [
        (person("ada", &["treasurer"]), "self-approval"),
        (person("joe", &["clerk"]), "not-found"),
        (adas_agent(), "forbidden"),
        (robot(), "not-found"),
        (person("olivia", &["operator"]), "forbidden"),
    ];
    for (who, slug) in cases {
        let refusal = world.gate.answer(&who, asked.request_id, true, None).await.expect_err("refused");
        assert_eq!(refusal.kind.slug(), slug, "{} {refusal}", who.id);
    }
}

#[tokio::test]
async fn the_person_behind_the_agent_confirms() {
    let world = world().await;
    let abroad = json!({"to": "abroad", "amount": 5});
    refused(&world, world.call(&robot(), "bank:pay", abroad.clone()).await, "obligation-unmeetable").await;
    let asked = pending(world.call(&adas_agent(), "bank:pay", abroad).await);
    assert!(asked.owed.confirm);
    let other = person("bert", &["treasurer"]);
    assert!(world.gate.answer(&other, asked.request_id, true, None).await.is_err());
    world.gate.answer(&person("ada", &[]), asked.request_id, true, None).await.expect("her own word");
    done(world.gate.redeem(&adas_agent(), Redeem::Request(asked.request_id), "c", quiet()).await);
}

#[tokio::test]
async fn tokens_and_arguments_are_bound() {
    let world = world().await;
    let asked = pending(world.call(&robot(), "bank:pay", large()).await);
    world.gate.answer(&person("tess", &["treasurer"]), asked.request_id, true, None).await.expect("approved");
    let changed = json!({"to": "mallory", "amount": 5000});
    refused(
        &world,
        world.gate.redeem(&robot(), token(&asked.action_token, Some(changed)), "c", quiet()).await,
        "arguments-changed",
    )
    .await;
    let other_tool = Redeem::Token { tool: tool("bank:balance"), token: asked.action_token.clone(), arguments: None };
    refused(&world, world.gate.redeem(&robot(), other_tool, "c", quiet()).await, "invalid-action-token").await;
    let mut forged = asked.action_token.clone();
    let last = if forged.ends_with('A') { "B" } else { "A" };
    forged.replace_range(forged.len() - 10..forged.len() - 9, last);
    refused(&world, world.gate.redeem(&robot(), token(&forged, None), "c", quiet()).await, "invalid-action-token")
        .await;
    refused(
        &world,
        world.gate.redeem(&adas_agent(), token(&asked.action_token, None), "c", quiet()).await,
        "invalid-action-token",
    )
    .await;
    assert_eq!(world.bank.count("pay"), 0);
    done(world.gate.redeem(&robot(), token(&asked.action_token, Some(large())), "c", quiet()).await);
}

#[tokio::test]
async fn identical_calls_attach_and_open_requests_are_capped() {
    let world = world().await;
    let first = pending(world.call(&robot(), "bank:pay", large()).await);
    let second = pending(world.call(&robot(), "bank:pay", large()).await);
    assert_eq!(first.request_id, second.request_id);
    let with_key = pending(world.call_with_key(&robot(), "bank:pay", large(), "k").await);
    assert_eq!(with_key.action_token, first.action_token);
    assert_eq!(pending(world.call_with_key(&robot(), "bank:pay", large(), "k").await).action_token, first.action_token);
    for amount in [5001, 5002] {
        pending(world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": amount})).await);
    }
    let outcome = world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": 5003})).await;
    refused(&world, outcome, "too-many-pending").await;
    assert_eq!(world.kinds("call.pending").await.len(), 3);
}

#[tokio::test]
async fn a_no_is_sticky_and_carries_its_reason() {
    let world = world().await;
    let asked = pending(world.call(&robot(), "bank:pay", large()).await);
    let view = world
        .gate
        .answer(&person("tess", &["treasurer"]), asked.request_id, false, Some("not this month".into()))
        .await;
    assert_eq!(view.expect("answered").status, RequestStatus::Denied);
    for outcome in [
        world.call(&robot(), "bank:pay", large()).await,
        world.gate.redeem(&robot(), token(&asked.action_token, None), "c", quiet()).await,
    ] {
        let refusal = refused(&world, outcome, "approval-denied").await;
        assert!(refusal.detail.contains("not this month"), "{refusal}");
    }
}

#[tokio::test]
async fn a_waiting_agent_wakes_when_a_person_agrees() {
    let world = world().await;
    let asked = pending(world.call(&robot(), "bank:pay", large()).await);
    let gate = Arc::clone(&world.gate);
    let waiting = tokio::spawn(async move { gate.wait(&robot(), asked.request_id, Duration::from_secs(30)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let short = world.gate.wait(&robot(), asked.request_id, Duration::from_millis(20)).await.expect("waits");
    assert_eq!(short, WaitOutcome::StillPending);
    world.gate.answer(&person("tess", &["treasurer"]), asked.request_id, true, None).await.expect("approved");
    assert_eq!(waiting.await.expect("joins").expect("waits"), WaitOutcome::Met);
    assert!(world.gate.wait(&adas_agent(), asked.request_id, Duration::ZERO).await.is_err(), "somebody else's request");
}

#[tokio::test]
async fn two_redeemers_get_one_execution_and_the_same_answer() {
    let world = world().await;
    world.bank.act("pay", crate::harness::Act::Slowly(Duration::from_millis(200), "slow"));
    let asked = pending(world.call(&robot(), "bank:pay", large()).await);
    world.gate.answer(&person("tess", &["treasurer"]), asked.request_id, true, None).await.expect("approved");
    let redeem = || {
        let gate = Arc::clone(&world.gate);
        tokio::spawn(async move { gate.redeem(&robot(), Redeem::Request(asked.request_id), "c", quiet()).await })
    };
    let (a, b, c) = (redeem(), redeem(), redeem());
    let events =
        [done(a.await.expect("joins")).event, done(b.await.expect("joins")).event, done(c.await.expect("joins")).event];
    assert!(events.iter().all(|e| *e == events[0]));
    assert_eq!(world.bank.count("pay"), 1);
}

#[tokio::test]
async fn a_definition_that_changed_after_the_approval_is_not_executed() {
    let world = world().await;
    let asked = pending(world.call(&robot(), "bank:pay", large()).await);
    world.gate.answer(&person("tess", &["treasurer"]), asked.request_id, true, None).await.expect("approved");
    world.bank.change("pay", "Now does something else");
    refused(
        &world,
        world.gate.redeem(&robot(), token(&asked.action_token, None), "c", quiet()).await,
        "definition-changed",
    )
    .await;
    accept_all(&world).await;
    refused(
        &world,
        world.gate.redeem(&robot(), token(&asked.action_token, None), "c", quiet()).await,
        "definition-changed",
    )
    .await;
    assert_eq!(world.bank.count("pay"), 0);
    // The approval was not consumed, but it is for another definition: asking anew makes another request.
    let anew = pending(world.call(&robot(), "bank:pay", large()).await);
    assert_ne!(anew.request_id, asked.request_id);
}

#[tokio::test]
async fn a_freeze_stops_calls_and_revokes_what_waits() {
    let world = world().await;
    let operator = person("olivia", &["operator"]);
    let asked = pending(world.call(&robot(), "bank:pay", large()).await);
    world.gate.answer(&person("tess", &["treasurer"]), asked.request_id, true, None).await.expect("approved");
    let target = FreezeTarget::Principal("robot".into());
    assert!(world.gate.freeze(&robot(), target.clone(), "me?").await.is_err(), "only operators");
    world.gate.freeze(&operator, target.clone(), "odd behaviour").await.expect("frozen");
    let refusal = refused(&world, world.call(&robot(), "bank:balance", json!({})).await, "frozen").await;
    assert!(refusal.detail.contains("odd behaviour"));
    refused(&world, world.gate.redeem(&robot(), token(&asked.action_token, None), "c", quiet()).await, "frozen").await;
    done(world.call(&adas_agent(), "bank:balance", json!({})).await);
    world.gate.unfreeze(&operator, target, "explained").await.expect("lifted");
    done(world.call(&robot(), "bank:balance", json!({})).await);
    refused(&world, world.gate.redeem(&robot(), token(&asked.action_token, None), "c", quiet()).await, "frozen").await;
    assert_eq!(world.kinds("approval.revoked").await.len(), 1);
}

#[tokio::test]
async fn approvals_survive_a_reload_but_not_stricter_rules() {
    let world = world().await;
    let asked = pending(world.call(&robot(), "bank:pay", large()).await);
    world.gate.answer(&person("tess", &["treasurer"]), asked.request_id, true, None).await.expect("approved");
    let file = world.path().join("policies/approval/bank.cedar");
    let text = std::fs::read_to_string(&file).expect("policies");
    std::fs::write(&file, text.replace("@approvals(\"1\")", "@approvals(\"2\")")).expect("written");
    world.gate.reload_policies().await;
    refused(&world, world.gate.redeem(&robot(), token(&asked.action_token, None), "c", quiet()).await, "policy-denied")
        .await;
    std::fs::write(&file, format!("{text}\n// reworded")).expect("written");
    world.gate.reload_policies().await;
    done(world.gate.redeem(&robot(), token(&asked.action_token, None), "c", quiet()).await);
}

#[tokio::test]
async fn one_agent_for_two_people_is_two_callers() {
    let world = world().await;
    let abroad = json!({"to": "abroad", "amount": 5});
    let adas = pending(world.call_with_key(&adas_agent(), "bank:pay", abroad.clone(), "k").await);
    world.gate.answer(&person("ada", &[]), adas.request_id, true, None).await.expect("her own word");
    // Bert's turn with the same agent: Ada's word is neither his, nor his to use, nor his to see.
    let berts = pending(world.call_with_key(&berts_agent(), "bank:pay", abroad, "k").await);
    assert_ne!(berts.request_id, adas.request_id);
    assert!(!berts.confirmed);
    let stolen = Redeem::Token { tool: tool("bank:pay"), token: adas.action_token.clone(), arguments: None };
    refused(&world, world.gate.redeem(&berts_agent(), stolen, "c", quiet()).await, "invalid-action-token").await;
    refused(
        &world,
        world.gate.redeem(&berts_agent(), Redeem::Request(adas.request_id), "c", quiet()).await,
        "not-found",
    )
    .await;
    assert!(world.gate.wait(&berts_agent(), adas.request_id, Duration::ZERO).await.is_err());
    assert!(world.gate.approval(&berts_agent(), adas.request_id).await.is_err());
    assert!(world.gate.receipt(&berts_agent(), adas.receipt, vec![]).await.is_err());
    let query = || countersign_ledger::contract::EventQuery { limit: 100, ..Default::default() };
    let seen = world.gate.events(&berts_agent(), query()).await.expect("his own events");
    assert!(seen.rows.iter().all(|(_, row)| row.call != Some(adas.request_id)));
    assert!(seen.rows.iter().any(|(_, row)| row.call == Some(berts.request_id)));
    done(world.gate.redeem(&adas_agent(), Redeem::Request(adas.request_id), "c", quiet()).await);
    assert_eq!(world.bank.count("pay"), 1);
}
