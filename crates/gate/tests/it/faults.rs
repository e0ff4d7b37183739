//! What goes wrong between the intent and the answer.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Act, done, person, refused, request, robot, world};

fn pay() -> serde_json::Value {
    json!({"to": "bob", "amount": 5})
}

#[tokio::test]
async fn a_write_without_an_answer_is_unknown_until_a_person_looked() {
    for (act, slug) in [(Act::Hang, "upstream-timeout"), (Act::Lose, "upstream-unavailable")] {
        let world = world().await;
        world.bank.act("pay", act);
        let refusal = world.call_with_key(&robot(), "bank:pay", pay(), "k").await.expect_err("no answer");
        assert_eq!(refusal.kind.slug(), slug);
        assert!(refusal.detail.contains("NOT known"), "{refusal}");
        assert_eq!(world.kinds("call.").await, ["call.intent", "call.unknown"]);
        world.bank.act("pay", Act::Answer("done"));
        refused(&world, world.call_with_key(&robot(), "bank:pay", pay(), "k").await, "outcome-unknown").await;
        refused(&world, world.call(&robot(), "bank:pay", pay()).await, "outcome-unknown").await;
        assert_eq!(world.bank.count("pay"), 1);
        done(world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": 6})).await);

        let operator = person("olivia", &["operator"]);
        let unknown = world.gate.unknown_calls(&operator).await.expect("listed");
        assert_eq!(unknown.len(), 1);
        assert!(world.gate.resolve_unknown(&robot(), unknown[0].call, false, "").await.is_err(), "operators only");
        world.gate.resolve_unknown(&operator, unknown[0].call, false, "the bank says no").await.expect("settled");
        done(world.call_with_key(&robot(), "bank:pay", pay(), "k").await);
    }
}

#[tokio::test]
async fn a_settled_execution_keeps_its_key_taken() {
    let world = world().await;
    world.bank.act("pay", Act::Lose);
    world.call_with_key(&robot(), "bank:pay", pay(), "k").await.expect_err("lost");
    world.bank.act("pay", Act::Answer("done"));
    let operator = person("olivia", &["operator"]);
    let call = world.gate.unknown_calls(&operator).await.expect("listed")[0].call;
    world.gate.resolve_unknown(&operator, call, true, "the bank has it").await.expect("settled");
    refused(&world, world.call_with_key(&robot(), "bank:pay", pay(), "k").await, "outcome-unknown").await;
    assert_eq!(world.bank.count("pay"), 1);
    done(world.call_with_key(&robot(), "bank:pay", pay(), "another").await);
}

#[tokio::test]
async fn what_was_never_sent_may_be_tried_again() {
    let world = world().await;
    world.bank.act("pay", Act::Unreachable);
    let refusal = world.call_with_key(&robot(), "bank:pay", pay(), "k").await.expect_err("unreachable");
    assert_eq!(refusal.kind.slug(), "upstream-unavailable");
    assert_eq!(world.kinds("call.").await, ["call.intent", "call.completed"]);
    world.bank.act("pay", Act::Answer("done"));
    assert!(!done(world.call_with_key(&robot(), "bank:pay", pay(), "k").await).replayed);
}

#[tokio::test]
async fn a_read_that_times_out_may_be_tried_again() {
    let world = world().await;
    world.bank.act("balance", Act::Hang);
    let refusal = world.call(&robot(), "bank:balance", json!({})).await.expect_err("hangs");
    assert_eq!(refusal.kind.slug(), "upstream-timeout");
    assert!(refusal.event.is_some());
    world.bank.act("balance", Act::Answer("done"));
    done(world.call(&robot(), "bank:balance", json!({})).await);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_outcome() {
    let world = world().await;
    world.bank.act("pay", Act::Slowly(Duration::from_millis(150), "late"));
    let gate = Arc::clone(&world.gate);
    let calling = tokio::spawn(async move { gate.call(request(&robot(), "bank:pay", &pay())).await });
    tokio::time::sleep(Duration::from_millis(60)).await;
    calling.abort();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(world.kinds("call.").await, ["call.intent", "call.completed"]);
    assert_eq!(world.gate.in_flight(), 0);
}

#[tokio::test]
async fn an_intent_of_a_dead_process_becomes_unknown() {
    let world = world().await;
    world.bank.act("pay", Act::Slowly(Duration::from_millis(700), "late"));
    let gate = Arc::clone(&world.gate);
    let calling = tokio::spawn(async move {
        let mut request = request(&robot(), "bank:pay", &pay());
        request.idempotency_key = Some("k".into());
        gate.call(request).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // The ledger goes away under the running call, as in a crash: its outcome can't be recorded, so it isn't released.
    world.ledger.shutdown().await;
    let refusal = calling.await.expect("joins").expect_err("not released");
    assert_eq!(refusal.kind.slug(), "ledger-unavailable");
    let world = world.restart().await;
    assert_eq!(world.kinds("call.").await, ["call.intent", "call.unknown"]);
    refused(&world, world.call_with_key(&robot(), "bank:pay", pay(), "k").await, "outcome-unknown").await;
    assert_eq!(world.bank.count("pay"), 1);
}

#[tokio::test]
async fn without_a_ledger_nothing_happens() {
    let world = world().await;
    done(world.call(&robot(), "bank:balance", json!({})).await);
    world.ledger.shutdown().await;
    let refusal = world.call(&robot(), "bank:pay", pay()).await.expect_err("no ledger");
    assert_eq!(refusal.kind.slug(), "ledger-unavailable");
    assert_eq!(world.bank.count("pay"), 0);
}
