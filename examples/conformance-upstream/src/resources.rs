//! What resources, prompts and completions are answered with.

use serde_json::{Value, json};

use crate::tools::{Stop, Talk, elicitation, string_schema};

/// One red pixel.
pub(crate) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";

const NOT_FOUND: i64 = -32602;

pub(crate) fn read(params: &Value) -> Result<Value, Stop> {
    let uri = params["uri"].as_str().unwrap_or_default();
    let text = |kind: &str, text: String| json!({ "contents": [{ "uri": uri, "mimeType": kind, "text": text }] });
    match uri {
        "test://static-text" => Ok(text("text/plain", "This is the content of the static text resource.".to_owned())),
        "test://watched-resource" => Ok(text("text/plain", "This resource may change.".to_owned())),
        "test://static-binary" => Ok(json!({ "contents": [{ "uri": uri, "mimeType": "image/png", "blob": PNG }] })),
        _ => {
            let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
            let Some(id) = id.filter(|id| !id.is_empty() && !id.contains('/')) else {
                return Err(Stop::error(NOT_FOUND, "Resource not found", json!({ "uri": uri })));
            };
            let data = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
            Ok(text("application/json", data.to_string()))
        }
    }
}

pub(crate) async fn prompt(talk: &Talk, params: &Value) -> Result<Value, Stop> {
    let says = |content: Value| json!({ "role": "user", "content": content });
    let text = |text: &str| says(json!({ "type": "text", "text": text }));
    let argument = |name: &str| params["arguments"][name].as_str().unwrap_or_default();
    let messages = match params["name"].as_str().unwrap_or_default() {
        "test_simple_prompt" | "test_dynamic_prompt" => vec![text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments" => {
            vec![text(&format!("Prompt with arguments: arg1='{}', arg2='{}'", argument("arg1"), argument("arg2")))]
        }
        "test_prompt_with_embedded_resource" => {
            let resource = json!({
                "uri": argument("resourceUri"),
                "mimeType": "text/plain",
                "text": "Embedded resource content for testing.",
            });
            vec![
                says(json!({ "type": "resource", "resource": resource })),
                text("Please process the embedded resource above."),
            ]
        }
        "test_prompt_with_image" => vec![
            says(json!({ "type": "image", "data": PNG, "mimeType": "image/png" })),
            text("Please analyze the image above."),
        ],
        "test_input_required_result_prompt" => {
            let question = elicitation("What context should the prompt use?", string_schema("context"));
            let given = talk.ask(vec![("user_context", question)]).await?;
            let context = given[0]["content"]["context"].as_str().unwrap_or_default().to_owned();
            vec![text(&format!("Use this context: {context}"))]
        }
        other => return Err(Stop::error(NOT_FOUND, &format!("Unknown prompt: {other}"), Value::Null)),
    };
    Ok(json!({ "description": "A prompt for testing", "messages": messages }))
}

pub(crate) fn complete(params: &Value) -> Value {
    let begun = params["argument"]["value"].as_str().unwrap_or_default();
    let values: Vec<&str> = ["paris", "park", "party"].into_iter().filter(|v| v.starts_with(begun)).collect();
    json!({ "completion": { "values": values, "total": values.len(), "hasMore": false } })
}
