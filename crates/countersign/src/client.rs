//! The node as the command line sees it: HTTP requests, and problems turned into failures with an exit code.
//!
//! The connection runs on `countersign-egress` with the administrative purpose, like every other outgoing one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use countersign_egress::{Egress, EgressConfig, Network, Purpose, PurposeClient, Rule};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use url::Url;

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::local;

/// Longer than the longest that the node lets a caller wait.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Most bytes of an answer that are read. Receipts and pages are far smaller.
const MAX_BODY_BYTES: usize = 64 << 20;

/// A node, and who asks it.
#[derive(Clone)]
pub struct Node {
    http: PurposeClient,
    base: Url,
    token: Option<String>,
}

/// An answer of any status.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    headers: HeaderMap,
    /// The body's bytes.
    pub body: Vec<u8>,
}

impl Reply {
    /// A header's value, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; `null` if it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The path behind `Link: <…>; rel="next"` (RFC 8288), if it leads to the same node.
    pub fn next_page(&self, base: &str) -> Option<String> {
        let link = self.header("link")?.split(',').find(|link| link.contains("rel=\"next\""))?;
        let target = link.split_once('<')?.1.split_once('>')?.0;
        Some(target.strip_prefix(base).unwrap_or(target).to_owned()).filter(|path| path.starts_with('/'))
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The last part of the problem's `type` (RFC 9457), or an empty string.
    pub fn problem(&self) -> String {
        let kind = self.json()["type"].as_str().unwrap_or_default().to_owned();
        kind.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// The JSON of a successful answer.
    ///
    /// # Errors
    /// A [`Failure`] that says what the node said, if the status is not 2xx.
    pub fn into_json(self) -> anyhow::Result<Value> {
        if !self.is_success() {
            return Err(self.failure().into());
        }
        serde_json::from_slice(&self.body).context("the node's answer is not JSON")
    }

    /// The refusal in words.
    pub fn failure(&self) -> Failure {
        let problem = self.json();
        let title = problem["title"].as_str().unwrap_or("the node answered with an error");
        let mut message = format!("{title} (HTTP {}", self.status);
        if !self.problem().is_empty() {
            let _ = write!(message, ", {}", self.problem());
        }
        message.push(')');
        if let Some(detail) = problem["detail"].as_str() {
            let _ = write!(message, ": {detail}");
        }
        if let Some(event) = problem["event"].as_str() {
            let _ = write!(message, " [receipt {event}]");
        }
        let failure = Failure::new(Exit::Failed, message);
        match self.status {
            401 => failure.advise("give a valid token with --token or COUNTERSIGN_TOKEN; `countersign token mint` makes one for development"),
            403 if self.problem() == "forbidden" => {
                failure.advise("this needs a role that the token does not have (operator, auditor or an approver's)")
            }
            _ => failure,
        }
    }
}

impl Node {
    /// A client for the node at `base`, authenticating with `token`.
    ///
    /// # Errors
    /// If `base` is not an HTTP URL.
    pub fn new(base: &str, token: Option<String>) -> anyhow::Result<Self> {
        let wrong =
            || Failure::new(Exit::Usage, format!("{base:?} is not the URL of a node, such as http://127.0.0.1:8000"));
        let base = Url::parse(base).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(wrong)?;
        // The person at the command line named the node; it may well be on a private network.
        let networks = ["0.0.0.0/0", "::/0"].map(str::parse::<Network>).into_iter().collect::<Result<_, _>>()?;
        let rule = Rule { networks, ..Rule::default() };
        let config = EgressConfig { rules: BTreeMap::from([(Purpose::Admin, rule)]), ..EgressConfig::default() };
        let http = Egress::new(config).client_for(Purpose::Admin, &base)?;
        Ok(Self { http, base, token })
    }

    /// Finds the node of this home, and the token to use.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] if no node is known; a failure if no token can be had.
    pub fn find(global: &Global) -> anyhow::Result<Self> {
        let url = match &global.url {
            Some(url) => url.clone(),
            None => local::running_node(global)?.ok_or_else(|| no_node("no node runs on this data directory"))?,
        };
        Self::new(&url, Some(local::token(global)?))
    }

    /// As [`Self::find`], but `None` where no node runs and none was named: the command may work on the data itself.
    ///
    /// # Errors
    /// If a token is needed and cannot be had.
    pub fn find_running(global: &Global) -> anyhow::Result<Option<Self>> {
        if global.url.is_none() && local::running_node(global)?.is_none() {
            return Ok(None);
        }
        Self::find(global).map(Some)
    }

    /// The node of this home for what anyone may read: no token is made, and none is needed.
    ///
    /// # Errors
    /// If the configuration cannot be read.
    pub fn find_public(global: &Global) -> anyhow::Result<Option<Self>> {
        let url = global.url.clone().map_or_else(|| local::running_node(global), |url| Ok(Some(url)))?;
        url.map(|url| Self::new(&url, global.token.clone())).transpose()
    }

    /// The node's URL, without a slash at the end.
    pub fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The same node, asked by another.
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self { http: self.http.clone(), base: self.base.clone(), token: Some(token.into()) }
    }

    /// `GET`, expecting JSON.
    ///
    /// # Errors
    /// See [`Reply::into_json`] and [`Self::send`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send("GET", path, &[], None).await?.into_json()
    }

