//! Tools that are HTTP requests: which request a call becomes, and what of the response becomes its result.
//!
//! Everything here is the operator's own word, so the tools' definitions ([`definition`]) are made from it and from nothing
//! else. What a caller says only ever fills the places that the manifest names (OpenAPI's parameter styles, RFC 3986).

mod check;
mod definition;
mod template;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::text::EnvText;

pub(super) use check::check;
pub use definition::{RESULT_MEMBER, request_meta};
pub use template::{PathTemplate, Piece};

/// How much of a response is read by default, in bytes.
pub const DEFAULT_RESPONSE_BYTES: u32 = 1 << 20;
/// The most of a response that a manifest may ask for, in bytes.
pub const MAX_RESPONSE_BYTES: u32 = 16 << 20;

/// A REST API.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestTransport {
    /// What every path is appended to: `http` or `https`, without user name, query and fragment.
    #[schemars(schema_with = "super::transport::url_schema")]
    pub url: Url,
    /// Headers to send with every request, such as `Authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, EnvText>,
    /// What every request carries to authenticate.
    #[serde(default)]
    pub credential: Option<Box<super::credential::Credential>>,
    /// JSON Schemas that the tools' schemas refer to as `#/$defs/NAME`.
    #[serde(default)]
    pub schemas: BTreeMap<String, Value>,
}

/// The request that a call becomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestRequest {
    /// The HTTP method.
    pub method: RestMethod,
    /// The path below the transport's `url`, with `{name}` where an argument `in: path` goes.
    #[schemars(schema_with = "path_schema")]
    pub path: String,
    /// The tool's name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What a caller may say, by name. Anything else is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Argument>,
    /// Query parameters that are always sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// Headers that are always sent; `Accept` and `Content-Type` replace the ones that follow from the rest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How the arguments `in: body` or `in: whole_body` are written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub body: BodyFormat,
    /// Statuses that mean success; any 2xx if none is stated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "statuses_schema")]
    pub expect: Vec<u16>,
    /// Statuses of 500 and above (and 408) that mean, by the operator's word, that nothing was done: a write with one of
    /// them fails, instead of being of unknown outcome.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "statuses_schema")]
    pub not_done: Vec<u16>,
    /// What of the response becomes the result.
    #[serde(default, skip_serializing_if = "is_default")]
    pub response: ResponseMapping,
    /// A header that carries the call's id, so that the API can tell a repetition: often `Idempotency-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_header: Option<String>,
}

/// HTTP methods that tools may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // the names are RFC 9110's
pub enum RestMethod {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl RestMethod {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            RestMethod::Get => "GET",
            RestMethod::Head => "HEAD",
            RestMethod::Post => "POST",
            RestMethod::Put => "PUT",
            RestMethod::Patch => "PATCH",
            RestMethod::Delete => "DELETE",
        }
    }

    /// Whether it changes nothing by its definition (RFC 9110, 9.2.1).
    pub fn is_safe(self) -> bool {
        matches!(self, RestMethod::Get | RestMethod::Head)
    }
}

/// One argument of a tool, and where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// Where it goes.
    #[serde(rename = "in")]
    pub place: Place,
    /// Its name there; the argument's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether a call must state it. Arguments `in: path` are always required.
    #[serde(default, skip_serializing_if = "is_default")]
    pub required: bool,
    /// How a list or an object is written in a query.
    #[serde(default, skip_serializing_if = "is_default")]
    pub style: Style,
    /// With `style: form`, whether each item of a list gets a parameter of its own.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub explode: bool,
    /// Whether a value `in: path` may contain `/`, sent as `%2F`. Servers that decode before they route take it for a
    /// path of its own, so it is refused unless this is stated.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_slash: bool,
    /// What it means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its JSON Schema (2020-12).
    #[serde(default = "anything")]
    pub schema: Value,
}

impl Argument {
    /// Its name where it goes.
    pub fn wire_name<'a>(&'a self, own: &'a str) -> &'a str {
        self.name.as_deref().unwrap_or(own)
    }

    /// Whether a call must state it.
    pub fn is_required(&self) -> bool {
        self.required || self.place == Place::Path
    }
}

/// Where an argument goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Into the path, where `{name}` stands; never beyond its own segment.
    Path,
    /// Into the query.
    Query,
    /// Into a header.
    Header,
    /// A member of the body.
    Body,
    /// The body is its value.
    WholeBody,
}

/// How a list or an object is written in a query. Texts, numbers and booleans are written the same way in all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Style {
    /// Lists as `a=1&a=2`, or as `a=1,2` without `explode`; objects are refused.
    #[default]
    #[serde(rename = "form")]
    Form,
    /// Lists as `a=1%202`; objects are refused.
    #[serde(rename = "spaceDelimited")]
    SpaceDelimited,
    /// Lists as `a=1|2`; objects are refused.
    #[serde(rename = "pipeDelimited")]
    PipeDelimited,
    /// Objects as `a[x]=1&a[y]=2`; lists are refused.
    #[serde(rename = "deepObject")]
    DeepObject,
    /// Everything as JSON text.
    #[serde(rename = "json")]
    Json,
}

/// How a body is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BodyFormat {
    /// JSON: an object of the arguments `in: body`, or the value of the one `in: whole_body`.
    #[default]
    Json,
    /// `application/x-www-form-urlencoded`; lists repeat the name.
    Form,
    /// The text of the argument `in: whole_body`.
    Text,
}

/// What of a response becomes the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseMapping {
    /// What kind of body to expect.
    #[serde(default, rename = "as", skip_serializing_if = "is_default")]
    pub kind: BodyKind,
    /// A JSON Pointer (RFC 6901) to the part of a JSON body that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// The JSON Schema of that part. What does not fit it is reported as an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Headers that are passed on beside the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// How long a body may be, in bytes: 1048576 by default, at most 16777216.
    #[serde(default = "default_bytes", skip_serializing_if = "is_default_bytes")]
    #[schemars(range(min = 1, max = MAX_RESPONSE_BYTES))]
    pub max_bytes: u32,
}

impl Default for ResponseMapping {
    fn default() -> Self {
        Self {
            kind: BodyKind::Json,
            select: None,
            schema: None,
            headers: Vec::new(),
            max_bytes: DEFAULT_RESPONSE_BYTES,
        }
    }
}

/// A kind of body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BodyKind {
    /// `application/json` or `+json`: structured content and its text.
    #[default]
    Json,
    /// UTF-8 text of any textual type.
    Text,
    /// Anything, as a blob.
    Binary,
    /// One of these three, by the response's `Content-Type`.
    Auto,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_default_bytes(bytes: &u32) -> bool {
    *bytes == DEFAULT_RESPONSE_BYTES
}

fn default_bytes() -> u32 {
    DEFAULT_RESPONSE_BYTES
}

fn yes() -> bool {
    true
}

fn anything() -> Value {
    json!({})
}

fn path_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "pattern": "^/", "maxLength": template::MAX_PATH })
}

fn statuses_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "array", "items": { "type": "integer", "minimum": 200, "maximum": 599 } })
}

#[cfg(test)]
mod tests;
