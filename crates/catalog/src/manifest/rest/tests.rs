//! Manifests of REST upstreams, and the definitions that follow from them.

use serde_json::{Value, json};

use crate::definition::pin;
use crate::{Manifest, Transport};

const PHARMACY: &str = r##"
version: 1
upstream: pharmacy
transport:
  type: rest
  url: https://api.pharmacy.example/v1
  headers: { X-Api-Key: "${PHARMACY_KEY}" }
  schemas:
    Order:
      type: object
      required: [drug]
      properties: { drug: { type: string }, substitute: { $ref: "#/$defs/Order" } }
    Unused: { type: string }
tools:
  getOrder:
    effect: read
    description: Reads one order.
    request:
      method: GET
      path: /patients/{patient}/orders/{order-id}
      title: An order
      arguments:
        patient: { in: path, schema: { type: string, pattern: "^P[0-9]+$" } }
        order: { in: path, name: order-id, description: Its number., schema: { type: integer } }
        expand: { in: query, style: form, explode: false, schema: { type: array, items: { type: string } } }
      response: { select: /data, schema: { $ref: "#/$defs/Order" } }
  createOrder:
    request:
      method: POST
      path: /patients/{patient}/orders
      arguments:
        patient: { in: path }
        order: { in: whole_body, required: true, schema: { $ref: "#/$defs/Order" } }
      expect: [201]
      idempotency_header: Idempotency-Key
      response: { schema: { type: array, items: { type: string } } }
"##;

fn parse(yaml: &str) -> Result<Manifest, String> {
    Manifest::parse(yaml, "p.yaml").map_err(|e| e.to_string())
}

fn definitions(yaml: &str) -> Vec<Value> {
    parse(yaml).unwrap_or_else(|e| panic!("{e}")).rest_definitions().expect("a REST upstream")
}

#[test]
fn definitions_follow_from_the_manifest() {
    let tools = definitions(PHARMACY);
    let [create, get] = tools.as_slice() else { panic!("{tools:?}") };
    assert_eq!((&create["name"], &get["name"]), (&json!("createOrder"), &json!("getOrder")));
    assert_eq!(get["title"], "An order");
    assert_eq!(get["annotations"], json!({"readOnlyHint": true, "destructiveHint": false}));
    let input = &get["inputSchema"];
    assert_eq!(input["required"], json!(["order", "patient"]));
    assert_eq!(input["additionalProperties"], false);
    assert_eq!(input["properties"]["order"], json!({"type": "integer", "description": "Its number."}));
    assert!(input.get("$defs").is_none(), "nothing is referred to");
    let output = &get["outputSchema"];
    assert_eq!((&output["type"], &output["$ref"]), (&json!("object"), &json!("#/$defs/Order")));
    // Order refers to itself; Unused is referred to by nobody.
    let names: Vec<_> = output["$defs"].as_object().expect("definitions").keys().collect();
    assert_eq!(names, ["Order"]);
    // What is not an object is wrapped in one.
    assert_eq!(create["outputSchema"]["required"], json!(["result"]));
    assert_eq!(get["_meta"]["dev.countersign/request"]["path"], "/patients/{patient}/orders/{order-id}");
    for tool in &tools {
        jsonschema::validator_for(&tool["inputSchema"]).expect("a usable schema");
        jsonschema::validator_for(&tool["outputSchema"]).expect("a usable schema");
    }
}

/// Whatever decides what is sent where, or what a caller reads, is covered by the pin.
#[test]
fn the_pin_sees_every_change_of_the_request_and_nothing_else() {
    let pins = |yaml: &str| definitions(yaml).iter().map(|d| pin(&d.to_string()).expect("a pin")).collect::<Vec<_>>();
    let before = pins(PHARMACY);
    assert_eq!(before, pins(PHARMACY));
    for (from, to) in [
        ("method: GET", "method: HEAD"),
        ("/orders/{order-id}", "/refunds/{order-id}"),
        ("api.pharmacy.example", "api.other.example"),
        ("X-Api-Key", "X-Other-Key"),
        ("select: /data", "select: /other"),
        ("explode: false", "explode: true"),
        ("Reads one order.", "Reads two orders."),
        ("^P[0-9]+$", "^.*$"),
        ("effect: read", "effect: destructive"),
        ("drug: { type: string }", "drug: { type: integer }"),
    ] {
        let changed = PHARMACY.replace(from, to);
        assert_ne!(changed, PHARMACY, "{from}");
        assert_ne!(pins(&changed)[1], before[1], "{from} -> {to}");
    }
    for (from, to) in [("${PHARMACY_KEY}", "${OTHER_KEY}"), ("Unused: { type: string }", "Unused: {}")] {
        assert_eq!(pins(&PHARMACY.replace(from, to)), before, "{from} -> {to}");
    }
}

