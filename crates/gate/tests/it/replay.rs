//! Past decisions: explained, decided again by an edited set, forgotten and erased.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_domain::Principal;
use countersign_gate::api::Redeem;
use countersign_gate::replay::{Change, NotReplayed, ReplayPage, ReplayRequest, SetKind, SourceFile};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{World, another_gate, done, pending, person, quiet, refused, robot, world, world_with};

/// Nobody but Carol gets money, small sums abroad included; what was large needs one more; balances are not read at night.
const EDITED: &str = r#"
@id("tellers")
permit (principal in Role::"teller", action, resource);
@id("only-bob")
forbid (principal, action == Action::"bank:pay", resource) when { context.input.to == "mallory" };
"#;
const EDITED_APPROVAL: &str = r#"
@id("medium")
@approvals("1") @approver_role("treasurer") @expires("1h")
permit (principal, action == Action::"bank:pay", resource)
when { context.input.amount > 500 && context.input.amount <= 1000 };
"#;

fn edited(approval: &str) -> Vec<SourceFile> {
    let file = |path: &str, kind, text: &str| SourceFile { path: path.into(), text: text.into(), kind };
    vec![file("access/bank.cedar", SetKind::Access, EDITED), file("approval/bank.cedar", SetKind::Approval, approval)]
}

fn request(files: Vec<SourceFile>, cursor: Option<u64>, limit: u32) -> ReplayRequest {
    ReplayRequest { files, workspace: None, since: 0, until: None, cursor, limit }
}

fn auditor() -> Arc<Principal> {
    person("audrey", &["auditor"])
}

/// All pages, each of a few events.
async fn replayed(world: &World, files: Vec<SourceFile>) -> (u64, BTreeMap<Uuid, Change>, BTreeMap<&'static str, u64>) {
    let (mut replayed, mut changes, mut missing) = (0, BTreeMap::new(), BTreeMap::new());
    let mut cursor = None;
    loop {
        let page: ReplayPage =
            world.gate.replay_decisions(&auditor(), request(files.clone(), cursor, 3)).await.expect("a page");
        replayed += page.replayed;
        changes.extend(page.differences.iter().map(|d| (d.call, d.change)));
        for (why, count) in page.not_replayed {
            *missing.entry(why).or_insert(0) += count;
        }
        cursor = page.next;
        if cursor.is_none() {
            return (replayed, changes, missing);
        }
    }
}

async fn call_of(world: &World, event: Uuid) -> Uuid {
    let row = world.ledger.read(move |r| r.event(event)).await.expect("read").expect("the event");
    row.call.expect("of a call")
}

fn pay(to: &str, amount: u64) -> Value {
    json!({"to": to, "amount": amount})
}

#[tokio::test]
async fn an_edited_set_is_held_against_every_past_call_and_only_real_differences_show() {
    let world = world().await;
    let robot = robot();
    done(world.call(&robot, "bank:balance", json!({})).await);
    let small = done(world.call(&robot, "bank:pay", pay("bob", 5)).await).call;
    let mallory = done(world.call(&robot, "bank:pay", pay("mallory", 6)).await).call;
    let medium = done(world.call(&robot, "bank:pay", pay("bob", 700)).await).call;
    let fortune = refused(&world, world.call(&robot, "bank:pay", pay("bob", 20_000)).await, "policy-denied").await;
    let fortune = call_of(&world, fortune.event.expect("an event")).await;
    let large = pending(world.call(&robot, "bank:pay", pay("bob", 2000)).await).request_id;
    // Refused before the policies were asked: no decision, and nothing that could be missed.
    refused(&world, world.call(&robot, "bank:pay", json!({"to": 1})).await, "invalid-arguments").await;
    let treasurer = person("tess", &["treasurer"]);
    world.gate.answer(&treasurer, large, true, None).await.expect("given");
    done(world.gate.redeem(&robot, Redeem::Request(large), "test", quiet()).await);

    let (replayed_calls, changes, missing) = replayed(&world, edited(EDITED_APPROVAL)).await;
    assert_eq!(replayed_calls, 6, "each call once, approved and executed or not");
    let expected = [
        (mallory, Change::NowDenied),
        (medium, Change::NewlyOwed),
        (fortune, Change::NowAllowed),
        (large, Change::NoLongerOwed),
    ];
    assert_eq!(changes, BTreeMap::from(expected));
    assert!(!changes.contains_key(&small));
    assert_eq!(missing, BTreeMap::new());

    // Another node of the same log sees the same, and the set in force changes nothing.
    let files = countersign_gate::policies::read_files(&world.path().join("policies")).expect("files");
    let other = another_gate(&world).await;
    let page = other.replay_decisions(&auditor(), request(files, None, 500)).await.expect("a page");
    assert_eq!((page.replayed, page.differences.len(), page.next), (6, 0, None));
}

