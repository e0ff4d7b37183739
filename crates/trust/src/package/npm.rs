//! npm's answers: metadata, and its attestations: provenance, which a workflow signs, and the registry's own publish
//! attestation, which a key of the registry signs.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::attestation::{Attestation, Checked, State, Trust, check};
use super::name::{Ecosystem, PackageRef};
use super::publisher::{check_source, expected_of_repository, repository_url};
use super::registry::{History, Keys, MAX_TEXT, Release, is_version};
use super::source::{Answer, Got, MAX_ANSWER_BYTES, Trouble};
use super::version::Version;
use super::{plain, read_json};
use crate::bundle::{Bundle, Material};
use crate::certificate::Certificate;
use crate::dsse::Statement;
use crate::time::parse_rfc3339;
use crate::verify::{Artifact, Expected};
use crate::wire::Base64;

/// What the registry's own attestation says.
pub(super) const PUBLISH: &str = "https://github.com/npm/attestation/tree/main/specs/publish/v0.1";
/// What provenance says.
const PROVENANCE: [&str; 2] = ["https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"];
/// Most attestations of a release that are read.
const MAX_ATTESTATIONS: usize = 16;
/// Most keys of a registry that are read.
const MAX_KEYS: usize = 64;

#[derive(Deserialize)]
struct ReleaseAnswer {
    name: String,
    version: String,
    dist: Dist,
    deprecated: Option<Value>,
    maintainers: Option<Vec<serde::de::IgnoredAny>>,
    repository: Option<Value>,
    #[serde(rename = "_npmUser")]
    npm_user: Option<User>,
}

#[derive(Deserialize)]
struct Dist {
    integrity: Option<String>,
    attestations: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct User {
    name: Option<String>,
}

#[derive(Deserialize)]
struct HistoryAnswer {
    name: String,
    #[serde(default)]
    versions: Keys,
    #[serde(default)]
    time: BTreeMap<String, Value>,
    #[serde(default, rename = "dist-tags")]
    tags: BTreeMap<String, String>,
}

pub(super) fn read_release(body: &[u8]) -> Result<(Release, String), Trouble> {
    let answer: ReleaseAnswer = read_json(body)?;
    let repository = match &answer.repository {
        Some(Value::String(text)) => Some(text.as_str()),
        Some(other) => other.get("url").and_then(Value::as_str),
        None => None,
    };
    let deprecated = match &answer.deprecated {
        Some(Value::String(text)) if !text.is_empty() => Some(plain(text, MAX_TEXT)),
        Some(Value::Bool(true)) => Some(String::new()),
        _ => None,
    };
    let release = Release {
        sha512: answer.dist.integrity.as_deref().and_then(sha512),
        says_attested: answer.dist.attestations.is_some(),
        deprecated,
        maintainers: answer.maintainers.and_then(|list| u64::try_from(list.len()).ok()),
        repository: repository.map(|text| plain(text, MAX_TEXT)),
        published_by: answer.npm_user.and_then(|user| user.name).map(|name| plain(&name, MAX_TEXT)),
        name: answer.name,
        ..Release::default()
    };
    Ok((release, answer.version))
}

/// Subresource integrity: several hashes may stand beside one another.
fn sha512(integrity: &str) -> Option<[u8; 64]> {
    let encoded = integrity.split_ascii_whitespace().find_map(|hash| hash.strip_prefix("sha512-"))?;
    STANDARD.decode(encoded).ok()?.try_into().ok()
}

pub(super) fn read_history(body: &[u8], version: &Version) -> Result<(String, History), Trouble> {
    let answer: HistoryAnswer = read_json(body)?;
    let time = |value: &Value| value.as_str().and_then(parse_rfc3339);
    let this = answer.time.iter().find(|(number, _)| is_version(Ecosystem::Npm, number, version));
    let history = History {
        releases: answer.versions.0,
        yanked: None,
        first_ms: answer.time.get("created").and_then(time),
        this_ms: this.and_then(|(_, value)| time(value)),
        latest: answer.tags.get("latest").map(|tag| plain(tag, 64)),
    };
    Ok((answer.name, history))
}

#[derive(Deserialize)]
struct AttestationsAnswer {
    attestations: Vec<NpmAttestation>,
}

/// One attestation.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct NpmAttestation {
    #[serde(rename = "predicateType")]
    predicate_type: String,
    bundle: Value,
}

/// What the registry's own attestation says of the release.
#[derive(Deserialize)]
struct Published {
    name: Option<String>,
    version: Option<String>,
}

