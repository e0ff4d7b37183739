//! What a registry says of one release, and of all releases of a package.
//!
//! An answer about another package or release than the one that was asked for says nothing about it.

use std::collections::HashSet;
use std::fmt;

use countersign_proof::digest::Digest;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::name::{Ecosystem, PackageRef};
use super::source::{Answer, Got, MAX_ANSWER_BYTES, MAX_HISTORY_BYTES, Trouble};
use super::version::Version;
use super::{npm, plain, pypi, read_json};
use crate::time::parse_rfc3339;

/// Most files of a release; those beyond are not asked for, and that is said.
pub const MAX_FILES: usize = 128;
/// Most releases of a package that are counted.
pub const MAX_RELEASES: usize = 100_000;
/// The longest text that is shown of what a registry says, in characters.
pub(super) const MAX_TEXT: usize = 300;

/// One release, as its registry describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Release {
    /// The name as its registry spells it.
    pub name: String,
    /// The files of a PyPI release, at most [`MAX_FILES`].
    pub files: Vec<File>,
    /// Files that are beyond the bound.
    pub more_files: usize,
    /// SHA-512 of what npm serves.
    pub sha512: Option<[u8; 64]>,
    /// SHA-256 of what crates.io serves, as it says.
    pub checksum: Option<String>,
    /// Whether npm's registry says that there are attestations.
    pub says_attested: bool,
    /// When it was published, in milliseconds.
    pub published_ms: Option<i64>,
    /// Taken back by its publisher, with the reason or an empty text.
    pub yanked: Option<String>,
    /// Declared to be used no more, with the words.
    pub deprecated: Option<String>,
    /// How many maintain it, where the registry says.
    pub maintainers: Option<u64>,
    /// Where its source is said to be.
    pub repository: Option<String>,
    /// Who published it, where the registry says.
    pub published_by: Option<String>,
}

/// A file of a PyPI release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub sha256: Digest,
}

/// All releases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// How many there are.
    pub releases: u64,
    /// How many of them were taken back, where the registry says.
    pub yanked: Option<u64>,
    /// When the first was published, in milliseconds.
    pub first_ms: Option<i64>,
    /// When this one was published, in milliseconds.
    pub this_ms: Option<i64>,
    /// The newest, as the registry says.
    pub latest: Option<String>,
}

/// Reads what a registry answers about one release.
pub(super) fn read_release(package: &PackageRef, version: &Version, answer: &Answer) -> Result<Release, Trouble> {
    let body = match answer.open(MAX_ANSWER_BYTES)? {
        Got::Body(body) => body,
        Got::Absent => return Err(Trouble::failed(format!("the registry knows no {package}"))),
    };
    let (release, number) = match package.ecosystem() {
        Ecosystem::Pypi => pypi::read_release(body)?,
        Ecosystem::Npm => npm::read_release(body)?,
        Ecosystem::Cargo => cargo_release(body)?,
    };
    let same = Version::parse(package.ecosystem(), &number).is_ok_and(|answered| answered.is_same(version));
    if !package.ecosystem().is_name(&release.name) || !package.is_called(&release.name) || !same {
        let other = format!("{} {}", plain(&release.name, 100), plain(&number, 64));
        return Err(Trouble::unavailable(format!("the answer is about {other}, which was not asked for")));
    }
    Ok(release)
}

/// Reads what a registry answers about all releases.
pub(super) fn read_history(package: &PackageRef, version: &Version, answer: &Answer) -> Result<History, Trouble> {
    let body = match answer.open(MAX_HISTORY_BYTES)? {
        Got::Body(body) => body,
        Got::Absent => {
            let name = format!("{}:{}", package.ecosystem(), package.name());
            return Err(Trouble::failed(format!("the registry knows no {name}")));
        }
    };
    let (name, history) = match package.ecosystem() {
        Ecosystem::Pypi => pypi::read_history(body, version)?,
        Ecosystem::Npm => npm::read_history(body, version)?,
        Ecosystem::Cargo => cargo_history(body, version)?,
    };
    if !package.is_called(&name) {
        let other = plain(&name, 100);
        return Err(Trouble::unavailable(format!("the answer is about {other}, which was not asked for")));
    }
    Ok(history)
}

