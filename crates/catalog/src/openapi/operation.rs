//! Operations into tools: names, parameters, effects.

use std::collections::{BTreeMap, BTreeSet};

use countersign_domain::Effect;
use serde_json::{Map, Value};

use super::document::Document;
use super::schema::{Schemas, Side};
use super::security::Alternatives;
use super::{ImportedTool, Note, Options};
use crate::manifest::rest::PathTemplate;
use crate::names::confusable_key;

/// The methods of a path item, with the effect that each has by its definition (RFC 9110, 9.3).
const METHODS: &[(&str, Effect)] = &[
    ("get", Effect::Read),
    ("head", Effect::Read),
    ("post", Effect::Write),
    ("put", Effect::Write),
    ("patch", Effect::Write),
    ("delete", Effect::Destructive),
];
/// Headers that are never arguments.
const NOT_ARGUMENTS: &[&str] =
    &["accept", "content-type", "authorization", "cookie", "host", "origin", "forwarded", "via"];
/// Longest description that is taken over, in characters.
const MAX_DESCRIPTION: usize = 4_000;
/// Longest tool name.
const MAX_NAME: usize = 48;

/// Goes through a document.
pub(super) struct Importer<'a> {
    pub document: &'a Document,
    pub options: &'a Options,
    pub tools: Vec<Tool>,
    pub notes: Vec<Note>,
    /// The component schemas that the tools need.
    pub schemas: BTreeMap<String, Value>,
    /// What the operations want of callers, each of them in one of several ways.
    pub security: BTreeSet<Alternatives>,
    made: Schemas<'a>,
    /// Keys of names in use: names that look alike are refused by manifests.
    taken: BTreeSet<String>,
}

/// A tool being made.
pub(super) struct Tool {
    pub summary: ImportedTool,
    /// Where it comes from, for notes.
    pub place: String,
    pub description: Option<String>,
    pub request: Map<String, Value>,
    arguments: Map<String, Value>,
}

impl Tool {
    pub(super) fn is_free(&self, name: &str) -> bool {
        !self.arguments.contains_key(&argument_name(name))
    }

    /// Adds an argument, under a name that clients accept; what goes on the wire stays.
    pub(super) fn argument(&mut self, wire: &str, mut argument: Map<String, Value>) {
        let mut name = argument_name(wire);
        if self.arguments.contains_key(&name) {
            let place = argument.get("in").and_then(Value::as_str).unwrap_or_default();
            name = format!("{name}_{place}");
        }
        if name != wire && argument.get("in").is_some_and(|place| place != "whole_body") {
            argument.insert("name".into(), wire.into());
        }
        self.arguments.insert(name, argument.into());
    }

    pub(super) fn fixed_header(&mut self, name: &str, value: &str) {
        let headers = self.request.entry("headers").or_insert_with(|| Value::Object(Map::new()));
        headers[name] = value.into();
    }

    /// The tool's entry in the manifest, but for its effect.
    pub(super) fn entry(&self) -> Map<String, Value> {
        let mut entry = Map::new();
        if let Some(description) = &self.description {
            entry.insert("description".into(), description.as_str().into());
        }
        let mut request = self.request.clone();
        if !self.arguments.is_empty() {
            request.insert("arguments".into(), self.arguments.clone().into());
        }
        entry.insert("request".into(), request.into());
        entry
    }
}

impl<'a> Importer<'a> {
    pub(super) fn new(document: &'a Document, options: &'a Options) -> Self {
        Self {
            document,
            options,
            tools: Vec::new(),
            notes: Vec::new(),
            schemas: BTreeMap::new(),
            security: BTreeSet::new(),
            made: Schemas::new(document),
            taken: BTreeSet::new(),
        }
    }

    pub(super) fn note(&mut self, place: &str, text: String) {
        self.notes.push(Note { place: place.to_owned(), text });
    }

    /// A translated schema; what it loses is noted.
    pub(super) fn schema(&mut self, place: &str, schema: &Value, side: Side) -> Value {
        let translated = self.made.translate(schema, side);
        for lost in std::mem::take(&mut self.made.lost) {
            self.note(place, lost);
        }
        translated
    }

