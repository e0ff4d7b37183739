//! Where to ask, and how it ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest base URL, in bytes.
pub const MAX_BASE_URL: usize = 512;
/// The largest answer of most sources that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The largest list of all releases that is read, in bytes: npm's has the metadata of each.
pub const MAX_HISTORY_BYTES: usize = 64 << 20;

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceName {
    /// The workspace's own list.
    List,
    /// The registry, about this release.
    Registry,
    /// The registry, about all releases.
    History,
    /// The registry's attestations.
    Attestations,
    /// OSV's database.
    Osv,
    /// GitHub's advisories.
    GithubAdvisory,
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "the workspace's list",
            Self::Registry => "the registry",
            Self::History => "the registry's list of releases",
            Self::Attestations => "the registry's attestations",
            Self::Osv => "OSV",
            Self::GithubAdvisory => "GitHub's advisories",
        })
    }
}

/// How a source ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It answered, and what it had to say is in the report.
    Ok,
    /// It answered something bad about the package.
    Failed,
    /// It did not answer, or not in a way that can be read. Nothing follows from that, least of all that all is well.
    Unavailable,
    /// Nobody said where to ask, or what to verify an answer with.
    NotConfigured,
    /// There is nothing to ask for. A fact, not a pass.
    NotApplicable,
}

/// Why there is nothing from a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Never [`Status::Ok`].
    pub status: Status,
    /// For people.
    pub detail: String,
}

impl Trouble {
    pub(super) fn failed(detail: impl Into<String>) -> Self {
        Self { status: Status::Failed, detail: detail.into() }
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self { status: Status::Unavailable, detail: detail.into() }
    }

    pub(super) fn not_applicable(detail: impl Into<String>) -> Self {
        Self { status: Status::NotApplicable, detail: detail.into() }
    }

    pub(super) fn not_configured(detail: impl Into<String>) -> Self {
        Self { status: Status::NotConfigured, detail: detail.into() }
    }

    /// An answer that is not what it should be says nothing.
    pub(super) fn unreadable(why: &dyn fmt::Display) -> Self {
        Self::unavailable(format!("the answer cannot be read: {}", super::plain(&why.to_string(), 200)))
    }
}

/// Where a service begins: `https://` or `http://`, a host, perhaps a port and a path. No user, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BaseUrl(String);

/// Not a base URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a base URL is http:// or https://, a host, perhaps :PORT and a path; no user, query or fragment: {0:?}")]
pub struct InvalidBaseUrl(String);

impl BaseUrl {
    /// Reads a base URL. Slashes at its end are dropped.
    ///
    /// # Errors
    /// [`InvalidBaseUrl`].
    pub fn parse(text: &str) -> Result<Self, InvalidBaseUrl> {
        let trimmed = text.trim_end_matches('/');
        let rest = trimmed.strip_prefix("https://").or_else(|| trimmed.strip_prefix("http://"));
        let good = rest.is_some_and(|rest| {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            is_authority(authority) && is_path(path)
        });
        if good && text.len() <= MAX_BASE_URL {
            return Ok(Self(trimmed.to_owned()));
        }
        Err(InvalidBaseUrl(super::plain(text, 100)))
    }

    /// The URL, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_authority(text: &str) -> bool {
    // The colons of an IPv6 address are within brackets.
    let (host, after) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, after)) if host.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)) => (host, after),
        Some(_) => return false,
        None => {
            let (host, after) = text.split_at(text.find(':').unwrap_or(text.len()));
            if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
                return false;
            }
            (host, after)
        }
    };
    let port = after.strip_prefix(':').map(str::parse::<u16>);
    !host.is_empty() && (after.is_empty() || matches!(port, Some(Ok(_))))
}

fn is_path(path: &str) -> bool {
    path.is_empty()
        || path.split('/').all(|part| {
            !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
        })
}

impl TryFrom<String> for BaseUrl {
    type Error = InvalidBaseUrl;

