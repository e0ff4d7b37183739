//! The tools, written once for both eras: what they say and ask while they run goes through [`Talk`].
//!
//! In the modern era a call that asks is run again from its beginning with all answers so far, which travel sealed in
//! `requestState`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::http::error;
use crate::resources::PNG;
use crate::world::{Change, Out, Outbox, Session, World};

const LEVELS: &[&str] = &["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
const MISSING_CAPABILITY: i64 = -32021;
const INVALID_PARAMS: i64 = -32602;
/// How long a client may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// A short WAV file without sound.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

/// Why a call has no result (yet).
pub(crate) enum Stop {
    /// A JSON-RPC error.
    Error(i64, String, Value),
    /// Modern era: the questions that are open.
    Input(Map<String, Value>),
}

impl Stop {
    pub(crate) fn error(code: i64, message: &str, data: Value) -> Self {
        Self::Error(code, message.to_owned(), data)
    }

    /// As a response of the session era.
    pub(crate) fn legacy(self, id: &Value) -> Value {
        match self {
            Self::Error(code, message, data) => error(id, code, &message, data),
            Self::Input(_) => error(id, -32603, "asked for input in the wrong era", Value::Null),
        }
    }

    /// As a result of the modern era, or an error.
    pub(crate) fn modern(self, talk: &Talk) -> Result<Value, (i64, String, Value)> {
        match self {
            Self::Error(code, message, data) => Err((code, message, data)),
            Self::Input(requests) => Ok(json!({
                "resultType": "input_required",
                "inputRequests": requests,
                "requestState": talk.state(),
            })),
        }
    }
}

/// A running call's way to its client.
pub(crate) struct Talk {
    pub(crate) world: Arc<World>,
    outbox: Outbox,
    capabilities: Value,
    progress: Value,
    /// The least severe level that is logged.
    level: Option<String>,
    era: EraTalk,
}

enum EraTalk {
    Legacy(Arc<Session>),
    /// The answers so far.
    Modern(Mutex<Map<String, Value>>),
}

impl Talk {
    pub(crate) fn legacy(world: Arc<World>, session: Arc<Session>, outbox: Outbox, params: &Value) -> Self {
        let level = session.level.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self {
            world,
            outbox,
            capabilities: session.capabilities.clone(),
            progress: params["_meta"]["progressToken"].clone(),
            level: Some(level.unwrap_or_else(|| "debug".to_owned())),
            era: EraTalk::Legacy(session),
        }
    }

    pub(crate) fn modern(world: Arc<World>, outbox: Outbox, params: &Value) -> Result<Self, &'static str> {
        let meta = &params["_meta"];
        let mut given = Map::new();
        if let Some(state) = params.get("requestState") {
            let state = state.as_str().ok_or("requestState is not a string")?;
            let (text, seal) = state.rsplit_once('.').ok_or("requestState is not ours")?;
            if world.seal(text) != seal {
                return Err("requestState is not ours");
            }
            if let Ok(Value::Object(earlier)) = serde_json::from_str(text) {
                given.extend(earlier);
            }
        }
        match params.get("inputResponses") {
            None => {}
            Some(Value::Object(responses)) if responses.values().all(Value::is_object) => {
                given.extend(responses.clone());
            }
            Some(_) => return Err("inputResponses are not answers"),
        }
        Ok(Self {
            world,
            outbox,
            capabilities: meta["io.modelcontextprotocol/clientCapabilities"].clone(),
            progress: meta["progressToken"].clone(),
            level: meta["io.modelcontextprotocol/logLevel"].as_str().map(str::to_owned),
            era: EraTalk::Modern(Mutex::new(given)),
        })
    }

    fn state(&self) -> String {
        let given = match &self.era {
            EraTalk::Legacy(_) => Map::new(),
            EraTalk::Modern(given) => given.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let text = Value::Object(given).to_string();
        format!("{text}.{}", self.world.seal(&text))
    }

    fn tell(&self, method: &str, params: Value) {
        // The client may have gone.
        let _ = self.outbox.send(Out::Message(json!({ "jsonrpc": "2.0", "method": method, "params": params })));
    }

    fn log(&self, level: &str, text: &str) {
        let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
        if self.level.as_deref().is_some_and(|least| rank(level) >= rank(least)) {
            self.tell("notifications/message", json!({ "level": level, "logger": "conformance", "data": text }));
        }
    }

    fn progress(&self, done: u64) {
        if !self.progress.is_null() {
            let params = json!({ "progressToken": self.progress, "progress": done, "total": 100 });
            self.tell("notifications/progress", params);
        }
    }

    fn declares(&self, capability: &str) -> bool {
        self.capabilities.get(capability).is_some()
    }

    /// Asks the client these questions at one time, and gives the answers in their order.
    pub(crate) async fn ask(&self, questions: Vec<(&str, Value)>) -> Result<Vec<Value>, Stop> {
        for (_, question) in &questions {
            let capability = match question["method"].as_str() {
                Some("elicitation/create") => "elicitation",
                Some("sampling/createMessage") => "sampling",
                _ => "roots",
            };
            if !self.declares(capability) {
                let data = json!({ "requiredCapabilities": { capability: {} } });
                return Err(Stop::error(MISSING_CAPABILITY, "Missing required client capability", data));
            }
        }
        match &self.era {
            EraTalk::Modern(given) => {
                let given = given.lock().unwrap_or_else(PoisonError::into_inner);
                let open: Map<String, Value> = questions
                    .iter()
                    .filter(|(key, _)| !given.contains_key(*key))
                    .map(|(key, question)| ((*key).to_owned(), question.clone()))
                    .collect();
                if !open.is_empty() {
                    return Err(Stop::Input(open));
                }
                Ok(questions.iter().map(|(key, _)| given[*key].clone()).collect())
            }
            EraTalk::Legacy(session) => {
                let answers: Vec<_> =
                    questions.into_iter().map(|(_, question)| self.request(session, question)).collect();
                let mut given = Vec::new();
                for answer in answers {
                    let message = tokio::time::timeout(PATIENCE, answer).await;
                    let Ok(Ok(message)) = message else {
                        return Err(Stop::error(-32603, "the client did not answer", Value::Null));
                    };
                    match message.get("result") {
                        Some(result) => given.push(result.clone()),
                        None => {
                            let why = message["error"]["message"].as_str().unwrap_or("no reason").to_owned();
                            return Err(Stop::error(-32603, &format!("the client refused: {why}"), Value::Null));
                        }
                    }
                }
                Ok(given)
            }
        }
    }

    fn request(&self, session: &Session, question: Value) -> oneshot::Receiver<Value> {
        let id = format!("ask-{}", self.world.number());
        let (answer, given) = oneshot::channel();
        session.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), answer);
        let mut message = json!({ "jsonrpc": "2.0", "id": id });
        message["method"] = question["method"].clone();
        message["params"] = question["params"].clone();
        // The client may have gone, which the time-out tells.
        let _ = self.outbox.send(Out::Message(message));
        given
    }
}

