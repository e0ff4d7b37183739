//! The built-in upstream `artifacts`: signed documents, kept as objects and found by what they say of themselves (`docs/artifact.md`).
//!
//! - [`tools`]: what the tools are called, take and give.
//! - [`keys`]: the workspaces' signing keys.
//! - [`create`], [`read`], [`hold`]: the tools.
//! - [`scrub`], [`documents`]: hold what is stored against what is known of it.
//!
//! What is true if the process dies while an artifact is made: before its row, there is at most an object that nobody has seen; the row, the leaf of its
//! signature and what it is found by are one append.

mod create;
mod documents;
mod hold;
pub(crate) mod keys;
mod read;
pub(crate) mod scrub;
mod tools;

use std::sync::Arc;

use async_trait::async_trait;
use countersign_catalog::Manifest;
use countersign_domain::{Millis, Principal, UpstreamName};
use countersign_gate::permit::Permit;
use countersign_gate::upstream::{
    DiscoverError, Discovered, DispatchError, Exchange, Remarks, ToolResult, Upstream, UpstreamStatus,
};
use countersign_ledger::artifacts::ArtifactRow;
use countersign_ledger::objects::Objects;
use countersign_ledger::{Ledger, Reader, StoreError};
use countersign_trust::artifact::types::Types;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use crate::capability::{Computing, Failure, Told, clipped, described, read, worked};
use keys::SigningKeys;

pub(crate) use tools::NAME;

/// The member of events that lists what a call touches in the sense of compliance.
const FLAGS: &str = "compliance_flags";
/// The most flags of one call.
const MAX_FLAGS: usize = 64;
/// How many objects are looked after at a time where there are many.
const SIDE_BY_SIDE: usize = 8;

/// The node's artifacts.
pub(crate) struct Artifacts {
    name: UpstreamName,
    ledger: Ledger,
    pub(crate) keys: Arc<SigningKeys>,
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) types: Types,
    base_url: String,
    clock: fn() -> Millis,
    tools: Vec<Box<RawValue>>,
    changes: watch::Sender<u64>,
    computing: Computing,
}

/// What artifacts are made with.
pub(crate) struct Parts {
    pub ledger: Ledger,
    pub keys: Arc<SigningKeys>,
    pub objects: Arc<dyn Objects>,
    pub types: Types,
    pub base_url: String,
    pub clock: fn() -> Millis,
}

impl Artifacts {
    /// The capability and its manifest.
    ///
    /// # Errors
    /// If a definition of ours cannot be pinned, in words.
    pub fn capability(parts: Parts) -> Result<(Manifest, Arc<Self>), String> {
        let (manifest, tools) = described(NAME, tools::TITLE, tools::definitions())?;
        let name = manifest.upstream.clone();
        let Parts { ledger, keys, objects, types, base_url, clock } = parts;
        let (changes, computing) = (watch::Sender::new(0), Computing::new());
        Ok((
            manifest,
            Arc::new(Self { name, ledger, keys, objects, types, base_url, clock, tools, changes, computing }),
        ))
    }

