//! Administration: what operators and auditors do. The gate checks the roles and records each change as an event.

use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use countersign_catalog::scan::Rule;
use countersign_domain::{Principal, PrincipalKind, Refusal, RefusalKind, ToolRef, UpstreamName};
use countersign_gate::policies::Reloaded;
use countersign_ledger::state::FreezeTarget;
use countersign_proof::digest::Digest;
use http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::request::{Caller, parsed, read_body};
use super::tools::tool_named;
use super::{Answered, json};
use crate::app::{App, VERSION};

/// The routes, all under `/admin`.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/admin/status", get(status))
        .route("/admin/tools", get(tools))
        .route("/admin/tools/{name}/diff", get(diff))
        .route("/admin/tools/{name}/accept", post(accept))
        .route("/admin/upstreams/{upstream}/refresh", post(refresh))
        .route("/admin/freeze", post(freeze))
        .route("/admin/unfreeze", post(unfreeze))
        .route("/admin/freezes", get(freezes))
        .route("/admin/breakers", get(breakers))
        .route("/admin/breakers/reset", post(reset_breaker))
        .route("/admin/budgets", get(budgets))
        .route("/admin/unknown", get(unknown))
        .route("/admin/unknown/{call}/resolve", post(resolve))
        .route("/admin/erase", post(erase))
        .route("/admin/policy", get(policy))
        .route("/admin/policy/reload", post(reload))
        .route("/admin/policy/explain", post(explain))
        .route("/admin/backup", post(backup))
        .route("/admin/fsck", post(fsck))
        .route("/admin/export", post(export))
}

/// A JSON body of ours: unknown and duplicate members are refused.
pub(super) async fn body_of<T: DeserializeOwned>(app: &App, headers: &HeaderMap, body: Body) -> Result<T, Refusal> {
    let bytes = read_body(app, headers, body).await?;
    // serde would also take a structure's members from an array.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::new(RefusalKind::MalformedRequest, "the body must be a JSON object"));
    }
    let wrong = |error| Refusal::new(RefusalKind::MalformedRequest, format!("the body: {error}"));
    serde_json::from_slice(&bytes).map_err(wrong)
}

fn event(id: Uuid) -> Answered {
    json(&json!({ "event": id, "receipt": id }))
}

