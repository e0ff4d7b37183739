//! What administrators do: register and archive workspaces, grant and revoke roles, make and revoke API keys.
//!
//! An operator does so everywhere; who has the role `admin` does so in its own workspace, gives nobody the node's own roles, and
//! gives itself none at all. Each change is an event in the sequence of the workspace that it is about.

use std::collections::{BTreeMap, BTreeSet};

use countersign_domain::{
    EventDraft, EventType, Millis, Principal, PrincipalKind, Refusal, RefusalKind, WorkspaceName,
};
use countersign_ledger::Append;
use countersign_ledger::directory::{DirectoryKind, DirectoryRow};
use countersign_ledger::state::StateOp;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::approvals::{AUDITOR, OPERATOR};
use crate::directory::{ApiKeyFacts, GrantFacts, Network, WorkspaceFacts, new_api_key};
use crate::gate::{AppendFailure, Gate};
use crate::identity::claims::NODE_ROLES;
use crate::record;

/// Administers its own workspace.
pub const ADMIN: &str = "admin";
const MAX_WORKSPACES: u32 = 10_000;
const MAX_GRANTS: u32 = 100_000;
const MAX_API_KEYS: u32 = 20_000;
const MAX_NOTE_CHARS: usize = 200;
/// The most roles, scopes and networks of one API key.
const MAX_OF_KEY: usize = 50;

/// A workspace as administrators see it.
#[derive(Debug, Clone, Serialize)]
pub struct WorkspaceView {
    /// Its name.
    pub name: WorkspaceName,
    /// What people call it.
    pub title: String,
    /// `registered`, `archived`, or `open`: used without being registered.
    pub status: &'static str,
    /// When it was registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Millis>,
    /// When it was archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived: Option<Millis>,
}

/// A granted role as administrators see it.
#[derive(Debug, Clone, Serialize)]
pub struct GrantView {
    /// The workspace in which it counts.
    pub workspace: WorkspaceName,
    /// The role, who has it and who gave it.
    #[serde(flatten)]
    pub facts: GrantFacts,
    /// When.
    pub at: Millis,
    /// The event that records it.
    pub event: Uuid,
}

/// An API key as administrators see it.
#[derive(Debug, Clone, Serialize)]
pub struct ApiKeyView {
    /// Its id: the part of the key between the underscores.
    pub id: String,
    /// The workspace in which its principal acts.
    pub workspace: WorkspaceName,
    /// What is known of it. The stored digest of the secret is left out.
    #[serde(flatten)]
    pub facts: ApiKeyShown,
    /// When it was last used, to the minute or so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Millis>,
    /// The event that records its making.
    pub event: Uuid,
}

/// What people may see of an API key.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the same words as in ApiKeyFacts")]
pub struct ApiKeyShown {
    pub principal: String,
    pub kind: PrincipalKind,
    pub roles: BTreeSet<String>,
    pub scopes: BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
    pub networks: Vec<Network>,
    pub note: String,
    pub by: countersign_domain::principal::PrincipalRecord,
    pub created: Millis,
}

/// A role for somebody.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The workspace in which it counts.
    pub workspace: WorkspaceName,
    /// The subject's issuer.
    pub issuer: String,
    /// The subject.
    pub id: String,
    /// The role.
    pub role: String,
}

/// What an API key shall be.
#[derive(Debug, Clone)]
pub struct ApiKeyRequest {
    /// The workspace in which its principal acts.
    pub workspace: WorkspaceName,
    /// The principal's name.
    pub principal: String,
    /// `agent` or `service`.
    pub kind: PrincipalKind,
    /// Roles.
    pub roles: BTreeSet<String>,
    /// Scopes.
    pub scopes: BTreeSet<String>,
    /// When it stops working.
    pub expires: Option<Millis>,
    /// From where alone it works.
    pub networks: Vec<Network>,
    /// What people call it.
    pub note: String,
}

