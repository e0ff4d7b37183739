//! Envelopes, types and signatures of artifacts: what is accepted, and what is refused by which name.

use super::types::{ArtifactType, BodyError, TypeProblem, Types};
use super::*;
use serde_json::json;

const GOOD: &str = r#"{"id":"0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a","type":"clinical_recommendation","version":1,
    "workspaceId":"north-clinic","createdAt":"2026-03-01T12:00:00Z","jsonBody":{"patient_id":"p-1"},
    "derivedFrom":["0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8b"],
    "evidence":[{"source":"https://example.com/trial","title":"A trial","digest":
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","retrievedAt":"2026-03-01T11:00:00+01:00"}],
    "compliance":["HIPAA","FedRAMP-High"]}"#;

fn good() -> Value {
    serde_json::from_str(GOOD).unwrap()
}

#[test]
fn an_artifact_is_what_its_canonical_bytes_say() {
    let artifact = Artifact::parse(GOOD.as_bytes()).unwrap();
    assert_eq!(artifact.id().to_string(), "0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a");
    assert_eq!((artifact.artifact_type(), artifact.version()), ("clinical_recommendation", 1));
    assert_eq!((artifact.workspace(), artifact.created_at_ms()), ("north-clinic", 1_772_366_400_000));
    assert_eq!(artifact.compliance(), ["HIPAA", "FedRAMP-High"]);
    assert_eq!(artifact.evidence()[0].title.as_deref(), Some("A trial"));
    assert_eq!(Artifact::parse(artifact.canonical()).as_ref(), Ok(&artifact));
    assert_eq!(Artifact::new(&artifact.draft).as_ref(), Ok(&artifact));
    // Spellings of numbers are one value.
    let other = GOOD.replace("\"version\":1,", "\"version\":1.0,").replace("\"p-1\"", "\"p-1\",\"n\":-0.0,\"m\":1e2");
    let other = Artifact::parse(other.as_bytes()).unwrap();
    assert_eq!((other.version(), &other.body()["n"], &other.body()["m"]), (1, &json!(0), &json!(100)));
}

#[test]
fn what_is_wrong_is_named() {
    let check = |path: &str, value: Value, member: &str, part: &str| {
        let mut artifact = good();
        *artifact.pointer_mut(path).unwrap() = value;
        let error = Artifact::from_value(&artifact).unwrap_err();
        assert_eq!(error.member(), Some(member), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    check("/id", json!("0197F3A2-5c1e-7d40-9a6b-3f2e1d0c9b8a"), "id", "lower case");
    check("/id", json!(7), "id", "text");
    check("/type", json!("Clinical"), "type", "a-z");
    check("/version", json!(0), "version", "integer from 1");
    check("/version", json!(1.5), "version", "integer from 1");
    check("/version", json!("1"), "version", "integer from 1");
    check("/workspaceId", json!("../x"), "workspaceId", "starting with");
    check("/createdAt", json!("2026-03-01T12:00:00"), "createdAt", "offset");
    check("/jsonBody", json!([]), "jsonBody", "object");
    check("/derivedFrom", json!("x"), "derivedFrom", "list");
    check("/derivedFrom/0", json!("0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a"), "derivedFrom[0]", "itself");
    check("/derivedFrom", json!(vec!["0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8c"; 2]), "derivedFrom[1]", "twice");
    check("/derivedFrom", json!(vec![""; 65]), "derivedFrom", "at most 64");
    check("/evidence/0", json!("https://example.com"), "evidence[0]", "source");
    check("/evidence/0", json!({}), "evidence[0].source", "missing");
    check("/evidence/0/source", json!(""), "evidence[0].source", "1 to 2048");
    check("/evidence/0/digest", json!("sha256:00"), "evidence[0].digest", "sha256:");
    check("/evidence/0/retrievedAt", json!("now"), "evidence[0].retrievedAt", "RFC 3339");
    check("/compliance/1", json!("HIPAA"), "compliance[1]", "twice");
    check("/compliance/0", json!("HIPAA "), "compliance[0]", "expected 1 to 64");
    for (member, part) in
        [("workspace_id", "\"workspaceId\"?"), ("body", "\"jsonBody\"?"), ("x", "there may be id, type")]
    {
        let mut artifact = good();
        artifact[member] = json!("x");
        let error = Artifact::from_value(&artifact).unwrap_err();
        assert_eq!(error.member(), Some(member));
        assert!(error.to_string().contains(part), "{error}");
    }
    for member in ["id", "type", "version", "workspaceId", "createdAt", "jsonBody"] {
        let mut artifact = good();
        artifact.as_object_mut().unwrap().shift_remove(member);
        assert_eq!(Artifact::from_value(&artifact), Err(ArtifactError::Missing { member: member.to_owned() }));
    }
    assert_eq!(Artifact::parse(b"[]"), Err(ArtifactError::NotAnObject));
    assert!(Artifact::parse(GOOD.replace('{', "{\"id\":\"a\",").as_bytes()).is_err());
    assert!(Artifact::parse(GOOD.replace("\"p-1\"", "1e21").as_bytes()).is_err());
    assert!(Artifact::parse(GOOD.replace("p-1", "\\ud800").as_bytes()).is_err());
}

#[test]
fn the_bound_is_on_the_canonical_bytes() {
    let sized = |text: &str, times: usize| {
        Artifact::parse(GOOD.replace("p-1", &text.repeat(times)).as_bytes()).map(|artifact| artifact.canonical().len())
    };
    let rest = sized("x", 1).unwrap() - 1;
    assert_eq!(sized("x", MAX_BYTES - rest), Ok(MAX_BYTES));
    assert_eq!(sized("x", MAX_BYTES - rest + 1), Err(ArtifactError::TooLarge { actual: MAX_BYTES + 1 }));
    // Six times as long as it is in canonical form.
    assert_eq!(sized("\\u0078", MAX_BYTES - rest), Ok(MAX_BYTES));
    // Shorter in the file than in canonical form: 2 bytes become 2, but a control character has 6 either way.
    assert!(matches!(sized("\\u0001", MAX_BYTES / 6), Err(ArtifactError::TooLarge { .. })));
    assert!(Artifact::parse(GOOD.replace("p-1", &" ".repeat(TEXT_LIMITS.max_bytes)).as_bytes()).is_err());
    let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
    assert!(Artifact::parse(GOOD.replace("\"p-1\"", &deep).as_bytes()).is_err());
}

#[test]
fn the_published_schema_is_current_and_agrees() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schemas/artifact.schema.json");
    let current = schema::envelope();
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(path, format!("{}\n", serde_json::to_string_pretty(&current).unwrap())).unwrap();
    }
    let published: Value = serde_json::from_slice(&std::fs::read(path).unwrap_or_default()).unwrap_or_default();
    assert_eq!(published, current, "run `UPDATE_SCHEMAS=1 cargo test --release -p countersign-trust`");
    let validator = jsonschema::options().should_validate_formats(true).build(&current).unwrap();
    assert!(validator.is_valid(&good()));
    for (path, value) in [
        ("/id", json!("0197F3A2-5c1e-7d40-9a6b-3f2e1d0c9b8a")),
        ("/type", json!("Clinical")),
        ("/version", json!(0)),
        ("/workspaceId", json!("../x")),
        ("/createdAt", json!("2026-03-01T12:00:00")),
        ("/createdAt", json!("2026-02-29T12:00:00Z")),
        ("/jsonBody", json!([])),
        ("/evidence/0", json!({})),
        ("/evidence/0/source", json!("")),
        ("/evidence/0/digest", json!("sha256:00")),
        ("/compliance/1", json!("HIPAA")),
        ("/compliance/0", json!("HIPAA ")),
        ("/derivedFrom", json!(vec!["0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8c"; 2])),
    ] {
        let mut artifact = good();
        *artifact.pointer_mut(path).unwrap() = value;
        assert!(!validator.is_valid(&artifact) && Artifact::from_value(&artifact).is_err(), "{path}");
    }
    let mut artifact = good();
    artifact["x"] = json!(1);
    assert!(!validator.is_valid(&artifact));
}

fn with_body(artifact_type: &str, body: Value) -> Artifact {
    let mut artifact = good();
    artifact["type"] = json!(artifact_type);
    artifact["jsonBody"] = body;
    Artifact::from_value(&artifact).unwrap()
}

#[test]
fn the_built_in_types_take_good_bodies_and_name_what_is_wrong_with_others() {
    let types = Types::built_in().unwrap();
    let names: Vec<&str> = types.iter().map(ArtifactType::name).collect();
    let expected =
        ["audit_package", "baseline_module", "clinical_recommendation", "population_analysis", "trial_match"];
    assert_eq!(names, expected);
    let good = json!({ "patient_id": "p-1", "recommendation": { "plan": ["rest"] }, "evidence_sources": ["RCT 1"],
        "risk_score": 0.25 });
    let found = types.check(&with_body("clinical_recommendation", good.clone())).unwrap();
    assert_eq!(found.compliance().create, ["PHI_ACCESSED", "CLINICAL_DECISION"]);
    let bad = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value;
        match types.check(&with_body("clinical_recommendation", body)) {
            Err(BodyError::Body { problems, more: false }) => problems,
            other => panic!("{other:?}"),
        }
    };
    for (path, value) in [
        ("/patient_id", json!("")),
        ("/recommendation", json!(7)),
        ("/evidence_sources/0", json!({ "title": "secret text" })),
        ("/risk_score", json!("secret text")),
        ("/risk_score", json!(-1)),
    ] {
        let problems = bad(path, value);
        assert_eq!(problems[0].member, format!("/jsonBody{path}"));
        assert!(!format!("{problems:?}").contains("secret"), "{problems:?}");
    }
    let error = types.check(&with_body("poem", json!({}))).map(ArtifactType::name).unwrap_err();
    assert!(error.to_string().contains("\"poem\"") && error.to_string().contains("trial_match"), "{error}");
}