#[derive(Deserialize)]
struct CargoVersionAnswer {
    version: CargoVersion,
}

#[derive(Deserialize)]
struct CargoVersion {
    #[serde(rename = "crate", default)]
    name: String,
    num: String,
    created_at: Option<String>,
    #[serde(default)]
    yanked: bool,
    yank_message: Option<String>,
    checksum: Option<String>,
    repository: Option<String>,
    published_by: Option<CargoUser>,
    trustpub_data: Option<CargoPublisher>,
}

#[derive(Deserialize)]
struct CargoUser {
    login: String,
}

#[derive(Deserialize)]
struct CargoPublisher {
    provider: String,
    repository: Option<String>,
}

#[derive(Deserialize)]
struct CargoCrateAnswer {
    #[serde(rename = "crate")]
    about: CargoCrate,
    versions: Option<Vec<CargoVersion>>,
}

#[derive(Deserialize)]
struct CargoCrate {
    name: String,
    max_stable_version: Option<String>,
    num_versions: Option<u64>,
    created_at: Option<String>,
}

fn cargo_release(body: &[u8]) -> Result<(Release, String), Trouble> {
    let version = read_json::<CargoVersionAnswer>(body)?.version;
    let publisher = version.trustpub_data.map(|by| {
        let repository = by.repository.map(|r| format!(", {r}")).unwrap_or_default();
        format!("a workflow ({}{repository})", by.provider)
    });
    let release = Release {
        name: version.name,
        checksum: version.checksum.map(|sum| plain(&sum, 64)),
        published_ms: version.created_at.as_deref().and_then(parse_rfc3339),
        yanked: version.yanked.then(|| plain(&version.yank_message.unwrap_or_default(), MAX_TEXT)),
        repository: version.repository.map(|r| plain(&r, MAX_TEXT)),
        published_by: publisher.or(version.published_by.map(|by| by.login)).map(|by| plain(&by, MAX_TEXT)),
        ..Release::default()
    };
    Ok((release, version.num))
}

fn cargo_history(body: &[u8], version: &Version) -> Result<(String, History), Trouble> {
    let answer: CargoCrateAnswer = read_json(body)?;
    let time = |text: &Option<String>| text.as_deref().and_then(parse_rfc3339);
    let versions = answer.versions.unwrap_or_default();
    let this = versions.iter().find(|v| is_version(Ecosystem::Cargo, &v.num, version));
    let listed = u64::try_from(versions.len()).unwrap_or(u64::MAX);
    let yanked = versions.iter().filter(|v| v.yanked).count();
    let history = History {
        releases: answer.about.num_versions.unwrap_or(listed).max(listed),
        yanked: u64::try_from(yanked).ok(),
        first_ms: time(&answer.about.created_at),
        this_ms: this.and_then(|v| time(&v.created_at)),
        latest: answer.about.max_stable_version.map(|v| plain(&v, 64)),
    };
    Ok((answer.about.name, history))
}

pub(super) fn is_version(ecosystem: Ecosystem, text: &str, version: &Version) -> bool {
    Version::parse(ecosystem, text).is_ok_and(|parsed| parsed.is_same(version))
}

/// The keys of a JSON object whose values are of no use, counted once each and up to a bound.
#[derive(Debug, Default)]
pub(super) struct Keys(pub(super) u64);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut seen = HashSet::new();
                while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                    if seen.len() < MAX_RELEASES {
                        seen.insert(key);
                    }
                }
                Ok(Keys(u64::try_from(seen.len()).unwrap_or(u64::MAX)))
            }
        }
        input.deserialize_map(Count)
    }
}