/// A key that was made: the only time that it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct NewApiKey {
    /// Its id.
    pub id: String,
    /// The key.
    pub key: String,
    /// The event that records it.
    pub event: Uuid,
}

fn is_operator(principal: &Principal) -> bool {
    principal.on_behalf_of.is_none() && principal.roles.contains(OPERATOR)
}

/// Refuses unless the caller administers the workspace.
fn administers(principal: &Principal, workspace: &WorkspaceName) -> Result<(), Refusal> {
    let own = principal.on_behalf_of.is_none() && principal.roles.contains(ADMIN) && principal.workspace == *workspace;
    if *workspace == WorkspaceName::node() {
        return Err(Refusal::new(RefusalKind::Forbidden, "_node is the node's own"));
    }
    if own || is_operator(principal) {
        return Ok(());
    }
    let detail = format!("this needs the role operator, or {ADMIN} in the workspace {workspace}");
    Err(Refusal::new(RefusalKind::Forbidden, detail))
}

/// The node's own roles come from operators alone.
fn may_give(principal: &Principal, roles: &BTreeSet<String>) -> Result<(), Refusal> {
    let kept = |role: &&String| NODE_ROLES.contains(&role.as_str());
    match roles.iter().find(kept).filter(|_| !is_operator(principal)) {
        Some(role) => Err(Refusal::new(RefusalKind::Forbidden, format!("only an operator gives the role {role}"))),
        None => Ok(()),
    }
}

fn named(what: &str, text: &str, longest: usize) -> Result<(), Refusal> {
    let good = !text.is_empty() && text.len() <= longest && !text.chars().any(char::is_control);
    let detail = || format!("{what}: 1 to {longest} bytes without control characters");
    if good { Ok(()) } else { Err(Refusal::new(RefusalKind::MalformedRequest, detail())) }
}

fn body(facts: &impl Serialize) -> Result<String, Refusal> {
    serde_json::to_string(facts).map_err(|error| {
        tracing::error!(%error, "a row of the directory cannot be written");
        Refusal::new(RefusalKind::Internal, "the row cannot be written")
    })
}

fn short(text: &str) -> String {
    text.chars().take(MAX_NOTE_CHARS).filter(|c| !c.is_control()).collect()
}

impl Gate {
    /// Whether this principal administers a workspace: an operator, or its own workspace's administrator.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`].
    pub fn require_administrator(&self, principal: &Principal, workspace: &WorkspaceName) -> Result<(), Refusal> {
        administers(principal, workspace)
    }

    /// Registers a workspace.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator; [`RefusalKind::AlreadyExists`].
    pub async fn create_workspace(
        &self,
        principal: &Principal,
        name: WorkspaceName,
        title: &str,
    ) -> Result<Uuid, Refusal> {
        self.require_operator(principal)?;
        if name == WorkspaceName::node() {
            return Err(Refusal::new(RefusalKind::Forbidden, "_node is the node's own"));
        }
        let facts = WorkspaceFacts { title: short(title), created: self.now(), archived: None };
        let draft = self.of_node(EventType::WorkspaceCreated, principal, &name).with("title", facts.title.as_str());
        let row = self.row(DirectoryKind::Workspace, &name, name.to_string(), body(&facts)?, draft.id);
        self.change(draft, principal, StateOp::DirectoryAdd { row, cap: MAX_WORKSPACES }).await
    }

