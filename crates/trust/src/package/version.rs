//! Versions in the order of their ecosystem: PEP 440 for PyPI, SemVer 2 for npm and crates.io.

use std::cmp::Ordering;
use std::fmt;

use super::name::Ecosystem;

/// The longest version, in bytes.
pub const MAX_VERSION_BYTES: usize = 128;

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not of PEP 440's form.
    #[error("not a PEP 440 version such as 2.31.0: {0:?}")]
    Pep440(String),
    /// Not of SemVer's form.
    #[error("not a SemVer version such as 1.2.3: {0:?}")]
    Semver(String),
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Of PyPI.
    Pep440(Pep440),
    /// Of npm or crates.io.
    Semver(Semver),
}

impl Version {
    /// Reads a version.
    ///
    /// # Errors
    /// [`VersionError`].
    pub fn parse(ecosystem: Ecosystem, text: &str) -> Result<Self, VersionError> {
        let shown = || super::plain(text, 64);
        let text = if text.len() <= MAX_VERSION_BYTES { text } else { "" };
        match ecosystem {
            // Its usual spelling can be the longer one: `1.0rdev` is `1.0.post0.dev0`.
            Ecosystem::Pypi => Pep440::parse(text)
                .filter(|version| version.to_string().len() <= MAX_VERSION_BYTES)
                .map(Self::Pep440)
                .ok_or_else(|| VersionError::Pep440(shown())),
            Ecosystem::Npm | Ecosystem::Cargo => {
                Semver::parse(text).map(Self::Semver).ok_or_else(|| VersionError::Semver(shown()))
            }
        }
    }

    /// The order of releases; none between ecosystems. SemVer's build metadata does not count.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Pep440(a), Self::Pep440(b)) => Some(a.cmp(b)),
            (Self::Semver(a), Self::Semver(b)) => Some(a.key().cmp(&b.key())),
            (Self::Pep440(_), Self::Semver(_)) | (Self::Semver(_), Self::Pep440(_)) => None,
        }
    }

    /// Whether both are the same release: `2.31` is `2.31.0` in PyPI.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Semver(a), Self::Semver(b)) => a == b,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// Without PEP 440's local part, which stands for somebody's own build of a release.
    pub(super) fn public(&self) -> Self {
        match self {
            Self::Pep440(version) => Self::Pep440(Pep440 { local: None, ..version.clone() }),
            Self::Semver(_) => self.clone(),
        }
    }

    /// Whether it says which build of a release is meant.
    pub(super) fn has_local(&self) -> bool {
        matches!(self, Self::Pep440(Pep440 { local: Some(_), .. }))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pep440(version) => version.fmt(f),
            Self::Semver(version) => version.fmt(f),
        }
    }
}

/// A version of SemVer 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    core: [u64; 3],
    pre: Vec<Identifier>,
    build: Vec<String>,
}

/// Of a pre-release. Numbers come before text (section 11).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

impl Semver {
    fn parse(text: &str) -> Option<Self> {
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
        let core: Vec<u64> = core.split('.').map(semver_number).collect::<Option<_>>()?;
        let pre = pre.map(|pre| pre.split('.').map(Identifier::parse).collect::<Option<_>>());
        let build = build.map(|build| build.split('.').map(|part| semver_word(part).map(str::to_owned)).collect());
        Some(Self {
            core: core.try_into().ok()?,
            pre: pre.unwrap_or_else(|| Some(Vec::new()))?,
            build: build.unwrap_or_else(|| Some(Vec::new()))?,
        })
    }

    /// A release comes after its pre-releases; build metadata does not count.
    fn key(&self) -> impl Ord + '_ {
        (self.core, self.pre.is_empty(), &self.pre)
    }
}

impl Identifier {
    fn parse(text: &str) -> Option<Self> {
        if semver_word(text)?.bytes().all(|b| b.is_ascii_digit()) {
            return semver_number(text).map(Self::Number);
        }
        Some(Self::Text(text.to_owned()))
    }
}

/// Without leading zeros (section 2).
fn semver_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn semver_word(text: &str) -> Option<&str> {
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    good.then_some(text)
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.core;
        write!(f, "{major}.{minor}.{patch}")?;
        for (i, identifier) in self.pre.iter().enumerate() {
            f.write_str(if i == 0 { "-" } else { "." })?;
            match identifier {
                Identifier::Number(number) => number.fmt(f)?,
                Identifier::Text(text) => f.write_str(text)?,
            }
        }
        for (i, part) in self.build.iter().enumerate() {
            write!(f, "{}{part}", if i == 0 { "+" } else { "." })?;
        }
        Ok(())
    }
}

