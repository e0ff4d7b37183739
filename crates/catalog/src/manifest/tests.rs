//! Manifests as operators write them, rightly and wrongly.

use super::*;

const MINIMAL: &str = "version: 1\nupstream: ads\ntransport: { type: stdio, command: \"@self\" }\n";

fn parse(yaml: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(yaml, "ads.yaml")
}

fn repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

#[test]
fn a_minimal_manifest_takes_the_careful_defaults() {
    let manifest = parse(MINIMAL).expect("valid");
    assert_eq!(manifest.timeout, Duration::from_secs(30));
    assert_eq!(manifest.refresh, Duration::from_secs(60));
    assert_eq!(manifest.max_concurrency, 64);
    assert_eq!(manifest.workspaces, Workspaces::All);
    let unknown = manifest.tool("anything");
    assert_eq!((unknown.effect, unknown.listed, unknown.execute_on_approval), (Effect::Write, false, false));
}

#[test]
fn an_entry_overrides_the_upstream() {
    let yaml = format!(
        "{MINIMAL}workspaces: [finance]\ntimeout: 2m\neffects: destructive\ntools:\n  look: {{ effect: read, timeout: 500ms }}\n  \
         make: {{ hidden: true, execute_on_approval: true, rate_limit: {{ calls: 3, per: 1m }} }}\n"
    );
    let manifest = parse(&yaml).expect("valid");
    assert_eq!(manifest.tool("look").effect, Effect::Read);
    assert_eq!(manifest.tool("look").timeout, Duration::from_millis(500));
    let make = manifest.tool("make");
    assert_eq!((make.effect, make.hidden, make.timeout), (Effect::Destructive, true, Duration::from_secs(120)));
    assert_eq!(make.rate_limit.map(|l| (l.calls.get(), l.per.as_secs())), Some((3, 60)));
    assert!(manifest.visible_to(&"finance".parse().expect("a name")));
    assert!(!manifest.visible_to(&WorkspaceName::default_workspace()));
}

#[test]
fn costs_and_pauses_name_their_argument() {
    let yaml = |entry: &str| format!("{MINIMAL}tools:\n  make: {{ {entry} }}\n");
    let make = parse(&yaml("cost: { micros: 1000000, argument: /budget }, cooldown: { pause: 10m, argument: /a/0 }"));
    let make = make.expect("valid").tool("make");
    assert_eq!(make.cost, Some(CostRule { micros: 1_000_000, argument: Some("/budget".into()) }));
    assert_eq!(make.cooldown, Some(Cooldown { pause: Duration::from_secs(600), argument: Some("/a/0".into()) }));
    for (entry, part) in [
        ("cost: { micros: 0 }", "micros must be 1"),
        ("cost: { micros: 1, argument: budget }", "JSON pointer"),
        ("cooldown: { pause: 30h }", "not a duration"),
        ("cooldown: { argument: /a }", "missing field `pause`"),
    ] {
        let error = parse(&yaml(entry)).expect_err(entry);
        assert!(error.message.contains(part), "{entry}: {error}");
    }
}

#[test]
fn an_http_transport_keeps_its_secrets_out_of_sight() {
    let yaml = "version: 1\nupstream: crm\ntransport:\n  type: http\n  url: https://crm.example/mcp\n  headers:\n    \
                Authorization: Bearer ${CRM_TOKEN} literal-secret\n  protocol: 2025-11-25\n";
    let manifest = parse(yaml).expect("valid");
    let printed = format!("{manifest:?}");
    assert!(printed.contains("${CRM_TOKEN}") && !printed.contains("literal-secret"), "{printed}");
    let Transport::Http(http) = manifest.transport else { panic!("not HTTP") };
    assert_eq!(http.protocol, Protocol::V2025_11_25);
    let value = http.headers["Authorization"].resolve(|_| Some("t".into()));
    assert_eq!(value.as_deref(), Ok("Bearer t literal-secret"));
}