#[tokio::test]
async fn a_replay_is_recorded_once_for_each_set_and_is_for_staff() {
    let world = world().await;
    for amount in 1..=4 {
        done(world.call(&robot(), "bank:pay", pay("bob", amount)).await);
    }
    replayed(&world, edited(EDITED_APPROVAL)).await;
    replayed(&world, edited("")).await;
    let kinds = world.kinds("policy.replayed").await;
    assert_eq!(kinds.len(), 2, "not once for each page: {kinds:?}");
    let by_robot = world.gate.replay_decisions(&robot(), request(edited(""), None, 10)).await.expect_err("staff only");
    assert_eq!(by_robot.kind.slug(), "forbidden");
    let elsewhere = ReplayRequest { workspace: Some("other".parse().expect("a name")), ..request(vec![], None, 10) };
    let refusal = world.gate.replay_decisions(&auditor(), elsewhere).await.expect_err("another's workspace");
    assert_eq!(refusal.kind.slug(), "forbidden");
    let broken = vec![SourceFile { path: "access/x.cedar".into(), text: "permit (".into(), kind: SetKind::Access }];
    let refusal = world.gate.replay_decisions(&auditor(), request(broken, None, 10)).await.expect_err("not a set");
    assert_eq!(refusal.kind.slug(), "malformed-request");
    assert!(refusal.detail.contains("access/x.cedar"), "{refusal}");
    assert_eq!(world.kinds("policy.replayed").await.len(), 2, "what was refused was not tried");
}

#[tokio::test]
async fn an_erased_call_can_no_longer_be_decided_again() {
    let world = world().await;
    let operator = person("olivia", &["operator"]);
    let mallory = done(world.call(&robot(), "bank:pay", pay("mallory", 6)).await);
    let read = done(world.call(&robot(), "bank:balance", json!({"account": "of-erika"})).await);
    done(world.call(&robot(), "bank:pay", pay("bob", 1)).await);
    let kept = |call| world.ledger.read(move |r| r.decisions(&[call]));
    assert_eq!(kept(mallory.call).await.expect("read").len(), 1);
    // Of the write the outcome alone, not the intent that states the decision.
    world.gate.erase(&operator, mallory.event, "asked for").await.expect("erased");
    world.gate.erase(&operator, read.event, "asked for").await.expect("erased");
    assert_eq!(kept(mallory.call).await.expect("read").len(), 0, "gone, not hidden");
    let (replayed_calls, changes, missing) = replayed(&world, edited(EDITED_APPROVAL)).await;
    assert_eq!((replayed_calls, changes.len()), (1, 0));
    assert_eq!(missing, BTreeMap::from([("erased", 2)]));
    let past = world.gate.explain_past(&auditor(), mallory.call).await.expect("the intent is there");
    assert_eq!((past.decisions.len(), past.not_replayed), (1, Some(NotReplayed::Erased)));
    assert!(past.now.is_none());
    let past = world.gate.explain_past(&auditor(), read.call).await.expect("known to have been");
    assert_eq!((past.decisions.len(), past.not_replayed), (0, Some(NotReplayed::Erased)));
}