/// A version of PEP 440, normalised.
#[derive(Debug, Clone)]
pub struct Pep440 {
    epoch: u64,
    release: Vec<u64>,
    pre: Option<(Phase, u64)>,
    post: Option<u64>,
    dev: Option<u64>,
    local: Option<Vec<Segment>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Alpha,
    Beta,
    Candidate,
}

/// Of a local version. Text comes before numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Text(String),
    Number(u64),
}

impl Pep440 {
    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (public, local) = match text.split_once('+') {
            Some((public, local)) => (public, Some(parse_local(local)?)),
            None => (text.as_str(), None),
        };
        let mut rest = Cursor(public.strip_prefix('v').unwrap_or(public));
        let (epoch, release) = parse_release(&mut rest)?;
        let mut version = Self { epoch, release, pre: None, post: None, dev: None, local };
        let phases = [
            ("alpha", Phase::Alpha),
            ("a", Phase::Alpha),
            ("beta", Phase::Beta),
            ("b", Phase::Beta),
            ("preview", Phase::Candidate),
            ("pre", Phase::Candidate),
            ("rc", Phase::Candidate),
            ("c", Phase::Candidate),
        ];
        for (word, phase) in phases {
            if version.pre.is_none() {
                version.pre = rest.word(word)?.map(|number| (phase, number));
            }
        }
        if let Some(after) = rest.0.strip_prefix('-').filter(|r| r.starts_with(|c: char| c.is_ascii_digit())) {
            rest.0 = after;
            version.post = Some(rest.number()?);
        }
        for word in ["post", "rev", "r"] {
            if version.post.is_none() {
                version.post = rest.word(word)?;
            }
        }
        version.dev = rest.word("dev")?;
        rest.0.is_empty().then_some(version)
    }

    /// As PEP 440 orders the parts that may be missing.
    fn key(&self) -> impl Ord + '_ {
        let zeros = self.release.iter().rev().take_while(|n| **n == 0).count();
        let release = &self.release[..self.release.len() - zeros];
        let pre = match (self.pre, self.post, self.dev) {
            (Some((phase, number)), _, _) => (1, Some(phase), number),
            (None, None, Some(_)) => (0, None, 0),
            (None, _, _) => (2, None, 0),
        };
        let dev = self.dev.map_or((1, 0), |number| (0, number));
        (self.epoch, release, pre, self.post, dev, self.local.as_deref())
    }
}

impl Ord for Pep440 {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Pep440 {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pep440 {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pep440 {}

impl fmt::Display for Pep440 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.epoch > 0 {
            write!(f, "{}!", self.epoch)?;
        }
        let release: Vec<String> = self.release.iter().map(u64::to_string).collect();
        f.write_str(&release.join("."))?;
        if let Some((phase, number)) = self.pre {
            let phase = match phase {
                Phase::Alpha => "a",
                Phase::Beta => "b",
                Phase::Candidate => "rc",
            };
            write!(f, "{phase}{number}")?;
        }
        for (word, number) in [("post", self.post), ("dev", self.dev)] {
            if let Some(number) = number {
                write!(f, ".{word}{number}")?;
            }
        }
        let Some(local) = &self.local else { return Ok(()) };
        let local: Vec<String> = local.iter().map(Segment::to_string).collect();
        write!(f, "+{}", local.join("."))
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    /// A number that must be there and fit.
    fn number(&mut self) -> Option<u64> {
        let end = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        digits.parse().ok()
    }