    /// `POST` of JSON, expecting JSON.
    ///
    /// # Errors
    /// See [`Reply::into_json`] and [`Self::send`].
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send("POST", path, &[], Some(body)).await?.into_json()
    }

    /// One request; an answer of any status is an answer.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] if there is none.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Reply> {
        let method: http::Method = method.parse().context("not an HTTP method")?;
        let url = Url::parse(&format!("{}{path}", self.base())).context("not a path of the node")?;
        let fields = self.headers(headers, body.is_some())?;
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let deadline = Instant::now() + TIMEOUT;
        let failed = |error| no_node(&format!("{} does not answer: {error}", self.base()));
        let response = self.http.send(method, &url, fields, bytes, deadline).await.map_err(failed)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes(MAX_BODY_BYTES, deadline).await.map_err(failed)?;
        Ok(Reply { status, headers, body: body.to_vec() })
    }

    /// The entries of a list from this page on, at most so many, and whether there are more.
    ///
    /// # Errors
    /// If the node refuses or does not answer.
    pub async fn pages(&self, first: String, limit: usize) -> anyhow::Result<(Vec<Value>, bool)> {
        let mut entries = Vec::new();
        let mut next = Some(first);
        while let (Some(path), true) = (&next, entries.len() < limit) {
            let reply = self.send("GET", path, &[], None).await?;
            next = reply.next_page(self.base());
            entries.extend(reply.into_json()?.as_array().cloned().unwrap_or_default());
        }
        let more = next.is_some() || entries.len() > limit;
        entries.truncate(limit);
        Ok((entries, more))
    }

    fn headers(&self, given: &[(&str, &str)], json: bool) -> anyhow::Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let value = HeaderValue::try_from(*value)
                .map_err(|_| Failure::new(Exit::Usage, format!("{name}: only visible ASCII characters can be sent")))?;
            headers.insert(HeaderName::try_from(*name)?, value);
        }
        if json {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Failure::new(Exit::Usage, "the token has characters that no token has"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

fn no_node(message: &str) -> Failure {
    Failure::new(Exit::Unreachable, message)
        .advise("start one with `countersign up`, or name a running one with --url or COUNTERSIGN_URL")
}

/// One path segment or query value, percent-encoded (RFC 3986 section 2.1); a colon may stay.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_segment() {
        assert_eq!(escaped("ads:createCampaign"), "ads:createCampaign");
        assert_eq!(escaped("../admin?x#é"), "..%2Fadmin%3Fx%23%C3%A9");
    }

    #[test]
    fn a_refusal_names_its_kind_reason_and_receipt() {
        let body = br#"{"type":"https://countersign.dev/problems/policy-denied","title":"Denied by policy","detail":"ads/limits.cedar: too much","event":"0197"}"#;
        let reply = Reply { status: 403, headers: HeaderMap::new(), body: body.to_vec() };
        assert_eq!(reply.problem(), "policy-denied");
        let text = reply.failure().to_string();
        assert_eq!(text, "Denied by policy (HTTP 403, policy-denied): ads/limits.cedar: too much [receipt 0197]");
    }

    #[test]
    fn the_next_page_is_followed_on_the_same_node_only() {
        let reply = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("link", link.parse().expect("a header"));
            Reply { status: 200, headers, body: Vec::new() }
        };
        let base = "http://127.0.0.1:8000";
        let next = |link: &str| reply(link).next_page(base);
        assert_eq!(next("</audit/events?cursor=5>; rel=\"next\"").as_deref(), Some("/audit/events?cursor=5"));
        assert_eq!(next("<http://127.0.0.1:8000/a?cursor=5>; rel=\"next\"").as_deref(), Some("/a?cursor=5"));
        assert_eq!(next("<http://elsewhere/a>; rel=\"next\""), None);
        assert_eq!(next("</a>; rel=\"prev\""), None);
    }
}