/// What provenance says of the source, as far as it is compared (SLSA 1.0, `buildDefinition.externalParameters`).
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Provenance {
    build_definition: BuildDefinition,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct BuildDefinition {
    external_parameters: ExternalParameters,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ExternalParameters {
    workflow: Workflow,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Workflow {
    repository: Option<String>,
}

/// Nothing where the release has no attestations.
pub(super) fn read_attestations(answer: &Answer) -> Result<Vec<NpmAttestation>, Trouble> {
    let body = match answer.open(MAX_ANSWER_BYTES)? {
        Got::Body(body) => body,
        Got::Absent => return Ok(Vec::new()),
    };
    let answer: AttestationsAnswer =
        crate::wire::parse(body, MAX_ANSWER_BYTES).map_err(|error| Trouble::unreadable(&error))?;
    if answer.attestations.len() > MAX_ATTESTATIONS {
        return Err(Trouble::unreadable(&"it has more than 16 attestations"));
    }
    Ok(answer.attestations)
}

/// A key with which npm's registry signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryKey {
    id: String,
    spki: Vec<u8>,
    /// Milliseconds, after which nothing signed with it counts.
    expires_ms: Option<i64>,
}

#[derive(Deserialize)]
struct KeysAnswer {
    keys: Vec<KeyAnswer>,
}

#[derive(Deserialize)]
struct KeyAnswer {
    expires: Option<String>,
    keyid: String,
    key: Base64,
}

impl RegistryKey {
    /// Reads keys as npm's registry publishes them at `/-/npm/v1/keys`. They are anchors of trust: whoever configures them
    /// vouches for the file.
    ///
    /// # Errors
    /// Not of that shape, or more than 64 keys.
    pub fn parse_all(json: &[u8]) -> Result<Vec<Self>, crate::wire::ShapeError> {
        let shape = |text: &str| crate::wire::ShapeError::Shape(text.to_owned());
        let answer: KeysAnswer = crate::wire::parse(json, 1 << 20)?;
        if answer.keys.len() > MAX_KEYS {
            return Err(shape("there are more than 64 keys"));
        }
        let read = |key: KeyAnswer| {
            let expires = key.expires.map(|text| parse_rfc3339(&text).ok_or_else(|| shape("expires is not a time")));
            Ok(Self { id: key.keyid, spki: key.key.0, expires_ms: expires.transpose()? })
        };
        answer.keys.into_iter().map(read).collect()
    }
}

/// Verifies one attestation of a release.
pub(super) fn check_attestation(
    package: &PackageRef,
    release: &Release,
    attestation: &NpmAttestation,
    trust: &Trust<'_>,
) -> Attestation {
    let subject = package.purl();
    let predicate = plain(&attestation.predicate_type, 200);
    let Some(sha512) = release.sha512 else {
        return Attestation::failed(&subject, predicate, "the registry states no SHA-512 of the release");
    };
    let bundle = Bundle::parse(attestation.bundle.to_string().as_bytes()).map_err(|error| error.to_string());
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(error) => return Attestation::failed(&subject, predicate, &error),
    };
    if attestation.predicate_type == PUBLISH {
        return check_publish(package, bundle, Artifact::Sha512(sha512), trust);
    }
    let declared = release.repository.as_deref().and_then(repository_url);
    let checked = Checked {
        bundle,
        artifact: Artifact::Sha512(sha512),
        expected: declared.as_deref().and_then(expected_of_repository),
        promise_suffices: true,
    };
    let mut found = check(&subject, Ok(checked), trust, |statement, certificate| {
        let mut wrong = statement_problems(package, statement, &PROVENANCE);
        wrong.extend(match (&declared, certificate) {
            (Some(declared), Some(certificate)) => source_problem(declared, statement, certificate),
            (None, _) => Some("the release declares no repository that it could be compared with".to_owned()),
            (_, None) => Some("it has no certificate".to_owned()),
        });
        wrong
    });
    if attestation.predicate_type != found.predicate_type {
        found.fail("it states another kind of predicate than the registry says");
    }
    found
}

fn check_publish(package: &PackageRef, bundle: Bundle, artifact: Artifact<'_>, trust: &Trust<'_>) -> Attestation {
    let subject = package.purl();
    let Material::PublicKeyHint(hint) = &bundle.material else {
        return Attestation::failed(&subject, PUBLISH.to_owned(), "it is not signed with a key of the registry");
    };
    let Some(key) = trust.npm_keys.iter().find(|key| key.id == *hint) else {
        let why = if trust.npm_keys.is_empty() {
            "it is there, and was not verified: the registry's keys are to be supplied as a file"
        } else {
            "it is there, and was not verified: it names a key that is not among those supplied"
        };
        return Attestation::unverified(&subject, PUBLISH.to_owned(), why);
    };
    let expected = Some(Expected::Key(key.spki.clone()));
    let checked = Checked { bundle, artifact, expected, promise_suffices: true };
    let mut found = check(&subject, Ok(checked), trust, |statement, _| {
        let mut wrong = statement_problems(package, statement, &[PUBLISH]);
        let version = package.version().map(Version::to_string);
        let same = |stated: Published| stated.name.as_deref() == Some(package.name()) && stated.version == version;
        if !statement.predicate_as().is_some_and(same) {
            wrong.push("its predicate names another release".to_owned());
        }
        wrong
    });
    let expired = |at: u64| key.expires_ms.is_some_and(|end| i64::try_from(at).is_ok_and(|at| at * 1000 > end));
    if found.state == State::Verified && found.signed_at.is_none_or(expired) {
        found.fail("the registry's key had expired when it was signed");
    }
    found
}

fn statement_problems(package: &PackageRef, statement: &Statement, predicates: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    match statement.subject.as_slice() {
        [subject] if subject.name == package.purl() => {}
        [subject] => wrong.push(format!("it is about {:?}, not {:?}", plain(&subject.name, 255), package.purl())),
        _ => wrong.push("it is about more than one release".to_owned()),
    }
    if !predicates.contains(&statement.predicate_type.as_str()) {
        wrong.push(format!("it states something else: {:?}", plain(&statement.predicate_type, 200)));
    }
    wrong
}

/// The certificate, the release's metadata and the provenance name one repository.
fn source_problem(declared: &str, statement: &Statement, certificate: &Certificate) -> Option<String> {
    let provenance: Provenance = statement.predicate_as().unwrap_or_default();
    let stated = provenance.build_definition.external_parameters.workflow.repository;
    if let Some(stated) = stated.filter(|stated| repository_url(stated).as_deref() != Some(declared)) {
        let stated = plain(&stated, 200);
        return Some(format!("it states that {stated:?} was built, and the release declares {declared:?}"));
    }
    check_source(certificate, declared).err()
}
