//! Bodies: what a caller sends, and what comes back.

use serde_json::{Map, Value, json};

use super::operation::{Importer, Tool};
use super::schema::Side;

/// What may stand in an object's schema so that its properties can be arguments of their own.
const PLAIN: &[&str] = &[
    "type",
    "properties",
    "required",
    "title",
    "description",
    "example",
    "examples",
    "additionalProperties",
    "xml",
    "externalDocs",
    "deprecated",
    "nullable",
];

/// What kind of body a media type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
    Text,
    Other,
}

fn kind(media_type: &str) -> Kind {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Kind::Json,
        "application/x-www-form-urlencoded" => Kind::Form,
        other if other.ends_with("+json") => Kind::Json,
        other if other.starts_with("text/") => Kind::Text,
        _ => Kind::Other,
    }
}

impl Importer<'_> {
    /// The arguments of a request's body.
    ///
    /// # Errors
    /// In words, if the operation cannot be made without a body that cannot be expressed.
    pub(super) fn request_body(&mut self, tool: &mut Tool, body: &Value) -> Result<(), String> {
        let body = self.document.resolve(body)?.clone();
        let required = body["required"] == true;
        let Some(content) = body["content"].as_object().filter(|c| !c.is_empty()) else { return Ok(()) };
        let by = |wanted: Kind| content.iter().find(|(name, _)| kind(name) == wanted);
        let chosen = [Kind::Json, Kind::Form, Kind::Text].into_iter().find_map(by);
        let Some((name, media)) = chosen else {
            let types = content.keys().cloned().collect::<Vec<_>>().join(", ");
            if required {
                return Err(format!("bodies of the type {types} cannot be sent"));
            }
            self.note(&tool.place, format!("its optional body ({types}) is left out"));
            return Ok(());
        };
        for other in content.keys().filter(|other| *other != name) {
            self.note(&tool.place, format!("its body is sent as {name}, never as {other}"));
        }
        match kind(name) {
            Kind::Json => {
                if !name.eq_ignore_ascii_case("application/json") {
                    tool.fixed_header("Content-Type", name);
                }
                self.json_body(tool, &media["schema"], required)
            }
            Kind::Form => self.form_body(tool, media, required),
            Kind::Text | Kind::Other => {
                tool.request.insert("body".into(), "text".into());
                if !name.eq_ignore_ascii_case("text/plain") {
                    tool.fixed_header("Content-Type", name);
                }
                self.whole(tool, &json!({"type": "string"}), required);
                Ok(())
            }
        }
    }

    fn json_body(&mut self, tool: &mut Tool, schema: &Value, required: bool) -> Result<(), String> {
        let resolved = self.document.resolve(schema).ok().cloned().unwrap_or(Value::Null);
        match self.members(&resolved, required).filter(|names| names.iter().all(|name| tool.is_free(name))) {
            Some(_) => self.spread(tool, &resolved),
            None => self.whole(tool, schema, required),
        }
        Ok(())
    }

    fn form_body(&mut self, tool: &mut Tool, media: &Value, required: bool) -> Result<(), String> {
        let resolved = self.document.resolve(&media["schema"])?.clone();
        let names = self.members(&resolved, required);
        if !names.is_some_and(|names| names.iter().all(|name| tool.is_free(name))) {
            return Err("its form is not a plain object".to_owned());
        }
        if media.get("encoding").is_some() {
            self.note(&tool.place, "the `encoding` of its form's fields is left out".into());
        }
        tool.request.insert("body".into(), "form".into());
        self.spread(tool, &resolved);
        Ok(())
    }

    /// The properties of an object that is nothing but its properties.
    fn members(&self, schema: &Value, required: bool) -> Option<Vec<String>> {
        let members = schema.as_object()?;
        let plain = members.keys().all(|key| PLAIN.contains(&key.as_str()) || key.starts_with("x-"));
        let closed = members.get("additionalProperties").is_none_or(|a| *a == Value::Bool(false));
        let nullable = members.get("nullable") == Some(&Value::Bool(true));
        let optional_but_demanding = !required && members.get("required").is_some_and(|r| r != &json!([]));
        let object = members.get("type").is_none_or(|t| t == "object");
        let properties = members.get("properties")?.as_object().filter(|p| !p.is_empty())?;
        let usable = plain && closed && object && !nullable && !optional_but_demanding;
        usable.then(|| properties.keys().cloned().collect())
    }

    /// Each property becomes an argument: agents fill them more surely, and policies can name them.
    fn spread(&mut self, tool: &mut Tool, schema: &Value) {
        let translated = self.schema(&tool.place, schema, Side::Request);
        let required: Vec<&str> =
            translated["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, property) in translated["properties"].as_object().into_iter().flatten() {
            let mut argument = Map::new();
            argument.insert("in".into(), "body".into());
            if required.contains(&name.as_str()) {
                argument.insert("required".into(), true.into());
            }
            argument.insert("schema".into(), property.clone());
            tool.argument(name, argument);
        }
    }

    fn whole(&mut self, tool: &mut Tool, schema: &Value, required: bool) {
        let mut argument = Map::new();
        argument.insert("in".into(), "whole_body".into());
        if required {
            argument.insert("required".into(), true.into());
        }
        argument.insert("schema".into(), self.schema(&tool.place, schema, Side::Request));
        let name = if tool.is_free("body") { "body" } else { "request_body" };
        tool.argument(name, argument);
    }

    /// What of the successful responses becomes the result.
    pub(super) fn response(&mut self, tool: &mut Tool, responses: &Value) {
        let mut schemas: Vec<Value> = Vec::new();
        let mut kinds: Vec<Kind> = Vec::new();
        for (status, response) in responses.as_object().into_iter().flatten() {
            if !(status.starts_with('2')
                || (status == "default" && responses.as_object().is_some_and(|r| r.len() == 1)))
            {
                continue;
            }
            let resolved = match self.document.resolve(response) {
                Ok(resolved) => resolved.clone(),
                Err(why) => {
                    self.note(&tool.place, format!("response {status}: {why}"));
                    continue;
                }
            };
            let content = resolved["content"].as_object().cloned().unwrap_or_default();
            if content.is_empty() {
                kinds.push(Kind::Other);
                schemas.push(Value::Null);
            }
            for (name, media) in &content {
                kinds.push(kind(name));
                schemas.push(media.get("schema").cloned().unwrap_or_default());
            }
        }
        let all = |wanted: Kind| !kinds.is_empty() && kinds.iter().all(|k| *k == wanted);
        let kind = if all(Kind::Json) {
            "json"
        } else if all(Kind::Text) {
            "text"
        } else {
            "auto"
        };
        let mut mapping = Map::new();
        if kind != "json" {
            mapping.insert("as".into(), kind.into());
        }
        let same = schemas.windows(2).all(|pair| pair[0] == pair[1]);
        if kind == "json" && same && !self.options.without_response_schemas && schemas[0].is_object() {
            mapping.insert("schema".into(), self.schema(&tool.place, &schemas[0], Side::Response));
        } else if kind == "json" && !same {
            self.note(&tool.place, "its successful responses have several schemas; none is stated".into());
        }
        if !mapping.is_empty() {
            tool.request.insert("response".into(), mapping.into());
        }
    }
}
