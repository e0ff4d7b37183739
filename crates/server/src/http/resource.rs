//! The node as an OAuth 2.0 protected resource: its metadata (RFC 9728) and its challenges (RFC 6750, section 3), as the
//! authorisation of MCP 2025-11-25 and 2026-07-28 wants them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use countersign_domain::{Principal, Refusal, RefusalKind, UpstreamName};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Value, json};
use url::Url;

use super::Answered;
use super::request::NO_CREDENTIAL;
use crate::app::App;
use crate::config::{ClientAuth, Config};

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// The member of a refusal that says which scopes are missing.
pub(crate) const REQUIRED_SCOPES: &str = "required_scopes";

/// What clients are told about how to be let in.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    /// The node's URL, without a slash at the end.
    base: String,
    issuers: Vec<String>,
    supported: Vec<String>,
    required: Vec<String>,
    certificates: bool,
}

impl Resource {
    pub fn new(config: &Config) -> Self {
        // An issuer that is no URL has no metadata that a client could find.
        let issuers = config.issuers.iter().map(|issuer| issuer.issuer.clone());
        let certificates = config.tls.as_ref().is_some_and(|tls| tls.client_auth != ClientAuth::None);
        Self {
            base: config.url(),
            issuers: issuers.filter(|name| Url::parse(name).is_ok_and(|url| url.has_host())).collect(),
            supported: config.scopes_supported.clone(),
            required: config.required_scopes.clone(),
            certificates,
        }
    }

    /// Refuses a caller whose credential lacks a scope that everything here needs.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`], which becomes a challenge for more scopes.
    pub fn check_scopes(&self, principal: &Principal) -> Result<(), Refusal> {
        if principal.development || self.required.iter().all(|scope| principal.scopes.contains(scope)) {
            return Ok(());
        }
        let detail = format!("the credential lacks a scope; needed are {}", self.required.join(" "));
        let refusal = Refusal::new(RefusalKind::Forbidden, detail).with("cause", "scope");
        Err(refusal.with(REQUIRED_SCOPES, json!(self.required)))
    }

    /// The metadata of the resource at a path: `/mcp`, `/mcp/{upstream}`, or the whole node (nothing).
    fn metadata(&self, path: &str) -> Value {
        let mut metadata = json!({
            "resource": format!("{}{path}", self.base),
            "authorization_servers": self.issuers,
            "bearer_methods_supported": ["header"],
            "resource_name": "Countersign",
        });
        if !self.supported.is_empty() {
            metadata["scopes_supported"] = json!(self.supported);
        }
        if self.certificates {
            metadata["tls_client_certificate_bound_access_tokens"] = json!(true);
        }
        metadata
    }

    /// Where the metadata of the resource at a path is: the well-known part stands between host and path (RFC 9728, section 3.1).
    fn metadata_url(&self, path: &str) -> String {
        let of_mcp = path == "/mcp" || path.starts_with("/mcp/");
        let path = if of_mcp { path } else { "" };
        match Url::parse(&self.base) {
            Ok(url) => {
                let own = url.path().trim_end_matches('/');
                format!("{}{WELL_KNOWN}{own}{path}", url.origin().ascii_serialization())
            }
            Err(_) => format!("{}{WELL_KNOWN}{path}", self.base),
        }
    }

    /// The challenge that goes with a refusal, if one does. No error code if no credential was given (RFC 6750, section 3.1).
    pub fn challenge(&self, refusal: &Refusal, path: &str) -> Option<HeaderValue> {
        let mut text =
            format!("Bearer realm=\"countersign\", resource_metadata=\"{}\"", quotable(&self.metadata_url(path)));
        let stated = refusal.extra.get(REQUIRED_SCOPES).and_then(Value::as_array);
        let error = match (refusal.kind, stated) {
            (RefusalKind::Unauthenticated, _) => {
                let nothing = refusal.extra.get("cause").and_then(Value::as_str) == Some(NO_CREDENTIAL);
                (!nothing).then_some("invalid_token")
            }
            (RefusalKind::Forbidden, Some(_)) => Some("insufficient_scope"),
            _ => return None,
        };
        let scopes: Vec<&str> = match stated {
            Some(stated) => stated.iter().filter_map(Value::as_str).collect(),
            None if self.required.is_empty() => self.supported.iter().map(String::as_str).collect(),
            None => self.required.iter().map(String::as_str).collect(),
        };
        if !scopes.is_empty() {
            text.push_str(&format!(", scope=\"{}\"", quotable(&scopes.join(" "))));
        }
        if let Some(error) = error {
            text.push_str(&format!(", error=\"{error}\", error_description=\"{}\"", quotable(&refusal.detail)));
        }
        Some(HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("Bearer realm=\"countersign\"")))
    }
}