/// (what is appended to or replaced in the minimal manifest, line:column, a part of the message)
#[test]
fn mistakes_are_refused_with_their_place() {
    let http = |rest: &str| format!("version: 1\nupstream: ads\ntransport:\n  type: http\n{rest}");
    let cases: Vec<(String, Option<u64>, &str)> = vec![
        (format!("{MINIMAL}colour: red\n"), Some(4), "unknown field `colour`"),
        (format!("{MINIMAL}tools:\n  a:\n    efect: read\n"), Some(6), "unknown field `efect`"),
        (format!("{MINIMAL}timeout: 30s\ntimeout: 40s\n"), Some(5), "duplicate"),
        (format!("{MINIMAL}tools:\n  a: {{}}\n  a: {{}}\n"), Some(6), "duplicate"),
        (format!("{MINIMAL}timeout: 11m\n"), Some(4), "from 1ms to 10m"),
        (format!("{MINIMAL}timeout: 30\n"), Some(4), "whole number"),
        (format!("{MINIMAL}refresh: 10ms\n"), Some(4), "from 1s to 24h"),
        (format!("{MINIMAL}max_concurrency: 0\n"), Some(4), "1 to 4096"),
        (format!("{MINIMAL}effects: read\n"), Some(4), "tool by tool"),
        (format!("{MINIMAL}workspaces: []\n"), Some(4), "empty list"),
        (format!("{MINIMAL}workspaces: [Bad Name]\n"), Some(4), "workspace name"),
        (format!("{MINIMAL}tools:\n  a: {{ effect: maybe }}\n"), Some(5), "unknown variant"),
        (format!("{MINIMAL}tools:\n  a: {{ pin: \"sha256:00\" }}\n"), Some(5), "64 lower-case"),
        (format!("{MINIMAL}tools:\n  \"a\\u202Eb\": {{}}\n"), None, "⟨U+202E⟩"),
        (format!("{MINIMAL}tools:\n  a: {{ rate_limit: {{ calls: 0, per: 1m }} }}\n"), Some(5), "nonzero"),
        (MINIMAL.replace("version: 1", "version: 2"), Some(1), "version 2"),
        (MINIMAL.replace("upstream: ads", "upstream: trust"), Some(2), "reserved"),
        (MINIMAL.replace("upstream: ads", "upstream: Ads"), Some(2), "upstream name"),
        (MINIMAL.replace("upstream: ads\n", ""), None, "missing field `upstream`"),
        (MINIMAL.replace("command: \"@self\"", "url: x"), None, "belong to `type: http`"),
        (MINIMAL.replace("command: \"@self\"", "args: []"), None, "needs a `command`"),
        (MINIMAL.replace("@self\"", "x\", env: { \"A B\": x }"), None, "environment variable"),
        (MINIMAL.replace("@self\"", "x\", env: { A: $B }"), None, "${VARIABLE}"),
        (http("  url: ftp://x/\n"), None, "http or https"),
        (http("  url: https://u:p@x/\n"), None, "into `headers`"),
        (http("  url: https://x/\n  headers: { Mcp-Session-Id: a }\n"), None, "set by the protocol"),
        (http("  url: https://x/\n  cwd: /\n"), None, "belong to `type: stdio`"),
        ("- not\n- a manifest\n".into(), None, ""),
        ("version: [\n".into(), None, ""),
        (format!("{MINIMAL}---\n{MINIMAL}"), None, ""),
    ];
    for (yaml, line, part) in cases {
        let error = parse(&yaml).expect_err(&yaml);
        assert!(error.message.contains(part), "{yaml}\n{error}");
        if line.is_some() {
            assert_eq!(error.at.map(|(line, _)| line), line, "{yaml}\n{error}");
        }
        assert!(error.to_string().starts_with("ads.yaml"), "{error}");
    }
}

#[test]
fn alias_bombs_and_big_files_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 9].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert!(parse(&format!("{MINIMAL}{bomb}")).is_err());
    assert!(parse(&format!("{MINIMAL}#{}", "x".repeat(MAX_MANIFEST_BYTES))).is_err());
}

#[test]
fn the_published_schema_is_current() {
    let path = repository("docs/schemas/manifest.schema.json");
    let mut current = serde_json::to_string_pretty(&sorted(Manifest::json_schema())).expect("a schema is JSON");
    current.push('\n');
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, &current).expect("the schema can be written");
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    assert_eq!(read(&published), read(&current), "run `UPDATE_SCHEMAS=1 cargo test -p countersign-catalog`");
}

/// With members in the order of their names, whatever serde_json was built with.
fn sorted(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(members) => {
            let members: BTreeMap<_, _> = members.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            members.into_iter().collect()
        }
        serde_json::Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

#[test]
fn the_examples_are_valid_manifests() {
    let manifests = load_dir(&repository("examples/manifests")).expect("every example is valid");
    assert!(manifests.iter().any(|m| m.upstream.as_str() == "ads"));
}

#[test]
fn the_schema_and_the_reader_agree_on_the_examples() {
    let validator = jsonschema::validator_for(&Manifest::json_schema()).expect("a valid schema");
    for entry in std::fs::read_dir(repository("examples/manifests")).expect("examples") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("readable");
        let value: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
        let errors: Vec<_> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    let wrong = serde_json::json!({ "version": 1, "upstream": "Ads", "transport": { "type": "stdio", "url": "x" } });
    assert!(!validator.is_valid(&wrong));
}
