//! What handlers need of a request: who calls, under which correlation id, and a body within its bounds.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use bytes::{Bytes, BytesMut};
use countersign_domain::{Principal, Refusal, RefusalKind};
use countersign_gate::directory::API_KEY_PREFIX;
use countersign_gate::identity::Presented;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use http_body_util::BodyExt as _;
use uuid::Uuid;

use super::peer::Peer;
use super::problem::Refused;
use crate::app::App;

/// Names a request across systems.
pub(crate) const CORRELATION: HeaderName = HeaderName::from_static("x-correlation-id");
/// The idempotency key (IETF draft-ietf-httpapi-idempotency-key-header).
pub(crate) const IDEMPOTENCY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of an API key, for clients that cannot set `Authorization`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const TIMEOUT: HeaderName = HeaderName::from_static("request-timeout");
const X_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
/// The longest time that makes sense to say.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The `cause` of a 401 where no credential was given at all.
pub(crate) const NO_CREDENTIAL: &str = "no-credential";

/// The correlation id of a request: the caller's if it is sensible, else a new one. Set by [`super::serve`].
#[derive(Debug, Clone)]
pub(crate) struct Correlation(pub Arc<str>);

impl Correlation {
    /// Up to 128 of `A-Z a-z 0-9 . _ : -`; anything else is replaced rather than refused.
    pub fn of(headers: &HeaderMap) -> Self {
        let sensible = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        let given = headers.get(CORRELATION).and_then(|value| value.to_str().ok());
        match given.filter(|text| (1..=128).contains(&text.len()) && text.bytes().all(sensible)) {
            Some(text) => Self(text.into()),
            None => Self(Uuid::now_v7().to_string().into()),
        }
    }
}

/// What says who calls where it is not only the header: the token of a protocol that has it in the body, and the audiences that such
/// tokens may have.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InBody<'a> {
    /// The token.
    pub token: Option<&'a str>,
    /// Good for the resource that is asked for, besides the issuer's own.
    pub audiences: &'a [String],
}

/// The authenticated caller of a request.
pub(crate) struct Caller {
    /// Who.
    pub principal: Arc<Principal>,
    /// The correlation id.
    pub correlation: Arc<str>,
}

impl Caller {
    /// Checks what the request presents: a bearer token, an API key, or else the certificate of its connection.
    ///
    /// # Errors
    /// [`RefusalKind::Unauthenticated`], or [`RefusalKind::Forbidden`] if scopes are missing; counted, since there is no event
    /// before authentication.
    pub async fn authenticate(app: &App, parts: &Parts, surface: &'static str) -> Result<Arc<Principal>, Refusal> {
        Self::authenticate_with(app, parts, &InBody::default(), surface).await
    }

    /// As [`Self::authenticate`], where a token may stand in the body, too.
    ///
    /// # Errors
    /// As there.
    pub async fn authenticate_with(
        app: &App,
        parts: &Parts,
        in_body: &InBody<'_>,
        surface: &'static str,
    ) -> Result<Arc<Principal>, Refusal> {
        let principal = Self::recognise(app, parts, in_body).await.inspect_err(|refusal| {
            let cause = refusal.extra.get("cause").and_then(serde_json::Value::as_str);
            app.gate.note_refusal(surface, cause.unwrap_or("other"));
        })?;
        crate::telemetry::exchange::caller(&principal);
        Ok(principal)
    }

    async fn recognise(app: &App, parts: &Parts, in_body: &InBody<'_>) -> Result<Arc<Principal>, Refusal> {
        let peer = parts.extensions.get::<Peer>();
        let certificate = peer.and_then(|peer| peer.certificate.as_ref());
        let given = match (credential(&parts.headers)?, in_body.token) {
            (Some(header), Some(body)) if header != body => return Err(ambiguous()),
            (header, body) => header.or(body),
        };
        let principal = match (given, certificate.and_then(|known| known.principal.as_ref())) {
            (Some(bearer), _) => {
                let presented = Presented {
                    bearer,
                    certificate: certificate.map(|known| known.thumbprint),
                    client: peer.map(|peer| app.config.proxies.client(peer.address, &parts.headers)),
                    resource: parts.uri.path(),
                    audiences: in_body.audiences,
                };
                app.gate.authenticate(&presented).await?
            }
            (None, Some(named)) => app.gate.admit(Arc::clone(named))?,
            (None, None) => {
                let advice = "send Authorization: Bearer <token>; for development, countersign token mint makes one";
                return Err(Refusal::new(RefusalKind::Unauthenticated, advice).with("cause", NO_CREDENTIAL));
            }
        };
        app.resource.check_scopes(&principal)?;
        Ok(principal)
    }
}