pub(crate) fn elicitation(message: &str, schema: Value) -> Value {
    json!({ "method": "elicitation/create", "params": { "message": message, "requestedSchema": schema } })
}

fn sampling(prompt: &str, tokens: u64) -> Value {
    let messages = json!([{ "role": "user", "content": { "type": "text", "text": prompt } }]);
    json!({ "method": "sampling/createMessage", "params": { "messages": messages, "maxTokens": tokens } })
}

fn roots() -> Value {
    json!({ "method": "roots/list", "params": {} })
}

/// A schema with one required string.
pub(crate) fn string_schema(name: &str) -> Value {
    json!({ "type": "object", "properties": { name: { "type": "string" } }, "required": [name] })
}

fn flag_schema() -> Value {
    json!({ "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"] })
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn says(words: &str) -> Result<Value, Stop> {
    Ok(json!({ "content": [text(words)] }))
}

pub(crate) async fn call(talk: &Talk, name: &str, arguments: &Value) -> Result<Value, Stop> {
    match name {
        "test_simple_text" | "test_dynamic_tool" => says("This is a simple text response for testing."),
        "test_image_content" => Ok(json!({ "content": [{ "type": "image", "data": PNG, "mimeType": "image/png" }] })),
        "test_audio_content" => Ok(json!({ "content": [{ "type": "audio", "data": WAV, "mimeType": "audio/wav" }] })),
        "test_embedded_resource" => {
            let resource = embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.");
            Ok(json!({ "content": [resource] }))
        }
        "test_multiple_content_types" => Ok(json!({ "content": [
            text("Multiple content types test:"),
            { "type": "image", "data": PNG, "mimeType": "image/png" },
            embedded("test://mixed-content-resource", "application/json", "{\"test\":\"data\",\"value\":123}"),
        ] })),
        "test_error_handling" => Ok(json!({
            "isError": true,
            "content": [text("This tool intentionally returns an error for testing")],
        })),
        "test_header_mirroring" => says(arguments["region"].as_str().unwrap_or_default()),
        "json_schema_2020_12_tool" => says("The arguments fit the schema."),
        "test_trigger_tool_change" => {
            talk.world.toggle_tool();
            says("The list of tools has changed.")
        }
        "test_trigger_prompt_change" => {
            talk.world.toggle_prompt();
            says("The list of prompts has changed.")
        }
        "test_trigger_resource_change" => {
            talk.world.tell(Change::Resource("test://watched-resource".to_owned()));
            says("The watched resource has changed.")
        }
        "test_tool_with_logging" | "test_logging_tool" | "test_tool_with_progress" => noisy(talk, name).await,
        _ => asking(talk, name, arguments).await,
    }
}

