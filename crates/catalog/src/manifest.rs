//! The operator's manifest of one upstream: how to reach it, who may see it, and what each tool does to the world.
//!
//! A strict YAML document (`docs/manifest.md`, JSON Schema in `docs/schemas/manifest.schema.json`). Unknown and duplicate
//! keys are refused, with file, line and column. What an upstream says about its own tools never overrides this file.

pub mod credential;
mod duration;
mod found;
mod load;
pub mod rest;
mod text;
mod transport;

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_domain::{Effect, Operation, UpstreamName, WorkspaceName};
use countersign_proof::digest::Digest;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::definition::Kind;
use crate::scan::Rule;

pub use credential::{Credential, OauthSettings, SecretSource, StaticCredential};
pub use duration::{DurationError, parse_duration};
pub use found::{AccountRef, FoundSettings};
pub use load::{ManifestError, load_dir};
pub use rest::RestTransport;
pub use text::{EnvText, MissingVariable};
pub use transport::{HttpTransport, Protocol, SELF_COMMAND, StdioTransport, Transport};

/// The version of the manifest format.
pub const MANIFEST_VERSION: u32 = 1;
/// Longest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// The longest deadline that a manifest may give a call.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// Upstream names that built-in capabilities bear.
pub const RESERVED_UPSTREAMS: &[&str] = &["countersign", "trust", "runbook", "exchange", "comply"];

/// One upstream, as its operator describes it.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Countersign upstream manifest")]
pub struct Manifest {
    /// The format's version: 1.
    #[schemars(schema_with = "schema::version")]
    pub version: u32,
    /// The upstream's name: 1 to 32 of a-z, 0-9 and '-', starting with a letter. Tools are `upstream:tool`.
    #[schemars(schema_with = "schema::upstream")]
    pub upstream: UpstreamName,
    /// A name for people.
    #[serde(default)]
    pub title: Option<String>,
    /// What it is for, in the operator's words.
    #[serde(default)]
    pub description: Option<String>,
    /// How to reach it.
    pub transport: Transport,
    /// Which workspaces may see it: a list, or `all` (the default).
    #[serde(default)]
    #[schemars(schema_with = "schema::workspaces")]
    pub workspaces: Workspaces,
    /// How long a call may take, counted from its dispatch: `30s` by default, at most `10m`.
    #[serde(default = "default_timeout", deserialize_with = "duration::call")]
    #[schemars(schema_with = "schema::duration")]
    pub timeout: Duration,
    /// How often its tools are listed again: `60s` by default, from `1s` to `24h`.
    #[serde(default = "default_refresh", deserialize_with = "duration::refresh")]
    #[schemars(schema_with = "schema::duration")]
    pub refresh: Duration,
    /// How long it may take to start and to agree on a protocol: `30s` by default, at most `10m`.
    #[serde(default = "default_timeout", deserialize_with = "duration::call")]
    #[schemars(schema_with = "schema::duration")]
    pub start_timeout: Duration,
    /// How many calls it is given at once: 64 by default, 1 to 4096. Further calls wait within their deadline.
    #[serde(default = "default_concurrency", deserialize_with = "load::concurrency")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_concurrency: u32,
    /// How many further calls may wait for their turn, within their deadline: 256 by default, at most 65536. Beyond it calls
    /// are refused at once.
    #[serde(default = "default_queue", deserialize_with = "load::queue")]
    #[schemars(range(min = 0, max = 65536))]
    pub max_queue: u32,
    /// The effect of tools that are not listed or state none: `write` (the default) or `destructive`, never `read`.
    #[serde(default, deserialize_with = "load::default_effect")]
    #[schemars(schema_with = "schema::default_effect")]
    pub effects: Effect,
    /// How its resources and resource templates are reviewed and read.
    #[serde(default)]
    pub resources: Listings,
    /// How its prompts are reviewed.
    #[serde(default)]
    pub prompts: Listings,
    /// What it may ask people for. Policies decide whether it may at all.
    #[serde(default)]
    pub elicitation: Elicitation,
    /// What we know about each tool, by the upstream's own name for it; of other operations by theirs (`prompts/NAME`,
    /// `resources/read`, `resources/URI`).
    #[serde(default, deserialize_with = "load::tools")]
    pub tools: BTreeMap<String, ToolEntry>,
}

/// How the definitions of one list are reviewed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listings {
    /// Who looks at new and changed definitions.
    #[serde(default)]
    pub review: Review,
    /// Whether resources may be read that the upstream does not list and no template covers. Of no meaning for prompts.
    #[serde(default)]
    pub unlisted: bool,
}

/// Who looks at new and changed definitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Review {
    /// A person, at each of them.
    #[default]
    Each,
    /// The checks alone; a person only at those with findings.
    Scanned,
}

/// What an upstream may ask people for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Elicitation {
    /// The hosts to whose pages it may send people: `pay.example.com`, or `*.example.com` for all below. Empty: any host.
    #[serde(default)]
    pub hosts: Vec<String>,
}