    /// Archives a workspace: nobody acts in it any more, and what waited in it for approval is revoked. Its events stay. One that
    /// was never registered is registered with that.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator, and for its own workspace.
    pub async fn archive_workspace(
        &self,
        principal: &Principal,
        name: WorkspaceName,
        reason: &str,
    ) -> Result<Uuid, Refusal> {
        self.require_operator(principal)?;
        if [WorkspaceName::node(), principal.workspace.clone()].contains(&name) {
            let detail = "the node's own workspace, and the one that you act in, cannot be archived";
            return Err(Refusal::new(RefusalKind::Forbidden, detail));
        }
        let known = self.directory.load().workspaces.get(&name).cloned();
        let now = self.now();
        let draft = self.of_node(EventType::WorkspaceArchived, principal, &name).with("reason_given", short(reason));
        let facts = known.clone().unwrap_or(WorkspaceFacts { title: String::new(), created: now, archived: None });
        if facts.archived.is_some() {
            return Err(Refusal::new(RefusalKind::AlreadyExists, "the workspace is archived already"));
        }
        let facts = WorkspaceFacts { archived: Some(now), ..facts };
        let row = self.row(DirectoryKind::Workspace, &name, name.to_string(), body(&facts)?, draft.id);
        let op = match known {
            Some(_) => StateOp::DirectorySet { row, from: None },
            None => StateOp::DirectoryAdd { row, cap: MAX_WORKSPACES },
        };
        let event = self.change(draft, principal, op).await?;
        self.revoke_requests(|request| request.workspace == name).await?;
        Ok(event)
    }

