//! Refusals on the wire: RFC 9457 problem details. The one place that knows how.
//!
//! A handler returns [`Refused`]; [`super::serve`] finds it in the response's extensions and calls [`render`] with what it
//! knows of the request. So no handler can forget the correlation id, and nothing internal has a way out.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use countersign_domain::{Refusal, RefusalKind};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};

/// Where problem types are described; the last part is [`RefusalKind::slug`].
pub const TYPE_PREFIX: &str = "https://countersign.dev/problems/";

/// A refusal on its way to the wire.
#[derive(Debug)]
pub(crate) struct Refused(pub Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// The refusal inside a response's extensions.
#[derive(Clone)]
pub(crate) struct Carried(pub Box<Refusal>);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status_of(self.0.kind);
        response.extensions_mut().insert(Carried(Box::new(self.0)));
        response
    }
}

/// The members of a problem document.
pub(crate) fn members(refusal: &Refusal, correlation: &str, instance: Option<&str>) -> Map<String, Value> {
    let mut members = refusal.extra.clone();
    let mut set = |name: &str, value: Value| members.insert(name.to_owned(), value);
    set("type", format!("{TYPE_PREFIX}{}", refusal.kind.slug()).into());
    set("title", refusal.kind.title().into());
    set("status", refusal.kind.status().into());
    set("detail", refusal.detail.as_str().into());
    set("correlation_id", correlation.into());
    if let Some(instance) = instance {
        set("instance", instance.into());
    }
    if let Some(seconds) = refusal.retry_after {
        set("retry_after", seconds.into());
    }
    if let Some(event) = refusal.event {
        set("event", event.to_string().into());
    }
    members
}

/// The response that carries a refusal. `allow` is the `Allow` header that the router worked out for a 405, `challenge` what
/// [`super::resource`] makes of a 401 or of missing scopes.
pub(crate) fn render(
    refusal: &Refusal,
    correlation: &str,
    instance: &str,
    allow: Option<HeaderValue>,
    challenge: Option<HeaderValue>,
) -> Response {
    let body = Value::Object(members(refusal, correlation, Some(instance))).to_string();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status_of(refusal.kind);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(allow) = allow {
        headers.insert(ALLOW, allow);
    }
    if let Some(seconds) = refusal.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(challenge) = challenge {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

fn status_of(kind: RefusalKind) -> StatusCode {
    StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_and_never_lets_extra_members_shadow_its_own() {
        let event = uuid::Uuid::from_u128(7);
        let refusal = Refusal::new(RefusalKind::RateLimited, "too many; wait")
            .with("status", 200)
            .with("limit", "per-principal")
            .recorded_as(event);
        let members = Value::Object(members(&refusal, "c-1", Some("/tools/x")));
        let expected = serde_json::json!({
            "type": "https://countersign.dev/problems/rate-limited", "title": "Too many calls", "status": 429,
            "detail": "too many; wait", "instance": "/tools/x", "correlation_id": "c-1",
            "event": event.to_string(), "limit": "per-principal",
        });
        assert_eq!(members, expected);
    }
}