const TYPE: &str = "version: 1\nname: org.example.note\ntitle: A note\nbody: { type: object, required: [text] }\n";

#[test]
fn types_are_added_by_file() {
    let mut types = Types::built_in().unwrap();
    types.add_file(TYPE, "note.yaml").unwrap();
    let json =
        r#"{"version":1,"name":"n","title":"N","compliance":{"read":["PHI_ACCESSED"]},"body":{"type":"object"}}"#;
    types.add_file(json, "n.json").unwrap();
    assert!(types.check(&with_body("org.example.note", json!({ "text": "" }))).is_ok());
    assert!(types.check(&with_body("org.example.note", json!({}))).is_err());
    assert_eq!(types.get("n").unwrap().compliance().read, ["PHI_ACCESSED"]);
    let error = types.add_file(TYPE, "again.yaml").unwrap_err();
    assert_eq!(error.to_string(), "again.yaml: there is a type \"org.example.note\" already");
}

#[test]
fn type_files_are_refused_with_place_and_reason() {
    for (text, part) in [
        (TYPE.replace("version: 1", "version: 2"), "version: only 1"),
        (TYPE.replace("org.", "Org."), "name: expected 1 to 64"),
        (TYPE.replace("A note", "\"\\u0007\""), "title: expected"),
        (TYPE.replace("title: A note\n", ""), "missing field `title`"),
        (format!("{TYPE}colour: red\n"), "unknown field `colour`"),
        (format!("{TYPE}name: twice\n"), "duplicate"),
        (format!("{TYPE}compliance: {{ create: ['not good'] }}\n"), "compliance.create[0]: expected 1 to 64"),
        (format!("{TYPE}compliance: {{ delete: [A] }}\n"), "unknown field `delete`"),
        (TYPE.replace("{ type: object,", "{ type: objekt,"), "body/type: "),
        (TYPE.replace("{ type: object, required: [text] }", "yes please"), "body: expected an object"),
        (TYPE.replace("{ type", "{ $schema: 'http://json-schema.org/draft-07/schema#', type"), "body/$schema: only"),
        (
            TYPE.replace("{ type", "{ properties: { a: { $ref: 'https://example.com/s' } }, type"),
            "body/properties/a/$ref: ",
        ),
        (TYPE.replace("{ type", "{ allOf: [{ $ref: 'file:///etc/passwd' }], type"), "body/allOf/0/$ref: "),
        (TYPE.replace("{ type", "{ $ref: '#/$defs/none', type"), "body"),
        (TYPE.replace("{ type", "{ properties: { a: { pattern: '(?=a)' } }, type"), "body/properties/a/pattern: "),
        (
            TYPE.replace("{ type", "{ properties: { a: { pattern: '(a{1000}){1000}{1000}' } }, type"),
            "body/properties/a/pattern: ",
        ),
        ("{\"version\":1,\"version\":1}".to_owned(), "duplicate name"),
        ("- a\n".to_owned(), ""),
        (String::new(), ""),
        ("#".repeat(types::MAX_FILE_BYTES + 1), "at most 262144"),
    ] {
        let error = ArtifactType::parse(&text, "note.yaml").unwrap_err();
        assert!(error.to_string().starts_with("note.yaml"), "{error}");
        assert!(error.problem.to_string().contains(part), "{part}: {error}");
    }
    let error = ArtifactType::parse(&format!("{TYPE}colour: red\n"), "note.yaml").unwrap_err();
    assert_eq!(error.at.map(|(line, _)| line), Some(5));
    assert!(matches!(error.problem, TypeProblem::Shape(_)));
}

#[test]
fn a_schema_that_leads_to_itself_ends() {
    let looped = TYPE.replace("{ type", "{ $ref: '#', type");
    if let Ok(looped) = ArtifactType::parse(&looped, "loop.yaml") {
        let mut types = Types::new();
        types.add(looped).unwrap();
        assert!(types.check(&with_body("org.example.note", json!({}))).is_err());
    }
    let tree = TYPE.replace("{ type", "{ properties: { child: { $ref: '#' } }, type");
    let mut types = Types::new();
    types.add_file(&tree, "tree.yaml").unwrap();
    assert!(types.check(&with_body("org.example.note", json!({ "text": 1, "child": { "text": 2 } }))).is_ok());
    assert!(types.check(&with_body("org.example.note", json!({ "text": 1, "child": {} }))).is_err());
}
