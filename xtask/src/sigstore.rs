//! `cargo xtask sigstore`: bundles that a running node signs, and such as other people's clients sign at a running node, are accepted by
//! other people's verifiers, unmodified, and refused by each of them after one thing was changed. The clients are sigstore-python and
//! `@sigstore/sign`; the verifiers are sigstore-python, `@sigstore/verify` and, offline, our own command
//! line; each reads the node's published trust config and nothing else of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use countersign_testkit::issuer::{Claims, unix_now};
use countersign_testkit::node::Launch;
use countersign_testkit::tsa::Tsa;
use countersign_testkit::{Home, Node, mcp};
use countersign_trust::certificate::Certificate;
use serde_json::{Value, json};

use crate::witness::configure;
use crate::{paths, setup};

/// Verifiers that don't look at something that was changed, and why that is theirs to decide.
const LENIENT: &[(&str, &str)] = &[
    // It takes authorities by their certificates' own validity and leaves the root's windows aside.
    ("python", "an authority that ended before"),
    // It computes the root out of leaf and path and compares that with the checkpoint's; the copy beside the path is not read.
    ("javascript", "the root"),
    // One good stamp is enough for it.
    ("python", "the outside timestamp"),
];

/// A bundle with whom to trust for it, and what should come of it.
#[derive(Clone)]
struct Case {
    name: String,
    bundle: Value,
    trust_config: Value,
    artifact: Vec<u8>,
    identity: String,
    issuer: String,
    accepted: bool,
}

/// Signs, changes, and has everybody verify.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::verifiers()?;
    let directory = paths::run_directory("sigstore")?;
    let home = Home::create(&directory.join("home"), "[trust]\nenabled = true\n[trust.clients]\n")?;
    home.access("all", "permit (principal, action, resource);\n")?;
    let node = Launch::new(binary).start(&home)?;
    let mut cases = cases(&node)?;
    cases.extend(clients(&node, &directory)?);
    node.stop()?;
    cases.extend(with_two_stamps(binary, &directory, &home)?);

    let files = write(&directory, &cases)?;
    let [python, javascript] = others("sigstore_verify", &files)?;
    Ok(count(&cases, &[python, javascript, ("countersign", own(binary, &directory, &files)?)]))
}

fn count(cases: &[Case], verdicts: &[Verdicts]) -> bool {
    let (mut accepted, mut good, mut refused, mut changed) = (0, 0, 0, 0);
    for (verifier, verdicts) in verdicts {
        for case in cases {
            let what = case.name.split_once(": ").map_or("", |(_, what)| what);
            let verdict = verdicts.get(&case.name).copied();
            match (case.accepted, LENIENT.contains(&(*verifier, what))) {
                (true, _) => {
                    good += 1;
                    accepted += usize::from(verdict == Some(true));
                }
                (false, true) => {
                    println!("{verifier} does not look at this: {} ({verdict:?})", case.name);
                    continue;
                }
                (false, false) => {
                    changed += 1;
                    refused += usize::from(verdict == Some(false));
                }
            }
            if verdict != Some(case.accepted) {
                println!("{verifier}, {}: {verdict:?} instead of {}", case.name, case.accepted);
            }
        }
    }
    println!("sigstore: accepted {accepted}/{good}, mutations refused {refused}/{changed}");
    accepted == good && refused == changed && good > 0 && changed > 0
}