    /// All workspaces for operators and auditors; everyone else sees its own.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub async fn workspaces(&self, principal: &Principal) -> Result<Vec<WorkspaceView>, Refusal> {
        let used = self.read(|r| r.workspaces()).await?;
        let known = self.directory.load_full();
        let all: BTreeSet<&WorkspaceName> = used.iter().chain(known.workspaces.keys()).collect();
        let staff =
            principal.on_behalf_of.is_none() && [OPERATOR, AUDITOR].iter().any(|role| principal.roles.contains(*role));
        let seen = all.into_iter().filter(|name| **name != WorkspaceName::node());
        let view = |name: &WorkspaceName| match known.workspaces.get(name) {
            Some(facts) => WorkspaceView {
                name: name.clone(),
                title: facts.title.clone(),
                status: if facts.archived.is_some() { "archived" } else { "registered" },
                created: Some(facts.created),
                archived: facts.archived,
            },
            None => WorkspaceView {
                name: name.clone(),
                title: String::new(),
                status: "open",
                created: None,
                archived: None,
            },
        };
        Ok(seen.filter(|name| staff || **name == principal.workspace).map(view).collect())
    }

    /// Grants a role.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller administers the workspace; for the node's own roles, and for a role of its own,
    /// unless it is an operator.
    pub async fn grant_role(&self, principal: &Principal, grant: Grant, reason: &str) -> Result<Uuid, Refusal> {
        administers(principal, &grant.workspace)?;
        may_give(principal, &[grant.role.clone()].into())?;
        check(&grant)?;
        let target = countersign_domain::principal::party_key(&grant.issuer, &grant.id);
        if principal.requester_keys().contains(&target) && !is_operator(principal) {
            return Err(Refusal::new(
                RefusalKind::Forbidden,
                "nobody gives roles to itself; another administrator has to",
            ));
        }
        let draft = self.about_grant(EventType::RoleGranted, principal, &grant, reason);
        let facts = GrantFacts {
            role: grant.role.clone(),
            issuer: grant.issuer.clone(),
            id: grant.id.clone(),
            by: principal.record(),
        };
        let row = self.row(DirectoryKind::Role, &grant.workspace, grant_name(&grant), body(&facts)?, draft.id);
        self.change(draft, principal, StateOp::DirectoryAdd { row, cap: MAX_GRANTS }).await
    }

    /// Takes a granted role back. Roles that tokens carry are the issuer's to take.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller administers the workspace; [`RefusalKind::NotFound`].
    pub async fn revoke_role(&self, principal: &Principal, grant: Grant, reason: &str) -> Result<Uuid, Refusal> {
        administers(principal, &grant.workspace)?;
        may_give(principal, &[grant.role.clone()].into())?;
        check(&grant)?;
        let draft = self.about_grant(EventType::RoleRevoked, principal, &grant, reason);
        let (kind, name) = (DirectoryKind::Role, grant_name(&grant));
        self.change(draft, principal, StateOp::DirectoryRemove { kind, workspace: grant.workspace, name }).await
    }

    /// The roles granted in a workspace.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller administers the workspace.
    pub async fn grants(&self, principal: &Principal, workspace: &WorkspaceName) -> Result<Vec<GrantView>, Refusal> {
        administers(principal, workspace)?;
        let rows = self.directory_rows(DirectoryKind::Role, workspace).await?;
        let view = |row: DirectoryRow| {
            let facts = serde_json::from_str(&row.body).ok()?;
            Some(GrantView { workspace: row.workspace, facts, at: row.at, event: row.event })
        };
        Ok(rows.into_iter().filter_map(view).collect())
    }

    /// Makes an API key. It is shown in the answer, and never again.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller administers the workspace, and for the node's own roles, and for
    /// administration, unless it is an operator; [`RefusalKind::MalformedRequest`].
    pub async fn create_api_key(&self, principal: &Principal, request: ApiKeyRequest) -> Result<NewApiKey, Refusal> {
        administers(principal, &request.workspace)?;
        may_give(principal, &request.roles)?;
        if request.roles.contains(ADMIN) && !is_operator(principal) {
            return Err(Refusal::new(RefusalKind::Forbidden, "only an operator makes keys that administer"));
        }
        self.directory
            .load()
            .admits(&request.workspace, self.settings.workspaces)
            .map_err(|why| Refusal::new(RefusalKind::Forbidden, why))?;
        check_key(&request, self.now())?;
        let (id, key, hash) = new_api_key();
        let facts = ApiKeyFacts {
            principal: request.principal,
            kind: request.kind,
            roles: request.roles,
            scopes: request.scopes,
            expires: request.expires,
            networks: request.networks,
            note: short(&request.note),
            by: principal.record(),
            created: self.now(),
            hash,
        };
        let draft = self.of_workspace(EventType::ApiKeyCreated, principal, &request.workspace).with(
            "api_key",
            json!({
                "id": id, "principal": facts.principal, "kind": facts.kind, "roles": facts.roles, "scopes": facts.scopes,
                "expires": facts.expires, "networks": facts.networks,
            }),
        );
        let row = self.row(DirectoryKind::ApiKey, &request.workspace, id.clone(), body(&facts)?, draft.id);
        let event = self.change(draft, principal, StateOp::DirectoryAdd { row, cap: MAX_API_KEYS }).await?;
        Ok(NewApiKey { id, key, event })
    }

    /// Revokes an API key, at once.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] if there is none of that id in a workspace that the caller administers.
    pub async fn revoke_api_key(&self, principal: &Principal, id: &str, reason: &str) -> Result<Uuid, Refusal> {
        let not_found = || Refusal::new(RefusalKind::NotFound, "there is no API key of that id in your workspace");
        let workspace = self.directory.load().workspace_of_key(id).cloned().ok_or_else(not_found)?;
        administers(principal, &workspace).map_err(|_| not_found())?;
        let draft = self
            .of_workspace(EventType::ApiKeyRevoked, principal, &workspace)
            .with("api_key", json!({ "id": id }))
            .with("reason_given", short(reason));
        let name = id.to_owned();
        self.change(draft, principal, StateOp::DirectoryRemove { kind: DirectoryKind::ApiKey, workspace, name }).await
    }

    /// The API keys of a workspace, without their secrets, which nobody has.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller administers the workspace.
    pub async fn api_keys(&self, principal: &Principal, workspace: &WorkspaceName) -> Result<Vec<ApiKeyView>, Refusal> {
        administers(principal, workspace)?;
        let rows = self.directory_rows(DirectoryKind::ApiKey, workspace).await?;
        let view = |row: DirectoryRow| {
            let facts: ApiKeyFacts = serde_json::from_str(&row.body).ok()?;
            let facts = ApiKeyShown {
                principal: facts.principal,
                kind: facts.kind,
                roles: facts.roles,
                scopes: facts.scopes,
                expires: facts.expires,
                networks: facts.networks,
                note: facts.note,
                by: facts.by,
                created: facts.created,
            };
            Some(ApiKeyView { id: row.name, workspace: row.workspace, facts, used: row.used, event: row.event })
        };
        Ok(rows.into_iter().filter_map(view).collect())
    }

    async fn directory_rows(
        &self,
        kind: DirectoryKind,
        workspace: &WorkspaceName,
    ) -> Result<Vec<DirectoryRow>, Refusal> {
        let mut rows = self.read(|r| r.directory()).await?.rows;
        rows.retain(|row| row.kind == kind && row.workspace == *workspace);
        Ok(rows)
    }

    /// An event about a workspace, in the sequence of another: whether a workspace exists is the node's own matter.
    fn of_node(&self, kind: EventType, principal: &Principal, workspace: &WorkspaceName) -> EventDraft {
        EventDraft::new(record::event_id(), WorkspaceName::node(), kind, self.now())
            .by(principal)
            .with("target", json!({ "workspace": workspace }))
    }

    fn of_workspace(&self, kind: EventType, principal: &Principal, workspace: &WorkspaceName) -> EventDraft {
        EventDraft::new(record::event_id(), workspace.clone(), kind, self.now()).by(principal)
    }

    fn about_grant(&self, kind: EventType, principal: &Principal, grant: &Grant, reason: &str) -> EventDraft {
        self.of_workspace(kind, principal, &grant.workspace)
            .with("role", grant.role.as_str())
            .with("granted_to", json!(BTreeMap::from([("issuer", &grant.issuer), ("id", &grant.id)])))
            .with("reason_given", short(reason))
    }

    fn row(
        &self,
        kind: DirectoryKind,
        workspace: &WorkspaceName,
        name: String,
        body: String,
        event: Uuid,
    ) -> DirectoryRow {
        DirectoryRow { kind, workspace: workspace.clone(), name, body, at: self.now(), event, used: None }
    }

    async fn change(&self, draft: EventDraft, principal: &Principal, op: StateOp) -> Result<Uuid, Refusal> {
        let id = draft.id;
        let entry = record::entry(draft, None, Some(principal.id.clone()), None)?;
        match self.append(Append { events: vec![entry], ops: vec![op], ..Append::default() }).await {
            Ok(_) => self.reload_directory().await.map(|()| id),
            Err(AppendFailure::Conflict(conflict)) => Err(crate::conflicts::refusal(conflict)),
            Err(AppendFailure::Refused(refusal)) => Err(refusal),
        }
    }
}

