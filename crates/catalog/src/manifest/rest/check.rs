//! What only the whole manifest of a REST upstream shows to be wrong.

use std::collections::BTreeMap;

use countersign_domain::Effect;
use serde_json::Value;

use super::definition::each_reference;
use super::{BodyFormat, BodyKind, MAX_RESPONSE_BYTES, PathTemplate, Place, RestMethod, RestRequest, RestTransport};
use crate::definition::Definition;
use crate::manifest::credential::{Credential, CredentialPlace};
use crate::manifest::transport::{Sender, check_header};
use crate::manifest::{Manifest, Transport};
use crate::names::confusable_key;

/// Most arguments of one tool.
const MAX_ARGUMENTS: usize = 200;
/// Most statuses in one list, and most headers that are passed on.
const MAX_LIST: usize = 50;
/// Headers that a caller of a tool never fills: they carry credentials, or say where a request came from.
const NOT_FOR_CALLERS: &[&str] =
    &["authorization", "cookie", "forwarded", "origin", "proxy-authorization", "set-cookie", "via", "x-real-ip"];

/// Everything that is wrong with the requests of a manifest, the first of it.
///
/// # Errors
/// In words, naming the tool.
pub(in crate::manifest) fn check(manifest: &Manifest) -> Result<(), String> {
    let Transport::Rest(transport) = &manifest.transport else {
        let named = manifest.tools.iter().find(|(_, entry)| entry.request.is_some());
        return named.map_or(Ok(()), |(name, _)| Err(format!("{name}: `request` belongs to `type: rest`")));
    };
    check_schemas(&transport.schemas)?;
    let mut alike: BTreeMap<String, &str> = BTreeMap::new();
    for (name, entry) in &manifest.tools {
        let at = |why: String| format!("{name}: {why}");
        let request =
            entry.request.as_deref().ok_or_else(|| at("a tool of a REST upstream needs a `request`".into()))?;
        check_request(request, transport).map_err(at)?;
        let changes = matches!(request.method, RestMethod::Put | RestMethod::Patch | RestMethod::Delete);
        if entry.effect == Some(Effect::Read) && changes {
            return Err(at(format!("{} is never `effect: read`", request.method.as_str())));
        }
        if let Some(other) = alike.insert(confusable_key(name), name) {
            return Err(at(format!("its name looks like that of {other}")));
        }
    }
    for definition in manifest.rest_definitions().unwrap_or_default() {
        let name = definition["name"].as_str().unwrap_or_default();
        Definition::parse(&definition.to_string()).map_err(|why| format!("{name}: {why}"))?;
        for schema in [definition.get("inputSchema"), definition.get("outputSchema")].into_iter().flatten() {
            jsonschema::validator_for(schema).map_err(|why| format!("{name}: its schema cannot be used: {why}"))?;
        }
    }
    Ok(())
}

fn check_request(request: &RestRequest, transport: &RestTransport) -> Result<(), String> {
    let template = PathTemplate::parse(&request.path)?;
    check_arguments(request, &template)?;
    check_body(request)?;
    for name in request.headers.keys() {
        check_header(name, Sender::Rest)?;
    }
    if let Some(name) = &request.idempotency_header {
        check_header(name, Sender::Rest)?;
    }
    if let Some(bad) = request.headers.iter().find(|(_, v)| !v.chars().all(|c| c == ' ' || c.is_ascii_graphic())) {
        return Err(format!("the value of the header {} cannot be sent", bad.0));
    }
    check_response(request)?;
    if let Some(Credential::Static(fixed)) = transport.credential.as_deref()
        && let (CredentialPlace::Query, Some(name)) = (fixed.place, &fixed.name)
    {
        let argument = request.arguments.iter().any(|(own, a)| a.place == Place::Query && a.wire_name(own) == name);
        if argument || request.query.contains_key(name) {
            return Err(format!("the query parameter {name} carries the credential"));
        }
    }
    let schemas = request.arguments.values().map(|a| &a.schema).chain(request.response.schema.as_ref());
    schemas.into_iter().try_for_each(|schema| check_schema(schema, &transport.schemas))
}

