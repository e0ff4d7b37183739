//! Security schemes into the manifest's `credential`, and headers beside it: the secrets come from the node's environment.
//!
//! A manifest has one credential. The scheme that renews itself comes first; what operations want beside it becomes a header, and
//! what it makes unnecessary becomes a note. (OpenAPI 3.1, 4.8.27 to 4.8.30.)

use std::collections::{BTreeMap, BTreeSet};

use countersign_domain::UpstreamName;
use serde_json::{Map, Value, json};

use super::Note;
use super::document::Document;
use crate::Manifest;

/// What one operation takes: any of these sets of schemes. None at all: nothing is wanted.
pub(super) type Alternatives = Vec<BTreeSet<String>>;

/// What the transport gets.
#[derive(Default)]
pub(super) struct Security {
    pub credential: Option<Value>,
    /// Headers with `${VARIABLE}`.
    pub headers: Map<String, Value>,
}

/// A client's id that nobody has; the document can't know the right one.
const CLIENT_ID: &str = "CHANGE-ME";

/// The credential for what the operations want, headers for what it does not cover; a note for each scheme.
pub(super) fn security(
    document: &Document,
    operations: &BTreeSet<Alternatives>,
    upstream: &UpstreamName,
    notes: &mut Vec<Note>,
) -> Security {
    let mut security = Security::default();
    let mut schemes = BTreeMap::new();
    for name in operations.iter().flatten().flatten() {
        match document.resolve(&document.root["components"]["securitySchemes"][name.as_str()]) {
            Ok(scheme) => drop(schemes.insert(name.as_str(), scheme)),
            Err(why) => note(notes, name, why),
        }
    }
    let mut candidates: Vec<_> = schemes.iter().filter_map(|(name, scheme)| Some((rank(scheme)?, *name))).collect();
    candidates.sort_unstable();
    let mut chosen = None;
    for (_, name) in candidates {
        let variable = variable(upstream, name);
        let Some((credential, words)) = schemes.get(name).and_then(|scheme| credential(scheme, &variable)) else {
            continue;
        };
        match refused("credential", &credential) {
            Some(why) => note(notes, name, format!("it makes no credential: {why}")),
            None => {
                note(notes, name, words);
                (chosen, security.credential) = (Some(name), Some(credential));
                break;
            }
        }
    }
    let needed = needed(operations, chosen);
    for (name, scheme) in &schemes {
        if Some(*name) == chosen {
            continue;
        }
        match chosen.filter(|_| !needed.contains(name)) {
            Some(chosen) => note(notes, name, format!("left out: {chosen} does instead of it")),
            None => header(&mut security, scheme, name, &variable(upstream, name), notes),
        }
    }
    security
}

fn note(notes: &mut Vec<Note>, scheme: &str, text: String) {
    notes.push(Note { place: format!("security scheme {scheme}"), text });
}

/// What is sought beside the chosen scheme: the rest of an alternative with it, or the first where it is in none.
fn needed<'a>(operations: &'a BTreeSet<Alternatives>, chosen: Option<&str>) -> BTreeSet<&'a str> {
    let mut needed = BTreeSet::new();
    for alternatives in operations {
        let covered = |set: &&BTreeSet<String>| set.iter().all(|name| Some(name.as_str()) == chosen);
        if alternatives.iter().any(|set| covered(&set)) {
            continue;
        }
        let with = alternatives.iter().find(|set| chosen.is_some_and(|chosen| set.contains(chosen)));
        needed.extend(with.or(alternatives.first()).into_iter().flatten().map(String::as_str));
    }
    needed
}

fn is_http(scheme: &Value, kind: &str) -> bool {
    scheme["type"] == "http" && scheme["scheme"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(kind))
}

/// What renews itself before what stays, and what stands in a header before what stands in a URL.
fn rank(scheme: &Value) -> Option<u8> {
    let flow = |name: &str| scheme["type"] == "oauth2" && scheme["flows"][name].is_object();
    let key_in = |place: &str| scheme["type"] == "apiKey" && scheme["in"] == place;
    let order = [
        flow("clientCredentials"),
        flow("authorizationCode"),
        is_http(scheme, "bearer"),
        is_http(scheme, "basic"),
        key_in("header"),
        key_in("query"),
    ];
    (0..).zip(order).find_map(|(rank, holds)| holds.then_some(rank))
}

