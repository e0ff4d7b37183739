//! Prompts, resources and resource templates: listing them, and finding which upstream a name or URI means.
//!
//! Prompts are named like tools. A resource keeps its URI wherever that means one upstream; where it would not, it is listed
//! as `UPSTREAM+URI`, whose scheme says where it lives, and is read by that.

use bytes::Bytes;
use countersign_catalog::Kind;
use countersign_domain::operation::{COMPLETE, PROMPT_PREFIX, READ_RESOURCE, RESOURCE_PREFIX, SUBSCRIBE};
use countersign_domain::{Principal, ToolRef, UpstreamName};
use countersign_gate::api::Offered;
use serde_json::{Map, Value};

use super::Scope;
use super::catalog::{decode_cursor, page};
use super::era::Era;
use super::message::{INVALID_PARAMS, Params, RESOURCE_NOT_FOUND, RpcError};
use crate::app::App;
use crate::rawjson::{self, ObjectWriter, write_string};

/// A page of `prompts/list`, `resources/list` or `resources/templates/list`.
///
/// # Errors
/// If the cursor is not one of ours.
pub(crate) fn list(
    app: &App,
    principal: &Principal,
    scope: &Scope,
    kind: Kind,
    cursor: Option<&str>,
    era: Era,
) -> Result<Vec<u8>, RpcError> {
    let after = cursor.map(decode_cursor).transpose()?;
    let mut all: Vec<(String, Offered)> =
        offered(app, principal, scope, kind).into_iter().map(|offer| (offer.name.to_string(), offer)).collect();
    // The cursor is the last key of a page, so the keys themselves are what is in order.
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let rest = all.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
    let rendered = rest.map(|(key, offer)| (key, Bytes::from(render(app, principal, scope, kind, &offer))));
    let member = match kind {
        Kind::Prompt => "prompts",
        Kind::Resource => "resources",
        Kind::Template => "resourceTemplates",
        Kind::Tool => "tools",
    };
    Ok(page(member, rendered, era))
}

/// What of this kind the caller may see at this endpoint.
pub(crate) fn offered(app: &App, principal: &Principal, scope: &Scope, kind: Kind) -> Vec<Offered> {
    let mut offers = app.gate.offered(kind, principal);
    if let Scope::Upstream(upstream) = scope {
        offers.retain(|offer| offer.name.upstream == *upstream);
    }
    offers
}

fn render(app: &App, principal: &Principal, scope: &Scope, kind: Kind, offer: &Offered) -> Vec<u8> {
    let (member, name) = match kind {
        Kind::Tool | Kind::Prompt => ("name", prompt_name(scope, offer)),
        Kind::Resource => ("uri", shown_uri(app, principal, scope, &offer.name)),
        Kind::Template => ("uriTemplate", shown_template(app, principal, scope, &offer.name)),
    };
    let mut out = ObjectWriter::new(Vec::with_capacity(512));
    write_string(out.name(member), &name);
    let empty = Map::new();
    for (other, value) in offer.definition.as_object().unwrap_or(&empty) {
        if other != member && other != "_meta" {
            out.member(other, value.to_string().as_bytes());
        }
    }
    let theirs = offer.definition.get("_meta").and_then(Value::as_object).unwrap_or(&empty);
    let mut meta: Map<String, Value> = theirs.clone();
    meta.retain(|name, _| !name.starts_with("dev.countersign/"));
    meta.insert("dev.countersign/pin".to_owned(), offer.pin.to_string().into());
    meta.insert("dev.countersign/upstream".to_owned(), offer.name.upstream.as_str().into());
    out.member("_meta", Value::Object(meta).to_string().as_bytes());
    out.finish()
}

fn own<'a>(name: &'a ToolRef, prefix: &str) -> &'a str {
    name.tool.strip_prefix(prefix).unwrap_or(&name.tool)
}