/// The token of an `Authorization: Bearer` header (RFC 6750, section 2.1). Tokens in queries are not looked at.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The one credential of a request: a bearer token or an API key. Two that differ are one too many, since nobody could say
/// which of them was meant.
fn credential(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let twice = |name: &HeaderName| headers.get_all(name).iter().count() > 1;
    let api_key = headers.get(API_KEY).map(|value| value.to_str().unwrap_or_default().trim());
    match (bearer(headers), api_key) {
        _ if twice(&AUTHORIZATION) || twice(&API_KEY) => Err(ambiguous()),
        // Only an API key is one: a token in this header would escape every rule for tokens in headers.
        (_, Some(key)) if !key.starts_with(API_KEY_PREFIX) => {
            let detail = "X-API-Key: this is not an API key of this node";
            Err(Refusal::new(RefusalKind::Unauthenticated, detail).with("cause", "malformed"))
        }
        (Some(token), Some(key)) if token != key => Err(ambiguous()),
        (token, key) => Ok(token.or(key)),
    }
}

fn ambiguous() -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, "the request carries more than one credential")
        .with("cause", "ambiguous")
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refused> {
        let principal = Self::authenticate(app, parts, "http").await?;
        let correlation =
            parts.extensions.get::<Correlation>().cloned().unwrap_or_else(|| Correlation::of(&parts.headers));
        Ok(Self { principal, correlation: correlation.0 })
    }
}

/// The `Idempotency-Key`, if there is one: 1 to 255 visible ASCII characters.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(IDEMPOTENCY) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| is_idempotency_key(text));
    let refusal =
        || Refusal::new(RefusalKind::MalformedRequest, "Idempotency-Key: send 1 to 255 visible ASCII characters");
    text.map(|text| Some(text.to_owned())).ok_or_else(refusal)
}

/// How long the caller wants to wait for the upstream: `Request-Timeout` in seconds (`5`, `0.25`) or with a unit (`250ms`).
///
/// # Errors
/// [`RefusalKind::MalformedRequest`].
pub(crate) fn request_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get(TIMEOUT).or_else(|| headers.get(X_TIMEOUT)) else { return Ok(None) };
    let refusal = || Refusal::new(RefusalKind::MalformedRequest, "Request-Timeout: send seconds, such as 5 or 0.25");
    parse_timeout(value.to_str().unwrap_or_default()).map(Some).ok_or_else(refusal)
}

/// How long somebody wants to wait: seconds or a number with a unit, more than nothing and at most a day.
pub(crate) fn parse_timeout(text: &str) -> Option<Duration> {
    let text = text.trim();
    let seconds = || text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let time = if plain { seconds() } else { crate::config::parse_duration(text).ok() };
    time.filter(|time| !time.is_zero() && *time <= LONGEST)
}

/// Whether a text can be an idempotency key.
pub(crate) fn is_idempotency_key(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Reads a body of at most the configured size within the configured time.
///
/// # Errors
/// [`RefusalKind::TooLarge`], [`RefusalKind::RequestTimeout`], or [`RefusalKind::MalformedRequest`] if it breaks off.
pub(crate) async fn read_body(app: &App, headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    read_body_within(app, headers, body, app.config.limits.body_bytes).await
}

/// As [`read_body`], with a bound of the handler's own.
///
/// # Errors
/// As [`read_body`].
pub(crate) async fn read_body_within(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    most: usize,
) -> Result<Bytes, Refusal> {
    let limits = &app.config.limits;
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|t| t.parse::<usize>().ok());
    if announced.is_some_and(|length| length > most) {
        return Err(too_large(most));
    }
    let reading = collect(body, most, announced.unwrap_or(0));
    let late = || {
        let detail = format!("the body must arrive within {} s", limits.body_timeout.as_secs());
        Refusal::new(RefusalKind::RequestTimeout, detail)
    };
    tokio::time::timeout(limits.body_timeout, reading).await.map_err(|_| late())?
}

async fn collect(mut body: Body, limit: usize, announced: usize) -> Result<Bytes, Refusal> {
    let broken = |_| Refusal::new(RefusalKind::MalformedRequest, "the request's body broke off");
    let Some(first) = next_data(&mut body).await.map_err(broken)? else { return Ok(Bytes::new()) };
    // Nearly every body comes as one frame; only others are copied.
    if first.len() == announced && first.len() <= limit {
        return Ok(first);
    }
    let mut all = BytesMut::from(first.as_ref());
    while let Some(frame) = next_data(&mut body).await.map_err(broken)? {
        if all.len() + frame.len() > limit {
            return Err(too_large(limit));
        }
        all.extend_from_slice(&frame);
    }
    if all.len() > limit { Err(too_large(limit)) } else { Ok(all.freeze()) }
}