    async fn call(&self, tool: &str, principal: &Principal, arguments: &str) -> Result<Told, Failure> {
        match tool {
            tools::CREATE => self.create(principal, arguments).await,
            tools::GET => self.get(principal, read(arguments)?).await,
            tools::VERIFY => self.verify(principal, read(arguments)?).await,
            tools::LIST => self.list(principal, read(arguments)?).await,
            tools::PROVENANCE => self.provenance(principal, read(arguments)?).await,
            tools::HOLD => self.hold(principal, read(arguments)?).await,
            tools::DECLARE => self.declare(read(arguments)?),
            other => Err(Failure::NotFound(format!("there is no tool {other:?} here"))),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        Ok(self.ledger.read(read).await?)
    }

    /// A version of an artifact of the caller's workspace. Those of others are as unknown as what nobody made.
    async fn row(&self, principal: &Principal, id: Uuid, version: Option<u64>) -> Result<Option<ArtifactRow>, Failure> {
        let workspace = principal.workspace.clone();
        self.read(move |r| r.artifact(&workspace, id, version)).await
    }

    async fn found(&self, principal: &Principal, id: &str, version: Option<u64>) -> Result<ArtifactRow, Failure> {
        let id = artifact_id(id)?;
        let missing = || match version {
            None => Failure::NotFound(format!("there is no artifact {id} in this workspace")),
            Some(version) => {
                Failure::NotFound(format!("there is no version {version} of an artifact {id} in this workspace"))
            }
        };
        self.row(principal, id, version).await?.ok_or_else(missing)
    }

    /// What a call about an artifact adds to its event.
    fn remarks_on(&self, row: &ArtifactRow, made: bool) -> Map<String, Value> {
        let flags = self.types.get(&row.artifact_type).map(|known| known.compliance());
        let flags = flags.map(|flags| if made { &flags.create } else { &flags.read });
        let mut remarks = Map::new();
        remarks.insert("artifact".into(), json!(row.id.to_string()));
        remarks.insert("artifact_version".into(), json!(row.version));
        remarks.insert("artifact_type".into(), json!(row.artifact_type));
        remarks.insert(FLAGS.into(), json!(flags.cloned().unwrap_or_default()));
        remarks
    }

    fn declare(&self, wanted: tools::Declare) -> Result<Told, Failure> {
        let flags = wanted.compliance_flags.unwrap_or_default();
        let id = wanted.artifact_id.as_deref().map(artifact_id).transpose()?;
        let mut declared = json!({ "action": wanted.action });
        for (name, value) in [("actor", wanted.actor.map(Value::from)), ("details", wanted.details.map(Value::Object))]
        {
            value.into_iter().for_each(|value| declared[name] = value);
        }
        let mut remarks = Map::new();
        remarks.insert("declared".into(), declared);
        remarks.extend(id.map(|id| ("artifact".to_owned(), json!(id.to_string()))));
        remarks.insert(FLAGS.into(), json!(flags));
        Ok(Told { value: json!({ "declared": true }), remarks })
    }
}

fn artifact_id(text: &str) -> Result<Uuid, Failure> {
    let wrong = || Failure::Input(format!("{:?} is not the id of an artifact: a UUID", clipped(text)));
    text.parse().map_err(|_| wrong())
}

#[async_trait]
impl Upstream for Artifacts {
    fn name(&self) -> &UpstreamName {
        &self.name
    }

    async fn dispatch(&self, permit: Permit, exchange: &dyn Exchange) -> Result<ToolResult, DispatchError> {
        // An artifact that was begun is finished; what only looks can be left.
        let name = permit.tool().tool.clone();
        let work = self.call(&name, permit.principal(), permit.arguments().get());
        worked(permit.deadline(), exchange, name == tools::CREATE || name == tools::HOLD, work).await
    }

    async fn remarks(&self, principal: &Principal, tool: &str, input: &Value) -> Remarks {
        let text = |name: &str| input.get(name).and_then(Value::as_str);
        let id = match tool {
            tools::DECLARE => text("artifactId"),
            _ => text("id"),
        };
        // What is not an id would be found by nobody, and could be anything.
        let id = id.and_then(|id| id.parse::<Uuid>().ok());
        let mut members = Map::new();
        // A denial says what it kept somebody from, too.
        if let Some(id) = id.filter(|_| tools::OF_ONE.contains(&tool)) {
            let version = input.get("version").and_then(Value::as_u64);
            if let Ok(Some(row)) = self.row(principal, id, version).await {
                members.extend(self.remarks_on(&row, false));
            }
        }
        let id = id.map(|id| id.to_string());
        members.extend(id.clone().map(|id| ("artifact".to_owned(), json!(id))));
        if tool == tools::HOLD {
            members.extend(hold::remarks(input));
        }
        if let Some(known) = text("type").filter(|_| tool == tools::CREATE).and_then(|name| self.types.get(name)) {
            members.insert("artifact_type".into(), json!(known.name()));
            let flags: Vec<&String> = known.compliance().create.iter().take(MAX_FLAGS).collect();
            members.insert(FLAGS.into(), json!(flags));
        }
        Remarks { subject: id, members }
    }

    async fn discover(&self) -> Result<Discovered, DiscoverError> {
        Ok(Discovered { tools: self.tools.clone(), ..Discovered::default() })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn status(&self) -> UpstreamStatus {
        UpstreamStatus { state: "ready".into(), protocol: None, error: None }
    }

    async fn shutdown(&self) {}
}
