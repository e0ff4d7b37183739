//! Workspaces, granted roles and API keys: who may give what to whom, and that it counts at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_domain::{Principal, PrincipalKind, Refusal, WorkspaceName};
use countersign_gate::directory::API_KEY_ISSUER;
use countersign_gate::identity::Presented;
use countersign_gate::members::{ApiKeyRequest, Grant};
use serde_json::{Value, json};

use crate::harness::{World, done, person, world};

fn workspace(name: &str) -> WorkspaceName {
    name.parse().expect("a name")
}

fn of(name: &str, roles: &[&str], space: &str) -> Arc<Principal> {
    Arc::new(Principal { workspace: workspace(space), ..Principal::clone(&person(name, roles)) })
}

fn grant(space: &str, id: &str, role: &str) -> Grant {
    Grant { workspace: workspace(space), issuer: "https://idp.example".into(), id: id.into(), role: role.into() }
}

fn key(space: &str, roles: &[&str]) -> ApiKeyRequest {
    ApiKeyRequest {
        workspace: workspace(space),
        principal: "ci".into(),
        kind: PrincipalKind::Service,
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        scopes: BTreeSet::new(),
        expires: None,
        networks: Vec::new(),
        note: "the build".into(),
    }
}

async fn present(world: &World, bearer: &str) -> Result<Arc<Principal>, Refusal> {
    world.gate.authenticate(&Presented { bearer, ..Presented::default() }).await
}

