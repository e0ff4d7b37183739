//! The page on which a person decides about one request for approval.
//!
//! The link to it says nothing and grants nothing: it may pass through agents, clients and chats. What is asked is shown to
//! whoever signs in with a token of their own and may see it, and decided by whoever could decide it over HTTP, by the same
//! rules. There is no cookie, so that no other page can act in a person's name; the token travels in the form's body, never in
//! an address. No scripts, and nothing from elsewhere.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_catalog::visible_line;
use countersign_domain::{Principal, Refusal, RefusalKind};
use countersign_gate::api::ApprovalView;
use countersign_ledger::state::RequestStatus;
use countersign_proof::digest::Digest;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

use super::Answered;
use super::request::{Caller, parsed, read_body};
use crate::app::App;
use crate::time::rfc3339;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// Longest reason, in characters.
const MAX_REASON: usize = 1_000;
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const STYLE: &str = include_str!("page.css");

/// Nothing but our own style, by its digest; forms go to this node; nobody frames the page.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let digest = STANDARD.encode(Digest::of(STYLE.as_bytes()).0);
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// The page's address for a request.
pub(crate) fn address(app: &App, request: Uuid) -> String {
    format!("{}/approvals/{request}/page", app.config.url())
}

/// `GET /approvals/{id}/page`: asks who is there, and nothing else.
pub(super) async fn show(Path(id): Path<String>) -> Answered {
    let _: Uuid = parsed("request id", &id, "a UUID")?;
    Ok(page(StatusCode::OK, &sign_in(None)))
}

/// `POST /approvals/{id}/page`: shows the request to the person whose token came with the form, and takes the decision.
pub(super) async fn act(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Answered {
    let id: Uuid = parsed("request id", &id, "a UUID")?;
    let (mut parts, body) = request.into_parts();
    from_here(&parts.headers)?;
    let form = read_form(&app, &parts.headers, body).await?;
    let principal = match person(&app, &mut parts, &form).await {
        Ok(principal) => principal,
        Err(refusal) if refusal.kind == RefusalKind::Unauthenticated => {
            return Ok(page(StatusCode::UNAUTHORIZED, &sign_in(Some(&refusal.detail))));
        }
        Err(refusal) => return Ok(refused(&refusal)),
    };
    let answered = match form.decision {
        None => app.gate.approval(&principal, id).await.map(|view| (view, None)),
        Some(grant) => {
            let reason = (!form.reason.is_empty()).then(|| form.reason.clone());
            match app.gate.answer(&principal, id, grant, reason).await {
                Ok(view) => Ok((view, Some(if grant { "You approved this call." } else { "You denied this call." }))),
                Err(refusal) if refusal.kind == RefusalKind::NotFound => Err(refusal),
                // What became of it meanwhile, with the reason why the decision came to nothing.
                Err(refusal) => return refused_with_view(&app, &principal, id, &refusal).await,
            }
        }
    };
    Ok(match answered {
        Ok((view, done)) => page(StatusCode::OK, &request_of(&view, &principal, &form.token, done, None)),
        Err(refusal) => refused(&refusal),
    })
}

async fn refused_with_view(app: &App, principal: &Principal, id: Uuid, refusal: &Refusal) -> Answered {
    let status = StatusCode::from_u16(refusal.kind.status()).unwrap_or(StatusCode::FORBIDDEN);
    Ok(match app.gate.approval(principal, id).await {
        Ok(view) => page(status, &request_of(&view, principal, "", None, Some(&refusal.detail))),
        Err(refusal) => refused(&refusal),
    })
}

/// Browsers say where a request comes from; what another site sends is not a person's decision.
pub(super) fn from_here(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(FETCH_SITE).map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Refusal::new(RefusalKind::Forbidden, "this form was sent from another site")),
    }
}

#[derive(Default)]
struct Form {
    token: String,
    decision: Option<bool>,
    reason: String,
}