fn prompt_name(scope: &Scope, offer: &Offered) -> String {
    match (scope, &offer.mcp_name) {
        (Scope::All, Some(name)) => name.clone(),
        (Scope::All, None) | (Scope::Upstream(_), _) => own(&offer.name, PROMPT_PREFIX).to_owned(),
    }
}

/// Under which URI a resource is listed: its own, if reading that leads to it.
fn shown_uri(app: &App, principal: &Principal, scope: &Scope, name: &ToolRef) -> String {
    let uri = own(name, RESOURCE_PREFIX);
    match scope {
        Scope::Upstream(_) => uri.to_owned(),
        Scope::All => match home(app, principal, uri) {
            Ok((upstream, found)) if upstream == name.upstream && found == uri => uri.to_owned(),
            Ok(_) | Err(_) => format!("{}+{uri}", name.upstream),
        },
    }
}

/// A template keeps its form unless another upstream has the same one.
fn shown_template(app: &App, principal: &Principal, scope: &Scope, name: &ToolRef) -> String {
    let form = own(name, RESOURCE_PREFIX);
    let others = app.gate.offered(Kind::Template, principal);
    let shared = others.iter().any(|other| other.name.tool == name.tool && other.name.upstream != name.upstream);
    if *scope == Scope::All && shared { format!("{}+{form}", name.upstream) } else { form.to_owned() }
}

/// Why a URI does not lead to one upstream.
enum Lost {
    Nowhere,
    Several(Vec<UpstreamName>),
}

/// Where a URI that is read at `/mcp` leads: to the upstream that it names, or to the only one that has it.
fn home(app: &App, principal: &Principal, uri: &str) -> Result<(UpstreamName, String), Lost> {
    if let Some((name, rest)) = uri.split_once('+')
        && let Ok(upstream) = name.parse::<UpstreamName>()
        && app.upstreams.contains(&upstream)
        && (app.gate.has_resource(&upstream, rest, principal) || app.gate.reads_unlisted(&upstream, principal))
    {
        return Ok((upstream, rest.to_owned()));
    }
    let having = |test: &dyn Fn(&UpstreamName) -> bool| -> Vec<UpstreamName> {
        app.upstreams.iter().filter(|upstream| test(upstream)).cloned().collect()
    };
    let mut found = having(&|upstream| app.gate.has_resource(upstream, uri, principal));
    if found.is_empty() {
        found = having(&|upstream| app.gate.reads_unlisted(upstream, principal));
    }
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok((only, uri.to_owned())),
        (Some(last), false) => {
            found.push(last);
            Err(Lost::Several(found))
        }
        (None, _) => Err(Lost::Nowhere),
    }
}

/// The upstream and its own URI for a URI at this endpoint.
///
/// # Errors
/// If it leads nowhere, or to several.
pub(crate) fn locate(
    app: &App,
    principal: &Principal,
    scope: &Scope,
    uri: &str,
    era: Era,
) -> Result<(UpstreamName, String), RpcError> {
    let shown: String = uri.chars().take(200).filter(|c| !c.is_control()).collect();
    let found = match scope {
        Scope::Upstream(upstream) => Ok((upstream.clone(), uri.to_owned())),
        Scope::All => home(app, principal, uri),
    };
    found.map_err(|lost| match lost {
        Lost::Nowhere => not_found(&format!("Resource not found: {shown}"), era),
        Lost::Several(upstreams) => {
            let names: Vec<String> = upstreams.iter().map(|upstream| format!("{upstream}+{shown}")).collect();
            RpcError::new(
                INVALID_PARAMS,
                format!("Several upstreams have this resource; read one of {}", names.join(", ")),
            )
        }
    })
}

/// The error of the era for a resource that is not there.
pub(crate) fn not_found(message: &str, era: Era) -> RpcError {
    let code = if era == Era::Modern { INVALID_PARAMS } else { RESOURCE_NOT_FOUND };
    RpcError::new(code, message)
}