async fn next_data(body: &mut Body) -> Result<Option<Bytes>, axum::Error> {
    while let Some(frame) = body.frame().await {
        // Trailers are not looked at.
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(RefusalKind::TooLarge, format!("the body may have at most {limit} bytes")).with("limit", limit as u64)
}

/// A path or query value of some type.
///
/// # Errors
/// [`RefusalKind::MalformedRequest`] that names the value.
pub(crate) fn parsed<T: FromStr>(name: &str, text: &str, expected: &str) -> Result<T, Refusal> {
    let refusal = || Refusal::new(RefusalKind::MalformedRequest, format!("{name}: expected {expected}"));
    text.parse().map_err(|_| refusal())
}

/// The query of a request as pairs; names that are not known are refused, since a misspelt filter would answer too much.
///
/// # Errors
/// [`RefusalKind::MalformedRequest`].
pub(crate) fn query(uri: &http::Uri, known: &[&str]) -> Result<Vec<(String, String)>, Refusal> {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let pairs: Vec<(String, String)> = pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).take(64).collect();
    let stranger = pairs.iter().find(|(name, _)| !known.contains(&name.as_str()));
    match stranger {
        None => Ok(pairs),
        Some((name, _)) => {
            let name: String = name.chars().take(64).filter(|c| !c.is_control()).collect();
            let detail = format!("unknown query parameter {name:?}; known are {}", known.join(", "));
            Err(Refusal::new(RefusalKind::MalformedRequest, detail))
        }
    }
}

/// The value of a query parameter, of the last one if it was given twice.
pub(crate) fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// A parsed query parameter.
///
/// # Errors
/// [`RefusalKind::MalformedRequest`] that names it.
pub(crate) fn parsed_value<T: FromStr>(
    pairs: &[(String, String)],
    name: &str,
    expected: &str,
) -> Result<Option<T>, Refusal> {
    value(pairs, name).map(|text| parsed(name, text, expected)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_header_is_a_credential() {
        let cases = [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic abc", None),
        ];
        for (text, expected) in cases {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, http::HeaderValue::from_static(text))]);
            assert_eq!(bearer(&headers), expected, "{text:?}");
        }
    }

    #[test]
    fn a_request_has_one_credential() {
        const TOKEN: (&str, &str) = ("authorization", "Bearer abc");
        const KEY: (&str, &str) = ("x-api-key", "csk_1");
        type Given = &'static [(&'static str, &'static str)];
        let cases: &[(Given, Option<Option<&str>>)] = &[
            (&[], Some(None)),
            (&[TOKEN], Some(Some("abc"))),
            (&[KEY], Some(Some("csk_1"))),
            (&[KEY, ("authorization", "Bearer csk_1")], Some(Some("csk_1"))),
            (&[TOKEN, KEY], None),
            (&[TOKEN, TOKEN], None),
            (&[KEY, KEY], None),
            (&[("x-api-key", "a.b.c")], None),
        ];
        for (given, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in *given {
                headers.append(*name, http::HeaderValue::from_static(value));
            }
            assert_eq!(credential(&headers).ok(), *expected, "{given:?}");
        }
    }

    #[test]
    fn a_timeout_is_seconds_or_has_a_unit() {
        let read = |text: &'static str| {
            request_timeout(&HeaderMap::from_iter([(TIMEOUT, http::HeaderValue::from_static(text))])).ok().flatten()
        };
        for (text, millis) in [("5", 5000), ("0.25", 250), ("250ms", 250), ("2m", 120_000)] {
            assert_eq!(read(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "-1", "1e3", "inf", "NaN", "five", "999999999999", "1.2.3"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(request_timeout(&HeaderMap::new()).expect("none"), None);
    }

    #[test]
    fn an_odd_correlation_id_is_replaced() {
        for (text, kept) in [("job-7:a.b_c", true), ("has space", false), ("<script>", false)] {
            let headers = HeaderMap::from_iter([(CORRELATION, http::HeaderValue::from_static(text))]);
            assert_eq!(&*Correlation::of(&headers).0 == text, kept, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound_however_it_is_framed() {
        let framed = |parts: &[&'static str]| {
            let parts: Vec<_> =
                parts.iter().map(|p| Ok::<_, std::io::Error>(Bytes::from_static(p.as_bytes()))).collect();
            Body::from_stream(futures_util::stream::iter(parts))
        };
        assert_eq!(collect(framed(&["ab", "cd"]), 4, 0).await.expect("four bytes"), "abcd");
        assert_eq!(collect(framed(&["abcd"]), 4, 4).await.expect("four bytes"), "abcd");
        assert_eq!(collect(framed(&[]), 4, 0).await.expect("empty"), "");
        for parts in [&["abcde"][..], &["ab", "cde"][..]] {
            assert_eq!(collect(framed(parts), 4, 0).await.expect_err("five bytes").kind, RefusalKind::TooLarge);
        }
    }
}