#[tokio::test]
async fn what_was_not_kept_has_had_its_time_or_no_longer_fits_is_counted_with_the_reason() {
    let world = world_with(|settings| settings.decisions_kept = Duration::ZERO).await;
    done(world.call(&robot(), "bank:pay", pay("bob", 1)).await);
    assert_eq!(world.ledger.read(|r| r.oldest_decision()).await.expect("read"), None, "nothing is kept when it is off");
    let mut settings = crate::harness::settings();
    settings.arguments.max_bytes = 100_000;
    let world = world.restart_with(settings).await;
    crate::harness::accept_all(&world).await;
    done(world.call(&robot(), "bank:pay", pay(&"b".repeat(20_000), 1)).await);
    done(world.call(&robot(), "bank:restart", json!({})).await);
    let (replayed_calls, _, missing) = replayed(&world, edited("")).await;
    assert_eq!((replayed_calls, missing), (1, BTreeMap::from([("not-kept", 1), ("too-large", 1)])));

    let mut settings = crate::harness::settings();
    settings.decisions_kept = Duration::from_millis(1);
    let world = world.restart_with(settings).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    world.gate.forget_decisions().await.expect("swept");
    assert_eq!(world.ledger.read(|r| r.oldest_decision()).await.expect("read"), None);
    let (replayed_calls, _, missing) = replayed(&world, edited("")).await;
    assert_eq!((replayed_calls, missing), (0, BTreeMap::from([("swept", 3)])));
}

#[tokio::test]
async fn a_past_denial_is_explained_with_the_policy_of_then_and_of_today() {
    let world = world().await;
    let refusal = refused(&world, world.call(&robot(), "bank:pay", pay("bob", 20_000)).await, "policy-denied").await;
    let event = refusal.event.expect("an event");
    let call = call_of(&world, event).await;
    let past = world.gate.explain_past(&auditor(), event).await.expect("by its receipt's id");
    assert_eq!(past.call, call);
    assert_eq!(past.decisions[0].decision.determining, ["access/bank.cedar#no-fortunes"]);
    assert_eq!(past.change, Some(Change::Same));
    let then = past.decisions[0].decision.version.clone();

    std::fs::write(world.path().join("policies/access/bank.cedar"), EDITED).expect("edited");
    world.gate.reload_policies().await;
    let past = world.gate.explain_past(&auditor(), call).await.expect("by its id");
    assert_eq!(past.decisions[0].decision.version, then, "what was decided then stays");
    let now = past.now.as_ref().expect("decided again");
    assert_ne!(now.version, then);
    assert_eq!(past.change, Some(Change::NowAllowed));
    let text = past.to_string();
    assert!(text.contains("deny by access/bank.cedar#no-fortunes") && text.contains("OTHERWISE"), "{text}");
    assert!(!text.contains("20000"), "no arguments are shown: {text}");

    for who in [robot(), person("tess", &["treasurer"])] {
        assert_eq!(world.gate.explain_past(&who, call).await.expect_err("staff only").kind.slug(), "forbidden");
    }
    let mut stranger = (*auditor()).clone();
    stranger.workspace = "other".parse().expect("a name");
    assert_eq!(world.gate.explain_past(&stranger, call).await.expect_err("not theirs").kind.slug(), "not-found");
    let nothing = world.gate.explain_past(&auditor(), Uuid::now_v7()).await.expect_err("no such call");
    assert_eq!(nothing.kind.slug(), "not-found");
}

#[tokio::test]
async fn what_is_kept_is_sealed_and_small() {
    let world = world().await;
    let secret = "Erika-Mustermann-7-March";
    let mut calls = Vec::new();
    for n in 0..20 {
        calls.push(done(world.call(&robot(), "bank:balance", json!({"account": format!("{secret}-{n}")})).await).call);
    }
    let kept = world.ledger.read(move |r| r.decisions(&calls)).await.expect("read");
    assert_eq!(kept.len(), 20);
    let bytes: usize = kept.iter().map(|row| row.sealed.len()).sum::<usize>() / kept.len();
    assert!(bytes < 200, "{bytes} bytes for a small call");
    for row in &kept {
        assert!(!row.sealed.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}