impl Elicitation {
    /// Whether people may be sent to this host.
    pub fn allows(&self, host: &str) -> bool {
        let fits = |allowed: &String| match allowed.strip_prefix("*.") {
            Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            None => host == allowed,
        };
        self.hosts.is_empty() || self.hosts.iter().any(fits)
    }
}

/// What a manifest says about one tool.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolEntry {
    /// What it does to the world: `read`, `write` or `destructive`. An upstream's own hints are not believed.
    #[serde(default)]
    #[schemars(schema_with = "schema::effect")]
    pub effect: Option<Effect>,
    /// Our own description, shown to agents instead of the upstream's.
    #[serde(default)]
    pub description: Option<String>,
    /// The definition's pin. Where stated, no other definition is ever accepted.
    #[serde(default)]
    #[schemars(schema_with = "schema::pin")]
    pub pin: Option<Digest>,
    /// Rules of the scan whose findings do not keep the asserted pin from being accepted.
    #[serde(default)]
    #[schemars(schema_with = "schema::rules")]
    pub despite: Vec<Rule>,
    /// Whether the last approval executes the call at once, without waiting for the agent to redeem it.
    #[serde(default)]
    pub execute_on_approval: bool,
    /// Whether the tool is kept out of every list and refused when called.
    #[serde(default)]
    pub hidden: bool,
    /// How often one principal may call it.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// How long a call may take, instead of the upstream's `timeout`.
    #[serde(default, deserialize_with = "duration::optional_call")]
    #[schemars(schema_with = "schema::duration")]
    pub timeout: Option<Duration>,
    /// With `type: rest`: the request that a call becomes.
    #[serde(default)]
    pub request: Option<Box<rest::RestRequest>>,
    /// What a call costs, for budgets that count cost.
    #[serde(default)]
    pub cost: Option<CostRule>,
    /// How long one principal has to wait before it makes the same call again.
    #[serde(default)]
    pub cooldown: Option<Cooldown>,
}

/// What a call of a tool costs, in millionths of whatever the operator counts in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CostRule {
    /// What a call costs; with `argument`, what 1 of that argument costs.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub micros: u64,
    /// A JSON pointer (RFC 6901) to the numeric argument that says how much, such as `/budget`.
    #[serde(default, deserialize_with = "load::pointer")]
    #[schemars(schema_with = "schema::pointer")]
    pub argument: Option<String>,
}

/// A pause between calls of one principal to one tool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cooldown {
    /// How long: `1s` to `24h`.
    #[serde(deserialize_with = "duration::refresh")]
    #[schemars(schema_with = "schema::duration")]
    pub pause: Duration,
    /// A JSON pointer (RFC 6901) to the argument that tells calls apart, such as `/service`; without it all calls of the
    /// tool share one pause.
    #[serde(default, deserialize_with = "load::pointer")]
    #[schemars(schema_with = "schema::pointer")]
    pub argument: Option<String>,
}

/// So many calls in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Calls, at least 1.
    #[schemars(range(min = 1))]
    pub calls: std::num::NonZeroU32,
    /// The time in which that many calls may start: `1s` to `24h`.
    #[serde(deserialize_with = "duration::refresh")]
    #[schemars(schema_with = "schema::duration")]
    pub per: Duration,
}

/// Which workspaces may see an upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Workspaces {
    /// Every workspace.
    #[default]
    All,
    /// These.
    Only(Vec<WorkspaceName>),
}

/// What holds for one tool: its entry over the upstream's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolSettings {
    /// What it does to the world.
    pub effect: Effect,
    /// Our own description, if any.
    pub description: Option<String>,
    /// The pin that the manifest asserts, if any.
    pub pin: Option<Digest>,
    /// Rules of the scan whose findings do not keep the asserted pin from being accepted.
    pub despite: Vec<Rule>,
    /// Whether the last approval executes the call.
    pub execute_on_approval: bool,
    /// Whether the tool is kept out of lists and refused.
    pub hidden: bool,
    /// How often one principal may call it.
    pub rate_limit: Option<RateLimit>,
    /// How long a call may take.
    pub timeout: Duration,
    /// What a call costs.
    pub cost: Option<CostRule>,
    /// The pause between calls.
    pub cooldown: Option<Cooldown>,
    /// Whether the manifest lists the tool at all.
    pub listed: bool,
}

impl Manifest {
    /// The manifest of a capability that lives in this node, under its reserved name. Each tool asserts its pin: the definition is
    /// part of the program that the operator installed, and a newer program brings a newer one.
    pub fn built_in(upstream: UpstreamName, title: &str, tools: BTreeMap<String, ToolEntry>) -> Self {
        Self {
            version: MANIFEST_VERSION,
            upstream,
            title: Some(title.to_owned()),
            description: None,
            transport: Transport::BuiltIn,
            workspaces: Workspaces::All,
            timeout: default_timeout(),
            refresh: default_refresh(),
            start_timeout: default_timeout(),
            max_concurrency: default_concurrency(),
            max_queue: default_queue(),
            effects: Effect::default(),
            resources: Listings::default(),
            prompts: Listings::default(),
            elicitation: Elicitation::default(),
            tools,
        }
    }

