//! How a package is named: `pypi:requests==2.31.0`, `npm:@scope/name@1.2.3`, `cargo:serde@1.0.0`, or a package URL
//! (purl) such as `pkg:npm/%40scope/name@1.2.3`.
//!
//! Names are held to the registry's own rules, so that one can neither leave its place in a path nor add to a query.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::version::{Version, VersionError};

/// The longest text that names a package, in bytes.
pub const MAX_REF_BYTES: usize = 512;
/// The longest name in PyPI, in bytes; its file names have to fit in a path.
const MAX_PYPI_NAME: usize = 200;
/// The longest name in npm, in bytes, with its scope.
const MAX_NPM_NAME: usize = 214;
/// The longest name of a crate, in bytes.
const MAX_CRATE_NAME: usize = 64;

/// Which registry's rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// Python packages.
    Pypi,
    /// JavaScript packages.
    Npm,
    /// Rust crates.
    Cargo,
}

impl Ecosystem {
    /// Every ecosystem.
    pub const ALL: [Self; 3] = [Self::Pypi, Self::Npm, Self::Cargo];

    /// The name in references and package URLs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pypi => "pypi",
            Self::Npm => "npm",
            Self::Cargo => "cargo",
        }
    }

    /// The name in OSV's schema.
    pub fn osv_name(self) -> &'static str {
        match self {
            Self::Pypi => "PyPI",
            Self::Npm => "npm",
            Self::Cargo => "crates.io",
        }
    }

    /// The name in GitHub's advisories.
    pub fn github_name(self) -> &'static str {
        match self {
            Self::Pypi => "pip",
            Self::Npm => "npm",
            Self::Cargo => "rust",
        }
    }

    /// How the version follows the name.
    fn separator(self) -> &'static str {
        match self {
            Self::Pypi => "==",
            Self::Npm | Self::Cargo => "@",
        }
    }

    /// The spelling by which two names are compared: PEP 503 for PyPI, and for crates the one under which the registry
    /// refuses a second. npm's names have one spelling.
    pub fn comparable(self, name: &str) -> String {
        match self {
            Self::Pypi => pep503(name),
            Self::Npm => name.to_owned(),
            Self::Cargo => name.to_ascii_lowercase().replace('_', "-"),
        }
    }

    /// Whether a name is one by the registry's rules.
    pub fn is_name(self, name: &str) -> bool {
        let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        match self {
            Self::Pypi => {
                name.len() <= MAX_PYPI_NAME
                    && alphanumeric(name.chars().next())
                    && alphanumeric(name.chars().next_back())
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            }
            Self::Npm => {
                let scoped = name.strip_prefix('@').and_then(|rest| rest.split_once('/'));
                let parts = scoped.map_or(vec![name], |(scope, name)| vec![scope, name]);
                name.len() <= MAX_NPM_NAME && parts.into_iter().all(is_npm_part)
            }
            Self::Cargo => {
                name.len() <= MAX_CRATE_NAME
                    && name.starts_with(|c: char| c.is_ascii_alphabetic())
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
            }
        }
    }

    fn rules(self) -> &'static str {
        match self {
            Self::Pypi => "letters, digits, '.', '_' and '-', with a letter or digit at both ends",
            Self::Npm => {
                "NAME or @SCOPE/NAME, of letters, digits, '-', '.', '_' and '~', not beginning with '.' or '_'"
            }
            Self::Cargo => "a letter, then letters, digits, '-' and '_', at most 64",
        }
    }
}

impl fmt::Display for Ecosystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Upper case is allowed, since old packages have it.
fn is_npm_part(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with(['.', '_'])
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

fn pep503(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

/// Why a text names no package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefError {
    /// More than [`MAX_REF_BYTES`].
    #[error("a package is named in at most {MAX_REF_BYTES} bytes")]
    TooLong,
    /// No ecosystem, or one that is not known.
    #[error("a package begins with its ecosystem: pypi:NAME==VERSION, npm:NAME@VERSION or cargo:NAME@VERSION")]
    Ecosystem,
    /// Not a name there.
    #[error("not a name in {0}: {rules}", rules = .0.rules())]
    Name(Ecosystem),
    /// Not a version there.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A part of a package URL that would change what is meant.
    #[error("qualifiers and subpaths of package URLs are not read: leave out what follows '?' or '#'")]
    Qualified,
    /// There is no version, and one is needed.
    #[error("the version is missing: a release is verified, not a name; write {ecosystem}:{name}{separator}VERSION",
        separator = .ecosystem.separator())]
    NoVersion {
        /// Where.
        ecosystem: Ecosystem,
        /// Of what.
        name: String,
    },
}

