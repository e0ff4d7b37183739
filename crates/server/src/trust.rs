//! The built-in upstream `trust`: signing and verifying in Sigstore's shapes, as tools behind the gate.
//!
//! - [`tools`]: what the tools are called, take and give.
//! - [`custody`]: the node's authorities, sealed in the directory; whom others may trust.
//! - [`outside`], [`stamping`], [`forward`], [`forwarded`], [`logs`]: other people's services.
//! - [`sign`], [`verify`], [`find`], [`places`], [`documents`], [`assess`], [`notify`], [`packages`]: the tools. Pure cryptography is in `countersign_trust`.
//! - [`clients`]: what Sigstore's own clients need to sign with keys of theirs.
//!
//! A signature is a public entry of the node's own log and a row beside it, in one append. Its bundle is made whenever it is asked
//! for, with the newest checkpoint.

mod assess;
mod clients;
mod custody;
pub(crate) mod documents;
mod find;
mod forward;
mod forwarded;
mod images;
mod logs;
mod notify;
mod outside;
mod packages;
mod places;
mod sign;
mod stamping;
mod tools;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use countersign_catalog::Manifest;
use countersign_domain::{Millis, Principal, PrincipalKind, UpstreamName, WorkspaceName};
use countersign_gate::keyring::{Keyring, WorkspaceKeys};
use countersign_gate::permit::Permit;
use countersign_gate::upstream::{
    DiscoverError, Discovered, DispatchError, Exchange, Remarks, ToolResult, Upstream, UpstreamStatus,
};
use countersign_ledger::objects::Objects;
use countersign_ledger::{Ledger, Reader, StoreError};
use countersign_trust::certificate::{Identity, check_issuer};
use countersign_trust::scenario::Scenario;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::capability::{Computing, Failure, Told, described, read, worked};
use crate::config::{ExpectedSigner, Naming};

pub(crate) use clients::{Clients, NotAdmitted};
pub(crate) use custody::{Custody, CustodyError, Published, entropy};
pub(crate) use forward::Forwarding;
pub(crate) use images::Images;
pub(crate) use notify::Teams;
pub(crate) use outside::Outside;
pub(crate) use packages::Packages;
pub(crate) use tools::NAME;

/// The node's signing and verifying.
pub(crate) struct Trust {
    name: UpstreamName,
    ledger: Ledger,
    keyring: Arc<Keyring>,
    custody: Arc<Custody>,
    /// The node's URL, which vouches for its callers.
    base_url: String,
    clock: fn() -> Millis,
    teams: Teams,
    packages: Packages,
    images: Images,
    outside: Outside,
    clients: Option<Clients>,
    names: Names,
    /// Whom workspaces expect to have signed, where a call does not say.
    expected: BTreeMap<Option<WorkspaceName>, ExpectedSigner>,
    /// Where documents of scans are kept.
    objects: Arc<dyn Objects>,
    /// Whether answers may be asked for that are made up.
    scenarios: bool,
    tools: Vec<Box<RawValue>>,
    changes: watch::Sender<u64>,
    computing: Computing,
}

/// What signing and verifying are done with.
pub(crate) struct Parts {
    pub ledger: Ledger,
    pub keyring: Arc<Keyring>,
    pub custody: Arc<Custody>,
    pub base_url: String,
    pub clock: fn() -> Millis,
    pub teams: Teams,
    pub packages: Packages,
    pub images: Images,
    pub outside: Outside,
    pub clients: Option<Clients>,
    pub names: Names,
    pub expected: BTreeMap<Option<WorkspaceName>, ExpectedSigner>,
    pub objects: Arc<dyn Objects>,
    pub scenarios: bool,
}

impl Trust {
    /// The capability and its manifest.
    ///
    /// # Errors
    /// If a definition of ours cannot be pinned, in words.
    pub fn capability(parts: Parts) -> Result<(Manifest, Arc<Self>), String> {
        let definitions = tools::definitions(parts.scenarios, parts.clients.is_some());
        let (manifest, tools) = described(NAME, tools::TITLE, definitions)?;
        let Parts { ledger, keyring, custody, base_url, clock, teams, packages, images, outside, .. } = parts;
        let Parts { clients, names, expected, objects, scenarios, .. } = parts;
        let trust = Self {
            name: manifest.upstream.clone(),
            ledger,
            keyring,
            custody,
            base_url,
            clock,
            teams,
            packages,
            images,
            outside,
            clients,
            names,
            expected,
            objects,
            scenarios,
            tools,
            changes: watch::Sender::new(0),
            computing: Computing::new(),
        };
        Ok((manifest, Arc::new(trust)))
    }