    fn try_from(text: String) -> Result<Self, InvalidBaseUrl> {
        Self::parse(&text)
    }
}

impl From<BaseUrl> for String {
    fn from(url: BaseUrl) -> Self {
        url.0
    }
}

/// Where each service is reached. What is left out is not asked, and reported as not configured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// PyPI's JSON API (`/pypi/…/json`) and integrity API (`/integrity/…/provenance`).
    pub pypi: Option<BaseUrl>,
    /// npm's registry, with its attestations (`/-/npm/v1/attestations/…`).
    pub npm: Option<BaseUrl>,
    /// crates.io's API (`/api/v1/crates/…`).
    pub crates_io: Option<BaseUrl>,
    /// OSV's API (`/v1/query`).
    pub osv: Option<BaseUrl>,
    /// GitHub's API (`/advisories`).
    pub github_advisory: Option<BaseUrl>,
}

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `POST`, with a JSON body.
    Post,
}

impl Method {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// Something to be asked. Redirects are for the caller to follow or refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// By which its answer is handed back.
    pub number: usize,
    /// Who is asked.
    pub source: SourceName,
    /// How.
    pub method: Method,
    /// Where.
    pub url: String,
    /// The value of the `Accept` header.
    pub accept: &'static str,
    /// JSON, where there is a body.
    pub body: Option<Vec<u8>>,
    /// An answer beyond this need not be read to its end: it is refused.
    pub max_bytes: usize,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Something was answered.
    Http {
        /// Such as 200.
        status: u16,
        /// All of it.
        body: Vec<u8>,
    },
    /// Nothing: no connection, no answer in time, refused by a guard. The text says which, for people.
    Nothing(String),
}

/// What an answer holds.
#[derive(Debug)]
pub(super) enum Got<'a> {
    Body(&'a [u8]),
    /// The source knows nothing under this address.
    Absent,
}

impl Answer {
    pub(super) fn open(&self, max_bytes: usize) -> Result<Got<'_>, Trouble> {
        match self {
            Self::Http { status: 200, body } if body.len() > max_bytes => {
                Err(Trouble::unavailable(format!("the answer has more than {max_bytes} bytes")))
            }
            Self::Http { status: 200, body } => Ok(Got::Body(body)),
            Self::Http { status: 404 | 410, .. } => Ok(Got::Absent),
            Self::Http { status, .. } => Err(Trouble::unavailable(format!("it answered with status {status}"))),
            Self::Nothing(why) => Err(Trouble::unavailable(format!("it did not answer: {}", super::plain(why, 200)))),
        }
    }

    /// For sources that always have an answer.
    pub(super) fn body(&self, max_bytes: usize) -> Result<&[u8], Trouble> {
        match self.open(max_bytes)? {
            Got::Body(body) => Ok(body),
            Got::Absent => Err(Trouble::unavailable("there is no such service at the configured address")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_lead_nowhere_else() {
        for (text, expected) in [
            ("https://registry.example.com", Some("https://registry.example.com")),
            ("http://127.0.0.1:8080/", Some("http://127.0.0.1:8080")),
            ("https://[::1]:8080/simple/npm", Some("https://[::1]:8080/simple/npm")),
            ("https://example.com/a/b//", Some("https://example.com/a/b")),
            ("ftp://example.com", None),
            ("https://", None),
            ("https://user@example.com", None),
            ("https://example.com?x=1", None),
            ("https://example.com/#x", None),
            ("https://example.com/a/../b", None),
            ("https://example.com//b", None),
            ("https://example.com:port", None),
            ("https://example.com:99999", None),
            ("https://exa mple.com", None),
            ("https://[::1", None),
            ("https://[x]", None),
        ] {
            assert_eq!(BaseUrl::parse(text).ok().as_ref().map(BaseUrl::as_str), expected, "{text}");
        }
        assert!(BaseUrl::parse(&format!("https://example.com/{}", "a".repeat(MAX_BASE_URL))).is_err());
    }
}
