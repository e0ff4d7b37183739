//! Accounts that people connect: their own list, the way to the provider, and the page that a browser sees when it comes back.
//!
//! Operators list and drop those of others, under `/admin`.
//!
//! That page has no script, no style and no link, and coming to it changes nothing but the flow whose `state` was brought. [`start_page`]
//! is where people start who were sent here by a link.

mod start_page;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use countersign_catalog::visible_line;
use countersign_domain::principal::{party_key, party_of};
use countersign_domain::{Refusal, RefusalKind, UpstreamName, WorkspaceName};
use countersign_gate::broker::Secret;
use countersign_gate::connections::client::DOCUMENT;
use countersign_gate::connections::flow::{Consent, Disconnected, ReturnError, Returned};
use countersign_gate::connections::operators::Person;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LINK, REFERRER_POLICY};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use super::admin::body_of;
use super::request::{Caller, parsed, parsed_value, query, value};
use super::{Answered, json};
use crate::app::App;

/// Nothing is loaded, nothing is sent, nobody frames it.
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Connections of a page, where nobody says how many.
const DEFAULT_LIMIT: u32 = 100;
/// Most parameters of a browser's return that are looked at.
const MAX_PARAMETERS: usize = 32;

/// The routes.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/connections", get(list))
        .route("/connections/{upstream}", post(connect).delete(disconnect))
        .route("/connections/{upstream}/confirm", post(confirm))
        .route("/connections/{upstream}/page", get(start_page::show).post(start_page::act))
        .route("/admin/connections", get(held))
        .route("/admin/connections/{upstream}/drop", post(drop_held))
        .route("/oauth/callback", get(callback))
        .route(DOCUMENT, get(document))
}

fn named(upstream: &str) -> Result<UpstreamName, Refusal> {
    parsed("upstream", upstream, "an upstream's name")
}

async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    json(&app.gate.connections(&caller.principal).await?)
}

/// The answer holds the `state` of the flow, which is the person's alone.
async fn connect(State(app): State<Arc<App>>, caller: Caller, Path(upstream): Path<String>) -> Answered {
    let started = app.gate.connect(&caller.principal, &named(&upstream)?, &caller.correlation).await?;
    let mut response = json(&started)?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    code: Secret,
}

async fn confirm(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(upstream): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let word: Word = body_of(&app, &headers, body).await?;
    let upstream = named(&upstream)?;
    json(&app.gate.confirm_connection(&caller.principal, &upstream, &word.code, &caller.correlation).await?)
}

async fn disconnect(State(app): State<Arc<App>>, caller: Caller, Path(upstream): Path<String>) -> Answered {
    forgotten(&app.gate.disconnect(&caller.principal, &named(&upstream)?).await?)
}

fn forgotten(done: &Disconnected) -> Answered {
    json(&json!({ "event": done.event, "receipt": done.event, "revoked": done.revoked }))
}

/// Everybody's in a workspace, for operators: a bare array, and a `Link` to the next page.
async fn held(State(app): State<Arc<App>>, caller: Caller, uri: Uri) -> Answered {
    let pairs = query(&uri, &["workspace", "limit", "cursor"])?;
    let workspace = parsed_value(&pairs, "workspace", "a workspace's name")?;
    let workspace = workspace.unwrap_or_else(|| caller.principal.workspace.clone());
    let limit = parsed_value(&pairs, "limit", "a number from 1 to 1000")?.unwrap_or(DEFAULT_LIMIT);
    let behind = value(&pairs, "cursor").map(place).transpose()?;
    let page = app.gate.held_connections(&caller.principal, &workspace, behind, limit).await?;
    let mut response = json(&page.connections)?;
    if let Some((person, upstream)) = &page.next {
        let link = next_page(&pairs, &cursor(person, upstream));
        response.headers_mut().extend(link.map(|link| (LINK, link)));
    }
    Ok(response)
}

/// The name of an upstream has no slash.
fn cursor(person: &Person, upstream: &UpstreamName) -> String {
    format!("{upstream}/{}", party_key(&person.issuer, &person.id))
}

fn place(cursor: &str) -> Result<(Person, UpstreamName), Refusal> {
    let read = || {
        let (upstream, person) = cursor.split_once('/')?;
        let (issuer, id) = party_of(person)?;
        Some((Person { issuer: issuer.to_owned(), id: id.to_owned() }, upstream.parse().ok()?))
    };
    let refusal = || Refusal::new(RefusalKind::MalformedRequest, "cursor: expected the cursor of a Link header");
    read().ok_or_else(refusal)
}

fn next_page(pairs: &[(String, String)], cursor: &str) -> Option<HeaderValue> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.iter().filter(|(name, _)| name != "cursor"));
    query.append_pair("cursor", cursor);
    HeaderValue::try_from(format!("</admin/connections?{}>; rel=\"next\"", query.finish())).ok()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    issuer: String,
    id: String,
    #[serde(default)]
    workspace: Option<WorkspaceName>,
    #[serde(default)]
    reason: String,
}

async fn drop_held(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(upstream): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let held: Held = body_of(&app, &headers, body).await?;
    let workspace = held.workspace.unwrap_or_else(|| caller.principal.workspace.clone());
    let (upstream, person) = (named(&upstream)?, Person { issuer: held.issuer, id: held.id });
    forgotten(&app.gate.drop_connection(&caller.principal, &workspace, &upstream, &person, &held.reason).await?)
}

/// What the node says of itself to authorization servers, for whom this address is its id. They need to know nobody here.
async fn document(State(app): State<Arc<App>>) -> Answered {
    let document = app.gate.client_document().ok_or_else(|| {
        let detail = "this node has no https URL, so that its metadata document is nobody's id";
        Refusal::new(RefusalKind::NotFound, detail)
    })?;
    let mut response = json(&document)?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(response)
}