/// A package, and mostly one release of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageRef {
    ecosystem: Ecosystem,
    name: String,
    version: Option<Version>,
}

impl PackageRef {
    /// Reads a reference or a package URL. PyPI's names are normalised; crates keep their spelling, since only the registry
    /// knows the right one.
    ///
    /// # Errors
    /// [`RefError`].
    pub fn parse(text: &str) -> Result<Self, RefError> {
        if text.len() > MAX_REF_BYTES {
            return Err(RefError::TooLong);
        }
        let (rest, url) = match text.strip_prefix("pkg:") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (ecosystem, rest) = rest.split_once(if url { '/' } else { ':' }).ok_or(RefError::Ecosystem)?;
        let ecosystem = Ecosystem::ALL.into_iter().find(|e| e.name() == ecosystem).ok_or(RefError::Ecosystem)?;
        if url && rest.contains(['?', '#']) {
            return Err(RefError::Qualified);
        }
        let (name, version) = split_version(ecosystem, rest);
        if url {
            let decode = |text: &str| decode(text).ok_or(RefError::Name(ecosystem));
            return Self::new(ecosystem, &decode(name)?, version.map(decode).transpose()?.as_deref());
        }
        Self::new(ecosystem, name, version)
    }

    /// From its parts.
    ///
    /// # Errors
    /// [`RefError::Name`], [`RefError::Version`].
    pub fn new(ecosystem: Ecosystem, name: &str, version: Option<&str>) -> Result<Self, RefError> {
        if !ecosystem.is_name(name) {
            return Err(RefError::Name(ecosystem));
        }
        let name = if ecosystem == Ecosystem::Pypi { pep503(name) } else { name.to_owned() };
        let version = version.map(|version| Version::parse(ecosystem, version)).transpose()?;
        Ok(Self { ecosystem, name, version })
    }

    /// Where it is published.
    pub fn ecosystem(&self) -> Ecosystem {
        self.ecosystem
    }

    /// Its name, normalised where the ecosystem says how.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The release, if it was said.
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// The release.
    ///
    /// # Errors
    /// [`RefError::NoVersion`], which says what is missing.
    pub fn release(&self) -> Result<&Version, RefError> {
        let missing = || RefError::NoVersion { ecosystem: self.ecosystem, name: self.name.clone() };
        self.version.as_ref().ok_or_else(missing)
    }

    /// Whether a registry's spelling is this name.
    pub fn is_called(&self, name: &str) -> bool {
        self.ecosystem.comparable(name) == self.ecosystem.comparable(&self.name)
    }

    /// As a package URL. Names and versions have few characters that need an escape there.
    pub fn purl(&self) -> String {
        let version = self.version.as_ref().map(|v| format!("@{}", encode(&v.to_string())));
        let name = self.name.replace('@', "%40");
        format!("pkg:{}/{name}{}", self.ecosystem, version.unwrap_or_default())
    }
}

impl fmt::Display for PackageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ecosystem, self.name)?;
        match &self.version {
            Some(version) => write!(f, "{}{version}", self.ecosystem.separator()),
            None => Ok(()),
        }
    }
}

fn split_version(ecosystem: Ecosystem, rest: &str) -> (&str, Option<&str>) {
    if let (Ecosystem::Pypi, Some((name, version))) = (ecosystem, rest.split_once("==")) {
        return (name, Some(version));
    }
    match rest.rsplit_once('@') {
        // The @ of a scope comes first.
        Some((name, version)) if !name.is_empty() => (name, Some(version)),
        _ => (rest, None),
    }
}

/// Percent-decoding to ASCII. What comes out is held to the rules of names and versions.
fn decode(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(u8::is_ascii_graphic)?;
        out.push(char::from(byte));
        rest = after.get(2..)?;
    }
    out.push_str(rest);
    Some(out)
}