/// The `credential` for a scheme that has a [`rank`], and what has to be filled in.
fn credential(scheme: &Value, variable: &str) -> Option<(Value, String)> {
    let set = format!("set the environment variable {variable}");
    let secret = json!({"env": variable});
    let flows = &scheme["flows"];
    let found = match rank(scheme)? {
        0 => {
            let flow = &flows["clientCredentials"];
            let credential = json!({
                "type": "oauth_client_credentials", "token_url": flow["tokenUrl"], "client_id": CLIENT_ID,
                "client_secret": secret, "scopes": scopes(flow),
            });
            (
                credential,
                format!(
                    "{set} to the client's secret, and put its id in the place of {CLIENT_ID}; keep the scopes that are needed"
                ),
            )
        }
        1 => {
            let flow = &flows["authorizationCode"];
            let credential = json!({
                "type": "user", "token_url": flow["tokenUrl"], "authorization_url": flow["authorizationUrl"],
                "client_id": CLIENT_ID, "client_secret": secret, "scopes": scopes(flow),
            });
            (
                credential,
                format!(
                    "each person connects an account; {set} to the client's secret (or leave it out, for a public client), put its id in the place of {CLIENT_ID}, and keep the scopes that are needed"
                ),
            )
        }
        2 => (json!({"type": "static", "secret": secret}), set),
        3 => (
            json!({"type": "static", "secret": secret, "in": "basic", "username": CLIENT_ID}),
            format!("{set} to the password, and put the user's name in the place of {CLIENT_ID}"),
        ),
        4 => {
            let mut credential = json!({"type": "static", "secret": secret, "name": scheme["name"]});
            if scheme["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("authorization")) {
                // A key, not a bearer token.
                credential["prefix"] = "".into();
            }
            (credential, set)
        }
        _ => (json!({"type": "static", "secret": secret, "in": "query", "name": scheme["name"]}), set),
    };
    Some(found)
}

fn scopes(flow: &Value) -> Vec<&str> {
    flow["scopes"].as_object().into_iter().flatten().map(|(scope, _)| scope.as_str()).collect()
}

/// Why a manifest with this in its transport would be refused.
fn refused(key: &str, value: &Value) -> Option<String> {
    let transport = json!({"type": "rest", "url": "https://example.org", key: value});
    let manifest = json!({"version": 1, "upstream": "a", "transport": transport, "tools": {}});
    // JSON is YAML.
    Manifest::parse(&manifest.to_string(), "import").err().map(|error| error.to_string())
}

/// A header for a scheme beside the credential, if it can be expressed as one.
fn header(security: &mut Security, scheme: &Value, name: &str, variable: &str, notes: &mut Vec<Note>) {
    let mut note = |text: String| note(notes, name, text);
    let (header, value) = match (scheme["type"].as_str(), scheme["in"].as_str()) {
        (Some("apiKey"), Some("header")) => {
            (scheme["name"].as_str().unwrap_or_default().to_owned(), format!("${{{variable}}}"))
        }
        (Some("http"), _) if is_http(scheme, "basic") => {
            note(format!("{variable} is the base64 of `user:password`"));
            ("Authorization".to_owned(), format!("Basic ${{{variable}}}"))
        }
        (Some("http"), _) if is_http(scheme, "bearer") => {
            ("Authorization".to_owned(), format!("Bearer ${{{variable}}}"))
        }
        (Some("oauth2" | "openIdConnect"), _) => {
            note("a token from the environment is not renewed; docs/credentials.md has better ways".into());
            ("Authorization".to_owned(), format!("Bearer ${{{variable}}}"))
        }
        (kind, _) => {
            return note(format!("a scheme of the type {} cannot be expressed here", kind.unwrap_or("(none)")));
        }
    };
    let own = security.credential.as_ref().and_then(header_of);
    let taken = security.headers.keys().chain(&own).any(|other| other.eq_ignore_ascii_case(&header));
    if header.is_empty() || taken {
        return note(format!("left out: {header} is taken by another scheme"));
    }
    if let Some(why) = refused("headers", &json!({header.as_str(): value})) {
        return note(format!("left out: {why}"));
    }
    note(format!("set the environment variable {variable}"));
    security.headers.insert(header, value.into());
}

/// The header that a credential fills.
fn header_of(credential: &Value) -> Option<String> {
    let name = credential["name"].as_str().unwrap_or("Authorization");
    (credential["in"] != "query").then(|| name.to_owned())
}

fn variable(upstream: &UpstreamName, scheme: &str) -> String {
    let name = format!("{upstream}_{scheme}");
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    name.chars().take(128).collect()
}
