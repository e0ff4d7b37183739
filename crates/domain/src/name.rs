//! Names: workspaces, upstreams, tools and what a tool does to the world.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::operation::is_reserved;

/// The longest name of an operation that is not a tool, in characters.
pub const MAX_OPERATION: usize = 2_048;

/// A name that does not fit its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} name {name:?} is not valid: {rule}")]
pub struct InvalidName {
    /// What was being named.
    pub what: &'static str,
    /// The offending text, shortened.
    pub name: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

fn check(what: &'static str, rule: &'static str, name: &str, ok: bool) -> Result<String, InvalidName> {
    if ok { Ok(name.to_owned()) } else { Err(InvalidName { what, name: name.chars().take(80).collect(), rule }) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $test:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                let test: fn(&str) -> bool = $test;
                check($what, $rule, name, test(name)).map(Self)
            }
        }
        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                name.parse()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name_type!(
    /// A tenant: it owns keys, tools and a gapless sequence of events.
    WorkspaceName,
    "workspace",
    "1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter, a digit or '_'",
    |n| (1..=63).contains(&n.len())
        && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
        && !n.starts_with(['-', '.'])
);
name_type!(
    /// Where tools live: an MCP server, a REST API, a capability of this node.
    UpstreamName,
    "upstream",
    "1 to 32 of a-z, 0-9 and '-', starting with a letter",
    |n| (1..=32).contains(&n.len())
        && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && n.starts_with(|c: char| c.is_ascii_lowercase())
);

impl WorkspaceName {
    /// The workspace of the node's own events (log openings, policy loads, tool reviews).
    pub fn node() -> Self {
        Self("_node".to_owned())
    }
    /// The workspace that development identities and stdio callers fall into.
    pub fn default_workspace() -> Self {
        Self("default".to_owned())
    }
}

/// A tool by its upstream and its own name there; written `upstream:tool`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ToolRef {
    /// Where the tool lives.
    pub upstream: UpstreamName,
    /// The upstream's own name for it (1 to 128 characters without control characters), or the name of another
    /// [operation](crate::operation) (up to [`MAX_OPERATION`]).
    pub tool: String,
}

impl fmt::Display for ToolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.upstream, self.tool)
    }
}

impl FromStr for ToolRef {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        const RULE: &str = "an upstream, a colon and a tool name of 1 to 128 characters without control characters";
        let (upstream, tool) = text.split_once(':').unwrap_or((text, ""));
        // Resources go by their URIs, which are longer than names.
        let longest = if is_reserved(tool) { MAX_OPERATION } else { 128 };
        let ok = (1..=longest).contains(&tool.chars().count()) && !tool.chars().any(char::is_control);
        let tool = check("tool", RULE, text, ok).map(|_| tool.to_owned())?;
        Ok(Self { upstream: upstream.parse()?, tool })
    }
}

impl Serialize for ToolRef {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ToolRef {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a tool does to the world, by our own manifest; an upstream's hints are not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Changes nothing: one event, no intent.
    Read,
    /// Changes something: a durable intent goes before the dispatch.
    #[default]
    Write,
    /// Changes something that cannot be undone; handled as a write, told apart by policies and previews.
    Destructive,
}

impl Effect {
    /// Whether an intent must be durable before the dispatch.
    pub fn needs_intent(self) -> bool {
        self != Effect::Read
    }
    /// The name used in events, policies and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Read => "read",
            Effect::Write => "write",
            Effect::Destructive => "destructive",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_door() {
        for (text, ok) in [
            ("ads:createCampaign", true),
            ("ads:a:b", true),
            ("ads", false),
            ("ads:", false),
            (":x", false),
            ("Ads:x", false),
            ("ads:a\nb", false),
            ("a-very-long-upstream-name-that-does-not-fit:x", false),
        ] {
            assert_eq!(text.parse::<ToolRef>().is_ok(), ok, "{text:?}");
        }
        assert!("tenant_1.eu".parse::<WorkspaceName>().is_ok());
        assert!("Tenant".parse::<WorkspaceName>().is_err());
    }
}
