//! `cargo xtask jose`: artifacts that a running node signs are verified by other people's JOSE libraries, unmodified, from the published
//! key set alone, before and after a rotation, and refused by each of them after one thing was changed. The libraries are jwcrypto (Python) and
//! jose (JavaScript); the latter's language also writes the canonical form, as RFC 8785 describes it, from what was sent.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_testkit::node::Launch;
use countersign_testkit::{Home, Node};
use serde_json::{Value, json};

use crate::{paths, setup, sigstore};

/// Bodies whose canonical form is easily got wrong: numbers, order, escapes, text beyond the basic plane.
const BODIES: &[(&str, &str)] = &[
    (
        "plain",
        r#"{"name":"baseline","module_version":"1","controls":[{"id":"AC-2","statement":"Accounts are reviewed."}]}"#,
    ),
    (
        "integers",
        r#"{"name":"n","module_version":"1","controls":[{"id":"AC-2","statement":"Accounts are reviewed."}],"a":9007199254740991,"b":-9007199254740991,"c":0,"d":-0}"#,
    ),
    (
        "decimals",
        r#"{"name":"n","module_version":"1","controls":[{"id":"AC-2","statement":"Accounts are reviewed."}],"a":0.1,"b":1.0,"c":1e-7,"d":123456.789e-3,"e":4.35,"f":5e-324}"#,
    ),
    (
        "exponents",
        r#"{"name":"n","module_version":"1","controls":[{"id":"AC-2","statement":"Accounts are reviewed."}],"a":1E2,"b":2.5e-10,"c":9.007199254740991e15,"d":1e15}"#,
    ),
    (
        "escapes",
        r#"{"name":"\u0041\u000a\u001f\"\\\/\b\f\r\t","module_version":"\u2028\u2029","controls":[{"id":"AC-2","statement":"Accounts are reviewed."}]}"#,
    ),
    (
        "planes",
        r#"{"name":"\ud83d\ude00 😀 é e\u0301 שלום","module_version":"1","controls":[{"id":"AC-2","statement":"Accounts are reviewed."}],"\ud83d\ude00":1,"\ufb33":2,"\u20ac":3,"\r":4,"1":5}"#,
    ),
    (
        "order",
        r#"{"name":"n","module_version":"1","controls":[{"id":"AC-2","statement":"Accounts are reviewed."}],"b":{"z":1,"a":2,"A":3,"":4},"a":[{"d":1,"c":2}]}"#,
    ),
];

/// A signed artifact in one of its forms, and what should come of it.
struct Case {
    name: String,
    jws: String,
    jwks: Value,
    /// The bytes that must have been signed, and the text that they were made from.
    signed: Option<(Vec<u8>, String)>,
    accepted: bool,
}

/// Signs, rotates, changes, and has everybody verify.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::verifiers()?;
    let directory = paths::run_directory("jose")?;
    let home = Home::create(&directory.join("home"), "[trust]\nenabled = true\n")?;
    home.access("all", "permit (principal, action, resource);\n")?;
    let node = Launch::new(binary).start(&home)?;
    let cases = cases(&node)?;
    node.stop()?;

    let files = write(&directory, &cases)?;
    let (mut verified, mut good, mut refused, mut changed) = (0, 0, 0, 0);
    for (verifier, verdicts) in sigstore::others("jose_verify", &files)? {
        for case in &cases {
            let verdict = verdicts.get(&case.name).copied();
            let (counted, right) =
                if case.accepted { (&mut good, &mut verified) } else { (&mut changed, &mut refused) };
            *counted += 1;
            *right += usize::from(verdict == Some(case.accepted));
            if verdict != Some(case.accepted) {
                println!("{verifier}, {}: {verdict:?} instead of {}", case.name, case.accepted);
            }
        }
    }
    println!("jose: verified {verified}/{good}, mutations refused {refused}/{changed}");
    Ok(verified == good && refused == changed && good > 0 && changed > 0)
}