fn embedded(uri: &str, kind: &str, text: &str) -> Value {
    json!({ "type": "resource", "resource": { "uri": uri, "mimeType": kind, "text": text } })
}

/// Tools that say something while they run.
async fn noisy(talk: &Talk, name: &str) -> Result<Value, Stop> {
    let pause = || tokio::time::sleep(Duration::from_millis(50));
    match name {
        "test_tool_with_logging" => {
            talk.log("info", "Tool execution started");
            pause().await;
            talk.log("info", "Tool processing data");
            pause().await;
            talk.log("info", "Tool execution completed");
            says("Three messages were logged.")
        }
        "test_logging_tool" => {
            talk.log("info", "This is logged where it was asked for");
            says("One message was logged.")
        }
        _ => {
            for done in [0, 50, 100] {
                talk.progress(done);
                if done < 100 {
                    pause().await;
                }
            }
            says("The work is done.")
        }
    }
}

/// Tools that ask the client something.
async fn asking(talk: &Talk, name: &str, arguments: &Value) -> Result<Value, Stop> {
    let argument = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
    match name {
        "test_sampling" | "test_missing_capability" => {
            let given = talk.ask(vec![("sample", sampling(&argument("prompt"), 100))]).await?;
            says(&format!("LLM response: {}", given[0]["content"]["text"].as_str().unwrap_or_default()))
        }
        "test_elicitation" => {
            let schema = json!({
                "type": "object",
                "properties": {
                    "username": { "type": "string", "description": "User's response" },
                    "email": { "type": "string", "description": "User's email address" },
                },
                "required": ["username", "email"],
            });
            let given = talk.ask(vec![("user", elicitation(&argument("message"), schema))]).await?;
            says(&format!("User response: {}", given[0]))
        }
        "test_elicitation_sep1034_defaults" => completed(talk, "Please review the values", defaults_schema()).await,
        "test_elicitation_sep1330_enums" => completed(talk, "Please choose", enums_schema()).await,
        "test_streaming_elicitation" => {
            talk.progress(0);
            completed(talk, "Please answer", string_schema("answer")).await
        }
        "test_input_required_result_elicitation" => {
            let given = talk.ask(vec![("user_name", elicitation("What is your name?", string_schema("name")))]).await?;
            says(&format!("Hello, {}!", given[0]["content"]["name"].as_str().unwrap_or("stranger")))
        }
        "test_input_required_result_sampling" => {
            let given = talk.ask(vec![("capital_question", sampling("What is the capital of France?", 100))]).await?;
            says(given[0]["content"]["text"].as_str().unwrap_or_default())
        }
        "test_input_required_result_list_roots" => {
            let given = talk.ask(vec![("client_roots", roots())]).await?;
            says(&format!("Roots: {}", given[0]["roots"]))
        }
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            talk.ask(vec![("confirm", elicitation("Please confirm", flag_schema()))]).await?;
            says("state-ok")
        }
        "test_input_required_result_multiple_inputs" => {
            let questions = vec![
                ("user_name", elicitation("What is your name?", string_schema("name"))),
                ("greeting", sampling("Generate a greeting", 50)),
                ("client_roots", roots()),
            ];
            let given = talk.ask(questions).await?;
            says(&format!("{} {} {}", given[1]["content"]["text"], given[0]["content"]["name"], given[2]["roots"]))
        }
        "test_input_required_result_multi_round" => {
            let name =
                talk.ask(vec![("step1", elicitation("Step 1: What is your name?", string_schema("name")))]).await?;
            let question = elicitation("Step 2: What is your favorite color?", string_schema("color"));
            let color = talk.ask(vec![("step2", question)]).await?;
            says(&format!("{} likes {}", name[0]["content"]["name"], color[0]["content"]["color"]))
        }
        "test_input_required_result_capabilities" => {
            let mut questions = Vec::new();
            if talk.declares("elicitation") {
                questions.push(("ask_person", elicitation("Are you there?", flag_schema())));
            }
            if talk.declares("sampling") {
                questions.push(("ask_model", sampling("Are you there?", 20)));
            }
            if questions.is_empty() {
                return says("There is nobody to ask.");
            }
            let given = talk.ask(questions).await?;
            says(&format!("{} answered", given.len()))
        }
        other => Err(Stop::error(INVALID_PARAMS, &format!("Unknown tool: {other}"), Value::Null)),
    }
}

