//! What a workspace allows and denies, as it is configured: read from YAML, TOML or JSON by whoever holds the file.
//!
//! Denying beats allowing. Being allowed says that somebody looked and agreed; it does not silence what sources say.

use serde::{Deserialize, Serialize};

use super::name::{Ecosystem, PackageRef};
use super::requirement::{Requirement, RequirementError};
use crate::time::parse_rfc3339;

/// Most entries in either list.
pub const MAX_ENTRIES: usize = 10_000;
/// The longest reason, in characters.
pub const MAX_REASON: usize = 512;

/// Why lists are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// More than [`MAX_ENTRIES`].
    #[error("a list has at most {MAX_ENTRIES} entries")]
    TooMany,
    /// Not a name, nor the beginning of one before a star.
    #[error("{0:?} is neither a package's name nor the beginning of one with * behind it")]
    Name(String),
    /// Not a requirement.
    #[error("{name:?}: {error}")]
    Version {
        /// Of which entry.
        name: String,
        /// Why.
        error: RequirementError,
    },
    /// Empty or too long.
    #[error("{0:?}: a reason has 1 to {MAX_REASON} characters")]
    Reason(String),
    /// Not a date or time.
    #[error("{0:?}: since is a date such as 2026-01-31, or a time such as 2026-01-31T12:00:00Z, in quotes")]
    Since(String),
}

/// A workspace's lists.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "ListsWire", into = "ListsWire")]
pub struct Lists {
    allow: Vec<Entry>,
    deny: Vec<Entry>,
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "EntryWire", into = "EntryWire")]
pub struct Entry {
    ecosystem: Ecosystem,
    name: String,
    version: Requirement,
    reason: String,
    since: Option<String>,
}

/// What the lists say of a package, with the line that says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Denied, whatever else is known.
    Denied(&'a Entry),
    /// Allowed.
    Allowed(&'a Entry),
    /// On neither list.
    Unlisted,
}

impl Lists {
    /// From entries.
    ///
    /// # Errors
    /// [`ListError::TooMany`].
    pub fn new(allow: Vec<Entry>, deny: Vec<Entry>) -> Result<Self, ListError> {
        if allow.len() > MAX_ENTRIES || deny.len() > MAX_ENTRIES {
            return Err(ListError::TooMany);
        }
        Ok(Self { allow, deny })
    }

    /// Whether there is no entry at all.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// What they say. The first line that matches counts.
    pub fn decide(&self, package: &PackageRef) -> Decision<'_> {
        let find = |list: &'_ [Entry]| list.iter().position(|entry| entry.matches(package));
        match (find(&self.deny), find(&self.allow)) {
            (Some(i), _) => Decision::Denied(&self.deny[i]),
            (None, Some(i)) => Decision::Allowed(&self.allow[i]),
            (None, None) => Decision::Unlisted,
        }
    }
}

impl Entry {
    /// From its parts: see the fields' rules in [`ListError`].
    ///
    /// # Errors
    /// [`ListError`].
    pub fn new(
        ecosystem: Ecosystem,
        name: &str,
        version: &str,
        reason: &str,
        since: Option<&str>,
    ) -> Result<Self, ListError> {
        let shown = || super::plain(name, 64);
        if !is_pattern(ecosystem, name) {
            return Err(ListError::Name(shown()));
        }
        if !(1..=MAX_REASON).contains(&reason.chars().count()) {
            return Err(ListError::Reason(shown()));
        }
        if since.is_some_and(|since| parse_rfc3339(since).or(parse_rfc3339(&format!("{since}T00:00:00Z"))).is_none()) {
            return Err(ListError::Since(shown()));
        }
        let version = Requirement::parse(ecosystem, version);
        Ok(Self {
            ecosystem,
            name: name.to_owned(),
            version: version.map_err(|error| ListError::Version { name: shown(), error })?,
            reason: reason.to_owned(),
            since: since.map(str::to_owned),
        })
    }

    /// Why the line is there.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Since when.
    pub fn since(&self) -> Option<&str> {
        self.since.as_deref()
    }

    /// Whether a package is meant. A line about some releases is not about a package without one.
    pub fn matches(&self, package: &PackageRef) -> bool {
        let comparable = |name: &str| self.ecosystem.comparable(name);
        let name = comparable(package.name());
        let named = match self.name.strip_suffix('*') {
            Some(beginning) => name.starts_with(&comparable(beginning)),
            None => name == comparable(&self.name),
        };
        let released = || match package.version() {
            Some(version) => self.version.matches(version),
            None => self.version.is_any(),
        };
        self.ecosystem == package.ecosystem() && named && released()
    }
}