/// `prompts/get`: the prompt's operation.
///
/// # Errors
/// If there is none of this name.
pub(crate) fn prompt(app: &App, scope: &Scope, name: &str) -> Result<ToolRef, RpcError> {
    let found = match scope {
        Scope::All => app.gate.prompt_by_mcp_name(name),
        Scope::Upstream(upstream) => format!("{upstream}:{PROMPT_PREFIX}{name}").parse().ok(),
    };
    let shown: String = name.chars().take(80).filter(|c| !c.is_control()).collect();
    found.ok_or_else(|| RpcError::new(INVALID_PARAMS, format!("Unknown prompt: {shown}")))
}

/// `resources/read` or `resources/subscribe`: the operation and its input.
pub(crate) fn resource(upstream: UpstreamName, uri: &str, subscribe: bool) -> (ToolRef, Vec<u8>) {
    let tool = if subscribe { SUBSCRIBE } else { READ_RESOURCE };
    let mut input = ObjectWriter::new(Vec::with_capacity(uri.len() + 16));
    write_string(input.name("uri"), uri);
    (ToolRef { upstream, tool: tool.to_owned() }, input.finish())
}

/// `completion/complete`: the operation and its input, the reference under the upstream's own name.
///
/// # Errors
/// If the reference leads nowhere, or members are missing.
pub(crate) fn completion(
    app: &App,
    principal: &Principal,
    scope: &Scope,
    params: &Params<'_>,
    era: Era,
) -> Result<(ToolRef, Vec<u8>), RpcError> {
    let (Some(reference), Some(argument)) = (params.reference, params.argument) else {
        return Err(RpcError::new(INVALID_PARAMS, "completion/complete needs a ref and an argument"));
    };
    let parsed: Value = serde_json::from_str(reference.get()).unwrap_or_default();
    let text = |name: &str| parsed.get(name).and_then(Value::as_str).unwrap_or_default();
    let (member, upstream, name) = match text("type") {
        "ref/prompt" => {
            let tool = prompt(app, scope, text("name"))?;
            let name = own(&tool, PROMPT_PREFIX).to_owned();
            ("name", tool.upstream, name)
        }
        "ref/resource" => {
            let (upstream, uri) = template(app, principal, scope, text("uri"), era)?;
            ("uri", upstream, uri)
        }
        _ => return Err(RpcError::new(INVALID_PARAMS, "a ref's type is ref/prompt or ref/resource")),
    };
    let members = rawjson::members(reference.get()).map_err(|_| RpcError::new(INVALID_PARAMS, "a ref is an object"))?;
    let mut translated = ObjectWriter::new(Vec::with_capacity(128));
    write_string(translated.name(member), &name);
    for (other, value) in members.iter().filter(|(other, _)| other != member) {
        translated.member(other, value.get().as_bytes());
    }
    let mut input = ObjectWriter::new(Vec::with_capacity(256));
    input.member("ref", &translated.finish());
    input.member("argument", argument.get().as_bytes());
    if let Some(context) = params.context {
        input.member("context", context.get().as_bytes());
    }
    Ok((ToolRef { upstream, tool: COMPLETE.to_owned() }, input.finish()))
}

/// A template by the form under which it is listed, or a single resource.
fn template(
    app: &App,
    principal: &Principal,
    scope: &Scope,
    form: &str,
    era: Era,
) -> Result<(UpstreamName, String), RpcError> {
    if !form.contains('{') {
        return locate(app, principal, scope, form, era);
    }
    let offers = offered(app, principal, scope, Kind::Template);
    let found = offers.iter().find(|offer| shown_template(app, principal, scope, &offer.name) == form);
    let found = found.map(|offer| (offer.name.upstream.clone(), own(&offer.name, RESOURCE_PREFIX).to_owned()));
    found.ok_or_else(|| not_found("there is no such resource template", era))
}
