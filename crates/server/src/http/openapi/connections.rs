//! Accounts that people connect, described.

use serde_json::{Value, json};

use super::{Operation, any_object, array_of, item, reference};

const FORGOTTEN: &str =
    "Forgotten; `revoked` says whether the provider withdrew the tokens, and is null if it has no way to.";

pub(super) fn connections() -> Vec<(String, Value)> {
    let operation = |id: &str, summary: &str| Operation::new("connections", id, summary);
    let named = |operation: Operation| operation.path("upstream", "The upstream's name.");
    let text = || json!({ "type": "string" });
    let list = operation("listConnections", "The caller's connections, one for each upstream that takes them").answers(
        "200",
        "The connections; an agent sees those of the person behind it.",
        array_of("Connection"),
    );
    let connect = named(operation("connect", "Start to connect an account, as its person")).answers(
        "200",
        "The provider's page, to be opened in the person's own browser within ten minutes.",
        json!({
            "type": "object", "required": ["upstream", "authorization_url", "scopes", "expires"],
            "properties": {
                "upstream": text(), "authorization_url": { "type": "string", "format": "uri" },
                "issuer": { "type": "string", "description": "The authorization server's issuer, where it is known." },
                "scopes": { "type": "array", "items": text(), "description": "What the person is asked for." },
                "expires": { "type": "integer", "description": "Milliseconds since the epoch." },
            },
        }),
    );
    let confirm = named(operation("confirmConnection", "Say that it was you who consented, and connect"))
        .body(json!({
            "type": "object", "required": ["code"], "additionalProperties": false,
            "properties": { "code": { "type": "string", "description": "What the browser was shown." } },
        }))
        .answers("200", "The connection.", reference("Connection"));
    let disconnect = named(operation("disconnect", "Forget a connection, and withdraw its tokens at the provider"))
        .answers("200", FORGOTTEN, any_object());
    let callback = operation("oauthCallback", "Where providers send browsers back to (RFC 6749, 4.1.2)")
        .public()
        .query("state", "string", "As it was given out; good once.")
        .query("code", "string", "The authorization code.")
        .query("iss", "string", "The provider's issuer (RFC 9207).")
        .query("error", "string", "Why there is no code.")
        .answers_as("200", "A page with the code that the person repeats.", "text/html", text());
    let document =
        operation("clientMetadata", "What the node says of itself as an OAuth client, where it has an https URL")
            .public()
            .answers("200", "The client ID metadata document.", any_object());
    let html = |operation: Operation| named(operation).public().answers_as("200", "A page.", "text/html", text());
    let page = html(operation("connectionPage", "The page on which a person starts; it shows nothing before sign-in"));
    let form =
        html(operation("connectionPageForm", "The page's form: the person's token, and the code if there is one"));
    let held = Operation::new(
        "administration",
        "listHeldConnections",
        "Everybody's connections in a workspace; for operators",
    )
    .query("workspace", "string", "The caller's own by default")
    .query("limit", "integer", "1 to 1000, default 100")
    .query("cursor", "string", "From a `Link` header")
    .answers("200", "A page; `Link: <…>; rel=\"next\"` leads to the next.", array_of("HeldConnection"));
    let drop = named(Operation::new("administration", "dropConnection", "Drop somebody's connection; for operators"))
        .body(json!({
            "type": "object", "required": ["issuer", "id"], "additionalProperties": false,
            "properties": {
                "issuer": { "type": "string", "description": "The issuer of the person's tokens." },
                "id": { "type": "string", "description": "The person: the subject of these tokens." },
                "workspace": { "type": "string", "description": "The caller's own by default." },
                "reason": text(),
            },
        }))
        .answers("200", FORGOTTEN, any_object());
    vec![
        item("/admin/connections", vec![("get", held)]),
        item("/admin/connections/{upstream}/drop", vec![("post", drop)]),
        item("/connections", vec![("get", list)]),
        item("/connections/{upstream}", vec![("post", connect), ("delete", disconnect)]),
        item("/connections/{upstream}/confirm", vec![("post", confirm)]),
        item("/connections/{upstream}/page", vec![("get", page), ("post", form)]),
        item("/oauth/callback", vec![("get", callback)]),
        item("/client-metadata.json", vec![("get", document)]),
    ]
}