fn is_pattern(ecosystem: Ecosystem, name: &str) -> bool {
    let Some(beginning) = name.strip_suffix('*') else { return ecosystem.is_name(name) };
    // Something that ends a name makes one of any beginning.
    let scope = ecosystem == Ecosystem::Npm && beginning.starts_with('@') && !beginning.contains('/');
    beginning.is_empty() || ecosystem.is_name(&format!("{beginning}{}", if scope { "x/x" } else { "x" }))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListsWire {
    #[serde(default)]
    allow: Vec<Entry>,
    #[serde(default)]
    deny: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryWire {
    ecosystem: Ecosystem,
    name: String,
    #[serde(default = "any")]
    version: String,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

fn any() -> String {
    "*".to_owned()
}

impl TryFrom<ListsWire> for Lists {
    type Error = ListError;

    fn try_from(wire: ListsWire) -> Result<Self, ListError> {
        Self::new(wire.allow, wire.deny)
    }
}

impl From<Lists> for ListsWire {
    fn from(lists: Lists) -> Self {
        Self { allow: lists.allow, deny: lists.deny }
    }
}

impl TryFrom<EntryWire> for Entry {
    type Error = ListError;

    fn try_from(wire: EntryWire) -> Result<Self, ListError> {
        Self::new(wire.ecosystem, &wire.name, &wire.version, &wire.reason, wire.since.as_deref())
    }
}

impl From<Entry> for EntryWire {
    fn from(entry: Entry) -> Self {
        let version = entry.version.to_string();
        Self { ecosystem: entry.ecosystem, name: entry.name, version, reason: entry.reason, since: entry.since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: &str = r#"
allow:
  - {ecosystem: pypi, name: requests, version: ">=2.31.0", reason: reviewed, since: "2024-03-15"}
  - {ecosystem: npm, name: "@example/*", reason: ours}
  - {ecosystem: cargo, name: serde_json, reason: reviewed}
deny:
  - {ecosystem: pypi, name: Requests, version: "==2.32.0", reason: pulled back}
  - {ecosystem: npm, name: "@example/old", reason: replaced}
  - {ecosystem: pypi, name: "evil-*", reason: a family of malware, since: "2025-01-01T00:00:00Z"}
"#;

    #[test]
    fn denying_beats_allowing_and_the_line_is_told() {
        let lists: Lists = serde_saphyr::from_str(LISTS).unwrap();
        for (package, expected) in [
            ("pypi:requests==2.31.0", "allowed: reviewed"),
            ("pypi:requests==2.32.0", "denied: pulled back"),
            ("pypi:requests==2.30.0", "unlisted"),
            ("pypi:requests", "unlisted"),
            ("npm:@example/new@1.0.0", "allowed: ours"),
            ("npm:@example/old@1.0.0", "denied: replaced"),
            ("npm:@example2/new@1.0.0", "unlisted"),
            ("npm:example@1.0.0", "unlisted"),
            ("cargo:Serde-JSON@1.0.0", "allowed: reviewed"),
            ("cargo:requests@2.31.0", "unlisted"),
            ("pypi:Evil_Thing==0.1", "denied: a family of malware"),
            ("pypi:evil==0.1", "unlisted"),
            ("pypi:evil-thing", "denied: a family of malware"),
        ] {
            let found = match lists.decide(&PackageRef::parse(package).unwrap()) {
                Decision::Denied(entry) => format!("denied: {}", entry.reason()),
                Decision::Allowed(entry) => format!("allowed: {}", entry.reason()),
                Decision::Unlisted => "unlisted".to_owned(),
            };
            assert_eq!(found, expected, "{package}");
        }
        let written = serde_json::to_string(&lists).unwrap();
        assert_eq!(serde_json::from_str::<Lists>(&written).unwrap(), lists);
    }

    #[test]
    fn entries_that_mean_nothing_are_refused() {
        let entry = |name: &str, version: &str, reason: &str, since: Option<&str>| {
            Entry::new(Ecosystem::Npm, name, version, reason, since).is_ok()
        };
        assert!(
            entry("a", "*", "r", None) && entry("*", "<1.0.0", "r", Some("2026-02-28")) && entry("@a*", "*", "r", None)
        );
        for name in ["", "a*b", "**", "../a", "a b", "@a", "@a/b/c*"] {
            assert!(!entry(name, "*", "r", None), "{name}");
        }
        assert!(!entry("a", "^1.0.0", "r", None) && !entry("a", "*", "", None));
        assert!(!entry("a", "*", "r", Some("2026-02-29")) && !entry("a", "*", "r", Some("yesterday")));
        for unknown in
            ["allow: [{ecosystem: gem, name: a, reason: r}]", "allow: [{ecosystem: npm, name: a}]", "permit: []"]
        {
            assert!(serde_saphyr::from_str::<Lists>(unknown).is_err(), "{unknown}");
        }
    }
}