/// An artifact over MCP and a statement over HTTP, and each of them changed.
fn cases(node: &Node) -> Result<Vec<Case>> {
    let agent = node.home().agent("release-bot", &["tester"]);
    let mut client = node.client(&agent);
    let artifact = b"hello receipt\n".to_vec();
    let digest = Digest::of(&artifact).to_string();
    let arguments = json!({ "artifact": digest, "artifact_type": "release", "subject": "hello:1" });
    let signed = mcp::call_tool(&mut client, "/mcp", "trust_sign", &arguments)?;
    let statement = json!({
        "artifact": digest, "artifact_type": "provenance", "subject": "hello:1",
        "statement": { "predicate_type": "https://slsa.dev/provenance/v1", "predicate": { "buildDefinition": {} } },
    });
    let stated = client.post("/v1/sign", &statement)?.expect(200)?;
    // The first signature's proof is now under a checkpoint of a larger tree.
    let first = &signed["structuredContent"];
    let id = first["entry_id"].as_str().with_context(|| format!("nothing was signed: {signed}"))?;
    let again = client.get(&format!("/v1/signatures/{id}"))?.expect(200)?;
    let trust_config = node.anonymous().get("/trust/trustconfig.json")?.expect(200)?;
    let mut cases = Vec::new();
    for (name, signed) in [("artifact", first), ("artifact later", &again), ("statement", &stated)] {
        let text = |member: &str| signed[member].as_str().map(str::to_owned).context("a signer and an issuer");
        let good = Case {
            name: name.to_owned(),
            bundle: signed["bundle"].clone(),
            trust_config: trust_config.clone(),
            artifact: artifact.clone(),
            identity: text("signer")?,
            issuer: text("issuer")?,
            accepted: true,
        };
        cases.extend(changed(&good)?);
        cases.push(good);
    }
    Ok(cases)
}

/// What other people's clients sign at the node, with keys of their own.
fn clients(node: &Node, directory: &Path) -> Result<Vec<Case>> {
    let artifact = b"signed elsewhere\n".to_vec();
    let files = [directory.join("client-artifact"), directory.join("client-trustconfig.json")];
    // A node without a public name calls itself by that of its log, which leads nowhere here: the services are at its address.
    let mut published = node.anonymous().get("/trust/trustconfig.json")?.expect(200)?;
    let issuer = published.pointer("/signingConfig/caUrls/0/url").and_then(Value::as_str).context("an authority")?;
    let signing = published["signingConfig"].to_string().replace(issuer, &format!("http://{}", node.home().address()));
    published["signingConfig"] = serde_json::from_str(&signing)?;
    fs::write(&files[0], &artifact)?;
    fs::write(&files[1], published.to_string())?;
    let claims =
        Claims::agent("release-bot", &["tester"]).with("aud", json!("sigstore")).with("iat", json!(unix_now()));
    let token = node.home().issuer().token(&claims);
    let mut cases = Vec::new();
    for (mut program, name, kinds) in [
        (script("sigstore_sign", "py"), "sigstore-python", &["artifact", "statement"][..]),
        (script("sigstore_sign", "mjs"), "@sigstore/sign", &["artifact"][..]),
    ] {
        let out = directory.join(format!("client-{}", cases.len()));
        let order = json!({ "trust_config": files[1], "token": token, "artifact": files[0], "out": out });
        answered(&mut program, &order).with_context(|| format!("{name} did not sign"))?;
        for kind in kinds {
            let path = PathBuf::from(format!("{}-{kind}.json", out.display()));
            let good = client_case(&path, &format!("{name}, {kind}"), &published, &artifact)?;
            cases.extend(changed(&good)?);
            cases.push(good);
        }
    }
    Ok(cases)
}

fn client_case(bundle: &Path, name: &str, trust_config: &Value, artifact: &[u8]) -> Result<Case> {
    let bundle: Value = serde_json::from_slice(&fs::read(bundle).with_context(|| bundle.display().to_string())?)?;
    let raw = certificate_of(&bundle).and_then(|pointer| bundle.pointer(pointer)?.as_str());
    let certificate = Certificate::from_der(&STANDARD.decode(raw.context("a certificate")?)?)?;
    Ok(Case {
        name: name.to_owned(),
        trust_config: trust_config.clone(),
        artifact: artifact.to_vec(),
        identity: certificate.identity()?.text().to_owned(),
        issuer: certificate.identity_issuer()?,
        bundle,
        accepted: true,
    })
}

/// Where a bundle has its certificate: since version 0.3 there is one, before there were chains of them.
fn certificate_of(bundle: &Value) -> Option<&'static str> {
    const PLACES: [&str; 2] = [
        "/verificationMaterial/certificate/rawBytes",
        "/verificationMaterial/x509CertificateChain/certificates/0/rawBytes",
    ];
    PLACES.into_iter().find(|place| bundle.pointer(place).is_some())
}