fn grant_name(grant: &Grant) -> String {
    // Neither part can hold a line break.
    format!("{}\n{}", grant.role, countersign_domain::principal::party_key(&grant.issuer, &grant.id))
}

fn check(grant: &Grant) -> Result<(), Refusal> {
    named("role", &grant.role, 64)?;
    party(&grant.issuer, &grant.id)
}

/// Refuses what cannot be an issuer's subject.
pub(crate) fn party(issuer: &str, id: &str) -> Result<(), Refusal> {
    named("issuer", issuer, 512)?;
    named("id", id, 256)
}

fn check_key(request: &ApiKeyRequest, now: Millis) -> Result<(), Refusal> {
    named("principal", &request.principal, 256)?;
    let malformed = |detail: &str| Err(Refusal::new(RefusalKind::MalformedRequest, detail));
    if !matches!(request.kind, PrincipalKind::Agent | PrincipalKind::Service) {
        return malformed("kind: agent or service; a person signs in");
    }
    if [request.roles.len(), request.scopes.len(), request.networks.len()].iter().any(|many| *many > MAX_OF_KEY) {
        return malformed("at most 50 roles, scopes and networks each");
    }
    for name in request.roles.iter().chain(&request.scopes) {
        named("roles and scopes", name, 64)?;
    }
    if request.expires.is_some_and(|expires| expires <= now) {
        return malformed("expires: in the past");
    }
    Ok(())
}
