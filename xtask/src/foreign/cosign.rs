//! An image that a node signed passes an unmodified `cosign verify`, and others do not; what an unmodified `cosign sign-blob` signs at a node
//! passes `cosign verify-blob`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_egress::{Egress, EgressConfig};
use countersign_registry::{Named, Reference, Registries, Repository, Resolved, Settings, bundle_annotations};
use countersign_testkit::issuer::{Claims, unix_now};
use countersign_testkit::node::Launch;
use countersign_testkit::registry::DockerRegistry;
use countersign_testkit::{Client, Home, Node};
use serde_json::{Value, json};

use crate::{paths, setup};

/// What is built, where it comes from, and the version that the cases below were seen with.
const COSIGN: (&str, &str, &str) = ("cosign", "github.com/sigstore/cosign/v3/cmd/cosign", "v3.1.3");
/// What cosign itself states of an image that it signs.
const SIGNED_IMAGE: &str = "https://sigstore.dev/cosign/sign/v1";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A program, built once for each version.
fn built(go: &Path, (name, package, version): (&str, &str, &str)) -> Result<PathBuf> {
    let directory = paths::root().join("target/foreign").join(format!("{name}-{version}"));
    let program = directory.join(name);
    if !program.exists() {
        println!("building {name} {version}, which takes some minutes");
        let mut command = Command::new(go);
        command.args(["install", &format!("{package}@{version}")]).env("GOBIN", &directory);
        let output = command.output().context("running go")?;
        ensure!(output.status.success(), "go install {package}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(program)
}

/// What `cosign verify` is asked, and what it should say.
struct Case {
    name: &'static str,
    image: String,
    identity: String,
    issuer: String,
    /// A part of its refusal; none if it should accept.
    refusal: Option<&'static str>,
}

/// An image that a node signed passes `cosign verify`, and nothing else does.
///
/// # Errors
/// If the test itself cannot be run.
pub(super) fn run(binary: &Path, go: &Path) -> Result<bool> {
    setup::programs(&["docker-registry"])?;
    let program = built(go, COSIGN)?;
    let directory = paths::run_directory("foreign-cosign")?;
    let registry = DockerRegistry::start(&directory.join("registry"), "")?;
    let settings = format!(
        "[trust]\nenabled = true\n[trust.clients]\n[[trust.registries]]\nhost = \"{}\"\nplain_http = true\n",
        registry.address()
    );
    let home = Home::create(&directory.join("home"), &settings)?;
    home.access("all", "permit (principal, action, resource);\n")?;
    let node = Launch::new(binary).start(&home)?;
    let root = node.anonymous().get("/trust/trusted_root.json")?.expect(200)?;
    fs::write(directory.join("trusted_root.json"), root.to_string())?;
    let mut client = node.client(&home.agent("release-bot", &["tester"]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cases = runtime.block_on(images(&registry, &mut client))?;
    let blob = blob(&program, &directory, &node)?;
    node.stop()?;

    let mut good = 0;
    for case in &cases {
        let verdict = verify(&program, &directory, case)?;
        match (case.refusal, verdict) {
            (None, Ok(())) => good += 1,
            (Some(part), Err(said)) if said.contains(part) => good += 1,
            (_, verdict) => println!("cosign, {}: {verdict:?} instead of {:?}", case.name, case.refusal),
        }
    }
    let ok = good == cases.len() && blob;
    let accepted = cases.iter().filter(|case| case.refusal.is_none()).count();
    println!(
        "cosign {} ({accepted} accepted, {} refused, {} signed by cosign itself)",
        if ok { "ok" } else { "FAILED" },
        cases.len() - accepted,
        usize::from(blob)
    );
    Ok(ok)
}

/// cosign signs a file at the node, with a key of its own, and verifies it by the node's trusted root.
fn blob(program: &Path, directory: &Path, node: &Node) -> Result<bool> {
    let file = |name: &str| directory.join(name);
    let published = node.anonymous().get("/trust/trustconfig.json")?.expect(200)?;
    let issuer = published.pointer("/signingConfig/caUrls/0/url").and_then(Value::as_str).context("an authority")?;
    // A node without a public name calls itself by that of its log, which leads nowhere here.
    let signing = published["signingConfig"].to_string();
    fs::write(file("signing.json"), signing.replace(issuer, &format!("http://{}", node.home().address())))?;
    fs::write(file("blob"), "signed by cosign\n")?;
    let claims = Claims::agent("cosign", &["tester"]).with("aud", json!("sigstore")).with("iat", json!(unix_now()));
    // In a file: what is signed by EdDSA, cosign takes for a file's name.
    fs::write(file("token"), node.home().issuer().token(&claims))?;
    let said = |arguments: &[&str], files: &[(&str, PathBuf)]| -> Result<(bool, String)> {
        let mut command = Command::new(program);
        command.args(arguments);
        for (option, path) in files {
            command.arg(option).arg(path);
        }
        let output = command.arg(file("blob")).env_clear().env("HOME", directory).output().context("running cosign")?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let both = [("--trusted-root", file("trusted_root.json")), ("--bundle", file("blob.sigstore.json"))];
    let mut signing = vec![("--signing-config", file("signing.json")), ("--identity-token", file("token"))];
    signing.extend(both.clone());
    let (signed, why) = said(&["sign-blob", "--yes"], &signing)?;
    if !signed {
        println!("cosign did not sign: {why}");
        return Ok(false);
    }
    let verify = |identity: &str| {
        said(&["verify-blob", "--certificate-identity-regexp", identity, "--certificate-oidc-issuer", issuer], &both)
    };
    let (good, why) = verify("/workspaces/default/signers/[0-9a-f]{32}$")?;
    let (other, _) = verify("/workspaces/other/")?;
    if !good || other {
        println!("cosign verifies what it signed: {good} ({why}); as somebody else's: {other}");
    }
    Ok(good && !other)
}

/// Its standard error if it refuses.
fn verify(program: &Path, directory: &Path, case: &Case) -> Result<Result<(), String>> {
    let mut command = Command::new(program);
    command.args(["verify", "--trusted-root"]).arg(directory.join("trusted_root.json"));
    command.args(["--certificate-identity", &case.identity, "--certificate-oidc-issuer", &case.issuer, &case.image]);
    // Whatever is not on this machine is asked through a proxy that is not there: it needs nothing but the root and the registry.
    let nowhere = ["HTTP_PROXY", "HTTPS_PROXY"].map(|name| (name, "http://127.0.0.1:1"));
    let output = command.env_clear().env("HOME", directory).envs(nowhere).output().context("running cosign")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(if output.status.success() { Ok(()) } else { Err(said) })
}

/// Images in the registry, signed and not.
async fn images(registry: &DockerRegistry, client: &mut Client) -> Result<Vec<Case>> {
    let host = registry.address().to_string();
    let settings = Settings { named: vec![Named { host: host.parse()?, plain_http: true }], any_public: false };
    let registries = Registries::new(Egress::new(EgressConfig::default()), settings);
    let open = |name: &str| -> Result<Repository> {
        Ok(registries.open(&format!("{host}/{name}").parse::<Reference>()?, None)?)
    };
    let mut cases = Vec::new();
    let mut add = |name, image: &str, (identity, issuer): (&str, &str), refusal| {
        let (identity, issuer) = (identity.to_owned(), issuer.to_owned());
        cases.push(Case { name, image: format!("{host}/{image}"), identity, issuer, refusal });
    };

    let app = open("team/app:v1")?;
    let image = push_image(&app, "v1", "one").await?;
    // By reference: the node looks the digest up, and pushes the bundle itself.
    let wanted =
        json!({ "image": format!("{host}/team/app:v1"), "artifact_type": "container_image", "subject": "app" });
    let signed = client.post("/v1/sign", &wanted)?.expect(200)?;
    ensure!(signed["image"]["pushed"] == true, "the bundle was not pushed: {signed}");
    ensure!(signed["artifact"] == json!(image.digest), "another digest was signed: {signed}");
    let text = |member: &str| signed[member].as_str().with_context(|| format!("no {member}: {signed}"));
    let (signer, issuer) = (text("signer")?, text("issuer")?);
    let whom = (signer, issuer);
    add("by tag", "team/app:v1", whom, None);
    add("by digest", &format!("team/app@{}", image.digest), whom, None);
    add("another identity", "team/app:v1", (&format!("{signer}0"), issuer), Some("expected SAN value"));
    add("another issuer", "team/app:v1", (signer, "https://issuer.example"), Some("expected issuer value"));

    let many = open("team/many:v1")?;
    let index = push_index(&many, "v1").await?;
    let signed_index = sign(client, &index, Some(SIGNED_IMAGE))?;
    push(&many, &index, &signed_index["bundle"], &signed_index).await?;
    add("an index", "team/many:v1", whom, None);

    push_image(&open("team/bare:v1")?, "v1", "nobody signed this").await?;
    add("an image without a signature", "team/bare:v1", whom, Some("no signatures found"));
    let other = open("team/other:v1")?;
    let another = push_image(&other, "v1", "another").await?;
    push(&other, &another, &signed["bundle"], &signed).await?;
    add("another image's signature", "team/other:v1", whom, Some("does not match any digest in statement"));
    let changed = open("team/changed:v1")?;
    let image = push_image(&changed, "v1", "changed").await?;
    let mut bundle = sign(client, &image, Some(SIGNED_IMAGE))?["bundle"].clone();
    flip(&mut bundle, "/dsseEnvelope/signatures/0/sig")?;
    push(&changed, &image, &bundle, &signed).await?;
    add("a changed signature", "team/changed:v1", whom, Some("failed to verify log inclusion"));

    // `cosign verify` takes any statement of the signer about the image for its signature.
    let stated = open("team/stated:v1")?;
    let image = push_image(&stated, "v1", "stated").await?;
    let statement = sign(client, &image, Some("https://slsa.dev/provenance/v1"))?;
    push(&stated, &image, &statement["bundle"], &statement).await?;
    add("a statement of another type", "team/stated:v1", whom, None);

    let message = open("team/message:v1")?;
    let image = push_image(&message, "v1", "message").await?;
    let signed = sign(client, &image, None)?;
    push(&message, &image, &signed["bundle"], &signed).await?;
    add("a bare digest's signature", "team/message:v1", whom, Some("does not contain a DSSE envelope"));
    Ok(cases)
}

/// Signs an image's digest, or a statement of this type about it.
fn sign(client: &mut Client, image: &Resolved, predicate_type: Option<&str>) -> Result<Value> {
    let mut wanted = json!({ "artifact": image.digest, "artifact_type": "container_image", "subject": "app" });
    if let Some(predicate_type) = predicate_type {
        wanted["statement"] = json!({ "predicate_type": predicate_type, "predicate": {} });
    }
    client.post("/v1/sign", &wanted)?.expect(200)
}

async fn push(repository: &Repository, image: &Resolved, bundle: &Value, signed: &Value) -> Result<()> {
    let bundle = bundle.to_string().into_bytes();
    let annotations: BTreeMap<_, _> = bundle_annotations(&bundle, signed["timestamp"].as_str().context("a time")?)?;
    repository.push_bundle(image, bundle.into(), &annotations, soon()).await?;
    Ok(())
}

/// The smallest image that there can be.
async fn push_image(repository: &Repository, tag: &str, content: &str) -> Result<Resolved> {
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } });
    let config = repository.push_blob(config.to_string().into(), soon()).await?;
    let layer = repository.push_blob(content.to_owned().into(), soon()).await?;
    let part = |kind: &str, digest: String, size: u64| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": part("config.v1+json", config.digest.to_string(), config.size),
        "layers": [part("layer.v1.tar", layer.digest.to_string(), layer.size)],
    });
    repository.push_manifest(Some(tag), MANIFEST, manifest.to_string().into(), soon()).await?;
    Ok(repository.resolve(soon()).await?)
}

/// An index of one image.
async fn push_index(repository: &Repository, tag: &str) -> Result<Resolved> {
    let image = push_image(repository, tag, "for one platform").await?;
    let platform = json!({ "architecture": "amd64", "os": "linux" });
    let entry =
        json!({ "mediaType": image.media_type, "digest": image.digest, "size": image.size, "platform": platform });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    repository.push_manifest(Some(tag), INDEX, index.to_string().into(), soon()).await?;
    Ok(repository.resolve(soon()).await?)
}

/// Changes the last byte of what stands there in base64.
fn flip(value: &mut Value, pointer: &str) -> Result<()> {
    let member = value.pointer_mut(pointer).with_context(|| format!("no {pointer}"))?;
    let mut bytes = STANDARD.decode(member.as_str().context("no text")?)?;
    *bytes.last_mut().context("nothing there")? ^= 1;
    *member = json!(STANDARD.encode(bytes));
    Ok(())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}