/// Where providers send browsers. Whoever comes here is not known: a `state` that the node gave out is what lets them in, once.
async fn callback(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let outcome = match returned(&uri) {
        Some(given) => app.gate.returned(given).await,
        None => Err(ReturnError::NotOurs),
    };
    match outcome {
        Ok(consent) => page(StatusCode::OK, "One step is left", &consented(&consent)),
        Err(error) => {
            app.gate.note_refusal("connections", cause(&error));
            let status = match &error {
                ReturnError::NotOurs | ReturnError::Issuer | ReturnError::Declined(_) => StatusCode::BAD_REQUEST,
                ReturnError::Exchange(_) => StatusCode::BAD_GATEWAY,
                ReturnError::Refused(refusal) => {
                    StatusCode::from_u16(refusal.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
                }
            };
            let why = sentence(&format!("{error}. Start again where you started, if you still want to connect it."));
            page(status, "Nothing was connected", &why)
        }
    }
}

fn cause(error: &ReturnError) -> &'static str {
    match error {
        ReturnError::NotOurs => "state",
        ReturnError::Issuer => "issuer",
        ReturnError::Declined(_) => "declined",
        ReturnError::Exchange(_) => "exchange",
        ReturnError::Refused(_) => "refused",
    }
}

/// `None` if a parameter comes twice (RFC 6749, 3.1). Those that are not known are the provider's own.
fn returned(uri: &Uri) -> Option<Returned> {
    let mut given = Returned::default();
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    for (name, value) in pairs.take(MAX_PARAMETERS) {
        let value = value.into_owned();
        let before = match name.as_ref() {
            "state" => given.state.replace(value).is_some(),
            "code" => given.code.replace(Secret::new(value)).is_some(),
            "iss" => given.issuer.replace(value).is_some(),
            "error" => given.error.replace(value).is_some(),
            _ => false,
        };
        if before {
            return None;
        }
    }
    Some(given)
}

/// What tells somebody who was lured here that something is wrong: for whom the account is going to be used.
fn consented(consent: &Consent) -> String {
    let (upstream, person) = (escaped(consent.upstream.as_str()), escaped(&consent.person));
    let code = escaped(consent.code.expose());
    let at = consent.issuer.as_ref().map(|issuer| format!(" at <b>{}</b>", escaped(issuer))).unwrap_or_default();
    format!(
        "<p>From now on <b>{person}</b> could use your account{at} for <b>{upstream}</b>. If you are {person} and asked for this \
         yourself, repeat this code where you asked:</p>\n<pre>{code}</pre>\n<p>That is the page where you started, or:</p>\n\
         <pre>countersign connections confirm {upstream} {code}</pre>\n<p>It is good for ten minutes. Give it to nobody: if \
         somebody else sent you here, close this page, and nothing is connected.</p>"
    )
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("<p>{}</p>", escaped(&format!("{first}{}", letters.as_str())))
}

fn escaped(text: &str) -> String {
    let text = visible_line(text);
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<h1>{title}</h1>\n{body}\n</html>\n"
    );
    let mut response = (status, html).into_response();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        // The address holds the code and the state.
        (REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_is_read_strictly() {
        let read = |query: &str| returned(&format!("/oauth/callback?{query}").parse().expect("a URI"));
        let given = read("code=a%20b&state=s&iss=https%3A%2F%2Fidp&session_state=x").expect("readable");
        assert_eq!((given.state.as_deref(), given.issuer.as_deref()), (Some("s"), Some("https://idp")));
        assert_eq!(given.code.map(|code| code.expose().to_owned()).as_deref(), Some("a b"));
        for twice in ["state=a&state=b", "code=a&code=a", "iss=a&iss=b", "error=a&error=b"] {
            assert!(read(twice).is_none(), "{twice}");
        }
    }

    #[test]
    fn a_link_leads_to_the_place_where_the_page_ended() {
        let person = Person { issuer: "https://idp.example/a?b&c".into(), id: "ä/d|a".into() };
        let (upstream, filter) = ("crm".parse().expect("a name"), ("limit".to_owned(), "2".to_owned()));
        let pairs = [filter, ("cursor".to_owned(), "old".to_owned())];
        let link = next_page(&pairs, &cursor(&person, &upstream)).expect("a header");
        let link = link.to_str().expect("ASCII");
        let target = link.strip_prefix('<').and_then(|l| l.strip_suffix(">; rel=\"next\"")).expect("a target");
        let read = query(&target.parse().expect("a URI"), &["limit", "cursor"]).expect("known");
        assert_eq!(value(&read, "limit"), Some("2"));
        assert_eq!(place(value(&read, "cursor").expect("there")).expect("readable"), (person, upstream));
        for wrong in ["", "crm", "crm/ada", "c r m/1:a|b", "/1:a|b"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_page_shows_names_as_text() {
        let consent = Consent {
            upstream: "crm".parse().expect("a name"),
            person: "<img src=x onerror=alert(1)>\u{202e}".into(),
            issuer: Some("https://idp/<b>".into()),
            code: Secret::new("ABCD-EFGH-JKLM".into()),
        };
        let response = page(StatusCode::OK, "t", &consented(&consent));
        assert_eq!(response.headers()[CONTENT_SECURITY_POLICY], POLICY);
        let text = consented(&consent);
        assert!(text.contains("&lt;img src=x") && text.contains("ABCD-EFGH-JKLM"), "{text}");
        assert!(!text.contains("<img") && !text.contains('\u{202e}'), "{text}");
    }
}