    pub(super) fn run(&mut self) {
        let document = self.document;
        for (path, item) in document.root["paths"].as_object().into_iter().flatten() {
            let item = match document.resolve(item) {
                Ok(item) => item,
                Err(why) => {
                    self.note(path, format!("left out: {why}"));
                    continue;
                }
            };
            for key in ["options", "trace"].into_iter().filter(|key| item.get(key).is_some()) {
                self.note(&format!("{} {path}", key.to_uppercase()), "left out: tools don't use this method".into());
            }
            for (method, effect) in METHODS {
                let Some(operation) = item.get(method).filter(|operation| self.wanted(operation)) else { continue };
                let place = format!("{} {path}", method.to_uppercase());
                if let Err(why) = self.operation(path, method, *effect, item, operation) {
                    self.note(&place, format!("left out: {why}"));
                }
            }
        }
        if document.root.get("webhooks").is_some() {
            self.note("webhooks", "left out: nothing calls back".into());
        }
        let made = std::mem::replace(&mut self.made, Schemas::new(document));
        self.schemas = made.finish();
    }

    fn wanted(&self, operation: &Value) -> bool {
        let tags = operation["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let id = operation["operationId"].as_str().unwrap_or_default();
        let tagged =
            self.options.tags.is_empty() || tags.into_iter().any(|tag| self.options.tags.iter().any(|t| t == tag));
        tagged && (self.options.operations.is_empty() || self.options.operations.iter().any(|wanted| wanted == id))
    }

    fn operation(
        &mut self,
        path: &str,
        method: &str,
        effect: Effect,
        item: &Value,
        operation: &Value,
    ) -> Result<(), String> {
        PathTemplate::parse(path)?;
        let name = self.name(operation, method, path);
        let place = format!("{} {path}", method.to_uppercase());
        let mut tool = Tool {
            summary: ImportedTool { name, method: method.to_uppercase(), path: path.to_owned(), effect },
            description: None,
            request: Map::new(),
            arguments: Map::new(),
            place,
        };
        tool.request.insert("method".into(), tool.summary.method.as_str().into());
        tool.request.insert("path".into(), path.into());
        self.words(&mut tool, operation);
        self.parameters(&mut tool, item, operation)?;
        if let Some(body) = operation.get("requestBody") {
            if effect == Effect::Read {
                self.note(&tool.place, "its body is left out: this method has none".into());
            } else {
                self.request_body(&mut tool, body)?;
            }
        }
        self.response(&mut tool, &operation["responses"]);
        for key in ["callbacks", "servers"].into_iter().filter(|key| operation.get(key).or(item.get(key)).is_some()) {
            self.note(&tool.place, format!("its `{key}` are left out"));
        }
        let security = operation.get("security").unwrap_or(&self.document.root["security"]);
        let sets = security.as_array().into_iter().flatten().filter_map(Value::as_object);
        let sets: Alternatives = sets.map(|set| set.keys().cloned().collect()).collect();
        if !sets.is_empty() {
            self.security.insert(sets);
        }
        self.taken.insert(confusable_key(&tool.summary.name));
        self.tools.push(tool);
        Ok(())
    }

    fn words(&mut self, tool: &mut Tool, operation: &Value) {
        let text = |key: &str| operation[key].as_str().map(str::trim).filter(|t| !t.is_empty());
        if let Some(summary) = text("summary") {
            tool.request.insert("title".into(), summary.chars().take(200).collect::<String>().into());
        }
        tool.description = text("description").or(text("summary")).map(|t| t.chars().take(MAX_DESCRIPTION).collect());
        if text("description").is_some_and(|t| t.chars().count() > MAX_DESCRIPTION) {
            self.note(&tool.place, format!("its description is cut after {MAX_DESCRIPTION} characters"));
        }
        if operation["deprecated"] == true {
            self.note(&tool.place, "it is deprecated".into());
        }
    }

    fn name(&self, operation: &Value, method: &str, path: &str) -> String {
        let stated = operation["operationId"].as_str().map_or_else(|| format!("{method}{path}"), str::to_owned);
        let plain: String =
            stated.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let words: Vec<&str> = plain.split('_').filter(|w| !w.is_empty()).collect();
        let base: String = words.join("_").chars().take(MAX_NAME).collect();
        let base = if base.is_empty() { method.to_owned() } else { base };
        let mut name = base.clone();
        let mut number = 2;
        while self.taken.contains(&confusable_key(&name)) {
            name = format!("{base}_{number}");
            number += 1;
        }
        name
    }

    fn parameters(&mut self, tool: &mut Tool, item: &Value, operation: &Value) -> Result<(), String> {
        let mut all: BTreeMap<(String, String), Value> = BTreeMap::new();
        for list in [item, operation] {
            for parameter in list["parameters"].as_array().into_iter().flatten() {
                let parameter = self.document.resolve(parameter)?;
                let text = |key: &str| parameter[key].as_str().unwrap_or_default().to_owned();
                all.insert((text("in"), text("name")), parameter.clone());
            }
        }
        for ((place, name), parameter) in all {
            if let Err(why) = self.parameter(tool, &place, &name, &parameter) {
                if place == "path" || parameter["required"] == true {
                    return Err(format!("its {place} parameter {name}: {why}"));
                }
                self.note(&tool.place, format!("its {place} parameter {name} is left out: {why}"));
            }
        }
        let template = PathTemplate::parse(&tool.summary.path)?;
        let filled = |wanted: &str| {
            tool.arguments.iter().any(|(own, a)| a["in"] == "path" && a["name"].as_str().unwrap_or(own) == wanted)
        };
        let missing = template.places().find(|wanted| !filled(wanted)).map(str::to_owned);
        missing.map_or(Ok(()), |name| Err(format!("its path parameter {name} is not described")))
    }

    fn parameter(&mut self, tool: &mut Tool, place: &str, name: &str, parameter: &Value) -> Result<(), String> {
        let lower = name.to_ascii_lowercase();
        if place == "header" && lower == "idempotency-key" {
            tool.request.insert("idempotency_header".into(), name.into());
            self.note(&tool.place, format!("{name} carries the call's id instead of an argument"));
            return Ok(());
        }
        if place == "header" && (NOT_ARGUMENTS.contains(&lower.as_str()) || lower.starts_with("x-forwarded-")) {
            return Err("such a header is never an argument".to_owned());
        }
        if !matches!(place, "path" | "query" | "header") {
            return Err("parameters of this place cannot be sent".to_owned());
        }
        let mut argument = Map::new();
        argument.insert("in".into(), place.into());
        if parameter["required"] == true && place != "path" {
            argument.insert("required".into(), true.into());
        }
        let content = parameter["content"].as_object().and_then(|c| c.iter().next());
        let schema = match content {
            Some((media, entry)) if place == "query" && media.contains("json") => {
                argument.insert("style".into(), "json".into());
                &entry["schema"]
            }
            Some((media, _)) => return Err(format!("a value written as {media} cannot be sent")),
            None => {
                self.style(&mut argument, place, parameter)?;
                &parameter["schema"]
            }
        };
        if parameter["allowReserved"] == true {
            self.note(&tool.place, format!("its parameter {name} is percent-encoded all the same"));
        }
        if let Some(text) = parameter["description"].as_str().map(str::trim).filter(|t| !t.is_empty()) {
            argument.insert("description".into(), text.chars().take(MAX_DESCRIPTION).collect::<String>().into());
        }
        argument.insert("schema".into(), self.schema(&tool.place, schema, Side::Request));
        tool.argument(name, argument);
        Ok(())
    }

    /// OpenAPI's defaults: `form` in queries, `simple` elsewhere; `explode` only with `form`.
    fn style(&self, argument: &mut Map<String, Value>, place: &str, parameter: &Value) -> Result<(), String> {
        let default = if place == "query" { "form" } else { "simple" };
        let style = parameter["style"].as_str().unwrap_or(default);
        let explode = parameter["explode"].as_bool().unwrap_or(style == "form");
        let schema = self.document.resolve(&parameter["schema"]).unwrap_or(&Value::Null);
        let object = schema["type"] == "object" || schema.get("properties").is_some();
        match (place, style) {
            (_, "deepObject") if place == "query" => {
                argument.insert("style".into(), "deepObject".into());
            }
            _ if object => return Err(format!("an object in the style {style} cannot be sent")),
            ("query", "form") if !explode => {
                argument.insert("explode".into(), false.into());
            }
            // Exploded, these are the same as `form`.
            ("query", "spaceDelimited" | "pipeDelimited") if !explode => {
                argument.insert("style".into(), style.into());
            }
            ("query", "form" | "spaceDelimited" | "pipeDelimited") | ("path" | "header", "simple") => {}
            _ => return Err(format!("the style {style} cannot be sent")),
        }
        Ok(())
    }
}

/// A name that all clients accept for an argument.
fn argument_name(wire: &str) -> String {
    let wire = wire.strip_suffix("[]").unwrap_or(wire);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = wire.chars().map(plain).take(64).collect();
    let trimmed = name.trim_end_matches('_');
    if trimmed.is_empty() { "value".to_owned() } else { trimmed.to_owned() }
}