async fn completed(talk: &Talk, message: &str, schema: Value) -> Result<Value, Stop> {
    let given = talk.ask(vec![("form", elicitation(message, schema))]).await?;
    let action = given[0]["action"].as_str().unwrap_or_default();
    says(&format!("Elicitation completed: action={action}, content={}", given[0]["content"]))
}

fn defaults_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "description": "Name", "default": "John Doe" },
            "age": { "type": "integer", "description": "Age", "default": 30 },
            "score": { "type": "number", "description": "Score", "default": 95.5 },
            "status": {
                "type": "string",
                "description": "Status",
                "enum": ["active", "inactive", "pending"],
                "default": "active",
            },
            "verified": { "type": "boolean", "description": "Verified", "default": true },
        },
        "required": [],
    })
}

fn enums_schema() -> Value {
    let options = json!(["option1", "option2", "option3"]);
    let titled = |first: &str, second: &str, third: &str| {
        json!([
            { "const": "value1", "title": first },
            { "const": "value2", "title": second },
            { "const": "value3", "title": third },
        ])
    };
    json!({
        "type": "object",
        "properties": {
            "untitledSingle": { "type": "string", "description": "One of these", "enum": options },
            "titledSingle": {
                "type": "string",
                "description": "One of these",
                "oneOf": titled("First Option", "Second Option", "Third Option"),
            },
            "legacyEnum": {
                "type": "string",
                "description": "One of these",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {
                "type": "array",
                "description": "Some of these",
                "minItems": 1,
                "maxItems": 3,
                "items": { "type": "string", "enum": options },
            },
            "titledMulti": {
                "type": "array",
                "description": "Some of these",
                "minItems": 1,
                "maxItems": 3,
                "items": { "anyOf": titled("First Choice", "Second Choice", "Third Choice") },
            },
        },
        "required": [],
    })
}