    /// A word with separators around it and a number behind it, which counts as 0 where it is missing. The outer option is
    /// none where the number does not fit.
    fn word(&mut self, word: &str) -> Option<Option<u64>> {
        let separator = ['.', '-', '_'];
        let inner = self.0.strip_prefix(separator).unwrap_or(self.0);
        let Some(after) = inner.strip_prefix(word) else { return Some(None) };
        let number = after.strip_prefix(separator).unwrap_or(after);
        if number.starts_with(|c: char| c.is_ascii_digit()) {
            self.0 = number;
            return self.number().map(Some);
        }
        self.0 = after;
        Some(Some(0))
    }
}

fn parse_release(rest: &mut Cursor<'_>) -> Option<(u64, Vec<u64>)> {
    let mut first = rest.number()?;
    let mut epoch = 0;
    if let Some(after) = rest.0.strip_prefix('!') {
        rest.0 = after;
        epoch = first;
        first = rest.number()?;
    }
    let mut release = vec![first];
    while let Some(after) = rest.0.strip_prefix('.').filter(|r| r.starts_with(|c: char| c.is_ascii_digit())) {
        rest.0 = after;
        release.push(rest.number()?);
    }
    Some((epoch, release))
}

fn parse_local(text: &str) -> Option<Vec<Segment>> {
    text.split(['.', '-', '_'])
        .map(|part| match part.parse() {
            Ok(number) if part.bytes().all(|b| b.is_ascii_digit()) => Some(Segment::Number(number)),
            _ if !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Some(Segment::Text(part.to_owned()))
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pypi(text: &str) -> Version {
        Version::parse(Ecosystem::Pypi, text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_is_taken_is_taken_in_its_usual_spelling_too() {
        let long = |tail: usize| format!("1.0rdev+{}", "x".repeat(tail));
        let (most, beyond) = (MAX_VERSION_BYTES - "1.0.post0.dev0+".len(), MAX_VERSION_BYTES - "1.0rdev+".len());
        let most = pypi(&long(most)).to_string();
        assert_eq!((most.len(), pypi(&most).to_string()), (MAX_VERSION_BYTES, most.clone()));
        assert!(matches!(Version::parse(Ecosystem::Pypi, &long(beyond)), Err(VersionError::Pep440(_))));
    }

    #[test]
    fn versions_of_pypi_have_the_order_of_pep_440() {
        // The summary of permitted suffixes and relative ordering in PEP 440, with more around it.
        let ordered = [
            "0.9",
            "1.dev0",
            "1.0.dev456",
            "1.0a1",
            "1.0a2.dev456",
            "1.0a12.dev456",
            "1.0a12",
            "1.0b1.dev456",
            "1.0b2",
            "1.0b2.post345.dev456",
            "1.0b2.post345",
            "1.0rc1.dev456",
            "1.0rc1",
            "1.0",
            "1.0+abc.5",
            "1.0+abc.7",
            "1.0+5",
            "1.0.post456.dev34",
            "1.0.post456",
            "1.0.15",
            "1.1.dev1",
            "1.10",
            "2!0.1",
        ];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(pypi(a).compare(&pypi(b)), Some(i.cmp(&j)), "{a} {b}");
            }
        }
    }

    #[test]
    fn spellings_of_pypi_are_normalised() {
        for (text, expected) in [
            ("1.0", "1.0"),
            ("v1.0", "1.0"),
            ("1.1RC1", "1.1rc1"),
            ("1.1.a1", "1.1a1"),
            ("1.1-beta_2", "1.1b2"),
            ("1.0-preview", "1.0rc0"),
            ("1.2.post-2", "1.2.post2"),
            ("1.2-2", "1.2.post2"),
            ("1.2-r4", "1.2.post4"),
            ("1.2_dev2", "1.2.dev2"),
            ("1.0+Ubuntu-1", "1.0+ubuntu.1"),
            ("00!01.002", "1.2"),
            ("1!2", "1!2"),
        ] {
            assert_eq!(pypi(text).to_string(), expected, "{text}");
        }
        assert!(pypi("1.0").is_same(&pypi("1.0.0")) && !pypi("1.0").is_same(&pypi("1.0.post1")));
        let none =
            ["", "a", "1.", "1..2", "1.0x", "1.0a1a2", "1.0+", "1.0+a..b", "1.0/2", "1 0", "99999999999999999999"];
        for text in none {
            assert!(Version::parse(Ecosystem::Pypi, text).is_err(), "{text}");
        }
    }

    #[test]
    fn versions_of_npm_and_crates_have_the_order_of_semver() {
        let semver = |text: &str| Version::parse(Ecosystem::Npm, text).unwrap();
        // SemVer 2, section 11.
        let ordered = [
            "0.9.10",
            "1.0.0-0",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2.0",
            "1.10.0-x",
            "1.10.0",
        ];
        for (i, a) in ordered.iter().enumerate() {
            assert_eq!(semver(a).to_string(), *a);
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(semver(a).compare(&semver(b)), Some(i.cmp(&j)), "{a} {b}");
            }
        }
        assert_eq!(semver("1.0.0-a-b.1+x-1.007").to_string(), "1.0.0-a-b.1+x-1.007");
        for text in [
            "1",
            "1.0",
            "1.0.0.0",
            "01.0.0",
            "1.0.0-01",
            "1.0.0-",
            "1.0.0+",
            "1.0.0-a..b",
            "1.0.0+a+b",
            "v1.0.0",
            "1.0.0-a_b",
            "+1.0.0",
            "1.-1.0",
            "18446744073709551616.0.0",
        ] {
            assert!(Version::parse(Ecosystem::Cargo, text).is_err(), "{text}");
        }
        assert_eq!(semver("1.0.0+a").compare(&semver("1.0.0+b")), Some(Ordering::Equal));
        assert!(!semver("1.0.0+a").is_same(&semver("1.0.0+b")) && semver("1.0.0").compare(&pypi("1.0.0")).is_none());
    }
}