#[test]
fn mistakes_are_refused_with_the_tool() {
    let get = |from: &str, to: &str| {
        assert!(PHARMACY.contains(from), "{from}");
        PHARMACY.replacen(from, to, 1)
    };
    for (yaml, part) in [
        (get("/patients/{patient}/orders/{order-id}", "/patients/{patient}"), "no {order-id} for the argument order"),
        (get("patient: { in: path, schema", "patient: { in: query, schema"), "fills {patient}"),
        (get("/patients/{patient}/orders/{order-id}", "/../{patient}/{order-id}"), "dot segment"),
        (get("in: query, style: form", "in: header, name: Authorization"), "not for callers"),
        (get("in: query, style: form", "in: header, name: X-Forwarded-For"), "not for callers"),
        (get("in: query, style: form", "in: header, name: Host"), "set by the protocol"),
        (get("in: query, style: form", "in: header, name: \"a b\""), "not a header name"),
        (get("in: query, style: form", "in: body"), "GET has no body"),
        (get("in: query, style: form", "in: cookie"), "unknown variant `cookie`"),
        (get("style: form", "style: comma"), "unknown variant `comma`"),
        (get("patient: { in: path }", "patient: { in: path }\n        x: { in: body }"), "whole body"),
        (get("select: /data", "select: data"), "JSON Pointer"),
        (get("select: /data", "as: text, select: /data"), "need `as: json`"),
        (get("select: /data", "max_bytes: 0"), "max_bytes"),
        (get("expect: [201]", "expect: [201, 204]"), "without a body"),
        (get("expect: [201]", "expect: [500]"), "cannot mean success"),
        (get("expect: [201]", "not_done: [404]"), "not 404"),
        (get("expect: [201]", "body: form"), "a form is made of"),
        (get("#/$defs/Order\" } }\n    Unused", "#/$defs/Nobody\" } }\n    Unused"), "leads nowhere"),
        (get("{ $ref: \"#/$defs/Order\" } }\n  createOrder", "{ $ref: \"https://x/y\" } }\n  createOrder"), "leads nowhere"),
        (get("    effect: read\n", "    effect: read\n    request: { method: DELETE, path: / }\n"), "duplicate"),
        (get("      method: GET", "      method: DELETE"), "never `effect: read`"),
        (get("      method: GET", "      method: TRACE"), "unknown variant `TRACE`"),
        (get("      method: GET", "      method: GET\n      pth: /"), "unknown field `pth`"),
        (get("  createOrder:", "  getorder:\n    request: { method: GET, path: / }\n  createOrder:"), "looks like"),
        (get("  createOrder:", "  other: { effect: read }\n  createOrder:"), "needs a `request`"),
        (get("/v1\n", "/v1?key=1\n"), "no query"),
        (get("type: rest", "type: rest\n  protocol: auto"), "belongs to MCP"),
        (get("type: rest", "type: http"), "`schemas` belong"),
        ("version: 1\nupstream: a\ntransport: { type: stdio, command: x }\ntools: { t: { request: { method: GET, path: / } } }".into(), "belongs to `type: rest`"),
    ] {
        let error = parse(&yaml).expect_err(part);
        assert!(error.contains(part), "{part}: {error}");
    }
    let manifest = parse(PHARMACY).expect("valid");
    assert!(matches!(manifest.transport, Transport::Rest(_)) && !format!("{manifest:?}").contains("literal"));
}