fn check_arguments(request: &RestRequest, template: &PathTemplate) -> Result<(), String> {
    if request.arguments.len() > MAX_ARGUMENTS {
        return Err(format!("more than {MAX_ARGUMENTS} arguments"));
    }
    let places: Vec<&str> = template.places().collect();
    let mut taken: Vec<(Place, String)> = Vec::new();
    for (own, argument) in &request.arguments {
        let wire = argument.wire_name(own);
        if own.is_empty() || wire.is_empty() || own.chars().chain(wire.chars()).any(char::is_control) {
            return Err(format!("the argument {own:?} has no usable name"));
        }
        match argument.place {
            Place::Path if !places.contains(&wire) => {
                return Err(format!("the path has no {{{wire}}} for the argument {own}"));
            }
            Place::Header => {
                check_header(wire, Sender::Rest)?;
                let lower = wire.to_ascii_lowercase();
                if NOT_FOR_CALLERS.contains(&lower.as_str()) || lower.starts_with("x-forwarded-") {
                    return Err(format!("the header {wire} is not for callers to fill; see docs/credentials.md"));
                }
            }
            Place::Path | Place::Query | Place::Body | Place::WholeBody => {}
        }
        let fixed = match argument.place {
            Place::Query => request.query.contains_key(wire),
            Place::Header => {
                let fixed = request.headers.keys().chain(request.idempotency_header.as_ref());
                fixed.into_iter().any(|name| name.eq_ignore_ascii_case(wire))
            }
            Place::Path | Place::Body | Place::WholeBody => false,
        };
        let slot = match argument.place {
            Place::Header => (Place::Header, wire.to_ascii_lowercase()),
            place => (place, wire.to_owned()),
        };
        if fixed || taken.contains(&slot) {
            return Err(format!("the argument {own} goes where something else goes already"));
        }
        taken.push(slot);
    }
    let missing = places.iter().find(|place| !taken.contains(&(Place::Path, (**place).to_owned())));
    missing.map_or(Ok(()), |place| Err(format!("no argument `in: path` fills {{{place}}}")))
}

fn check_body(request: &RestRequest) -> Result<(), String> {
    let count = |place| request.arguments.values().filter(|a| a.place == place).count();
    let (members, whole) = (count(Place::Body), count(Place::WholeBody));
    if whole > 1 || (whole == 1 && members > 0) {
        return Err("an argument `in: whole_body` is the whole body; nothing else can go there".to_owned());
    }
    if members + whole > 0 && request.method.is_safe() {
        return Err(format!("{} has no body", request.method.as_str()));
    }
    match request.body {
        BodyFormat::Form if whole > 0 => Err("a form is made of arguments `in: body`".to_owned()),
        BodyFormat::Text if members > 0 => Err("a text body is one argument `in: whole_body`".to_owned()),
        BodyFormat::Json | BodyFormat::Form | BodyFormat::Text => Ok(()),
    }
}

fn check_response(request: &RestRequest) -> Result<(), String> {
    let response = &request.response;
    if response.max_bytes == 0 || response.max_bytes > MAX_RESPONSE_BYTES {
        return Err(format!("`max_bytes` must be 1 to {MAX_RESPONSE_BYTES}"));
    }
    if request.expect.len().max(request.not_done.len()).max(response.headers.len()) > MAX_LIST {
        return Err(format!("a list has more than {MAX_LIST} entries"));
    }
    if let Some(wrong) = request.expect.iter().find(|s| !(200..=499).contains(*s)) {
        return Err(format!("{wrong} cannot mean success"));
    }
    if let Some(wrong) = request.not_done.iter().find(|s| !(500..=599).contains(*s) && **s != 408) {
        return Err(format!("`not_done` takes statuses from 500 and 408, not {wrong}"));
    }
    if let Some(wrong) = response.headers.iter().find(|name| name.eq_ignore_ascii_case("set-cookie")) {
        return Err(format!("{wrong} is never passed on"));
    }
    if response.kind != BodyKind::Json && (response.select.is_some() || response.schema.is_some()) {
        return Err("`select` and `schema` need `as: json`".to_owned());
    }
    if response.schema.is_some() && request.expect.iter().any(|status| matches!(status, 204 | 205 | 304)) {
        return Err("a response without a body fits no `schema`".to_owned());
    }
    match &response.select {
        Some(pointer) if !pointer.is_empty() && !pointer.starts_with('/') => {
            Err(format!("{pointer:?} is not a JSON Pointer: write /a/b/0"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_schemas(schemas: &BTreeMap<String, Value>) -> Result<(), String> {
    for (name, schema) in schemas {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
            return Err(format!("the name of the schema {name:?} must be 1 to 128 of A-Z, a-z, 0-9, '.', '_', '-'"));
        }
        check_schema(schema, schemas).map_err(|why| format!("schema {name}: {why}"))?;
    }
    Ok(())
}

fn check_schema(schema: &Value, schemas: &BTreeMap<String, Value>) -> Result<(), String> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err("a schema is an object".to_owned());
    }
    let mut wrong = None;
    each_reference(schema, &mut |reference| {
        let known = reference.strip_prefix("#/$defs/").is_some_and(|name| schemas.contains_key(name));
        if !known {
            wrong.get_or_insert_with(|| reference.to_owned());
        }
    });
    wrong.map_or(Ok(()), |reference| {
        Err(format!("the reference {reference:?} leads nowhere; `schemas` of the transport are #/$defs/NAME"))
    })
}