    /// What there is for Sigstore's own clients, if they are served.
    pub fn clients(&self) -> Option<&Clients> {
        self.clients.as_ref()
    }

    async fn call(&self, tool: &str, principal: &Principal, arguments: &str) -> Result<Value, Failure> {
        match tool {
            tools::SIGN => self.sign(principal, read(arguments)?).await,
            tools::VERIFY => self.verify(principal, read(arguments)?).await,
            tools::PROVENANCE => self.provenance(principal, read(arguments)?).await,
            tools::QUERY => self.query(principal, read(arguments)?).await,
            tools::SIGNATURE => self.signature(principal, read(arguments)?).await,
            tools::STATS => self.stats(principal, read(arguments)?).await,
            tools::GET_SCAN => self.get_scan(principal, read(arguments)?).await,
            tools::ADD_SCAN => self.add_scan(principal, read(arguments)?).await,
            tools::CHECK_SCANS => self.check_scans(principal, read(arguments)?).await,
            tools::REVIEW => self.record_review(principal, read(arguments)?).await,
            tools::READINESS => self.readiness(principal, read(arguments)?).await,
            tools::ANOMALIES => self.anomalies(principal, read(arguments)?).await,
            tools::COMPLIANCE => self.compliance_report(principal, read(arguments)?).await,
            tools::NOTIFY => self.notify(principal, read(arguments)?).await,
            tools::PACKAGE => self.package(principal, read(arguments)?).await,
            tools::ISSUE => self.issue(principal, read(arguments)?).await,
            tools::LOG => self.log_entry(principal, read(arguments)?).await,
            other => Err(Failure::Input(format!("there is no tool {other:?} here"))),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        Ok(self.ledger.read(read).await?)
    }

    /// By whom signatures of this principal say that they were made.
    async fn identity(&self, principal: &Principal) -> Result<Named, Failure> {
        let chosen = match self.names.of(&principal.workspace) {
            Naming::Pseudonym => None,
            Naming::Mail => named_by_mail(principal)?,
            Naming::Subject => named_by_subject(principal)?,
        };
        let Some((identity, issuer)) = chosen else { return self.pseudonym(principal).await };
        // Nobody's subject makes somebody a signer of this node's naming.
        if identity.text().starts_with(self.custody.issuer()) {
            return self.pseudonym(principal).await;
        }
        // Issuers that are no URL are this node's own.
        let issuer = issuer.filter(|url| check_issuer(url).is_ok());
        Ok(Named { identity, issuer: issuer.unwrap_or_else(|| self.custody.issuer().to_owned()) })
    }

    /// A URI that only this node can turn back into a name, unless somebody tells.
    async fn pseudonym(&self, principal: &Principal) -> Result<Named, Failure> {
        let keys = self.keys(principal).await?;
        let pseudonym = keys.fingerprint("signer", &[principal.caller_key().as_bytes()]);
        let hexadecimal: String = pseudonym[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let identity = Identity::uri(&format!("{}{hexadecimal}", self.identities(principal)));
        let identity = identity.map_err(|e| Failure::Undone(format!("the signer's identity: {e}")))?;
        Ok(Named { identity, issuer: self.custody.issuer().to_owned() })
    }

    /// The marks of whoever counts as the signer: the caller, and the person behind it.
    async fn authors(&self, principal: &Principal) -> Result<Vec<String>, Failure> {
        let mut authors = Vec::new();
        for key in principal.requester_keys() {
            authors.push(self.mark(principal, &key).await?);
        }
        Ok(authors)
    }

    /// What the identities of the principal's workspace begin with.
    fn identities(&self, principal: &Principal) -> String {
        format!("{}/workspaces/{}/signers/", self.custody.issuer(), principal.workspace)
    }

    /// What tells a person or agent of a workspace from others, and says nothing else: to see whether a reviewer signed.
    async fn mark(&self, principal: &Principal, key: &str) -> Result<String, Failure> {
        let mark = self.keys(principal).await?.fingerprint("author", &[key.as_bytes()]);
        Ok(mark[..16].iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The scenario that a call asks for. The schema of a node without scenarios has no such argument.
    fn played(&self, wanted: Option<Scenario>) -> Result<Option<Scenario>, Failure> {
        match wanted {
            Some(_) if !self.scenarios => {
                Err(Failure::Input("this node plays no scenarios; see [trust] scenarios in docs/trust.md".to_owned()))
            }
            wanted => Ok(wanted),
        }
    }

    async fn keys(&self, principal: &Principal) -> Result<Arc<WorkspaceKeys>, Failure> {
        let keys = self.keyring.workspace(&principal.workspace).await;
        keys.map_err(|error| Failure::Undone(format!("the workspace's key: {error}")))
    }
}

/// Who signs, and who vouches for that.
#[derive(Debug, Clone)]
struct Named {
    identity: Identity,
    issuer: String,
}

/// How workspaces name their signers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub by_workspace: BTreeMap<WorkspaceName, Naming>,
    pub others: Naming,
}

impl Names {
    fn of(&self, workspace: &WorkspaceName) -> Naming {
        self.by_workspace.get(workspace).copied().unwrap_or(self.others)
    }
}

type Chosen = Option<(Identity, Option<String>)>;

/// A person by the address that the token says is verified. Agents keep their pseudonym: the address of the person for whom one acts
/// would say that this person had signed.
fn named_by_mail(principal: &Principal) -> Result<Chosen, Failure> {
    if principal.on_behalf_of.is_some() || principal.kind != PrincipalKind::Person {
        return Ok(None);
    }
    let verified = principal.attributes.get("email_verified").is_some_and(|verified| verified == "true");
    let mail = principal.attributes.get("email").filter(|_| verified);
    let mail = mail.ok_or_else(|| {
        Failure::Input(
            "people of this workspace sign with their mail address, and your token has no verified one".into(),
        )
    })?;
    let identity = Identity::mail(mail).map_err(|e| Failure::Input(format!("the token's mail address: {e}")))?;
    Ok(Some((identity, Some(principal.issuer.clone()))))
}

/// Anybody by the token's subject: as it is, if it is a URI, else below the issuer's. Whose issuer is no URL, as that of API keys, has
/// a name that an administrator wrote: it stays with its pseudonym.
fn named_by_subject(principal: &Principal) -> Result<Chosen, Failure> {
    if principal.on_behalf_of.is_some() || check_issuer(&principal.issuer).is_err() {
        return Ok(None);
    }
    let subject = &principal.id;
    let is_uri = subject.contains("://") || subject.starts_with("urn:");
    let text = match is_uri {
        true => subject.clone(),
        false => {
            let escaped: String = url::form_urlencoded::byte_serialize(subject.as_bytes()).collect();
            format!("{}#{escaped}", principal.issuer.trim_end_matches('/'))
        }
    };
    // An issuer that is no URL makes no URI of its subjects.
    Ok(Identity::uri(&text).ok().map(|identity| (identity, Some(principal.issuer.clone()))))
}

/// Largest trusted root, list or file of certificates that a configuration may name.
const MAX_FILE: u64 = 4 << 20;

fn file(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

#[async_trait]
impl Upstream for Trust {
    fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// That an answer is made up stands in every event of its call.
    async fn remarks(&self, _: &Principal, _: &str, input: &Value) -> Remarks {
        let name = input.get("scenario").and_then(Value::as_str).filter(|_| self.scenarios);
        let mut members = Map::new();
        members.extend(name.and_then(Scenario::named).map(|played| ("simulated".to_owned(), json!(played.name()))));
        Remarks { subject: None, members }
    }

    async fn dispatch(&self, permit: Permit, exchange: &dyn Exchange) -> Result<ToolResult, DispatchError> {
        // A signature that was begun is finished; what only looks can be left.
        let name = permit.tool().tool.clone();
        let work = self.call(&name, permit.principal(), permit.arguments().get());
        let finishes = tools::WRITES.contains(&name.as_str());
        worked(permit.deadline(), exchange, finishes, async { work.await.map(Told::from) }).await
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
