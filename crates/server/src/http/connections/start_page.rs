//! The page on which a person starts to connect an account, and repeats the code afterwards: for those who come from a link, as
//! `connection-needed` gives it, instead of the command line.
//!
//! As on the page for approvals, the link grants nothing: whoever signs in with a token of their own acts in their own name. There is
//! no cookie, and the token travels in the form's body.

use axum::extract::Request;
use countersign_domain::{Refusal, RefusalKind};
use countersign_gate::connections::flow::Started;
use http::header::{AUTHORIZATION, CONTENT_SECURITY_POLICY, REFERRER_POLICY};

use super::{
    App, Arc, Body, Caller, HeaderMap, HeaderValue, Path, Response, Secret, State, StatusCode, escaped, named, page,
    sentence,
};
use crate::http::Answered;
use crate::http::page::from_here;
use crate::http::request::{Correlation, read_body};

const POLICY: &str = "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// Longest code that is looked at.
const MAX_CODE: usize = 64;

#[derive(Default)]
struct Form {
    token: String,
    code: Option<Secret>,
}

/// `GET /connections/{upstream}/page`: asks who is there, and nothing else.
pub(super) async fn show(Path(upstream): Path<String>) -> Answered {
    let upstream = named(&upstream)?;
    Ok(shown(StatusCode::OK, &format!("Connect an account for {upstream}"), &form_of(None)))
}

/// `POST /connections/{upstream}/page`: starts, or takes the code, as the person whose token came with the form.
pub(super) async fn act(State(app): State<Arc<App>>, Path(upstream): Path<String>, request: Request) -> Answered {
    let upstream = named(&upstream)?;
    let (mut parts, body) = request.into_parts();
    from_here(&parts.headers)?;
    let form = read_form(&app, &parts.headers, body).await?;
    if !form.token.is_empty() && !parts.headers.contains_key(AUTHORIZATION) {
        let unusable = |_| Refusal::new(RefusalKind::Unauthenticated, "this is no token").with("cause", "malformed");
        let mut value = HeaderValue::try_from(format!("Bearer {}", form.token)).map_err(unusable)?;
        value.set_sensitive(true);
        parts.headers.insert(AUTHORIZATION, value);
    }
    let principal = match Caller::authenticate(&app, &parts, "page").await {
        Ok(principal) => principal,
        Err(refusal) => return Ok(refused(&refusal)),
    };
    let correlation = parts.extensions.get::<Correlation>().map(|known| Arc::clone(&known.0)).unwrap_or_default();
    let done = match &form.code {
        None => app.gate.connect(&principal, &upstream, &correlation).await.map(|started| leading(&started)),
        Some(code) => {
            let made = app.gate.confirm_connection(&principal, &upstream, code, &correlation).await;
            made.map(|_| sentence(&format!("your account for {upstream} is connected. You can close this page.")))
        }
    };
    Ok(match done {
        Ok(text) => shown(StatusCode::OK, &format!("Connect an account for {upstream}"), &text),
        Err(refusal) => refused(&refusal),
    })
}

async fn read_form(app: &App, headers: &HeaderMap, body: Body) -> Result<Form, Refusal> {
    let body = read_body(app, headers, body).await?;
    let mut form = Form::default();
    for (name, value) in url::form_urlencoded::parse(&body) {
        match name.as_ref() {
            "token" if value.len() <= MAX_TOKEN => value.trim().clone_into(&mut form.token),
            "code" if value.trim().is_empty() => {}
            "code" if value.len() <= MAX_CODE => form.code = Some(Secret::new(value.trim().to_owned())),
            _ => return Err(Refusal::new(RefusalKind::MalformedRequest, "the form has a token and a code")),
        }
    }
    Ok(form)
}

fn form_of(why: Option<&Refusal>) -> String {
    let why = why.map(|refusal| sentence(&refusal.detail)).unwrap_or_default();
    format!(
        "{why}<form method=\"post\" autocomplete=\"off\">\n<p><label>A token of your own \
         <input name=\"token\" type=\"password\" required></label></p>\n\
         <p><label>The code, if you come back from the provider <input name=\"code\"></label></p>\n\
         <p><button>Go on</button></p>\n</form>\n\
         <p>Never paste a token that an agent or a chat gave you: whose token it is decides whose account this becomes.</p>"
    )
}

fn leading(started: &Started) -> String {
    let address = escaped(&started.authorization_url);
    let issuer = started.issuer.as_ref().map(|issuer| {
        format!(
            "<p>You are going to sign in at <b>{}</b>. Go on only if that is where your account is.</p>",
            escaped(issuer)
        )
    });
    let scopes: Vec<String> = started.scopes.iter().map(|scope| format!("<li>{}</li>", escaped(scope))).collect();
    let scopes = match scopes.is_empty() {
        true => String::new(),
        false => format!("<p>It is asked for:</p><ul>{}</ul>", scopes.concat()),
    };
    let issuer = issuer.unwrap_or_default();
    format!(
        "{issuer}{scopes}<p><a href=\"{address}\" rel=\"noreferrer\">Sign in at the provider and consent</a>. You are then shown a code: come \
         back to this page and repeat it within ten minutes.</p>"
    )
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.kind.status()).unwrap_or(StatusCode::FORBIDDEN);
    shown(status, refusal.kind.title(), &form_of(Some(refusal)))
}

/// Like the page after a return, with a form that goes to this node alone.
fn shown(status: StatusCode, title: &str, body: &str) -> Response {
    let mut response = page(status, title, body);
    let fixed = HeaderValue::from_static;
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, fixed(POLICY));
    // Not `no-referrer`: browsers would send the form with the origin `null`, which is refused.
    response.headers_mut().insert(REFERRER_POLICY, fixed("same-origin"));
    response
}