/// What may stand between quotes in a challenge.
fn quotable(text: &str) -> String {
    let plain = |c: &char| (c.is_ascii_graphic() && !matches!(c, '"' | '\\')) || *c == ' ';
    text.chars().filter(plain).take(500).collect()
}

fn document(app: &App, path: &str) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "public, max-age=300")];
    (headers, app.resource.metadata(path).to_string()).into_response()
}

/// `GET /.well-known/oauth-protected-resource`
pub(super) async fn node(State(app): State<Arc<App>>) -> Response {
    document(&app, "")
}

/// `GET /.well-known/oauth-protected-resource/mcp`
pub(super) async fn mcp(State(app): State<Arc<App>>) -> Response {
    document(&app, "/mcp")
}

/// `GET /.well-known/oauth-protected-resource/mcp/{upstream}`
pub(super) async fn upstream(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answered {
    // Any well-formed name: which upstreams there are is not for everybody to find out.
    let name: UpstreamName = super::request::parsed("upstream", &name, "an upstream's name")?;
    Ok(document(&app, &format!("/mcp/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(base: &str, required: &[&str]) -> Resource {
        Resource {
            base: base.to_owned(),
            issuers: vec!["https://idp.example".into()],
            supported: vec!["tools".into()],
            required: required.iter().map(|scope| (*scope).to_owned()).collect(),
            certificates: false,
        }
    }

    #[test]
    fn metadata_stands_between_host_and_path() {
        let plain = resource("https://gate.example", &[]);
        for (path, expected) in [
            ("/mcp/ads", "https://gate.example/.well-known/oauth-protected-resource/mcp/ads"),
            ("/mcp", "https://gate.example/.well-known/oauth-protected-resource/mcp"),
            ("/tools/x/invoke", "https://gate.example/.well-known/oauth-protected-resource"),
            ("/mcpx", "https://gate.example/.well-known/oauth-protected-resource"),
        ] {
            assert_eq!(plain.metadata_url(path), expected);
        }
        let below = resource("https://example.org:8443/gate", &[]);
        assert_eq!(
            below.metadata_url("/mcp"),
            "https://example.org:8443/.well-known/oauth-protected-resource/gate/mcp"
        );
        assert_eq!(below.metadata("/mcp")["resource"], "https://example.org:8443/gate/mcp");
    }

    #[test]
    fn a_challenge_names_metadata_scopes_and_an_error_only_if_a_credential_was_given() {
        let none = Refusal::new(RefusalKind::Unauthenticated, "x").with("cause", NO_CREDENTIAL);
        let start =
            "Bearer realm=\"countersign\", resource_metadata=\"https://g/.well-known/oauth-protected-resource/mcp\"";
        let challenge = |required: &[&str], refusal: &Refusal| {
            resource("https://g", required)
                .challenge(refusal, "/mcp")
                .map(|value| value.to_str().expect("text").to_owned())
        };
        assert_eq!(challenge(&[], &none), Some(format!("{start}, scope=\"tools\"")));
        assert_eq!(challenge(&["a", "b"], &none), Some(format!("{start}, scope=\"a b\"")));
        let bad = Refusal::new(RefusalKind::Unauthenticated, "the \"token\"\r\nexpired");
        let expected =
            format!("{start}, scope=\"tools\", error=\"invalid_token\", error_description=\"the tokenexpired\"");
        assert_eq!(challenge(&[], &bad), Some(expected));
        let needing = resource("https://g", &["a"]);
        let refusal = needing.check_scopes(&Principal::node()).expect_err("it lacks the scope");
        let text = challenge(&["a"], &refusal).expect("a challenge");
        assert!(text.starts_with(&format!("{start}, scope=\"a\", error=\"insufficient_scope\"")), "{text}");
        assert_eq!(challenge(&[], &Refusal::new(RefusalKind::Forbidden, "no")), None, "a new token would not help");
        assert_eq!(challenge(&[], &Refusal::new(RefusalKind::PolicyDenied, "no")), None);
    }

    #[test]
    fn development_identities_need_no_scopes() {
        let anyone = Principal { development: true, ..Principal::node() };
        assert!(resource("https://g", &["a"]).check_scopes(&anyone).is_ok());
    }
}