/// A signature with a stamp of an authority that is not ours beside the node's own.
fn with_two_stamps(binary: &Path, directory: &Path, home: &Home) -> Result<Vec<Case>> {
    let tsa = Tsa::start(&directory.join("tsa"))?;
    let (url, chain) = (tsa.url(), tsa.chain());
    let settings = format!(
        "[trust.timestamping]\nurl = \"{url}\"\nchain = \"{}\"\noperator = \"Elsewhere\"\nrequired = true\n",
        chain.display()
    );
    configure(home, &settings)?;
    let node = Launch::new(binary).start(home)?;
    let artifact = b"hello twice\n".to_vec();
    let body = json!({ "artifact": Digest::of(&artifact).to_string(), "artifact_type": "release" });
    let signed = node.client(&node.home().agent("release-bot", &["tester"])).post("/v1/sign", &body)?.expect(200)?;
    let text = |member: &str| signed[member].as_str().map(str::to_owned).context("a signer and an issuer");
    let good = Case {
        name: "two stamps".to_owned(),
        bundle: signed["bundle"].clone(),
        trust_config: node.anonymous().get("/trust/trustconfig.json")?.expect(200)?,
        artifact,
        identity: text("signer")?,
        issuer: text("issuer")?,
        accepted: true,
    };
    node.stop()?;
    let stamp =
        |n: u8| format!("/verificationMaterial/timestampVerificationData/rfc3161Timestamps/{n}/signedTimestamp");
    let again = |what: &str, bundle: Value, accepted: bool| Case {
        name: format!("{}: {what}", good.name),
        bundle,
        trust_config: good.trust_config.clone(),
        artifact: good.artifact.clone(),
        identity: good.identity.clone(),
        issuer: good.issuer.clone(),
        accepted,
    };
    let (mut outside, mut both, mut alone) = (good.bundle.clone(), good.bundle.clone(), good.bundle.clone());
    flip(&mut outside, &stamp(1))?;
    flip(&mut both, &stamp(0))?;
    flip(&mut both, &stamp(1))?;
    let stamps = at(&mut alone, "/verificationMaterial/timestampVerificationData/rfc3161Timestamps")?;
    stamps.as_array_mut().context("stamps")?.remove(0);
    let cases = [
        again("the outside timestamp", outside, false),
        again("both timestamps", both, false),
        again("the outside stamp alone", alone, true),
    ];
    Ok(cases.into_iter().chain([good.clone()]).collect())
}

/// The same with one thing changed, well-formed as far as a changed byte can be.
fn changed(good: &Case) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut add = |what: &str, change: &dyn Fn(&mut Case) -> Result<()>| -> Result<()> {
        let mut case = Case {
            name: format!("{}: {what}", good.name),
            bundle: good.bundle.clone(),
            trust_config: good.trust_config.clone(),
            artifact: good.artifact.clone(),
            identity: good.identity.clone(),
            issuer: good.issuer.clone(),
            accepted: false,
        };
        change(&mut case)?;
        ensure!(case.bundle != good.bundle || what.starts_with("an"), "{what}: nothing was changed");
        cases.push(case);
        Ok(())
    };
    let signature = match good.bundle.pointer("/messageSignature/signature") {
        Some(_) => "/messageSignature/signature",
        None => "/dsseEnvelope/signatures/0/sig",
    };
    let entry = "/verificationMaterial/tlogEntries/0";
    add("another artifact", &|case| {
        case.artifact[0] ^= 1;
        Ok(())
    })?;
    add("the signature", &|case| flip(&mut case.bundle, signature))?;
    let certificate = certificate_of(&good.bundle).context("a certificate")?;
    add("the certificate", &|case| flip(&mut case.bundle, certificate))?;
    let stamp = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    add("the timestamp", &|case| flip(&mut case.bundle, stamp))?;
    add("the inclusion proof", &|case| flip(&mut case.bundle, &format!("{entry}/inclusionProof/hashes/0")))?;
    add("the root", &|case| flip(&mut case.bundle, &format!("{entry}/inclusionProof/rootHash")))?;
    add("the checkpoint's signature", &|case| {
        let note = at(&mut case.bundle, &format!("{entry}/inclusionProof/checkpoint/envelope"))?;
        let text = note.as_str().context("a checkpoint")?.to_owned();
        let (rest, last) = text.trim_end().rsplit_once(' ').context("a signature line")?;
        let mut bytes = STANDARD.decode(last)?;
        *bytes.last_mut().context("a signature")? ^= 1;
        *note = json!(format!("{rest} {}\n", STANDARD.encode(bytes)));
        Ok(())
    })?;
    add("an identity of somebody else", &|case| {
        case.identity.push('0');
        Ok(())
    })?;
    add("an issuer of somebody else", &|case| {
        case.issuer = "https://issuer.example".to_owned();
        Ok(())
    })?;
    add("an authority that ended before", &|case| {
        let window = at(&mut case.trust_config, "/trustedRoot/certificateAuthorities/0/validFor")?;
        let start = window["start"].clone();
        window["end"] = start;
        Ok(())
    })?;
    Ok(cases)
}