/// Percent-encoding of all but RFC 3986's unreserved characters.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_in_these_ways() {
        for (text, shown, purl) in [
            ("pypi:requests==2.31.0", "pypi:requests==2.31.0", "pkg:pypi/requests@2.31.0"),
            ("pypi:Foo__Bar.baz==1.0RC1", "pypi:foo-bar-baz==1.0rc1", "pkg:pypi/foo-bar-baz@1.0rc1"),
            ("pypi:torch@2.1.0+cpu", "pypi:torch==2.1.0+cpu", "pkg:pypi/torch@2.1.0%2Bcpu"),
            ("pkg:pypi/requests@2.31.0", "pypi:requests==2.31.0", "pkg:pypi/requests@2.31.0"),
            ("npm:left-pad@1.3.0", "npm:left-pad@1.3.0", "pkg:npm/left-pad@1.3.0"),
            ("npm:@scope/name@1.2.3-rc.1", "npm:@scope/name@1.2.3-rc.1", "pkg:npm/%40scope/name@1.2.3-rc.1"),
            ("pkg:npm/%40scope/name@1.2.3", "npm:@scope/name@1.2.3", "pkg:npm/%40scope/name@1.2.3"),
            ("pkg:npm/@scope/name@1.2.3", "npm:@scope/name@1.2.3", "pkg:npm/%40scope/name@1.2.3"),
            ("npm:JSONStream@1.3.5", "npm:JSONStream@1.3.5", "pkg:npm/JSONStream@1.3.5"),
            ("cargo:serde_json@1.0.0+x", "cargo:serde_json@1.0.0+x", "pkg:cargo/serde_json@1.0.0%2Bx"),
            ("pypi:requests", "pypi:requests", "pkg:pypi/requests"),
            ("npm:@scope/name", "npm:@scope/name", "pkg:npm/%40scope/name"),
        ] {
            let package = PackageRef::parse(text).unwrap();
            assert_eq!((package.to_string().as_str(), package.purl().as_str()), (shown, purl), "{text}");
            assert_eq!(PackageRef::parse(&package.purl()), PackageRef::parse(shown), "{text}");
        }
    }

    #[test]
    fn what_could_leave_its_place_in_an_address_is_no_name() {
        for text in [
            "pypi:../../etc/passwd==1.0",
            "pypi:a/b==1.0",
            "pypi:a?b==1.0",
            "pypi:a#b==1.0",
            "pypi:a%2fb==1.0",
            "pypi:==1.0",
            "pypi:-a==1.0",
            "pypi:a.==1.0",
            "pypi:a b==1.0",
            "pypi:rеquests==1.0",
            "npm:@a@1.0.0",
            "npm:@/b@1.0.0",
            "npm:@a/b/c@1.0.0",
            "npm:a/b@1.0.0",
            "npm:..@1.0.0",
            "npm:@../b@1.0.0",
            "npm:@a/..@1.0.0",
            "npm:_a@1.0.0",
            "pkg:npm/%2e%2e@1.0.0",
            "pkg:npm/a%2fb@1.0.0",
            "pkg:npm/a%00@1.0.0",
            "pkg:npm/a%@1.0.0",
            "cargo:1a@1.0.0",
            "cargo:a.b@1.0.0",
            "cargo:@1.0.0",
            "pkg:cargo/a@b@1.0.0",
        ] {
            assert!(matches!(PackageRef::parse(text), Err(RefError::Name(_))), "{text}");
        }
        let long = |ecosystem, length: usize| format!("{ecosystem}:{}@1.0.0", "a".repeat(length));
        for (ecosystem, most) in [("pypi", MAX_PYPI_NAME), ("npm", MAX_NPM_NAME), ("cargo", MAX_CRATE_NAME)] {
            assert!(PackageRef::parse(&long(ecosystem, most)).is_ok());
            assert!(PackageRef::parse(&long(ecosystem, most + 1)).is_err());
        }
        assert_eq!(PackageRef::parse(&long("pypi", 600)), Err(RefError::TooLong));
    }

    #[test]
    fn errors_say_what_is_missing() {
        for (text, expected) in [
            ("requests==2.31.0", "a package begins with its ecosystem"),
            ("gem:rails@7.0.0", "a package begins with its ecosystem"),
            ("pkg:pypi", "a package begins with its ecosystem"),
            ("pkg:npm/a@1.0.0?arch=x", "qualifiers and subpaths"),
            ("npm:a@1.0", "not a SemVer version"),
            ("npm:a@latest", "not a SemVer version"),
            ("npm:a@1.0.0/../x", "not a SemVer version"),
            ("pypi:a==latest", "not a PEP 440 version"),
            ("pypi:a==", "not a PEP 440 version"),
        ] {
            let error = PackageRef::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = PackageRef::parse("pypi:Requests").unwrap().release().unwrap_err().to_string();
        assert!(error.ends_with("write pypi:requests==VERSION"), "{error}");
    }
}