    /// What holds for the tool of this name, listed or not.
    pub fn tool(&self, name: &str) -> ToolSettings {
        let listed = self.tools.get(name);
        let entry = listed.cloned().unwrap_or_default();
        ToolSettings {
            effect: entry.effect.unwrap_or(self.default_effect(name)),
            description: entry.description,
            pin: entry.pin,
            despite: entry.despite,
            execute_on_approval: entry.execute_on_approval,
            hidden: entry.hidden,
            rate_limit: entry.rate_limit,
            timeout: entry.timeout.unwrap_or(self.timeout),
            cost: entry.cost,
            cooldown: entry.cooldown,
            listed: listed.is_some(),
        }
    }

    /// Whether the tools' definitions are made from this manifest, instead of being an upstream's word.
    pub fn describes_its_tools(&self) -> bool {
        match self.transport {
            Transport::Rest(_) => true,
            Transport::Stdio(_) | Transport::Http(_) | Transport::BuiltIn => false,
        }
    }

    /// Tools count as writes unless the manifest says otherwise; the protocol's other operations mostly look at things.
    fn default_effect(&self, name: &str) -> Effect {
        Operation::of(name).fixed_effect().unwrap_or(self.effects)
    }

    /// How requests to the upstream are authenticated, if they are.
    pub fn credential(&self) -> Option<&Credential> {
        match &self.transport {
            Transport::Stdio(_) | Transport::BuiltIn => None,
            Transport::Http(http) => http.credential.as_deref(),
            Transport::Rest(rest) => rest.credential.as_deref(),
        }
    }

    /// How the node's own requests to the upstream are authenticated, where those of callers carry what depends on them.
    pub fn discovery_credential(&self) -> Option<&Credential> {
        match &self.transport {
            Transport::Http(http) => http.discovery_credential.as_deref(),
            Transport::Stdio(_) | Transport::Rest(_) | Transport::BuiltIn => None,
        }
    }

    /// Whether it is used with accounts that people connect.
    pub fn has_accounts(&self) -> bool {
        self.credential().is_some_and(Credential::is_connected)
    }

    /// Whether the upstream speaks MCP, and so has the operations that every MCP server may have.
    pub fn speaks_mcp(&self) -> bool {
        match self.transport {
            Transport::Stdio(_) | Transport::Http(_) => true,
            Transport::Rest(_) | Transport::BuiltIn => false,
        }
    }

    /// How definitions of this kind are reviewed.
    pub fn review(&self, kind: Kind) -> Review {
        match kind {
            Kind::Tool => Review::Each,
            Kind::Prompt => self.prompts.review,
            Kind::Resource | Kind::Template => self.resources.review,
        }
    }

    /// Whether callers of this workspace may see the upstream.
    pub fn visible_to(&self, workspace: &WorkspaceName) -> bool {
        match &self.workspaces {
            Workspaces::All => true,
            Workspaces::Only(names) => names.contains(workspace),
        }
    }

    /// The JSON Schema (2020-12) of the format, for editors.
    pub fn json_schema() -> serde_json::Value {
        schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Self>().to_value()
    }
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_refresh() -> Duration {
    Duration::from_secs(60)
}

fn default_concurrency() -> u32 {
    64
}

fn default_queue() -> u32 {
    256
}

/// Schemas of types that are checked by code.
mod schema {
    use schemars::{Schema, SchemaGenerator, json_schema};

    const WORKSPACE: &str = "^[a-z0-9_][a-z0-9_.-]{0,62}$";

    pub fn version(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": super::MANIFEST_VERSION })
    }
    pub fn upstream(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,31}$", "not": { "enum": super::RESERVED_UPSTREAMS } })
    }
    pub fn workspaces(_: &mut SchemaGenerator) -> Schema {
        let list =
            json_schema!({ "type": "array", "minItems": 1, "items": { "type": "string", "pattern": WORKSPACE } });
        json_schema!({ "anyOf": [{ "const": "all" }, list] })
    }
    pub fn duration(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[1-9][0-9]{0,8}(ms|s|m|h)$", "examples": ["500ms", "30s", "10m"] })
    }
    pub fn default_effect(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["write", "destructive"] })
    }
    pub fn effect(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["read", "write", "destructive"] })
    }
    pub fn pointer(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^/", "maxLength": 256 })
    }
    pub fn rules(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = crate::scan::Rule::ALL.iter().map(|rule| rule.id()).collect();
        json_schema!({ "type": "array", "items": { "enum": names } })
    }
    pub fn pin(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" })
    }
}

#[cfg(test)]
mod tests;
