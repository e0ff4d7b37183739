//! PyPI's answers: its JSON API, and the provenance objects of its integrity API (PEP 740).

use std::collections::BTreeMap;

use countersign_proof::digest::Digest;
use serde::Deserialize;

use super::attestation::{Attestation, Checked, Trust, check};
use super::name::Ecosystem;
use super::publisher::Publisher;
use super::registry::{File, History, MAX_FILES, MAX_TEXT, Release, is_version};
use super::source::{Answer, Got, MAX_ANSWER_BYTES, Trouble};
use super::version::Version;
use super::{plain, read_json};
use crate::bundle::{Bundle, Content, MAX_PARTS, Material};
use crate::certificate::MAX_CERTIFICATE_BYTES;
use crate::dsse::{Envelope, IN_TOTO_PAYLOAD_TYPE, Statement};
use crate::entry::{EntryWire, LogEntry};
use crate::time::parse_rfc3339;
use crate::timestamp::MAX_RESPONSE_BYTES;
use crate::verify::Artifact;
use crate::wire::Base64;

/// Most attestations of one file that are read.
const MAX_ATTESTATIONS: usize = 32;
/// What an attestation of PyPI may say: that this file was published, or how it was built.
const PREDICATES: [&str; 2] = ["https://docs.pypi.org/attestations/publish/v1", "https://slsa.dev/provenance/v1"];

#[derive(Deserialize)]
struct ReleaseAnswer {
    info: Info,
    #[serde(default)]
    urls: Vec<Url>,
    ownership: Option<Ownership>,
}

#[derive(Deserialize)]
struct Info {
    name: String,
    version: String,
    #[serde(default)]
    yanked: bool,
    yanked_reason: Option<String>,
    project_urls: Option<BTreeMap<String, Option<String>>>,
    home_page: Option<String>,
}

#[derive(Deserialize)]
struct Url {
    filename: String,
    digests: Digests,
    upload_time_iso_8601: Option<String>,
    #[serde(default)]
    yanked: bool,
}

#[derive(Deserialize)]
struct Digests {
    sha256: String,
}

#[derive(Deserialize)]
struct Ownership {
    #[serde(default)]
    roles: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct HistoryAnswer {
    info: Info,
    #[serde(default)]
    releases: BTreeMap<String, Vec<Upload>>,
}

#[derive(Deserialize)]
struct Upload {
    upload_time_iso_8601: Option<String>,
    #[serde(default)]
    yanked: bool,
}

pub(super) fn read_release(body: &[u8]) -> Result<(Release, String), Trouble> {
    let answer: ReleaseAnswer = read_json(body)?;
    let files = answer.urls.iter().take(MAX_FILES).map(read_file).collect::<Result<Vec<_>, _>>()?;
    let all_yanked = !answer.urls.is_empty() && answer.urls.iter().all(|url| url.yanked);
    let repository = repository(&answer.info);
    let release = Release {
        more_files: answer.urls.len() - files.len(),
        files,
        published_ms: first(answer.urls.iter().map(|url| &url.upload_time_iso_8601)),
        yanked: (answer.info.yanked || all_yanked)
            .then(|| plain(answer.info.yanked_reason.as_deref().unwrap_or_default(), MAX_TEXT)),
        maintainers: answer.ownership.and_then(|o| u64::try_from(o.roles.len()).ok()),
        repository,
        name: answer.info.name,
        ..Release::default()
    };
    Ok((release, answer.info.version))
}

/// File names become part of an address, so that they are held to what names of distributions consist of.
fn read_file(url: &Url) -> Result<File, Trouble> {
    let name = &url.filename;
    let good = name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+!".contains(&b));
    let digest = format!("sha256:{}", url.digests.sha256).parse::<Digest>();
    match (good, digest) {
        (true, Ok(sha256)) => Ok(File { name: name.clone(), sha256 }),
        _ => Err(Trouble::unreadable(&format!("{name:?} is not the name of a file with a SHA-256"))),
    }
}

/// Links have names of the publisher's choice; the ones here are those that PyPI itself takes for the source.
fn repository(info: &Info) -> Option<String> {
    let links = info.project_urls.iter().flatten();
    let named = |word: &str| {
        let mut links = links.clone().filter_map(|(name, url)| Some((name, url.as_ref()?)));
        links
            .find(|(name, _)| name.to_ascii_lowercase().replace([' ', '-', '_'], "") == word)
            .map(|(_, url)| url.clone())
    };
    ["source", "sourcecode", "repository", "github", "code", "homepage"]
        .into_iter()
        .find_map(named)
        .or(info.home_page.clone().filter(|page| !page.is_empty()))
        .map(|url| plain(&url, MAX_TEXT))
}

fn first<'a>(times: impl Iterator<Item = &'a Option<String>>) -> Option<i64> {
    times.filter_map(|time| time.as_deref().and_then(parse_rfc3339)).min()
}

