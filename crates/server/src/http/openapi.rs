//! The HTTP surface described as OpenAPI 3.1, at `/openapi.json`. Written by hand; a test compares it with the routes.

mod artifacts;
mod connections;
mod members;
mod sigstore;
mod trust;
mod witness;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Map, Value, json};

use crate::app::VERSION;

pub(super) async fn document() -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "public, max-age=3600")];
    (headers, describe().to_string()).into_response()
}

/// The whole document.
pub(super) fn describe() -> Value {
    let mut paths = Map::new();
    for group in [
        tools(),
        approvals(),
        audit(),
        log(),
        mcp(),
        administration(),
        reviewed_tools(),
        policies(),
        members::members(),
        connections::connections(),
        trust::trust(),
        sigstore::sigstore(),
        artifacts::artifacts(),
        witness::witness(),
        node(),
    ] {
        paths.extend(group);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Countersign",
            "version": VERSION,
            "summary": "AI agents use real tools under policy, with human sign-off, and leave proof that anyone can check.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "apiKey": [] }],
        "tags": [
            { "name": "tools", "description": "Find and use tools." },
            { "name": "approvals", "description": "Calls that wait for people." },
            { "name": "audit", "description": "Events and receipts." },
            { "name": "log", "description": "The transparency log (C2SP tlog-tiles). Public." },
            { "name": "mcp", "description": "Model Context Protocol over streamable HTTP." },
            { "name": "connections", "description": "Accounts that people connect, and agents use for them." },
            { "name": "trust", "description": "Signing and verifying in Sigstore's shapes." },
            { "name": "artifacts", "description": "Signed documents, kept and found." },
            { "name": "administration", "description": "For the roles operator and auditor." },
            { "name": "node", "description": "The node itself. Public." },
        ],
        "paths": paths,
        "components": { "securitySchemes": security(), "schemas": schemas(), "responses": responses() },
    })
}

fn security() -> Value {
    json!({
        "bearer": { "type": "http", "scheme": "bearer", "description": "A JWT access token, or an API key." },
        "apiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
    })
}

