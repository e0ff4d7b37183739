//! Which part answers which method.

use serde_json::Value;

use crate::tools::{self, Stop, Talk};
use crate::{definitions, resources};

/// The result of a call.
pub(crate) async fn of(talk: &Talk, method: &str, params: &Value) -> Result<Value, Stop> {
    match method {
        "tools/call" => {
            let name = params["name"].as_str().unwrap_or_default();
            let known = definitions::list(&talk.world, "tools/list").unwrap_or_default();
            let is_known = known["tools"].as_array().is_some_and(|tools| tools.iter().any(|tool| tool["name"] == name));
            if !is_known {
                return Err(Stop::error(-32602, &format!("Unknown tool: {name}"), Value::Null));
            }
            tools::call(talk, name, &params["arguments"]).await
        }
        "prompts/get" => resources::prompt(talk, params).await,
        "resources/read" => resources::read(params),
        _ => Ok(resources::complete(params)),
    }
}
