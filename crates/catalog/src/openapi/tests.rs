//! Documents as people publish them, and the manifests that come of them.

use serde_json::json;

use super::*;
use crate::definition::pin;

const PHARMACY: &str = include_str!("../../testdata/openapi/pharmacy.yaml");

fn imported(options: Options) -> Imported {
    import(PHARMACY, &options).unwrap_or_else(|e| panic!("{e}"))
}

fn definitions(imported: &Imported) -> Vec<Value> {
    let manifest =
        Manifest::parse(&imported.manifest, "import").unwrap_or_else(|e| panic!("{e}\n{}", imported.manifest));
    manifest.rest_definitions().expect("a REST upstream")
}

fn tool<'a>(definitions: &'a [Value], name: &str) -> &'a Value {
    definitions.iter().find(|d| d["name"] == name).unwrap_or_else(|| panic!("{name} of {definitions:?}"))
}

#[test]
fn a_document_becomes_a_manifest_that_loads() {
    let imported = imported(Options::default());
    assert_eq!(imported.upstream.as_str(), "pharmacy-orders-api-v1");
    let names: Vec<_> = imported.tools.iter().map(|t| (t.name.as_str(), t.effect)).collect();
    let expected = [
        ("orders_list", Effect::Read),
        ("orders_create", Effect::Write),
        ("orders_list_2", Effect::Read), // `orders.list` and `orders_list` are too much alike
        ("orders_change", Effect::Write),
        ("orders_cancel", Effect::Destructive),
        ("post_refills", Effect::Write),
        ("documents_get", Effect::Read),
    ];
    assert_eq!(names.len(), expected.len(), "{names:?}");
    assert!(expected.iter().all(|tool| names.contains(tool)), "{names:?}");
    let manifest = Manifest::parse(&imported.manifest, "import").expect("valid");
    let crate::Transport::Rest(transport) = &manifest.transport else { panic!("not REST") };
    assert_eq!(transport.url.as_str(), "https://eu.pharmacy.example/v1");
    let Some(crate::manifest::Credential::Static(key)) = transport.credential.as_deref() else { panic!("no key") };
    assert_eq!(key.secret.env.as_deref(), Some("PHARMACY_ORDERS_API_V1_APIKEY"));
    assert_eq!(key.name.as_deref(), Some("X-Api-Key"));
    assert!(imported.manifest.contains("effect: destructive # by DELETE; review"), "{}", imported.manifest);
}