fn responses() -> Value {
    json!({ "Problem": {
        "description": "Refused (RFC 9457). Where an event records the refusal, `event` names it; its receipt is proof of the no.",
        "content": { "application/problem+json": { "schema": reference("Problem") } },
    } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn array_of(name: &str) -> Value {
    json!({ "type": "array", "items": reference(name) })
}

fn any_object() -> Value {
    json!({ "type": "object" })
}

/// An operation under construction.
struct Operation(Value);

impl Operation {
    fn new(tag: &str, id: &str, summary: &str) -> Self {
        let refused = json!({ "$ref": "#/components/responses/Problem" });
        Self(json!({
            "tags": [tag], "operationId": id, "summary": summary, "parameters": [],
            "responses": { "default": refused },
        }))
    }

    fn public(mut self) -> Self {
        self.0["security"] = json!([]);
        self
    }

    fn parameter(mut self, place: &str, name: &str, schema: Value, description: &str) -> Self {
        let parameter = json!({
            "in": place, "name": name, "required": place == "path", "schema": schema, "description": description,
        });
        if let Some(parameters) = self.0["parameters"].as_array_mut() {
            parameters.push(parameter);
        }
        self
    }

    fn path(self, name: &str, description: &str) -> Self {
        self.parameter("path", name, json!({ "type": "string" }), description)
    }

    fn query(self, name: &str, kind: &str, description: &str) -> Self {
        self.parameter("query", name, json!({ "type": kind }), description)
    }

    fn header(self, name: &str, description: &str) -> Self {
        self.parameter("header", name, json!({ "type": "string" }), description)
    }

    fn body(mut self, schema: Value) -> Self {
        self.0["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        self
    }

    fn body_as(mut self, kind: &str, schema: Value) -> Self {
        self.0["requestBody"] = json!({ "required": true, "content": { kind: { "schema": schema } } });
        self
    }

    fn form(mut self, schema: Value) -> Self {
        let content = json!({ "application/x-www-form-urlencoded": { "schema": schema } });
        self.0["requestBody"] = json!({ "required": true, "content": content });
        self
    }

    fn answers(self, status: &str, description: &str, schema: Value) -> Self {
        self.answers_as(status, description, "application/json", schema)
    }

    fn answers_as(mut self, status: &str, description: &str, kind: &str, schema: Value) -> Self {
        self.0["responses"][status] = json!({ "description": description, "content": { kind: { "schema": schema } } });
        self
    }

    fn empty(mut self, status: &str, description: &str) -> Self {
        self.0["responses"][status] = json!({ "description": description });
        self
    }
}

fn item(path: &str, operations: Vec<(&str, Operation)>) -> (String, Value) {
    let operations: Map<String, Value> = operations.into_iter().map(|(m, o)| (m.to_owned(), o.0)).collect();
    (path.to_owned(), Value::Object(operations))
}

fn tools() -> Vec<(String, Value)> {
    const TAG: &str = "tools";
    let catalog = Operation::new(TAG, "listTools", "The tools that the caller may see").answers(
        "200",
        "The tools, sorted by name.",
        array_of("Tool"),
    );
    let called = |operation: Operation| {
        operation
            .path("name", "The tool as `upstream:tool`, e.g. `ads:createCampaign`.")
            .header("X-Correlation-Id", "Names the request across systems; up to 128 of A-Z a-z 0-9 . _ : -")
            .answers("200", "Executed; `receipt` is the outcome's.", reference("Done"))
            .answers("202", "People have to agree first; `Location` leads to the request.", reference("Pending"))
    };
    let invoke = called(Operation::new(TAG, "invokeTool", "Use a tool"))
        .header(
            "Idempotency-Key",
            "1 to 255 visible ASCII characters. Repeating a finished call with the same key replays its answer.",
        )
        .body(json!({ "type": "object", "description": "The tool's arguments." }));
    let confirm = called(Operation::new(TAG, "confirmTool", "Redeem a call that waited for people")).body(json!({
        "type": "object", "required": ["action_token"],
        "properties": { "action_token": { "type": "string" } },
        "description": "The token of the 202, and optionally the same arguments again: if given, they must match.",
    }));
    vec![
        item("/tool-catalog", vec![("get", catalog)]),
        item("/tools/{name}/invoke", vec![("post", invoke)]),
        item("/tools/{name}/confirm", vec![("post", confirm)]),
    ]
}

fn approvals() -> Vec<(String, Value)> {
    const TAG: &str = "approvals";
    let list = Operation::new(TAG, "listApprovals", "Requests for approval that the caller may see, newest first")
        .query("status", "string", "pending, redeemed, denied, expired, revoked or withdrawn")
        .query("limit", "integer", "1 to 1000, default 100")
        .query("before", "string", "Only requests older than this id")
        .answers("200", "A page; `Link: <…>; rel=\"next\"` leads to the next.", array_of("Approval"));
    let show = Operation::new(TAG, "getApproval", "One request for approval").path("id", "The request's id.").answers(
        "200",
        "The request.",
        reference("Approval"),
    );
    let answer = Operation::new(TAG, "answerApproval", "Approve or deny, as the caller")
        .path("id", "The request's id.")
        .body(json!({
            "type": "object", "required": ["decision"], "additionalProperties": false,
            "properties": {
                "decision": { "type": "string", "enum": ["approve", "deny"] },
                "reason": { "type": "string", "maxLength": 2000 },
            },
        }))
        .answers("200", "The request after the answer.", reference("Approval"));
    let html = json!({ "type": "string" });
    let page =
        Operation::new(TAG, "approvalPage", "The page on which a person decides; it shows nothing before sign-in")
            .public()
            .path("id", "The request's id.")
            .answers_as("200", "A form that asks for the person's own token.", "text/html", html.clone());
    let decide =
        Operation::new(TAG, "approvalPageForm", "The page's form: the token, and the decision if there is one")
            .public()
            .path("id", "The request's id.")
            .form(json!({
                "type": "object", "additionalProperties": false,
                "properties": {
                    "token": { "type": "string" }, "reason": { "type": "string", "maxLength": 1000 },
                    "decision": { "type": "string", "enum": ["approve", "deny"] },
                },
            }))
            .answers_as("200", "The request, as this person may see it.", "text/html", html.clone())
            .answers_as("401", "The form again: the token was not accepted.", "text/html", html);
    vec![
        item("/approvals", vec![("get", list)]),
        item("/approvals/{id}", vec![("get", show), ("post", answer)]),
        item("/approvals/{id}/page", vec![("get", page), ("post", decide)]),
    ]
}

fn audit() -> Vec<(String, Value)> {
    const TAG: &str = "audit";
    let events = Operation::new(TAG, "listEvents", "Events of the caller; of the workspace for operators and auditors")
        .query("type", "string", "An event type, or a prefix that ends with a dot (`call.`)")
        .query("principal", "string", "A principal's id")
        .query("tool", "string", "`upstream:tool`")
        .query("call", "string", "A call's id")
        .query("workspace", "string", "The caller's own, or `_node` for operators and auditors")
        .query("artifact_id", "string", "What the event is about: an artifact's id")
        .query("workspace_id", "string", "The same as `workspace`")
        .query("since", "integer", "Milliseconds since the epoch, inclusive")
        .query("until", "integer", "Milliseconds since the epoch, exclusive")
        .query("order", "string", "asc (default) or desc")
        .query("limit", "integer", "1 to 1000, default 100")
        .query("cursor", "string", "From a `Link` header")
        .answers("200", "A page; `Link: <…>; rel=\"next\"` leads to the next.", array_of("Event"));
    let declare = Operation::new(TAG, "declareEvent", "Record what a client says that it did (artifacts:declare)")
        .body(json!({
            "type": "object", "required": ["action"], "additionalProperties": false,
            "properties": {
                "action": { "type": "string" }, "artifactId": { "type": "string" }, "actor": { "type": "string" },
                "compliance_flags": { "type": "array", "items": { "type": "string" } }, "details": { "type": "object" },
            },
        }))
        .answers("200", "Recorded; marked as declared.", any_object());
    let stream = Operation::new(TAG, "streamEvents", "Events as they come; the same filters, but `order` and `until`")
        .header("Last-Event-ID", "The id of the last event that was seen: goes on behind it.")
        .answers_as(
            "200",
            "Server-sent events; ends after five minutes.",
            "text/event-stream",
            json!({ "type": "string" }),
        );
    let id = "The event's id.";
    let receipt = Operation::new(TAG, "getReceipt", "The receipt of an event: a file that verifies offline")
        .path("id", id)
        .answers("200", "The receipt file (docs/receipt.md).", any_object());
    let disclosing = Operation::new(TAG, "getReceiptDisclosing", "The receipt with values in it that the caller has")
        .path("id", id)
        .body(json!({
            "type": "object", "additionalProperties": false,
            "properties": { "input": { "description": "The call's arguments." }, "output": { "description": "The call's result." } },
            "description": "Refused unless the event's salted digests confirm the values.",
        }))
        .answers("200", "The receipt file (docs/receipt.md).", any_object());
    vec![
        item("/audit/events", vec![("get", events), ("post", declare)]),
        item("/audit/events/stream", vec![("get", stream)]),
        item("/receipts/{id}", vec![("get", receipt), ("post", disclosing)]),
    ]
}

fn log() -> Vec<(String, Value)> {
    let operation = |id: &str, summary: &str| Operation::new("log", id, summary).public();
    let checkpoint = |operation: Operation| {
        operation.answers_as("200", "A C2SP checkpoint (signed note).", "text/plain", json!({ "type": "string" }))
    };
    let tile = |operation: Operation| {
        let binary = json!({ "type": "string", "format": "binary" });
        operation
            .path("path", "`<L>/<N>[.p/<W>]` or `entries/<N>[.p/<W>]` as in C2SP tlog-tiles; may contain slashes.")
            .answers_as("200", "Hashes or entries; immutable.", "application/octet-stream", binary)
    };
    let origin = |operation: Operation| operation.path("origin", "A shard's origin, from /logs.");
    let shards = operation("listLogs", "All shards, oldest first").answers("200", "The shards.", array_of("Shard"));
    vec![
        item(
            "/checkpoint",
            vec![("get", checkpoint(operation("getCheckpoint", "The newest signed head of the open shard")))],
        ),
        item("/tile/{path}", vec![("get", tile(operation("getTile", "A tile or entry bundle of the open shard")))]),
        item("/logs", vec![("get", shards)]),
        item(
            "/logs/{origin}/checkpoint",
            vec![("get", checkpoint(origin(operation("getShardCheckpoint", "A shard's newest signed head"))))],
        ),
        item(
            "/logs/{origin}/tile/{path}",
            vec![("get", tile(origin(operation("getShardTile", "A shard's tile or entry bundle"))))],
        ),
    ]
}

fn mcp() -> Vec<(String, Value)> {
    let operation = |id: &str, summary: &str| {
        Operation::new("mcp", id, summary)
            .header("MCP-Protocol-Version", "2026-07-28, 2025-11-25, 2025-06-18, 2025-03-26 or 2024-11-05")
            .header("Mcp-Method", "2026-07-28: the method of the body")
            .header("Mcp-Name", "2026-07-28: the tool of a tools/call")
            .body(json!({ "description": "A JSON-RPC 2.0 message." }))
            .answers("200", "The JSON-RPC response; as text/event-stream where it takes long.", any_object())
            .empty("202", "A notification was taken.")
    };
    let one = operation("mcpUpstream", "MCP: the tools of one upstream, under their own names")
        .path("upstream", "The upstream's name.");
    let session = |id: &str, summary: &str| {
        Operation::new("mcp", id, summary).header("Mcp-Session-Id", "Given out by the answer to initialize.")
    };
    let listen = |id: &str| {
        let stream = json!({ "type": "string", "contentMediaType": "text/event-stream" });
        session(id, "MCP before 2026-07-28: what the session hears between its requests")
            .answers("200", "Events.", stream)
    };
    let end = |id: &str| session(id, "MCP before 2026-07-28: ends the session").empty("204", "The session is over.");
    let named = |operation: Operation| operation.path("upstream", "The upstream's name.");
    vec![
        item(
            "/mcp",
            vec![
                ("post", operation("mcp", "MCP: everything that the caller may see")),
                ("get", listen("mcpStream")),
                ("delete", end("mcpEnd")),
            ],
        ),
        item(
            "/mcp/{upstream}",
            vec![("post", one), ("get", named(listen("mcpUpstreamStream"))), ("delete", named(end("mcpUpstreamEnd")))],
        ),
    ]
}

fn administered(id: &str, summary: &str) -> Operation {
    Operation::new("administration", id, summary)
}

fn object(operation: Operation, description: &str) -> Operation {
    operation.answers("200", description, any_object())
}

fn objects(operation: Operation, description: &str) -> Operation {
    operation.answers("200", description, json!({ "type": "array", "items": any_object() }))
}

fn recorded(operation: Operation) -> Operation {
    operation.answers("200", "Done; the event that records it.", reference("Recorded"))
}

fn administration() -> Vec<(String, Value)> {
    let text = |name: &str| json!({ "type": "object", "required": [name], "additionalProperties": false, "properties": { name: { "type": "string" } } });
    let target = || {
        json!({
            "type": "object", "required": ["kind", "name"], "additionalProperties": false,
            "properties": {
                "kind": { "enum": ["principal", "tool", "upstream", "workspace"] },
                "name": { "type": "string" }, "reason": { "type": "string" },
            },
        })
    };
    let resolution = json!({
        "type": "object", "required": ["outcome"], "additionalProperties": false,
        "properties": { "outcome": { "enum": ["executed", "not-executed"] }, "note": { "type": "string" } },
    });
    let erasure = json!({
        "type": "object", "required": ["event", "reason"], "additionalProperties": false,
        "properties": { "event": { "type": "string", "format": "uuid" }, "reason": { "type": "string" } },
    });
    vec![
        item("/admin/status", vec![("get", object(administered("getStatus", "How the node stands"), "The status."))]),
        item(
            "/admin/freeze",
            vec![(
                "post",
                recorded(administered("freeze", "Stop a principal, tool, upstream or workspace").body(target())),
            )],
        ),
        item("/admin/unfreeze", vec![("post", recorded(administered("unfreeze", "Lift a freeze").body(target())))]),
        item(
            "/admin/breakers",
            vec![(
                "get",
                objects(administered("listBreakers", "Circuit breakers of this node"), "The breakers that saw a call."),
            )],
        ),
        item(
            "/admin/breakers/reset",
            vec![(
                "post",
                recorded(administered("resetBreaker", "Close a circuit breaker of this node").body(json!({
                    "type": "object", "required": ["name"], "additionalProperties": false,
                    "properties": { "name": { "type": "string" }, "reason": { "type": "string" } },
                }))),
            )],
        ),
        item(
            "/admin/budgets",
            vec![(
                "get",
                objects(
                    administered("listBudgets", "What was used of budgets in the current periods"),
                    "The budgets in use.",
                ),
            )],
        ),
        item(
            "/admin/freezes",
            vec![("get", objects(administered("listFreezes", "Everything frozen"), "The freezes."))],
        ),
        item(
            "/admin/unknown",
            vec![("get", objects(administered("listUnknown", "Writes of unknown outcome"), "The calls."))],
        ),
        item(
            "/admin/unknown/{call}/resolve",
            vec![(
                "post",
                recorded(
                    administered("resolveUnknown", "Settle a write of unknown outcome")
                        .path("call", "The call's id.")
                        .body(resolution),
                ),
            )],
        ),
        item(
            "/admin/erase",
            vec![("post", recorded(administered("erase", "Erase an event's body and salt").body(erasure)))],
        ),
        item(
            "/admin/backup",
            vec![(
                "post",
                object(
                    administered("backup", "Copy the database while the node runs").body(text("path")),
                    "The backup.",
                ),
            )],
        ),
        item(
            "/admin/fsck",
            vec![(
                "post",
                object(administered("fsck", "Check the whole log against its stored leaves"), "The report."),
            )],
        ),
        item(
            "/admin/export",
            vec![(
                "post",
                object(
                    administered("export", "Write the audit stream as JSON lines").body(text("directory")),
                    "The files.",
                ),
            )],
        ),
    ]
}

fn reviewed_tools() -> Vec<(String, Value)> {
    let tool = |operation: Operation| operation.path("name", "The tool as `upstream:tool`.");
    let acceptance = json!({
        "type": "object", "required": ["pin"], "additionalProperties": false,
        "properties": {
            "pin": { "type": "string" },
            "despite": {
                "type": "array", "items": { "type": "string" },
                "description": "The rules of the scan whose grave findings were seen and are accepted.",
            },
        },
    });
    vec![
        item(
            "/admin/tools",
            vec![("get", objects(administered("reviewTools", "All tools with what waits for review"), "The tools."))],
        ),
        item(
            "/admin/tools/{name}/diff",
            vec![("get", object(tool(administered("diffTool", "What changed in a definition")), "The changes."))],
        ),
        item(
            "/admin/tools/{name}/accept",
            vec![(
                "post",
                recorded(tool(administered("acceptTool", "Accept a definition as reviewed")).body(acceptance)),
            )],
        ),
        item(
            "/admin/upstreams/{upstream}/refresh",
            vec![(
                "post",
                object(
                    administered("refreshUpstream", "List an upstream's tools again")
                        .path("upstream", "The upstream's name."),
                    "Done.",
                ),
            )],
        ),
    ]
}

fn policies() -> Vec<(String, Value)> {
    let question = json!({
        "type": "object", "required": ["principal", "tool"], "additionalProperties": false,
        "properties": { "principal": any_object(), "tool": { "type": "string" }, "arguments": any_object() },
    });
    let number = || json!({ "type": "integer", "minimum": 0 });
    let edited_set = json!({
        "type": "object", "required": ["files", "since"], "additionalProperties": false,
        "properties": {
            "files": {
                "type": "array",
                "items": {
                    "type": "object", "required": ["path", "kind", "text"], "additionalProperties": false,
                    "properties": {
                        "path": { "type": "string" }, "kind": { "enum": ["access", "approval"] }, "text": { "type": "string" },
                    },
                },
            },
            "workspace": { "type": "string" },
            "since": number(), "until": number(), "cursor": number(),
            "limit": { "type": "integer", "minimum": 1, "maximum": 500 },
        },
    });
    vec![
        item("/admin/policy", vec![("get", object(administered("getPolicy", "The policy set in force"), "The set."))]),
        item(
            "/admin/policy/reload",
            vec![("post", object(administered("reloadPolicy", "Read the policies again"), "What the reload did."))],
        ),
        item(
            "/admin/policy/explain",
            vec![(
                "post",
                object(
                    administered("explainPolicy", "What the policies say of a call, and why").body(question),
                    "The explanation.",
                ),
            )],
        ),
        item(
            "/admin/policy/calls/{id}",
            vec![(
                "get",
                object(
                    administered(
                        "explainCall",
                        "Why a past call was decided as it was, and what the policies say today",
                    )
                    .path("id", "The id of a call, or of one of its events."),
                    "The past decisions and today's explanation.",
                ),
            )],
        ),
        item(
            "/admin/policy/replay",
            vec![(
                "post",
                object(
                    administered("replayPolicy", "Decide past calls again by an edited set").body(edited_set),
                    "A page: what differs, and what could not be decided again.",
                ),
            )],
        ),
    ]
}

fn node() -> Vec<(String, Value)> {
    let operation = |id: &str, summary: &str| Operation::new("node", id, summary).public();
    let resource = |id: &str, of: &str| {
        let summary = format!("How a client gets a token for {of} (RFC 9728)");
        operation(id, &summary).answers("200", "The metadata of the protected resource.", any_object())
    };
    let schema = operation("getManifestSchema", "The JSON Schema of upstream manifests").answers_as(
        "200",
        "The schema.",
        "application/schema+json",
        any_object(),
    );
    vec![
        item(
            "/health",
            vec![(
                "get",
                operation("getHealth", "Whether the node answers and can record").answers(
                    "200",
                    "The node's health.",
                    reference("Health"),
                ),
            )],
        ),
        item(
            "/ready",
            vec![(
                "get",
                operation("getReady", "Whether to send requests here; 503 while the node ends or cannot record")
                    .answers("200", "The node's health.", reference("Health")),
            )],
        ),
        item(
            "/metrics",
            vec![(
                "get",
                Operation::new(
                    "administration",
                    "getMetrics",
                    "What is counted; for operators, auditors and the role metrics",
                )
                .answers_as(
                    "200",
                    "Prometheus text format.",
                    "text/plain",
                    json!({ "type": "string" }),
                ),
            )],
        ),
        item(
            "/openapi.json",
            vec![("get", operation("getOpenapi", "This document").answers("200", "This document.", any_object()))],
        ),
        item("/schemas/manifest.json", vec![("get", schema)]),
        item("/.well-known/oauth-protected-resource", vec![("get", resource("getResource", "the node"))]),
        item("/.well-known/oauth-protected-resource/mcp", vec![("get", resource("getMcpResource", "/mcp"))]),
        item(
            "/.well-known/oauth-protected-resource/mcp/{upstream}",
            vec![("get", resource("getUpstreamResource", "/mcp/{upstream}").path("upstream", "The upstream's name."))],
        ),
        item(
            "/.well-known/jwks.json",
            vec![(
                "get",
                operation("getAssertionKeys", "The keys that the node vouches for callers with").answers_as(
                    "200",
                    "A JWKS.",
                    "application/jwk-set+json",
                    any_object(),
                ),
            )],
        ),
    ]
}

fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let uuid = || json!({ "type": "string", "format": "uuid" });
    let millis = || json!({ "type": "integer", "description": "Milliseconds since the epoch." });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties });
    let owed = object(
        &["confirm", "approvals"],
        json!({
            "confirm": { "type": "boolean" }, "approvals": { "type": "integer" },
            "approver_roles": { "type": "array", "items": text() }, "reasons": { "type": "array", "items": text() },
        }),
    );
    json!({
        "Problem": object(&["type", "title", "status", "detail", "correlation_id"], json!({
            "type": { "type": "string", "format": "uri" }, "title": text(), "status": { "type": "integer" },
            "detail": text(), "instance": text(), "correlation_id": text(), "event": uuid(),
        })),
        "Health": object(&["status", "version"], json!({
            "status": { "enum": ["ok", "degraded"] }, "version": text(), "uptime_seconds": { "type": "integer" },
        })),
        "Tool": object(&["name", "mcp_name", "effect", "input_schema", "pin"], json!({
            "name": text(), "mcp_name": text(), "title": { "type": ["string", "null"] }, "description": { "type": ["string", "null"] },
            "effect": { "enum": ["read", "write", "destructive"] }, "input_schema": any_object(), "output_schema": any_object(), "pin": text(),
        })),
        "Done": object(&["status", "result", "receipt", "call"], json!({
            "status": { "enum": ["ok", "tool_error"] }, "result": { "type": "object", "description": "The MCP CallToolResult as the upstream sent it." },
            "receipt": uuid(), "call": uuid(),
        })),
        "Owed": owed,
        "Pending": object(&["status", "action_token", "request_id", "expires_at", "owed", "receipt"], json!({
            "status": { "const": "pending" }, "action_token": text(), "request_id": uuid(), "expires_at": millis(),
            "owed": reference("Owed"), "given": { "type": "integer" }, "confirmed": { "type": "boolean" }, "receipt": uuid(),
        })),
        "Approval": object(&["id", "status", "tool", "principal", "preview", "owed", "answers", "expires_at", "can_answer"], json!({
            "id": uuid(), "status": { "enum": ["pending", "redeemed", "denied", "expired", "revoked", "withdrawn"] }, "tool": text(),
            "effect": text(), "pin": text(), "principal": any_object(), "arguments": {}, "preview": text(), "owed": any_object(),
            "answers": { "type": "array", "items": any_object() }, "created_at": millis(), "expires_at": millis(),
            "can_answer": { "type": "array", "items": { "enum": ["confirm", "approval"] } }, "cannot_answer": { "type": ["string", "null"] },
            "receipt": uuid(), "closed_by": { "type": ["string", "null"] },
        })),
        "Event": object(&["id", "type", "workspace", "seq", "time", "receipt", "log"], json!({
            "id": uuid(), "type": text(), "workspace": text(), "seq": { "type": "integer" }, "time": millis(), "receipt": uuid(),
            "commitment": text(), "erased": { "const": true },
            "log": object(&["origin", "index"], json!({ "origin": text(), "index": { "type": "integer" } })),
        })),
        "Shard": object(&["origin", "vkey", "size", "open"], json!({
            "origin": text(), "vkey": text(), "size": { "type": "integer" }, "open": { "type": "boolean" },
        })),
        "Connection": object(&["upstream", "state", "scopes"], json!({
            "upstream": text(), "state": { "enum": ["none", "started", "consented", "connected", "broken"] },
            "scopes": { "type": "array", "items": text() }, "connected": millis(), "renewed": millis(), "expires": millis(),
            "renewable": { "type": "boolean" }, "problem": text(), "event": uuid(), "issuer": text(),
        })),
        "HeldConnection": { "allOf": [reference("Connection"), object(&["workspace", "person"], json!({
            "workspace": text(), "person": object(&["issuer", "id"], json!({ "issuer": text(), "id": text() })),
        }))] },
        "Recorded": object(&["event", "receipt"], json!({ "event": uuid(), "receipt": uuid() })),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use countersign_gate::connections::client::DOCUMENT;

    use super::*;

    /// The routes as they stand in the source: a route that is added there and not here fails, and the other way round.
    #[test]
    fn every_route_is_described_and_nothing_else() {
        let source = [
            include_str!("../http.rs"),
            include_str!("admin.rs"),
            include_str!("artifacts.rs"),
            include_str!("members.rs"),
            include_str!("connections.rs"),
            include_str!("trust.rs"),
            include_str!("sigstore.rs"),
            include_str!("witness.rs"),
            include_str!("replay.rs"),
        ]
        .concat()
        .replace(".route(DOCUMENT,", &format!(".route(\"{DOCUMENT}\","));
        let by_a_name_unknown_here = source.matches(".route(").count() - source.matches(".route(\"").count();
        assert_eq!(by_a_name_unknown_here, 0);
        let mut routed = BTreeSet::new();
        for route in source.split(".route(\"").skip(1) {
            let (path, rest) = route.split_once('"').expect("a path");
            let handlers = rest.lines().next().unwrap_or(rest);
            for method in ["get", "post", "delete"].iter().filter(|m| handlers.contains(&format!("{m}("))) {
                routed.insert((path.replace("{*path}", "{path}"), (*method).to_owned()));
            }
        }
        let document = describe();
        let paths = document["paths"].as_object().expect("paths");
        let described: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().into_iter().flatten().map(move |(m, _)| (path.clone(), m.clone()))
            })
            .collect();
        assert_eq!(described, routed);
        assert!(described.len() > 30);
    }

    #[test]
    fn references_lead_somewhere_and_path_parameters_are_declared() {
        let document = describe();
        let text = document.to_string();
        for part in text.split("\"#/").skip(1) {
            let pointer = format!("/{}", part.split('"').next().expect("a pointer"));
            assert!(document.pointer(&pointer).is_some(), "{pointer}");
        }
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let declared: BTreeSet<&str> = operation["parameters"]
                    .as_array()
                    .expect("parameters")
                    .iter()
                    .filter(|p| p["in"] == "path")
                    .filter_map(|p| p["name"].as_str())
                    .collect();
                let used: BTreeSet<&str> = path.split('{').skip(1).filter_map(|p| p.split('}').next()).collect();
                assert_eq!(declared, used, "{method} {path}");
                assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}: the operationId is taken");
            }
        }
    }
}