fn cases(node: &Node) -> Result<Vec<Case>> {
    let agent = node.home().agent("maker", &["tester"]);
    let mut client = node.client(&agent);
    let mut made = Vec::new();
    for (number, (name, body)) in BODIES.iter().enumerate() {
        if number == BODIES.len() / 2 {
            node.operator().post("/admin/keys/rotate", &json!({ "reason": "half of them" }))?.expect(200)?;
        }
        let id = format!("0197f3a2-5c1e-7d40-9a6b-{number:012x}");
        let artifact = format!(
            r#"{{"id":"{id}","type":"baseline_module","version":1,"workspaceId":"default","createdAt":"2026-03-01T12:00:00Z","jsonBody":{body}}}"#
        );
        let jws =
            client.send("POST", "/artifacts", &[("content-type", "application/json")], Some(artifact.as_bytes()))?;
        let jws = jws.expect(201)?;
        let compact = client.send("GET", &format!("/artifacts/{id}"), &[("accept", "application/jose")], None)?;
        made.push(((*name).to_owned(), artifact, jws, String::from_utf8(compact.body)?));
    }
    // From the set as it is now: the first half is by a key that is retired.
    let jwks = node.anonymous().get("/jwks/default")?.expect(200)?;
    ensure!(jwks["keys"].as_array().is_some_and(|keys| keys.len() == 2), "two keys are expected: {jwks}");
    let mut cases = Vec::new();
    for (name, sent, flattened, compact) in &made {
        let payload = URL_SAFE_NO_PAD.decode(text(flattened, "payload")?)?;
        for (form, jws) in [("flattened", flattened.to_string()), ("compact", compact.clone())] {
            let name = format!("{name}, {form}");
            cases.push(Case {
                name,
                jws,
                jwks: jwks.clone(),
                signed: Some((payload.clone(), sent.clone())),
                accepted: true,
            });
        }
        cases.extend(changed(name, flattened, &jwks)?);
    }
    Ok(cases)
}

/// The same with one thing changed, as well-formed as it can be.
fn changed(name: &str, good: &Value, jwks: &Value) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut add = |what: &str, jws: Value, jwks: &Value| {
        cases.push(Case {
            name: format!("{name}: {what}"),
            jws: jws.to_string(),
            jwks: jwks.clone(),
            signed: None,
            accepted: false,
        });
    };
    let with = |member: &str, bytes: &[u8]| {
        let mut jws = good.clone();
        jws[member] = json!(URL_SAFE_NO_PAD.encode(bytes));
        jws
    };
    let bytes = |member: &str| -> Result<Vec<u8>> { Ok(URL_SAFE_NO_PAD.decode(text(good, member)?)?) };
    let (signature, payload, header) = (bytes("signature")?, bytes("payload")?, bytes("protected")?);
    let mut flipped = signature.clone();
    *flipped.last_mut().context("a signature")? ^= 1;
    add("the signature", with("signature", &flipped), jwks);
    add("a shorter signature", with("signature", &signature[..63]), jwks);
    let swapped = [&signature[32..], &signature[..32]].concat();
    add("r and s in the other order", with("signature", &swapped), jwks);
    let said = String::from_utf8(payload)?;
    add(
        "another version in the payload",
        with("payload", said.replace("\"version\":1", "\"version\":2").as_bytes()),
        jwks,
    );
    let head = String::from_utf8(header)?;
    add("no algorithm", with("protected", head.replace("ES256", "none").as_bytes()), jwks);
    add("a later expiry", with("protected", head.replacen("\"exp\":1", "\"exp\":2", 1).as_bytes()), jwks);
    let kid = jwks["keys"].as_array().into_iter().flatten().filter_map(|key| key["kid"].as_str());
    let mut other = head.clone();
    let [first, second] = kid.collect::<Vec<_>>()[..] else { anyhow::bail!("two keys are expected") };
    other = if other.contains(first) { other.replace(first, second) } else { other.replace(second, first) };
    add("the other key's name", with("protected", other.as_bytes()), jwks);
    add("an empty key set", good.clone(), &json!({ "keys": [] }));
    Ok(cases)
}

fn text<'a>(value: &'a Value, member: &str) -> Result<&'a str> {
    value[member].as_str().with_context(|| format!("no {member}"))
}

/// The cases as files, and the list that the verifiers read.
fn write(directory: &Path, cases: &[Case]) -> Result<Value> {
    let mut list = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let file = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
            let path = directory.join(format!("{number}-{name}"));
            fs::write(&path, bytes)?;
            Ok(path)
        };
        let mut entry = json!({
            "name": case.name,
            "jws": file("artifact.jws", case.jws.as_bytes())?,
            "jwks": file("jwks.json", case.jwks.to_string().as_bytes())?,
        });
        if let Some((payload, sent)) = &case.signed {
            entry["payload"] = json!(file("payload.json", payload)?);
            entry["sent"] = json!(file("sent.json", sent.as_bytes())?);
        }
        list.push(entry);
    }
    Ok(Value::Array(list))
}