#[test]
fn schemas_become_json_schema() {
    let definitions = definitions(&imported(Options::default()));
    for definition in &definitions {
        pin(&definition.to_string()).expect("a pin");
        for schema in ["inputSchema", "outputSchema"].iter().filter_map(|key| definition.get(*key)) {
            jsonschema::validator_for(schema).unwrap_or_else(|e| panic!("{e}: {schema}"));
        }
    }
    let list = &tool(&definitions, "orders_list")["inputSchema"];
    assert_eq!(list["required"], json!(["patientId"]));
    let limit = &list["properties"]["limit"];
    assert_eq!((&limit["exclusiveMinimum"], limit.get("minimum")), (&json!(0), None));
    // A name with brackets is none that clients accept; on the wire it stays.
    assert!(list["properties"].get("status").is_some(), "{list}");
    let create = &tool(&definitions, "orders_create")["inputSchema"];
    let mut properties: Vec<_> = create["properties"].as_object().expect("properties").keys().collect();
    properties.sort();
    // The body's members are arguments; `id` is the server's to set, and the key is the call's id.
    assert_eq!(properties, ["drug", "note", "patientId", "pin", "status"]);
    assert_eq!(create["properties"]["note"]["type"], json!(["string", "null"]));
    assert_eq!(create["$defs"]["Drug"]["properties"]["substitutes"]["items"]["$ref"], "#/$defs/Drug");
    assert_eq!(create["$defs"]["Drug"]["properties"]["maker"]["anyOf"][1], json!({"type": "null"}));
    let output = &tool(&definitions, "orders_create")["outputSchema"];
    let order = &output["$defs"]["Order.response"]["properties"];
    assert!(order.get("id").is_some() && order.get("pin").is_none(), "{output}");
    let validator = jsonschema::validator_for(create).expect("usable");
    assert!(
        validator
            .is_valid(&json!({"patientId": "P1", "drug": {"code": "a", "substitutes": [{"code": "b"}]}, "note": null}))
    );
    for wrong in [
        json!({"patientId": "P1"}),
        json!({"patientId": "1", "drug": {"code": "a"}}),
        json!({"patientId": "P1", "drug": {"code": "a"}, "id": 1}),
    ] {
        assert!(!validator.is_valid(&wrong), "{wrong}");
    }
    let change = &tool(&definitions, "orders_change")["inputSchema"]["properties"]["body"];
    assert_eq!(change["oneOf"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_cannot_be_expressed_is_noted() {
    let imported = imported(Options::default());
    for (place, part) in [
        ("servers", "sandbox.pharmacy.example"),
        ("GET /patients/{patientId}/orders", "cookie parameter session"),
        ("GET /patients/{patientId}/orders", "header parameter Authorization"),
        ("POST /patients/{patientId}/orders", "never as application/xml"),
        ("POST /patients/{patientId}/orders", "`callbacks`"),
        ("POST /patients/{patientId}/orders", "Idempotency-Key carries"),
        ("PATCH /patients/{patientId}/orders/{orderId}", "9223372036854775807"),
        ("DELETE /patients/{patientId}/orders/{orderId}", "deprecated"),
        ("POST /documents", "left out: bodies of the type multipart/form-data"),
        ("GET /reports", "leads out of the document"),
        ("OPTIONS /reports", "left out"),
        ("GET /patients/{patientId}/orders", "maker.json"),
        ("security scheme apiKey", "PHARMACY_ORDERS_API_V1_APIKEY"),
    ] {
        let found = imported.notes.iter().any(|n| n.place == place && n.text.contains(part));
        let all: Vec<_> = imported.notes.iter().map(|n| format!("{}: {}", n.place, n.text)).collect();
        assert!(found, "{place}: {part} is not among\n{}", all.join("\n"));
        assert!(imported.manifest.contains(part), "{part} is not in the manifest");
    }
}

#[test]
fn options_choose() {
    let chosen = imported(Options {
        upstream: Some("rx".into()),
        server: Some("http://127.0.0.1:9/api".into()),
        tags: vec!["documents".into()],
        ..Options::default()
    });
    assert_eq!(chosen.tools.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["documents_get"]);
    assert!(chosen.manifest.contains("upstream: rx\n") && chosen.manifest.contains("http://127.0.0.1:9/api"));
    let one = imported(Options {
        operations: vec!["orders.create".into()],
        without_response_schemas: true,
        ..Options::default()
    });
    assert_eq!(one.tools.len(), 1);
    assert!(definitions(&one)[0].get("outputSchema").is_none());
}

#[test]
fn newer_documents_and_json_are_read() {
    let document = json!({
        "openapi": "3.1.0", "info": {"title": "7 Ads", "version": "1"}, "servers": [{"url": "https://ads.example"}],
        "security": [{"o": []}],
        "paths": {"/campaigns/{id}": {"get": {
            "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": ["string", "integer"]}}],
            "responses": {"200": {"description": "x", "content": {"application/json": {"schema": {
                "$ref": "#/components/schemas/Campaign/properties/self", "description": "Beside."}}}}},
        }}},
        "components": {
            "securitySchemes": {"o": {"type": "oauth2", "flows": {}}},
            "schemas": {"Campaign": {"type": "object", "unknownWord": 1, "properties": {
                "self": {"type": "object", "properties": {"parent": {"$ref": "#/components/schemas/Campaign/properties/self"}}}}}},
        },
    });
    let imported = import(&document.to_string(), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(imported.upstream.as_str(), "ads");
    assert_eq!(imported.tools[0].name, "get_campaigns_id");
    let definitions = definitions(&imported);
    assert_eq!(definitions[0]["inputSchema"]["properties"]["id"]["type"], json!(["string", "integer"]));
    // A reference into a schema is replaced by what it leads to, a bounded number of times.
    assert!(imported.notes.iter().any(|n| n.text.contains("leads into itself")), "{:?}", imported.notes);
    assert!(imported.manifest.contains("Bearer ${ADS_O}"), "{}", imported.manifest);
}

/// The credential and the headers of a document with these schemes, which its one operation wants in one of these ways.
fn secured(schemes: Value, wanted: Value) -> (Value, Value, String) {
    let document = json!({
        "openapi": "3.1.0", "info": {"title": "Ads", "version": "1"}, "servers": [{"url": "https://ads.example"}],
        "security": wanted, "components": {"securitySchemes": schemes},
        "paths": {"/x": {"get": {"operationId": "x", "responses": {"200": {"description": "x"}}}}},
    });
    let imported = import(&document.to_string(), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let yaml: Value = serde_saphyr::from_str(&imported.manifest).expect("YAML");
    let notes: Vec<_> = imported.notes.iter().map(|n| format!("{}: {}", n.place, n.text)).collect();
    (yaml["transport"]["credential"].clone(), yaml["transport"]["headers"].clone(), notes.join("\n"))
}

#[test]
fn a_scheme_becomes_the_credential_and_its_secret_a_variable() {
    let secret = json!({"env": "ADS_S"});
    let tokens = "https://idp.example/token";
    let flow =
        json!({"tokenUrl": tokens, "authorizationUrl": "https://idp.example/a", "scopes": {"read": "x", "write": "y"}});
    for (scheme, expected) in [
        (
            json!({"type": "apiKey", "in": "header", "name": "X-Key"}),
            json!({"type": "static", "secret": secret, "name": "X-Key"}),
        ),
        (
            json!({"type": "apiKey", "in": "query", "name": "key"}),
            json!({"type": "static", "secret": secret, "in": "query", "name": "key"}),
        ),
        (
            json!({"type": "apiKey", "in": "header", "name": "Authorization"}),
            json!({"type": "static", "secret": secret, "name": "Authorization", "prefix": ""}),
        ),
        (json!({"type": "http", "scheme": "Bearer"}), json!({"type": "static", "secret": secret})),
        (
            json!({"type": "http", "scheme": "basic"}),
            json!({"type": "static", "secret": secret, "in": "basic", "username": "CHANGE-ME"}),
        ),
        (
            json!({"type": "oauth2", "flows": {"clientCredentials": flow}}),
            json!({
                "type": "oauth_client_credentials", "token_url": tokens, "client_id": "CHANGE-ME", "client_secret": secret,
                "scopes": ["read", "write"],
            }),
        ),
        (
            json!({"type": "oauth2", "flows": {"authorizationCode": flow}}),
            json!({
                "type": "user", "token_url": tokens, "authorization_url": "https://idp.example/a", "client_id": "CHANGE-ME",
                "client_secret": secret, "scopes": ["read", "write"],
            }),
        ),
    ] {
        let (credential, headers, notes) = secured(json!({"s": scheme}), json!([{"s": []}]));
        assert_eq!((credential, headers), (expected, Value::Null), "{scheme}");
        assert!(notes.contains("security scheme s: ") && notes.contains("ADS_S"), "{notes}");
    }
}

#[test]
fn what_is_wanted_beside_the_credential_is_a_header_and_alternatives_are_left_out() {
    let key = |name: &str| json!({"type": "apiKey", "in": "header", "name": name});
    let schemes = json!({"b": {"type": "http", "scheme": "bearer"}, "k": key("X-Key"), "l": key("X-Other")});
    let (credential, headers, notes) = secured(schemes.clone(), json!([{"b": [], "k": []}, {"l": []}]));
    assert_eq!((credential["secret"]["env"].as_str(), &headers), (Some("ADS_B"), &json!({"X-Key": "${ADS_K}"})));
    assert!(notes.contains("security scheme l: left out: b does instead of it"), "{notes}");
    let (_, headers, _) = secured(schemes, json!([{"k": []}, {"b": []}]));
    assert_eq!(headers, Value::Null, "the bearer alone will do");
    // A token endpoint without TLS is none; what is left is a token from the environment.
    let flow = json!({"tokenUrl": "http://idp.example/token", "scopes": {}});
    let (credential, headers, notes) =
        secured(json!({"o": {"type": "oauth2", "flows": {"clientCredentials": flow}}}), json!([{"o": []}]));
    assert_eq!((credential, headers), (Value::Null, json!({"Authorization": "Bearer ${ADS_O}"})));
    assert!(notes.contains("must be https"), "{notes}");
    let (credential, _, notes) = secured(json!({"k": key("Host")}), json!([{"k": []}]));
    assert!(credential.is_null() && notes.contains("makes no credential"), "{notes}");
}

#[test]
fn documents_that_make_no_sense_are_refused() {
    let with = |paths: &str| {
        format!(
            "openapi: 3.1.0\ninfo: {{ title: A, version: '1' }}\nservers: [{{ url: https://a.example }}]\npaths: {paths}\n"
        )
    };
    for (text, part) in [
        ("{".to_owned(), "not JSON"),
        ("a: [".to_owned(), "not YAML"),
        ("swagger: '2.0'".to_owned(), "convert"),
        ("openapi: 4.0.0".to_owned(), "3.0 and 3.1"),
        (with("{}"), "no operation"),
        (with("{ /a: { $ref: '#/paths/~1a' } }"), "circles"),
        (with("{ '/{a}': { get: { responses: {} } } }"), "not described"),
        (with("{ '/a?b': { get: { responses: {} } } }"), "cannot stand in the path"),
        (with("{ /a: { get: { responses: {} } } }").replace("https://a.example", "/v1"), "full URL"),
        (with("{ /a: { get: { responses: {} } } }").replace("title: A", "title: Trust"), "reserved"),
        (with("{ /a: { get: { responses: {} } } }").replace("title: A", "title: '1'"), "cannot be the upstream's name"),
        (" ".repeat(MAX_DOCUMENT_BYTES + 1), "larger"),
    ] {
        let error = import(&text, &Options::default()).map(|i| i.manifest).expect_err(part).to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// A description can hold what a terminal or a reader would not show; in the manifest it shows.
#[test]
fn hidden_characters_are_written_as_escapes() {
    let text = "openapi: 3.1.0\ninfo: { title: A, version: '1' }\nservers: [{ url: https://a.example }]\npaths: { /a: { get: { description: \"one\\u202Etwo\\nthree: # four\", responses: {} } } }\n";
    let imported = import(text, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert!(imported.manifest.contains("one\\U0000202Etwo\\nthree: # four"), "{}", imported.manifest);
    assert_eq!(definitions(&imported)[0]["description"], "one\u{202e}two\nthree: # four");
}