async fn status(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    // Reports are for operators and auditors; asking for them first is the check.
    let reports = app.gate.tool_reports(&caller.principal).await?;
    let waiting: Vec<&str> =
        reports.iter().filter(|r| matches!(r.status, "new" | "changed")).map(|r| r.name.as_str()).collect();
    let upstreams = app.gate.registry().upstreams().map(|(manifest, upstream)| {
        let status = serde_json::to_value(upstream.status()).unwrap_or(Value::Null);
        json!({ "name": manifest.upstream, "status": status })
    });
    let refusals = refusals(&app).await?;
    let head = app.ledger.head();
    let stats = app.ledger.stats();
    let policies = app.gate.policies();
    json(&json!({
        "version": VERSION,
        "pid": std::process::id(),
        "uptime_seconds": app.started.elapsed().as_secs(),
        "url": app.config.url(),
        "log": { "origin": head.origin, "size": head.size, "shard": head.shard },
        "ledger": {
            "groups": stats.groups, "events": stats.events, "queued": stats.queued, "conflicts": stats.conflicts,
            "failures": stats.failures, "last_group_us": stats.last_group_us, "undecided": stats.undecided,
            "stale": stats.stale, "failing": stats.failing,
        },
        "calls_in_flight": app.gate.in_flight(),
        "shared_limits": app.gate.sharing(),
        "refusals": refusals,
        "upstreams": upstreams.collect::<Vec<_>>(),
        "tools": { "total": reports.len(), "waiting_for_review": waiting },
        "policy": {
            "version": policies.current().map(|p| p.version().to_string()),
            "problems": policies.problems().iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "data_dir": app.config.data_dir, "config_file": app.config.config_file,
        "development_issuer": app.config.development_issuer,
    }))
}

/// Refusals before authentication in the last 24 hours, by surface and cause.
async fn refusals(app: &App) -> Result<Vec<Value>, Refusal> {
    // What was only counted so far is written down first, so that the numbers are of now.
    app.gate.flush_aggregates().await;
    let since = (countersign_ledger::handle::system_clock() / 60_000).saturating_sub(24 * 60);
    let rows = app.ledger.read(move |reader| reader.refusals(since)).await.map_err(super::log::away)?;
    let mut sums = std::collections::BTreeMap::<String, u64>::new();
    for (_, name, count) in rows {
        *sums.entry(name).or_default() += count;
    }
    Ok(sums.into_iter().map(|(name, count)| json!({ "name": name, "count": count })).collect())
}

async fn tools(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    json(&app.gate.tool_reports(&caller.principal).await?)
}

async fn diff(State(app): State<Arc<App>>, caller: Caller, Path(name): Path<String>) -> Answered {
    let tool = tool_named(&name)?;
    let reports = app.gate.tool_reports(&caller.principal).await?;
    let report = reports.into_iter().find(|report| report.name == tool.to_string());
    let report = report.ok_or_else(|| Refusal::new(RefusalKind::UnknownTool, format!("there is no tool {tool}")))?;
    let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "{}".to_owned(), Value::to_string);
    let changes = match &report.proposal {
        None => None,
        Some(_) => {
            Some(countersign_catalog::diff(&text(&report.definition), &text(&report.proposal)).map_err(|error| {
                Refusal::new(RefusalKind::Internal, format!("the stored definitions cannot be compared: {error}"))
            })?)
        }
    };
    json(&json!({
        "name": report.name, "status": report.status, "accepted": report.accepted, "proposed": report.proposed,
        "findings": report.findings, "scan": report.scan, "despite": report.despite,
        "text": changes.as_ref().map(ToString::to_string),
        "changes": changes,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Accept {
    pin: Digest,
    #[serde(default)]
    despite: Vec<Rule>,
}

async fn accept(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let tool = tool_named(&name)?;
    let Accept { pin, despite } = body_of(&app, &headers, body).await?;
    event(app.gate.accept_tool(&caller.principal, &tool, &pin, &despite).await?)
}

async fn refresh(State(app): State<Arc<App>>, caller: Caller, Path(name): Path<String>) -> Answered {
    let upstream: UpstreamName = parsed("upstream", &name, "an upstream's name")?;
    app.gate.refresh_upstream(&caller.principal, &upstream).await?;
    json(&json!({ "refreshed": upstream }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Freeze {
    kind: String,
    name: String,
    #[serde(default)]
    reason: String,
}

impl Freeze {
    fn target(&self) -> Result<FreezeTarget, Refusal> {
        let name = &self.name;
        Ok(match self.kind.as_str() {
            "principal" if !name.is_empty() => FreezeTarget::Principal(name.clone()),
            "tool" => FreezeTarget::Tool(parsed("name", name, "upstream:tool")?),
            "upstream" => FreezeTarget::Upstream(parsed("name", name, "an upstream's name")?),
            "workspace" => FreezeTarget::Workspace(parsed("name", name, "a workspace's name")?),
            _ => {
                let detail = "kind: expected principal, tool, upstream or workspace, with a name";
                return Err(Refusal::new(RefusalKind::MalformedRequest, detail));
            }
        })
    }
}

async fn freeze(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let request: Freeze = body_of(&app, &headers, body).await?;
    event(app.gate.freeze(&caller.principal, request.target()?, &request.reason).await?)
}

async fn unfreeze(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let request: Freeze = body_of(&app, &headers, body).await?;
    event(app.gate.unfreeze(&caller.principal, request.target()?, &request.reason).await?)
}

async fn freezes(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    json(&app.gate.freezes(&caller.principal).await?)
}

async fn breakers(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    json(&app.gate.breakers(&caller.principal)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetBreaker {
    name: String,
    #[serde(default)]
    reason: String,
}

async fn reset_breaker(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let request: ResetBreaker = body_of(&app, &headers, body).await?;
    event(app.gate.reset_breaker(&caller.principal, &request.name, &request.reason).await?)
}

async fn budgets(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    json(&app.gate.budgets(&caller.principal).await?)
}

async fn unknown(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    json(&app.gate.unknown_calls(&caller.principal).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolve {
    outcome: Found,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Found {
    Executed,
    NotExecuted,
}

async fn resolve(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(call): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let call = parsed("call", &call, "a UUID")?;
    let request: Resolve = body_of(&app, &headers, body).await?;
    let executed = request.outcome == Found::Executed;
    event(app.gate.resolve_unknown(&caller.principal, call, executed, &request.note).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Erase {
    event: Uuid,
    reason: String,
}

async fn erase(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let request: Erase = body_of(&app, &headers, body).await?;
    event(app.gate.erase(&caller.principal, request.event, &request.reason).await?)
}

async fn policy(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    app.gate.require_operator(&caller.principal)?;
    let policies = app.gate.policies();
    json(&json!({
        "directory": policies.directory(),
        "version": policies.current().map(|p| p.version().to_string()),
        "problems": policies.problems().iter().map(ToString::to_string).collect::<Vec<_>>(),
    }))
}

async fn reload(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    app.gate.require_operator(&caller.principal)?;
    let reloaded = app.gate.reload_policies().await;
    let problems: Vec<String> = match &reloaded {
        Reloaded::Refused(problems) => problems.iter().map(ToString::to_string).collect(),
        Reloaded::Unchanged | Reloaded::InForce(_) => Vec::new(),
    };
    let status = match &reloaded {
        Reloaded::Unchanged => "unchanged",
        Reloaded::InForce(_) => "in-force",
        Reloaded::Refused(_) => "refused",
    };
    let version = app.gate.policies().current().map(|p| p.version().to_string());
    json(&json!({ "status": status, "version": version, "problems": problems }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    principal: Subject,
    tool: String,
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    id: String,
    #[serde(default = "agent")]
    kind: PrincipalKind,
    #[serde(default)]
    on_behalf_of: Option<String>,
    #[serde(default)]
    issuer: Option<String>,
    #[serde(default)]
    roles: std::collections::BTreeSet<String>,
    #[serde(default)]
    scopes: std::collections::BTreeSet<String>,
    #[serde(default)]
    workspace: Option<countersign_domain::WorkspaceName>,
}

fn agent() -> PrincipalKind {
    PrincipalKind::Agent
}

async fn explain(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let request: Explain = body_of(&app, &headers, body).await?;
    let tool: ToolRef = tool_named(&request.tool)?;
    let subject = Principal {
        kind: request.principal.kind,
        id: request.principal.id,
        issuer: request.principal.issuer.unwrap_or_else(|| caller.principal.issuer.clone()),
        on_behalf_of: request.principal.on_behalf_of,
        workspace: request.principal.workspace.unwrap_or_else(|| caller.principal.workspace.clone()),
        roles: request.principal.roles,
        scopes: request.principal.scopes,
        development: caller.principal.development,
        attributes: std::collections::BTreeMap::new(),
    };
    let arguments = request.arguments.as_ref().map_or("{}", |raw| raw.get());
    let explanation = app.gate.explain(&caller.principal, &subject, &tool, arguments.as_bytes()).await?;
    json(&json!({ "text": explanation.to_string(), "explanation": explanation }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    directory: PathBuf,
}

/// Paths are the node's own: absolute, without `..`, so that what an operator reads in the log is where it went.
fn own_path(path: PathBuf) -> Result<PathBuf, Refusal> {
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain {
        return Ok(path);
    }
    Err(Refusal::new(RefusalKind::MalformedRequest, "give an absolute path on the node's machine, without . and .."))
}

fn failed(what: &'static str, path: &FilePath, error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(what, path = %path.display(), %error, "administration failed");
    // The caller administers this machine: the reason is its to know.
    Refusal::new(RefusalKind::LedgerUnavailable, format!("{what} to {} failed: {error}", path.display()))
}

async fn backup(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    app.gate.require_operator(&caller.principal)?;
    let request: Backup = body_of(&app, &headers, body).await?;
    let path = own_path(request.path)?;
    let done = crate::node::backup(&app, path.clone()).await.map_err(|error| failed("backup", &path, &error))?;
    json(&done)
}

async fn fsck(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    app.gate.require_operator(&caller.principal)?;
    let report = crate::node::fsck(&app).await.map_err(super::log::away)?;
    json(&report)
}

async fn export(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    app.gate.require_operator(&caller.principal)?;
    let request: Export = body_of(&app, &headers, body).await?;
    let directory = own_path(request.directory)?;
    let done = crate::node::export(&app, directory.clone()).await;
    json(&done.map_err(|error| failed("export", &directory, &error))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_written_to() {
        assert!(own_path("/var/backups/a.db".into()).is_ok());
        for path in ["backup.db", "./backup.db", "/var/../etc/x", ""] {
            assert!(own_path(path.into()).is_err(), "{path}");
        }
    }

    #[test]
    fn a_freeze_names_something() {
        let target =
            |kind: &str, name: &str| Freeze { kind: kind.into(), name: name.into(), reason: String::new() }.target();
        assert!(matches!(target("tool", "ads:x"), Ok(FreezeTarget::Tool(_))));
        assert!(matches!(target("principal", "bot"), Ok(FreezeTarget::Principal(_))));
        for (kind, name) in [("tool", "ads"), ("principal", ""), ("upstream", "A b"), ("planet", "x")] {
            assert!(target(kind, name).is_err(), "{kind} {name}");
        }
    }
}
