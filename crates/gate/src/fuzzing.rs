//! Doors for the fuzz targets (`--cfg fuzzing`, see `docs/fuzzing.md`): what issuers, token endpoints and upstreams say. No build of
//! the product has them. Each panics where something does not hold that others rely on.

use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::broker::oauth;
use crate::identity::keys;
use crate::questions;
use crate::upstream::{Ask, AskKind};

/// How many keys of a JWKS are used; none of a document that holds a private or a symmetric key alone.
pub fn jwks(document: &[u8]) -> usize {
    let Ok(count) = keys::usable_keys(document).map(|keys| keys.len()) else { return 0 };
    let parsed: Value = serde_json::from_slice(document).unwrap_or_default();
    let published = parsed["keys"].as_array().map_or(&[][..], Vec::as_slice);
    let asymmetric = published.iter().filter(|key| matches!(key["kty"].as_str(), Some("EC" | "RSA" | "OKP"))).count();
    assert!(count <= asymmetric && published.len() <= keys::MAX_KEYS);
    assert!(count == 0 || published.iter().all(|key| key.get("d").is_none()));
    count
}

/// What a token endpoint answers: a token that can be a header's value, or a reason without a word of the server's.
pub fn token_answer(status: u16, body: &[u8]) {
    match oauth::read_answer(status, body) {
        Ok(token) => {
            let printable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
            assert!(status == 200 && printable(token.access.expose()));
            assert!(token.life.as_secs() <= 24 * 3600 && token.refresh.iter().all(|t| printable(t.expose())));
        }
        Err(error) => assert!(error.to_string().len() < 120 && error.refusal().detail.is_ascii()),
    }
}

/// What upstreams and authorization servers say of themselves: nothing leads to another place than it says, or without TLS.
pub fn authorization(kind: u8, text: &[u8]) {
    use crate::connections::metadata::{
        Challenge, MAX_SCOPES, Method, Registered, ResourceMetadata, ServerMetadata, secure,
    };

    let Ok(upstream) = url::Url::parse("https://up.example/mcp") else { return };
    match kind % 4 {
        0 => {
            let Some(challenge) = std::str::from_utf8(text).ok().and_then(|text| Challenge::read([text])) else {
                return;
            };
            let scopes = challenge.scopes.unwrap_or_default();
            assert!(scopes.len() <= MAX_SCOPES && scopes.iter().all(|s| s.bytes().all(|b| b.is_ascii_graphic())));
        }
        1 => {
            let Ok(read) = ResourceMetadata::read(text, &upstream, None) else { return };
            let resource = url::Url::parse(&read.resource);
            assert!(resource.is_ok_and(|url| url.origin() == upstream.origin()));
        }
        2 => {
            let Ok(read) = ServerMetadata::read(text, "https://idp.example") else { return };
            assert!(read.issuer == "https://idp.example" && read.endpoints().all(|url| secure(url.as_str()).is_ok()));
        }
        _ => {
            let Ok(read) = Registered::read(201, text, Method::Basic) else { return };
            assert!(!read.client_id.is_empty() && (read.method == Method::None) == read.secret.is_none());
        }
    }
}

/// A question of an upstream: what is relayed says who asks, keeps its kind, and nobody is sent to a page that is not allowed.
pub fn question(kind: u8, params: &str, answer: &str) {
    let kind = match kind % 4 {
        0 => AskKind::ElicitForm,
        1 => AskKind::ElicitUrl,
        2 => AskKind::Sample,
        _ => AskKind::ListRoots,
    };
    let (Ok(params), Ok(upstream)) = (RawValue::from_string(params.to_owned()), "up".parse()) else { return };
    let ask = Ask { kind, key: None, params };
    let Ok(question) = questions::check(&ask, &upstream, Uuid::nil(), |host| host == "pay.example") else { return };
    let relayed: Value = serde_json::from_str(question.params.get()).unwrap_or_default();
    assert_eq!(relayed["_meta"][questions::ORIGIN], "up");
    let says_who =
        |name: &str| relayed[name].as_str().is_some_and(|text| text.starts_with("[asked by upstream \"up\"]"));
    match kind {
        AskKind::ElicitForm => assert!(says_who("message") && relayed["requestedSchema"].is_object()),
        AskKind::ElicitUrl => {
            assert!(
                says_who("message") && relayed["url"].as_str().is_some_and(|u| u.starts_with("https://pay.example"))
            );
        }
        AskKind::Sample => assert!(says_who("systemPrompt")),
        AskKind::ListRoots => {}
    }
    if let Ok(answer) = RawValue::from_string(answer.to_owned()) {
        let said = questions::answer(kind, &question, &answer);
        assert!(!matches!(said, Ok(word) if !["accept", "decline", "cancel", "answered"].contains(&word)));
    }
}
