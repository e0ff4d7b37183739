//! Doors for the fuzz targets (`--cfg fuzzing`, see `docs/fuzzing.md`): what clients, proxies, upstreams and operators send. No build
//! of the product has them. Each panics where something does not hold that others rely on.

use std::net::IpAddr;

use countersign_gate::api::Answer;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

pub use crate::config::ForwardedHeader;
use crate::config::{Config, ConfigError, ProxySettings};
use crate::http::guard::HostGuard;
use crate::mcp::era::{self, Era};
use crate::mcp::message::{self, Message};
use crate::mcp::{catalog, result, talk};
use crate::node::discovery;
use crate::rawjson;

/// A message from a client with the headers that came with it.
pub fn client_message(text: &str, headers: &HeaderMap) {
    match message::parse(text) {
        Ok(Message::Request { id, method, params }) => {
            let value = json(&message::response(id, b"{}"));
            assert_eq!(value.map(|value| value["id"].clone()), json(id.as_bytes()));
            drop(params.cursor.as_ref().map(|cursor| catalog::decode_cursor(&cursor.0)));
            match era::of(&method, &params, headers) {
                Ok(Era::Modern) => {
                    assert_eq!(headers.get("mcp-method").map(HeaderValue::as_bytes), Some(method.as_bytes()))
                }
                Ok(Era::Legacy) => {}
                Err(error) => drop(json(&error.response(Some(id)))),
            }
        }
        Ok(Message::Notification { .. } | Message::Response { .. }) => {}
        Err((error, id)) => drop(json(&error.response(id))),
    }
    if let Ok(members) = rawjson::members(text) {
        let again = rawjson::object(members.iter().map(|(name, value)| (name.as_ref(), value.get())));
        let again = String::from_utf8(again).unwrap_or_default();
        let names = |members: &[(std::borrow::Cow<'_, str>, &RawValue)]| -> Vec<_> {
            members.iter().map(|(name, value)| (name.to_string(), value.get().to_owned())).collect()
        };
        assert!(rawjson::members(&again).is_ok_and(|found| names(&found) == names(&members)));
    }
}

/// What we write is JSON; nothing where an echo holds numbers or escapes that have no value here.
fn json(bytes: &[u8]) -> Option<Value> {
    assert!(serde_json::from_slice::<&RawValue>(bytes).is_ok());
    serde_json::from_slice(bytes).ok()
}

/// An upstream's result on its way to a client: the receipt is ours, whatever the upstream says, and its own members survive.
pub fn upstream_result(text: &str) {
    let Ok(raw) = RawValue::from_string(text.to_owned()) else { return };
    let answer = Answer { call: Uuid::nil(), event: Uuid::max(), result: raw.clone(), is_error: true, replayed: false };
    for (era, caches) in [(Era::Legacy, false), (Era::Modern, false), (Era::Modern, true)] {
        if let Some(error) = result::upstream_error(&answer, era) {
            drop(json(&error.response(None)));
        }
        let Ok(sent) = result::of_answer(&answer, era, caches) else { continue };
        let (Some(sent), Some(theirs)) = (json(&sent), json(text.as_bytes())) else { continue };
        assert_eq!(sent["_meta"]["dev.countersign/receipt"], Uuid::max().to_string());
        for (name, value) in theirs.as_object().into_iter().flatten() {
            let ours = matches!(name.as_str(), "_meta" | "resultType" | "cacheScope");
            assert!(ours || sent.get(name) == Some(value), "{name} was changed");
        }
    }
    if let Some(told) = talk::with_token(&raw, "7") {
        assert!(json(&told).is_none_or(|told| told["progressToken"] == 7));
    }
    let event = talk::event(raw.get().as_bytes().to_vec());
    assert_eq!(event.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count(), 3);
}

/// Whether mirrored headers agree with the arguments, by a tool's definition.
pub fn agrees(definition: &str, arguments: &str, headers: &HeaderMap) -> bool {
    let definition: Value = serde_json::from_str(definition).unwrap_or_default();
    era::check_params(&era::param_headers(&definition), arguments, headers).is_ok()
}

/// Whether a node on loopback takes a request with these headers for one of its own.
pub fn passes_guard(guard: &Guard, headers: &HeaderMap) -> bool {
    guard.0.check(headers).is_ok()
}

/// The guard of a node.
pub struct Guard(HostGuard);

impl Guard {
    /// Of a node with this configuration file.
    ///
    /// # Errors
    /// As [`config`].
    pub fn new(text: &str) -> Result<Self, ConfigError> {
        Ok(Self(HostGuard::new(&config(text)?)))
    }
}

/// Where a request comes from, behind proxies in 10.0.0.0/8.
pub fn client(header: ForwardedHeader, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let networks = "10.0.0.0/8".parse().into_iter().collect();
    ProxySettings { networks, header }.client(peer, headers)
}

/// A configuration file.
///
/// # Errors
/// As for any other.
pub fn config(text: &str) -> Result<Config, ConfigError> {
    Config::from_text(text)
}

/// An issuer's metadata: keys come from a place that is encrypted or on this machine, and from inside only if the issuer is there.
pub fn metadata(body: &[u8]) {
    const ISSUER: &str = "https://idp.example";
    let Ok(issuer) = url::Url::parse(ISSUER) else { return };
    if let Ok(keys) = discovery::keys_at(body, ISSUER, &issuer) {
        assert_eq!(keys.scheme(), "https");
        assert!(!keys.host_str().is_some_and(|host| host.trim_end_matches('.') == "localhost"));
    }
}
