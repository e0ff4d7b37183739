//! MCP as a server: JSON-RPC in, JSON-RPC out, in the era in which the client opens.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::journal::Journal;
use crate::tools::{self, Failure};
use crate::{Era, Options, Output};

const MODERN: &str = "2026-07-28";
const LEGACY: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
const SUBSCRIPTION_KEY: &str = "io.modelcontextprotocol/subscriptionId";

pub(crate) struct Server {
    options: Options,
    journal: Mutex<Journal>,
    out: Output,
    announced: AtomicU32,
    listeners: Mutex<Vec<Listener>>,
}

/// Who wants to hear of changed definitions.
enum Listener {
    Legacy,
    Modern(Value),
}

struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }
}

impl Server {
    pub(crate) fn new(options: Options, journal: Journal, out: Output) -> Self {
        let server = Self {
            options,
            journal: Mutex::new(journal),
            out,
            announced: AtomicU32::new(0),
            listeners: Mutex::new(Vec::new()),
        };
        server.announced.store(server.definition_version(), Ordering::Relaxed);
        server
    }

    /// Looks at the definition file ten times a second and announces a change.
    pub(crate) fn watch_definitions(self: &Arc<Self>) {
        if self.options.definition_file.is_none() {
            return;
        }
        let server = Arc::clone(self);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(100));
                let now = server.definition_version();
                if server.announced.swap(now, Ordering::Relaxed) != now {
                    server.announce();
                }
            }
        });
    }

    pub(crate) fn receive(self: &Arc<Self>, line: &[u8]) {
        let Ok(Value::Object(message)) = serde_json::from_slice(line) else {
            return self.answer(&Value::Null, Err(RpcError::new(-32700, "not a JSON object")));
        };
        let Some(method) = message.get("method").and_then(Value::as_str).map(str::to_owned) else { return };
        let Some(id) = message.get("id").cloned() else { return };
        let params = message.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
        // A call that waits gets a thread of its own, so that others go on.
        let slow = !self.options.delay.is_zero() || self.options.hang_on.is_some();
        if method == "tools/call" && slow {
            let server = Arc::clone(self);
            std::thread::spawn(move || server.serve(&id, &method, &params));
        } else {
            self.serve(&id, &method, &params);
        }
    }

    fn serve(&self, id: &Value, method: &str, params: &Map<String, Value>) {
        let modern = params.get("_meta").is_some_and(|meta| meta.get(VERSION_KEY).is_some());
        let result = match (method, modern) {
            _ if modern => check_modern(self.options.era, params).and_then(|()| self.modern(id, method, params)),
            ("initialize", _) if self.options.era != Era::Modern => self.initialize(params).map(Some),
            _ if self.options.era == Era::Modern => Err(unsupported(method)),
            ("ping", _) => Ok(Some(json!({}))),
            ("tools/list", _) => Ok(Some(json!({ "tools": self.tools() }))),
            ("tools/call", _) => self.call(params),
            _ => Err(RpcError::new(-32601, "Method not found")),
        };
        match result {
            Ok(Some(result)) => self.answer(id, Ok(if modern { modernise(result) } else { result })),
            Ok(None) => {}
            Err(error) => self.answer(id, Err(error)),
        }
    }

    fn initialize(&self, params: &Map<String, Value>) -> Result<Value, RpcError> {
        let asked = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
        let version = LEGACY.iter().find(|v| **v == asked).unwrap_or(&LEGACY[0]);
        self.listeners().push(Listener::Legacy);
        Ok(json!({
            "protocolVersion": version,
            "capabilities": { "tools": { "listChanged": true } },
            "serverInfo": server_info(),
        }))
    }

    fn modern(&self, id: &Value, method: &str, params: &Map<String, Value>) -> Result<Option<Value>, RpcError> {
        match method {
            "server/discover" => Ok(Some(json!({
                "supportedVersions": [MODERN],
                "capabilities": { "tools": { "listChanged": true } },
                "ttlMs": 0,
                "cacheScope": "private",
            }))),
            "tools/list" => Ok(Some(json!({ "tools": self.tools(), "ttlMs": 0, "cacheScope": "private" }))),
            "tools/call" => self.call(params),
            "subscriptions/listen" => {
                let agreed = json!({ "toolsListChanged": true });
                self.notify("notifications/subscriptions/acknowledged", Some(id), json!({ "notifications": agreed }));
                self.listeners().push(Listener::Modern(id.clone()));
                Ok(None)
            }
            _ => Err(RpcError::new(-32601, "Method not found")),
        }
    }

    /// `None` is no answer at all.
    fn call(&self, params: &Map<String, Value>) -> Result<Option<Value>, RpcError> {
        let tool =
            params.get("name").and_then(Value::as_str).ok_or_else(|| RpcError::new(-32602, "`name` is missing"))?;
        let none = Map::new();
        let arguments = params.get("arguments").and_then(Value::as_object).unwrap_or(&none);
        let faulty = |fault: &Option<String>| fault.as_deref() == Some(tool);
        std::thread::sleep(self.options.delay);
        if faulty(&self.options.die_before) {
            std::process::exit(70);
        }
        if faulty(&self.options.hang_on) {
            return Ok(None);
        }
        let outcome = {
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            tools::execute(&mut journal, tool, arguments)
        };
        if faulty(&self.options.die_on) {
            std::process::exit(70);
        }
        if faulty(&self.options.garbage_on) {
            self.out.line("this is \u{1b}[31mnot\u{1b}[0m JSON");
            return Ok(None);
        }
        match outcome {
            Ok(content) => {
                let text = content.to_string();
                let text = json!([{ "type": "text", "text": text }]);
                Ok(Some(json!({ "content": text, "structuredContent": content, "isError": false })))
            }
            Err(Failure::Tool(why)) => {
                Ok(Some(json!({ "content": [{ "type": "text", "text": why }], "isError": true })))
            }
            Err(Failure::NoSuchTool) => Err(RpcError::new(-32602, format!("Unknown tool: {tool}"))),
        }
    }

    fn tools(&self) -> Value {
        tools::definitions(&self.options, self.definition_version())
    }

    fn definition_version(&self) -> u32 {
        let read = |path| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        self.options.definition_file.as_ref().and_then(read).unwrap_or(self.options.definition_version)
    }

    fn announce(&self) {
        let listeners = self.listeners();
        for listener in listeners.iter() {
            let subscription = match listener {
                Listener::Legacy => None,
                Listener::Modern(id) => Some(id),
            };
            self.notify("notifications/tools/list_changed", subscription, json!({}));
        }
    }

    fn notify(&self, method: &str, subscription: Option<&Value>, mut params: Value) {
        if let Some(id) = subscription {
            params["_meta"] = json!({ SUBSCRIPTION_KEY: id });
        }
        self.out.line(&json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string());
    }

    fn answer(&self, id: &Value, result: Result<Value, RpcError>) {
        let message = match result {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(e) => {
                let mut error = json!({ "code": e.code, "message": e.message });
                if let Some(data) = e.data {
                    error["data"] = data;
                }
                json!({ "jsonrpc": "2.0", "id": id, "error": error })
            }
        };
        self.out.line(&message.to_string());
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn server_info() -> Value {
    json!({ "name": "countersign-sample-ads", "version": env!("CARGO_PKG_VERSION") })
}

/// 2026-07-28, General fields: version and capabilities are required on every request.
fn check_modern(era: Era, params: &Map<String, Value>) -> Result<(), RpcError> {
    let meta = params.get("_meta");
    let asked = meta.and_then(|m| m.get(VERSION_KEY)).and_then(Value::as_str).unwrap_or_default();
    if era == Era::Legacy {
        return Err(RpcError::new(-32601, "Method not found"));
    }
    if asked != MODERN {
        return Err(unsupported(asked));
    }
    if !meta.and_then(|m| m.get(CAPABILITIES_KEY)).is_some_and(Value::is_object) {
        return Err(RpcError::new(-32602, format!("`_meta` lacks {CAPABILITIES_KEY}")));
    }
    Ok(())
}

fn unsupported(asked: &str) -> RpcError {
    let data = json!({ "supported": [MODERN], "requested": asked });
    RpcError { code: -32022, message: "Unsupported protocol version".into(), data: Some(data) }
}

fn modernise(mut result: Value) -> Value {
    result["resultType"] = json!("complete");
    result["_meta"] = json!({ "io.modelcontextprotocol/serverInfo": server_info() });
    result
}