async fn read_form(app: &App, headers: &HeaderMap, body: Body) -> Result<Form, Refusal> {
    let malformed = |detail: &str| Refusal::new(RefusalKind::MalformedRequest, detail);
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/x-www-form-urlencoded") {
        return Err(malformed("the page sends application/x-www-form-urlencoded"));
    }
    let body = read_body(app, headers, body).await?;
    let mut form = Form::default();
    for (name, value) in url::form_urlencoded::parse(&body) {
        match name.as_ref() {
            "token" if value.len() <= MAX_TOKEN => value.trim().clone_into(&mut form.token),
            "reason" if value.chars().count() <= MAX_REASON => value.trim().clone_into(&mut form.reason),
            "decision" if form.decision.is_none() && value == "approve" => form.decision = Some(true),
            "decision" if form.decision.is_none() && value == "deny" => form.decision = Some(false),
            _ => return Err(malformed("the form has a token, a decision (approve or deny, once) and a reason")),
        }
    }
    Ok(form)
}

/// Whoever the request presents: a credential of its own, or the token in the form.
async fn person(app: &App, parts: &mut Parts, form: &Form) -> Result<Arc<Principal>, Refusal> {
    if !form.token.is_empty() && !parts.headers.contains_key(AUTHORIZATION) {
        let unusable = |_| Refusal::new(RefusalKind::Unauthenticated, "this is no token").with("cause", "malformed");
        let mut value = HeaderValue::try_from(format!("Bearer {}", form.token)).map_err(unusable)?;
        value.set_sensitive(true);
        parts.headers.insert(AUTHORIZATION, value);
    }
    Caller::authenticate(app, parts, "page").await
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.kind.status()).unwrap_or(StatusCode::FORBIDDEN);
    let text = format!("<h1>{}</h1><p class=no>{}</p>", escaped(refusal.kind.title()), escaped(&refusal.detail));
    page(status, &text)
}

fn page(status: StatusCode, main: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>Approval · Countersign</title>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\"><style>{STYLE}</style></head>\
         <body><main>{main}</main></body></html>"
    );
    let mut response = Response::new(Body::from(html));
    *response.status_mut() = status;
    let fixed = HeaderValue::from_static;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, fixed("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, fixed("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(X_FRAME_OPTIONS, fixed("DENY"));
    // Not `no-referrer`: browsers would send the form with the origin `null`, which is refused.
    headers.insert(REFERRER_POLICY, fixed("same-origin"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), fixed("same-origin"));
    response
}

fn sign_in(why: Option<&str>) -> String {
    let why = why.map(|why| format!("<p class=no role=alert>{}</p>", escaped(why))).unwrap_or_default();
    format!(
        "<h1>A call waits for approval</h1><p>Sign in with a token of your own to see what is asked.</p>{why}\
         <form method=post autocomplete=off><label for=token>Your token</label>\
         <input id=token name=token type=password required autofocus spellcheck=false>\
         <div class=row><button>Show the request</button></div></form>\
         <p class=note>Never paste a token that an agent or a chat gave you: whose token it is decides in whose name you answer.</p>"
    )
}

fn request_of(view: &ApprovalView, viewer: &Principal, token: &str, done: Option<&str>, no: Option<&str>) -> String {
    let mut out = String::with_capacity(4_096);
    let title = match view.status {
        RequestStatus::Pending => "May this happen?",
        RequestStatus::Redeemed => "Executed",
        RequestStatus::Denied => "Denied",
        RequestStatus::Expired => "Expired",
        RequestStatus::Revoked => "Revoked",
        RequestStatus::Withdrawn => "Withdrawn",
    };
    let _ = write!(out, "<h1>{title}</h1>");
    if let Some(done) = done {
        let _ = write!(out, "<p class=yes role=status>{done}</p>");
    }
    if let Some(no) = no {
        let _ = write!(out, "<p class=no role=alert>{}</p>", escaped(no));
    }
    facts(&mut out, view);
    let _ = write!(out, "<h2>Arguments</h2><pre tabindex=0>{}</pre>", escaped_lines(&view.preview));
    if !view.can_answer.is_empty() && !token.is_empty() {
        let _ = write!(
            out,
            "<form method=post autocomplete=off><input type=hidden name=token value=\"{}\">\
             <label for=reason>Your reason <small>(kept with the decision)</small></label>\
             <input id=reason name=reason maxlength={MAX_REASON}>\
             <div class=row><button name=decision value=approve class=go>Approve</button>\
             <button name=decision value=deny class=stop>Deny</button></div></form>",
            escaped(token)
        );
    } else if let (Some(why), None, None) = (&view.cannot_answer, done, no) {
        let _ = write!(out, "<p class=no>{}</p>", escaped(why));
    }
    let _ = write!(out, "<p class=note>Signed in as {}. Request {}.</p>", escaped(&viewer.id), view.id);
    out
}

