//! Issuers whose key sets are poisoned: one bad document, and none of its tokens is believed.

use anyhow::Result;
use countersign_testkit::{Claims, Issuer};
use serde_json::json;

use super::foe::{Foe, issuer};
use super::{Case, World};

pub const CASES: &[Case] = &[
    ("a key set with a private key", |w| keys(w, "private", 503, "issuer-away")),
    ("a key set of 10,000 keys", |w| keys(w, "many", 503, "issuer-away")),
    ("a key set that never ends", |w| keys(w, "endless", 503, "issuer-away")),
    ("a key set behind a redirect", |w| keys(w, "moved", 503, "issuer-away")),
    ("a key set that is packed", |w| keys(w, "packed", 503, "issuer-away")),
    ("two keys under one kid", |w| keys(w, "twice", 401, "key")),
    ("a symmetric key among the public ones", |w| keys(w, "symmetric", 401, "key")),
    ("a key that claims another algorithm", |w| keys(w, "confused", 401, "key")),
    ("a key that is for encryption", |w| keys(w, "encryption", 401, "key")),
    ("metadata of another issuer", |w| metadata(w, "posing")),
    ("metadata that leads inside", |w| metadata(w, "inwards")),
    ("metadata that leads to keys in the clear", |w| metadata(w, "plain")),
];

const BY_URL: [&str; 10] =
    ["honest", "private", "many", "endless", "moved", "packed", "twice", "symmetric", "confused", "encryption"];
const BY_METADATA: [&str; 4] = ["honest", "posing", "inwards", "plain"];

/// Their part of the node's configuration.
pub(super) fn configuration(foe: &Foe) -> String {
    let usual = "audience = \"countersign\"\nworkspaces = [\"*\"]\n";
    let url = foe.url();
    let by_url = BY_URL.iter().map(|name| {
        let issuer = issuer(name);
        format!("[[issuers]]\nissuer = \"{}\"\njwks_url = \"{url}/jwks/{name}\"\n{usual}", issuer.name())
    });
    let by_metadata =
        BY_METADATA.iter().map(|name| format!("[[issuers]]\nissuer = \"{url}/idp/{name}\"\ndiscovery = true\n{usual}"));
    by_url.chain(by_metadata).collect()
}

fn keys(world: &mut World, name: &str, status: u16, cause: &str) -> Result<()> {
    refused(world, &issuer("honest"), &issuer(name), status, cause)
}

fn metadata(world: &mut World, name: &str) -> Result<()> {
    let named = |world: &World, name: &str| Issuer::new(&format!("{}/idp/{name}", world.foe.url()), 40);
    let (honest, posing) = (named(world, "honest"), named(world, name));
    refused(world, &honest, &posing, 503, "issuer-away")
}

/// A token of an honest issuer is believed; one with the same claims and as good a signature of this one is not.
fn refused(world: &mut World, honest: &Issuer, poisoned: &Issuer, status: u16, cause: &str) -> Result<()> {
    let claims = Claims::agent("mallory", &["tester"]);
    let body = json!({"text": "twin"});
    let twin = world.node.client(&honest.token(&claims)).post("/tools/evil:echo/invoke", &body)?;
    world.harmless(&twin)?;
    let token = poisoned.token(&claims);
    world.counted(cause, |world| {
        let problem = if status == 503 { "unavailable" } else { "unauthenticated" };
        let answer = world.node.client(&token).post("/tools/evil:echo/invoke", &body)?;
        world.refused_without_event(&answer, status, problem).map(|_| ())
    })
}