pub(super) fn read_history(body: &[u8], version: &Version) -> Result<(String, History), Trouble> {
    let answer: HistoryAnswer = read_json(body)?;
    let times = |uploads: &[Upload]| first(uploads.iter().map(|upload| &upload.upload_time_iso_8601));
    let yanked = |uploads: &&Vec<Upload>| !uploads.is_empty() && uploads.iter().all(|upload| upload.yanked);
    let this = answer.releases.iter().find(|(number, _)| is_version(Ecosystem::Pypi, number, version));
    let history = History {
        releases: u64::try_from(answer.releases.len()).unwrap_or(u64::MAX),
        yanked: u64::try_from(answer.releases.values().filter(yanked).count()).ok(),
        first_ms: answer.releases.values().filter_map(|uploads| times(uploads)).min(),
        this_ms: this.and_then(|(_, uploads)| times(uploads)),
        latest: Some(plain(&answer.info.version, 64)),
    };
    Ok((answer.info.name, history))
}

/// The attestations of one file, as the integrity API answers them.
pub(super) type Provenance = Vec<(Publisher, Vec<PypiAttestation>)>;

#[derive(Deserialize)]
struct ProvenanceAnswer {
    version: u64,
    attestation_bundles: Vec<AttestationBundle>,
}

#[derive(Deserialize)]
struct AttestationBundle {
    publisher: serde_json::Value,
    attestations: Vec<PypiAttestation>,
}

