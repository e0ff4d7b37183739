//! What the server lists, and what it says of itself.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::world::World;

pub(crate) fn server_info() -> Value {
    json!({ "name": "conformance-upstream", "version": env!("CARGO_PKG_VERSION") })
}

pub(crate) fn capabilities() -> Value {
    json!({
        "tools": { "listChanged": true },
        "prompts": { "listChanged": true },
        "resources": { "subscribe": true, "listChanged": true },
        "completions": {},
        "logging": {},
    })
}

/// The answer to a list method; `None` for any other.
pub(crate) fn list(world: &World, method: &str) -> Option<Value> {
    Some(match method {
        "tools/list" => json!({ "tools": tools(world) }),
        "prompts/list" => json!({ "prompts": prompts(world) }),
        "resources/list" => json!({ "resources": resources() }),
        "resources/templates/list" => json!({ "resourceTemplates": [template()] }),
        _ => return None,
    })
}

/// Tools without arguments, and what they do.
const PLAIN: &[(&str, &str)] = &[
    ("test_simple_text", "Answers with text"),
    ("test_image_content", "Answers with an image"),
    ("test_audio_content", "Answers with audio"),
    ("test_embedded_resource", "Answers with an embedded resource"),
    ("test_multiple_content_types", "Answers with several kinds of content"),
    ("test_error_handling", "Always fails"),
    ("test_tool_with_logging", "Logs three messages while it runs"),
    ("test_logging_tool", "Logs one message"),
    ("test_tool_with_progress", "Reports its progress"),
    ("test_missing_capability", "Needs a client that samples"),
    ("test_streaming_elicitation", "Asks a person while it reports its progress"),
    ("test_elicitation_sep1034_defaults", "Asks with default values"),
    ("test_elicitation_sep1330_enums", "Asks with every kind of choice"),
    ("test_input_required_result_elicitation", "Asks a person"),
    ("test_input_required_result_sampling", "Asks a model"),
    ("test_input_required_result_list_roots", "Asks for roots"),
    ("test_input_required_result_request_state", "Asks with a state"),
    ("test_input_required_result_multiple_inputs", "Asks for three things at once"),
    ("test_input_required_result_multi_round", "Asks twice"),
    ("test_input_required_result_tampered_state", "Asks with a sealed state"),
    ("test_input_required_result_capabilities", "Asks what the client can answer"),
    ("test_trigger_tool_change", "Adds or removes a tool"),
    ("test_trigger_prompt_change", "Adds or removes a prompt"),
    ("test_trigger_resource_change", "Changes the watched resource"),
];

/// The tool that comes and goes.
const DYNAMIC: (&str, &str) = ("test_dynamic_tool", "Comes and goes");

fn tool(name: &str, description: &str, schema: Value) -> Value {
    json!({ "name": name, "description": description, "inputSchema": schema })
}

fn tools(world: &World) -> Vec<Value> {
    let none = || json!({ "type": "object", "properties": {}, "additionalProperties": false });
    let one = |name: &str, what: &str| json!({ "type": "object", "properties": { name: { "type": "string", "description": what } }, "required": [name] });
    let mut tools: Vec<Value> = PLAIN.iter().map(|(name, what)| tool(name, what, none())).collect();
    tools.push(tool("test_sampling", "Asks a model", one("prompt", "What to ask the model")));
    tools.push(tool("test_elicitation", "Asks a person", one("message", "What to ask the person")));
    tools.push(tool("test_header_mirroring", "Wants its region in a header", mirroring_schema()));
    tools.push(tool("json_schema_2020_12_tool", "Has a schema with many keywords", keywords_schema()));
    if world.dynamic_tool.load(Ordering::SeqCst) {
        tools.push(tool(DYNAMIC.0, DYNAMIC.1, none()));
    }
    tools
}

/// Every tool that there ever is.
pub(crate) fn tool_names() -> Vec<&'static str> {
    let others = ["test_sampling", "test_elicitation", "test_header_mirroring", "json_schema_2020_12_tool", DYNAMIC.0];
    PLAIN.iter().map(|(name, _)| *name).chain(others).collect()
}

fn mirroring_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "region": { "type": "string", "description": "Where", "x-mcp-header": "Region" },
            "note": { "type": "string", "description": "What" },
        },
        "required": ["region"],
    })
}

/// The vocabulary of JSON Schema 2020-12 that has to reach the client unharmed.
fn keywords_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": { "street": { "type": "string" }, "city": { "type": "string" } },
            },
        },
        "properties": {
            "name": { "type": "string" },
            "address": { "$ref": "#/$defs/address" },
            "contactMethod": { "type": "string", "enum": ["phone", "email"] },
            "phone": { "type": "string" },
            "email": { "type": "string" },
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "contactMethod": { "const": "phone" } }, "required": ["contactMethod"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false,
    })
}

/// The headers that a call must have, with the values that they stand for.
pub(crate) fn mirrored(_: &World, params: &Value) -> Vec<(&'static str, Option<String>)> {
    match params["name"].as_str() {
        Some("test_header_mirroring") => {
            vec![("Region", params["arguments"]["region"].as_str().map(str::to_owned))]
        }
        _ => Vec::new(),
    }
}

fn prompts(world: &World) -> Vec<Value> {
    let argument = |name: &str| json!({ "name": name, "description": "For the test", "required": true });
    let mut prompts = vec![
        json!({ "name": "test_simple_prompt", "description": "Says one thing" }),
        json!({
            "name": "test_prompt_with_arguments",
            "description": "Repeats its arguments",
            "arguments": [argument("arg1"), argument("arg2")],
        }),
        json!({
            "name": "test_prompt_with_embedded_resource",
            "description": "Embeds a resource",
            "arguments": [argument("resourceUri")],
        }),
        json!({ "name": "test_prompt_with_image", "description": "Shows an image" }),
        json!({ "name": "test_input_required_result_prompt", "description": "Asks a person first" }),
    ];
    if world.dynamic_prompt.load(Ordering::SeqCst) {
        prompts.push(json!({ "name": "test_dynamic_prompt", "description": "Comes and goes" }));
    }
    prompts
}

fn resources() -> Value {
    let resource = |uri: &str, name: &str, kind: &str| json!({ "uri": uri, "name": name, "description": format!("The {name}"), "mimeType": kind });
    json!([
        resource("test://static-text", "static text", "text/plain"),
        resource("test://static-binary", "static image", "image/png"),
        resource("test://watched-resource", "watched text", "text/plain"),
    ])
}

fn template() -> Value {
    json!({
        "uriTemplate": "test://template/{id}/data",
        "name": "data by id",
        "description": "The data of an id",
        "mimeType": "application/json",
    })
}