fn facts(out: &mut String, view: &ApprovalView) {
    out.push_str("<dl>");
    let mut row = |name: &str, value: String| {
        let _ = write!(out, "<dt>{name}</dt><dd>{value}</dd>");
    };
    let who = &view.principal;
    let mut asks = format!("{} <small>{}, {}</small>", escaped(&who.id), who.kind.as_str(), escaped(&who.issuer));
    if let Some(person) = &who.on_behalf_of {
        let _ = write!(asks, "<br>for {}", escaped(person));
    }
    if who.development {
        asks.push_str("<br><small>a development identity</small>");
    }
    row("Who asks", asks);
    row("Tool", format!("<code>{}</code> <small>{}</small>", escaped(&view.tool), view.effect.as_str()));
    if !view.owed.reasons.is_empty() {
        let reasons: Vec<String> = view.owed.reasons.iter().map(|reason| escaped(reason)).collect();
        row("Why people are asked", reasons.join("<br>"));
    }
    row("Owed", owed(view));
    let answers = view.answers.iter().map(|answer| {
        let word = if answer.granted { "agreed" } else { "said no" };
        let why = answer.reason.as_ref().map(|why| format!(": {}", escaped(why))).unwrap_or_default();
        format!("{} {word}{why}", escaped(&answer.principal.id))
    });
    let answers: Vec<String> = answers.collect();
    if !answers.is_empty() {
        row("So far", answers.join("<br>"));
    }
    if view.status == RequestStatus::Pending {
        let until = rfc3339(view.expires_at);
        row("Until", format!("<time datetime={until}>{}</time>", until.replace('T', " ").replace('Z', " UTC")));
    }
    out.push_str("</dl>");
}

fn owed(view: &ApprovalView) -> String {
    let mut parts = Vec::new();
    if view.owed.confirm {
        parts.push("the person behind the agent confirms".to_owned());
    }
    if view.owed.approvals > 0 {
        let mut roles: Vec<String> = view.owed.approver_roles.iter().flatten().map(|role| escaped(role)).collect();
        roles.sort_unstable();
        roles.dedup();
        let of = if roles.is_empty() { String::new() } else { format!(" (role {})", roles.join(" or ")) };
        let plural = if view.owed.approvals == 1 { "approval" } else { "approvals" };
        parts.push(format!("{} {plural}{of}", view.owed.approvals));
    }
    parts.join("; ")
}

/// Text for HTML, with what is hidden made visible.
fn escaped(text: &str) -> String {
    markup(&visible_line(text))
}

/// A preview has been made visible line by line already.
fn escaped_lines(text: &str) -> String {
    markup(text)
}

fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_becomes_markup() {
        let text = "<script>alert(1)</script>\" onload='x' & \u{202e}gnirts";
        let shown = escaped(text);
        assert!(!shown.contains(['<', '>', '"', '\'']) && !shown.contains('\u{202e}'), "{shown}");
        assert!(sign_in(Some("<b>")).contains("&lt;b&gt;"));
    }

    #[test]
    fn another_sites_form_is_refused() {
        let from =
            |site: &'static str| from_here(&HeaderMap::from_iter([(FETCH_SITE, HeaderValue::from_static(site))]));
        assert!(from("same-origin").is_ok() && from("none").is_ok() && from_here(&HeaderMap::new()).is_ok());
        assert!(from("cross-site").is_err() && from("same-site").is_err());
    }
}
