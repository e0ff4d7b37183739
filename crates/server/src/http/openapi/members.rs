//! Workspaces, granted roles and API keys.

use serde_json::{Value, json};

use super::{Operation, any_object, item, reference};

pub(super) fn members() -> Vec<(String, Value)> {
    let operation = |id: &str, summary: &str| Operation::new("administration", id, summary);
    let object = |operation: Operation, description: &str| operation.answers("200", description, any_object());
    let objects = |operation: Operation, description: &str| {
        operation.answers("200", description, json!({ "type": "array", "items": any_object() }))
    };
    let recorded =
        |operation: Operation| operation.answers("200", "Done; the event that records it.", reference("Recorded"));
    let text = || json!({ "type": "string" });
    let texts = || json!({ "type": "array", "items": { "type": "string" }, "maxItems": 50 });
    let body = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties });
    let reason = || body(&[], json!({ "reason": text() }));
    let grant = || {
        body(
            &["issuer", "id", "role"],
            json!({ "issuer": text(), "id": text(), "role": text(), "workspace": text(), "reason": text() }),
        )
    };
    let new_key = body(
        &["principal"],
        json!({
            "principal": text(), "kind": { "enum": ["agent", "service"] }, "workspace": text(), "roles": texts(),
            "scopes": texts(), "expires": { "type": "integer", "description": "Milliseconds since the epoch." },
            "networks": texts(), "note": text(),
        }),
    );
    let of_workspace = |operation: Operation| operation.query("workspace", "string", "The caller's own by default");
    let named = |operation: Operation| operation.path("name", "The workspace's name.");
    vec![
        item(
            "/admin/workspaces",
            vec![
                (
                    "get",
                    objects(
                        operation("listWorkspaces", "All workspaces; the caller's own unless it is staff"),
                        "The workspaces.",
                    ),
                ),
                (
                    "post",
                    recorded(
                        operation("createWorkspace", "Register a workspace")
                            .body(body(&["name"], json!({ "name": text(), "title": text() }))),
                    ),
                ),
            ],
        ),
        item(
            "/admin/workspaces/{name}",
            vec![("get", object(named(operation("getWorkspace", "One workspace")), "The workspace."))],
        ),
        item(
            "/admin/workspaces/{name}/archive",
            vec![(
                "post",
                recorded(named(operation("archiveWorkspace", "Let nobody act in a workspace any more")).body(reason())),
            )],
        ),
        item(
            "/admin/roles",
            vec![(
                "get",
                objects(of_workspace(operation("listGrants", "The roles granted in a workspace")), "The grants."),
            )],
        ),
        item("/admin/roles/grant", vec![("post", recorded(operation("grantRole", "Grant a role").body(grant())))]),
        item(
            "/admin/roles/revoke",
            vec![("post", recorded(operation("revokeRole", "Take a granted role back").body(grant())))],
        ),
        item(
            "/admin/apikeys",
            vec![
                (
                    "get",
                    objects(
                        of_workspace(operation("listApiKeys", "The API keys of a workspace")),
                        "The keys, without secrets.",
                    ),
                ),
                (
                    "post",
                    object(
                        operation("createApiKey", "Make an API key; it is shown here and never again").body(new_key),
                        "The key, its id and the event that records it.",
                    ),
                ),
            ],
        ),
        item(
            "/admin/apikeys/{id}/revoke",
            vec![(
                "post",
                recorded(
                    operation("revokeApiKey", "Revoke an API key, at once").path("id", "The key's id.").body(reason()),
                ),
            )],
        ),
    ]
}