fn at<'a>(value: &'a mut Value, pointer: &str) -> Result<&'a mut Value> {
    value.pointer_mut(pointer).with_context(|| format!("no {pointer}"))
}

/// Changes the last byte of what stands there in base64.
fn flip(value: &mut Value, pointer: &str) -> Result<()> {
    let member = at(value, pointer)?;
    let mut bytes = STANDARD.decode(member.as_str().context("no text")?)?;
    *bytes.last_mut().context("nothing there")? ^= 1;
    *member = json!(STANDARD.encode(bytes));
    Ok(())
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
        list.push(json!({
            "name": case.name,
            "bundle": file("bundle.sigstore.json", case.bundle.to_string().as_bytes())?,
            "trust_config": file("trustconfig.json", case.trust_config.to_string().as_bytes())?,
            "artifact": file("artifact", &case.artifact)?,
            "identity": case.identity,
            "issuer": case.issuer,
        }));
    }
    Ok(Value::Array(list))
}

/// By each verifier's name, whether it accepts each case.
pub(crate) type Verdicts = (&'static str, BTreeMap<String, bool>);

/// What the programs of that name, in Python and in JavaScript, say of each case.
///
/// # Errors
/// If one of them cannot be run or fails.
pub(crate) fn others(name: &str, cases: &Value) -> Result<[Verdicts; 2]> {
    let verdicts = |ending| verdicts(script(name, ending), cases);
    Ok([("python", verdicts("py")?), ("javascript", verdicts("mjs")?)])
}

/// A program of ours over other people's packages.
fn script(name: &str, ending: &str) -> Command {
    let verifiers = setup::verifiers_directory();
    let path = paths::root().join(format!("xtask/verifiers/{name}.{ending}"));
    let mut command = match ending {
        "py" => Command::new(verifiers.join("venv/bin/python")),
        _ => Command::new(setup::node_path()),
    };
    command.arg(path).current_dir(&verifiers);
    command
}

/// What a program prints, given this.
fn answered(command: &mut Command, input: &Value) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("running a program")?;
    child.stdin.take().context("no pipe")?.write_all(input.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn verdicts(mut command: Command, cases: &Value) -> Result<BTreeMap<String, bool>> {
    let mut verdicts = BTreeMap::new();
    for line in answered(&mut command, cases)?.lines() {
        let verdict: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let (Some(name), Some(ok)) = (verdict["name"].as_str(), verdict["ok"].as_bool()) else {
            bail!("not a verdict: {line}");
        };
        verdicts.insert(name.to_owned(), ok);
    }
    Ok(verdicts)
}

/// What our own command line says, offline and without a home.
fn own(binary: &Path, directory: &Path, cases: &Value) -> Result<BTreeMap<String, bool>> {
    let mut verdicts = BTreeMap::new();
    for case in cases.as_array().into_iter().flatten() {
        let text = |member: &str| case[member].as_str().context("a text");
        let config: Value = serde_json::from_slice(&fs::read(text("trust_config")?)?)?;
        let root = directory.join("trusted_root.json");
        fs::write(&root, config["trustedRoot"].to_string())?;
        let status = Command::new(binary)
            .args(["trust", "verify", text("artifact")?, "--bundle", text("bundle")?])
            .args(["--identity", text("identity")?, "--issuer", text("issuer")?, "--trusted-root"])
            .arg(&root)
            .env_clear()
            .stdout(Stdio::null())
            .status()?;
        let verdict = match status.code() {
            Some(0) => true,
            Some(3) => false,
            code => bail!("{}: exit code {code:?}", text("name")?),
        };
        verdicts.insert(text("name")?.to_owned(), verdict);
    }
    Ok(verdicts)
}