fn slug<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> &'static str {
    outcome.expect_err("refused").kind.slug()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_works_until_it_is_revoked_and_leaves_no_secret_behind() {
    let world = world().await;
    let operator = person("olga", &["operator"]);
    let made = world.gate.create_api_key(&operator, key("default", &["teller"])).await.expect("made");
    let principal = present(&world, &made.key).await.expect("it is good");
    assert_eq!((principal.issuer.as_str(), principal.id.as_str()), (API_KEY_ISSUER, "ci"));
    assert_eq!((principal.kind, principal.on_behalf_of.as_deref()), (PrincipalKind::Service, None));
    done(world.call(&principal, "bank:balance", json!({})).await);

    world.gate.flush_aggregates().await;
    let listed = world.gate.api_keys(&operator, &workspace("default")).await.expect("listed");
    assert!(listed.len() == 1 && listed[0].used.is_some() && listed[0].facts.note == "the build");
    let shown = serde_json::to_string(&listed).expect("JSON");
    let secret = made.key.rsplit('_').next().expect("a secret");
    assert!(!shown.contains(secret) && !shown.contains("hash"), "{shown}");
    let stored = world.ledger.read(|r| r.directory()).await.expect("read").rows;
    let events = world.events().await;
    let bodies =
        events.iter().filter_map(|row| row.opening.as_ref()).map(|o| String::from_utf8_lossy(&o.event).into_owned());
    for text in bodies.chain(stored.into_iter().map(|row| row.body)) {
        assert!(!text.contains(secret), "the secret is nowhere: {text}");
    }

    world.gate.revoke_api_key(&operator, &made.id, "left the team").await.expect("revoked");
    assert_eq!(slug(present(&world, &made.key).await), "unauthenticated");
    assert_eq!(slug(world.gate.revoke_api_key(&operator, &made.id, "again").await), "not-found");
    assert_eq!(world.kinds("apikey.").await, ["apikey.created", "apikey.revoked"]);
    // What another connection to the same database did counts too, and after a restart.
    let made = world.gate.create_api_key(&operator, key("default", &["teller"])).await.expect("made");
    let world = world.restart().await;
    present(&world, &made.key).await.expect("still good");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_what_is_not_theirs_to_give() {
    let world = world().await;
    let (operator, admin) = (person("olga", &["operator"]), of("adam", &["admin"], "ward-7"));
    let gate = &world.gate;
    gate.grant_role(&admin, grant("ward-7", "tess", "treasurer"), "new").await.expect("its own workspace");
    assert_eq!(slug(gate.grant_role(&admin, grant("ward-7", "tess", "treasurer"), "twice").await), "already-exists");
    for (who, what) in [
        (&admin, grant("default", "tess", "treasurer")),
        (&admin, grant("_node", "tess", "treasurer")),
        (&operator, grant("_node", "tess", "treasurer")),
        (&admin, grant("ward-7", "tess", "operator")),
        (&admin, grant("ward-7", "tess", "auditor")),
        (&admin, grant("ward-7", "adam", "treasurer")),
        (&of("tess", &["treasurer"], "ward-7"), grant("ward-7", "bob", "treasurer")),
        (
            &Arc::new(Principal { on_behalf_of: Some("adam".into()), ..Principal::clone(&admin) }),
            grant("ward-7", "bob", "teller"),
        ),
        (
            &Arc::new(Principal { on_behalf_of: Some("olga".into()), ..Principal::clone(&operator) }),
            grant("default", "bob", "teller"),
        ),
    ] {
        assert_eq!(slug(gate.grant_role(who, what.clone(), "").await), "forbidden", "{what:?}");
    }
    gate.grant_role(&operator, grant("default", "olga", "treasurer"), "alone here").await.expect("operators may");
    for odd in
        [grant("ward-7", "", "x"), grant("ward-7", "x", ""), grant("ward-7", "a\nb", "x"), grant("ward-7", "x", "a\nb")]
    {
        assert_eq!(slug(gate.grant_role(&admin, odd.clone(), "").await), "malformed-request", "{odd:?}");
    }
    assert_eq!(
        slug(gate.revoke_role(&of("eve", &["admin"], "ward-8"), grant("ward-7", "tess", "treasurer"), "").await),
        "forbidden"
    );
    gate.revoke_role(&admin, grant("ward-7", "tess", "treasurer"), "left").await.expect("revoked");
    assert_eq!(slug(gate.revoke_role(&admin, grant("ward-7", "tess", "treasurer"), "left").await), "not-found");

    for (who, request) in [
        (&admin, key("default", &[])),
        (&admin, key("ward-7", &["operator"])),
        (&admin, key("ward-7", &["admin"])),
        (&of("tess", &["treasurer"], "ward-7"), key("ward-7", &[])),
    ] {
        assert_eq!(slug(gate.create_api_key(who, request.clone()).await), "forbidden", "{request:?}");
    }
    let person = ApiKeyRequest { kind: PrincipalKind::Person, ..key("ward-7", &[]) };
    assert_eq!(
        slug(gate.create_api_key(&admin, person).await),
        "malformed-request",
        "a key is nobody who could approve"
    );
    let past = ApiKeyRequest { expires: Some(1), ..key("ward-7", &[]) };
    assert_eq!(slug(gate.create_api_key(&admin, past).await), "malformed-request");
    let made = gate.create_api_key(&admin, key("ward-7", &["teller"])).await.expect("its own");
    assert_eq!(slug(gate.revoke_api_key(&of("eve", &["admin"], "ward-8"), &made.id, "").await), "not-found");
    assert_eq!(slug(gate.api_keys(&of("eve", &["admin"], "ward-8"), &workspace("ward-7")).await), "forbidden");
    let recorded: Vec<Value> = world
        .events()
        .await
        .iter()
        .filter(|row| row.kind == "role.granted")
        .map(|row| serde_json::from_slice(&row.opening.as_ref().expect("there").event).expect("JSON"))
        .collect();
    assert_eq!(recorded[0]["granted_to"], json!({"issuer": "https://idp.example", "id": "tess"}));
    assert_eq!((recorded[0]["workspace"].as_str(), recorded[0]["role"].as_str()), (Some("ward-7"), Some("treasurer")));
}

#[tokio::test(flavor = "multi_thread")]
async fn granted_roles_are_those_of_the_party_in_its_workspace() {
    let world = world().await;
    let operator = person("olga", &["operator"]);
    let made = world.gate.create_api_key(&operator, key("default", &[])).await.expect("made");
    let robot = present(&world, &made.key).await.expect("good");
    assert_eq!(slug(world.call(&robot, "bank:balance", json!({})).await), "policy-denied");
    let to_key = |space: &str| Grant { issuer: API_KEY_ISSUER.into(), ..grant(space, "ci", "teller") };
    world.gate.grant_role(&operator, to_key("ward-7"), "elsewhere").await.expect("granted");
    assert!(present(&world, &made.key).await.expect("good").roles.is_empty(), "another workspace's grant");
    world.gate.grant_role(&operator, to_key("default"), "here").await.expect("granted");
    let robot = present(&world, &made.key).await.expect("good");
    done(world.call(&robot, "bank:balance", json!({})).await);
    world.gate.revoke_role(&operator, to_key("default"), "enough").await.expect("revoked");
    assert!(present(&world, &made.key).await.expect("good").roles.is_empty(), "at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_workspace_admits_nobody() {
    let world = world().await;
    let operator = person("olga", &["operator"]);
    let gate = &world.gate;
    gate.create_workspace(&operator, workspace("ward-7"), "Ward 7").await.expect("registered");
    assert_eq!(slug(gate.create_workspace(&operator, workspace("ward-7"), "again").await), "already-exists");
    let made = gate.create_api_key(&operator, key("ward-7", &["operator"])).await.expect("made");
    present(&world, &made.key).await.expect("good");
    assert_eq!(
        slug(gate.archive_workspace(&of("adam", &["admin"], "ward-7"), workspace("ward-7"), "").await),
        "forbidden"
    );
    assert_eq!(slug(gate.archive_workspace(&operator, workspace("default"), "mine").await), "forbidden");
    gate.archive_workspace(&operator, workspace("ward-7"), "closed").await.expect("archived");
    assert_eq!(slug(present(&world, &made.key).await), "forbidden", "not even an operator");
    assert_eq!(slug(gate.create_api_key(&operator, key("ward-7", &[])).await), "forbidden");
    let seen = gate.workspaces(&operator).await.expect("listed");
    assert!(seen.iter().any(|space| space.name.as_str() == "ward-7" && space.status == "archived"), "{seen:?}");
    let own = gate.workspaces(&person("tess", &["treasurer"])).await.expect("listed");
    assert!(own.iter().all(|space| space.name.as_str() == "default"), "others are nobody else's business");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_changes_counts_on_the_others_soon() {
    let world = world().await;
    let other = crate::harness::another_gate(&world).await;
    let background = other.run_background();
    let operator = person("olga", &["operator"]);
    let made = world.gate.create_api_key(&operator, key("default", &["teller"])).await.expect("made");
    let there = async || other.authenticate(&Presented { bearer: &made.key, ..Presented::default() }).await.is_ok();
    let soon = async |expected: bool| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while there().await != expected {
            assert!(std::time::Instant::now() < end, "the other node never noticed");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon(true).await;
    let since = std::time::Instant::now();
    world.gate.revoke_api_key(&operator, &made.id, "left").await.expect("revoked");
    soon(false).await;
    assert!(since.elapsed() < std::time::Duration::from_secs(5), "half a second on an idle machine");
    background.iter().for_each(tokio::task::JoinHandle::abort);
}