/// One attestation (PEP 740, "Attestation objects").
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PypiAttestation {
    version: u64,
    verification_material: VerificationMaterial,
    envelope: PypiEnvelope,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerificationMaterial {
    certificate: Base64,
    transparency_entries: Vec<EntryWire>,
    /// Not in the PEP; entries of Rekor's second version have no time of their own.
    #[serde(default)]
    timestamps: Vec<Base64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PypiEnvelope {
    statement: Base64,
    signature: Base64,
}

/// Nothing where the file has no attestations.
pub(super) fn read_provenance(answer: &Answer) -> Result<Provenance, Trouble> {
    let body = match answer.open(MAX_ANSWER_BYTES)? {
        Got::Body(body) => body,
        Got::Absent => return Ok(Vec::new()),
    };
    let answer: ProvenanceAnswer =
        crate::wire::parse(body, MAX_ANSWER_BYTES).map_err(|error| Trouble::unreadable(&error))?;
    let count: usize = answer.attestation_bundles.iter().map(|bundle| bundle.attestations.len()).sum();
    let known = answer.version == 1
        && answer.attestation_bundles.iter().flat_map(|bundle| &bundle.attestations).all(|a| a.version == 1);
    if !known || !(1..=MAX_ATTESTATIONS).contains(&count) {
        return Err(Trouble::unreadable(&"it is of another version, or has no attestation, or more than 32"));
    }
    let read = |bundle: AttestationBundle| Ok((Publisher::parse(&bundle.publisher)?, bundle.attestations));
    answer.attestation_bundles.into_iter().map(read).collect()
}

impl PypiAttestation {
    /// The same as a bundle.
    fn bundle(self) -> Result<Bundle, String> {
        let material = self.verification_material;
        let parts = material.transparency_entries.len().max(material.timestamps.len());
        let stamps = material.timestamps.iter().map(|stamp| stamp.0.len());
        let larger = material.certificate.0.len() > MAX_CERTIFICATE_BYTES || stamps.max() > Some(MAX_RESPONSE_BYTES);
        if parts > MAX_PARTS || larger {
            return Err("its verification material is beyond a bound".to_owned());
        }
        let entries = material.transparency_entries.into_iter().map(LogEntry::try_from).collect::<Result<_, _>>();
        let envelope = Envelope {
            payload: self.envelope.statement.0,
            payload_type: IN_TOTO_PAYLOAD_TYPE.to_owned(),
            signature: self.envelope.signature.0,
            key_id: String::new(),
        };
        Ok(Bundle {
            material: Material::Certificate(material.certificate.0),
            entries: entries.map_err(|error| error.to_string())?,
            timestamps: material.timestamps.into_iter().map(|stamp| stamp.0).collect(),
            content: Content::Dsse(envelope),
        })
    }
}

/// Verifies one attestation of a file.
pub(super) fn check_attestation(
    file: &File,
    publisher: &Publisher,
    attestation: &PypiAttestation,
    trust: &Trust<'_>,
) -> Attestation {
    if let Publisher::Other(kind) = publisher {
        let why = format!("it is there, and was not verified: publishers of the kind {kind:?} are not known here");
        return Attestation::unverified(&file.name, String::new(), &why);
    }
    let checked = attestation.clone().bundle().map(|bundle| Checked {
        bundle,
        artifact: Artifact::Sha256(file.sha256),
        expected: publisher.expected(),
        promise_suffices: false,
    });
    check(&file.name, checked, trust, |statement, certificate| {
        let mut wrong = statement_problems(file, statement);
        wrong.extend(certificate.map_or(Some("it has no certificate".to_owned()), |c| publisher.check(c).err()));
        wrong
    })
}

fn statement_problems(file: &File, statement: &Statement) -> Vec<String> {
    let mut wrong = Vec::new();
    match statement.subject.as_slice() {
        [subject] if same_file(&subject.name, &file.name) => {}
        [subject] => wrong.push(format!("it is about {:?}, not {:?}", plain(&subject.name, 255), file.name)),
        _ => wrong.push("it is about more than one file".to_owned()),
    }
    if !PREDICATES.contains(&statement.predicate_type.as_str()) {
        wrong.push(format!("it states something else: {:?}", plain(&statement.predicate_type, 200)));
    }
    wrong
}

/// Early attestations spell the project's name in the file's another way.
fn same_file(stated: &str, name: &str) -> bool {
    stated == name || normal_file(stated).is_some_and(|stated| normal_file(name) == Some(stated))
}

/// The normalised name, and the rest: for a wheel what follows the name, for a source distribution the version.
fn normal_file(name: &str) -> Option<(String, String)> {
    let (project, rest) = match name.strip_suffix(".whl") {
        Some(wheel) => wheel.split_once('-')?,
        None => name.strip_suffix(".tar.gz").or_else(|| name.strip_suffix(".zip"))?.rsplit_once('-')?,
    };
    let ending = name.get(name.rfind('.')?..)?;
    Some((Ecosystem::Pypi.comparable(project), format!("{rest}{ending}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_spellings_of_a_file_are_the_same_file() {
        for (stated, name, expected) in [
            ("a_b-1.0.tar.gz", "a_b-1.0.tar.gz", true),
            ("A.b-1.0.tar.gz", "a_b-1.0.tar.gz", true),
            ("a-b-1.0.tar.gz", "a_b-1.0.tar.gz", true),
            ("a_b-1.1.tar.gz", "a_b-1.0.tar.gz", false),
            ("a_b-1.0.zip", "a_b-1.0.tar.gz", false),
            ("A_b-1.0-py3-none-any.whl", "a_b-1.0-py3-none-any.whl", true),
            ("a_b-1.0-py2-none-any.whl", "a_b-1.0-py3-none-any.whl", false),
            ("", "", true),
            ("x", "y", false),
        ] {
            assert_eq!(same_file(stated, name), expected, "{stated} {name}");
        }
    }
}
