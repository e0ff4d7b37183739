//! Which releases of a package a list's entry is about.
//!
//! Supported is `*` for all, or up to eight comparisons joined by commas, all of which must hold: `==`, `!=`, `<`, `<=`,
//! `>`, `>=`, each followed by a whole version. Versions have their ecosystem's order, and nothing is added to it: a release
//! candidate of 2.0.0 is below 2.0.0. Where a comparison names no local part (PEP 440), those of releases do not count; build
//! metadata (SemVer) never does. Not supported, and refused: a version alone, `~=`, `===`, `^`, `~`, `||`, and stars in
//! versions, since their meaning differs from one ecosystem to the next.

use std::cmp::Ordering;
use std::fmt;

use super::name::Ecosystem;
use super::version::{Version, VersionError};

/// Most comparisons in one requirement.
pub const MAX_COMPARISONS: usize = 8;

/// Why a text is no requirement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// Without an operator that is supported.
    #[error("{0:?} is no comparison: write one of == != < <= > >= before a version, or * for all releases")]
    Operator(String),
    /// The version is none.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// More than [`MAX_COMPARISONS`].
    #[error("a requirement has at most {MAX_COMPARISONS} comparisons")]
    TooMany,
}

/// Which releases are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirement {
    comparisons: Vec<(Operator, Version)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer ones first, so that none is taken for another's beginning.
const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Requirement {
    /// Reads a requirement.
    ///
    /// # Errors
    /// [`RequirementError`].
    pub fn parse(ecosystem: Ecosystem, text: &str) -> Result<Self, RequirementError> {
        if text.trim() == "*" {
            return Ok(Self::default());
        }
        if text.split(',').count() > MAX_COMPARISONS {
            return Err(RequirementError::TooMany);
        }
        let comparisons = text.split(',').map(|part| comparison(ecosystem, part.trim())).collect::<Result<_, _>>()?;
        Ok(Self { comparisons })
    }

    /// Whether every release is meant.
    pub fn is_any(&self) -> bool {
        self.comparisons.is_empty()
    }

    /// Whether a release is meant.
    pub fn matches(&self, version: &Version) -> bool {
        self.comparisons.iter().all(|(operator, bound)| {
            let public = version.public();
            let order = if bound.has_local() { version.compare(bound) } else { public.compare(bound) };
            // Versions of another ecosystem meet nothing.
            order.is_some_and(|order| match operator {
                Operator::Equal => order == Ordering::Equal,
                Operator::NotEqual => order != Ordering::Equal,
                Operator::Less => order == Ordering::Less,
                Operator::LessOrEqual => order != Ordering::Greater,
                Operator::Greater => order == Ordering::Greater,
                Operator::GreaterOrEqual => order != Ordering::Less,
            })
        })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("*");
        }
        for (i, (operator, version)) in self.comparisons.iter().enumerate() {
            let sign = OPERATORS.iter().find(|(_, o)| o == operator).map_or("", |(sign, _)| sign);
            write!(f, "{}{sign}{version}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

fn comparison(ecosystem: Ecosystem, text: &str) -> Result<(Operator, Version), RequirementError> {
    for (sign, operator) in OPERATORS {
        if let Some(version) = text.strip_prefix(sign) {
            return Ok((operator, Version::parse(ecosystem, version.trim())?));
        }
    }
    Err(RequirementError::Operator(super::plain(text, 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_hold_for_these_releases() {
        use Ecosystem::{Cargo, Npm, Pypi};
        for (ecosystem, requirement, version, expected) in [
            (Pypi, "*", "1.0", true),
            (Pypi, "==2.31.0", "2.31", true),
            (Pypi, "==2.31.0", "2.31.0+local", true),
            (Pypi, "==2.31.0+local", "2.31.0", false),
            (Pypi, "!=2.31.0", "2.31", false),
            (Pypi, ">=1.0, <2.0", "1.9.9", true),
            (Pypi, ">=1.0, <2.0", "2.0", false),
            (Pypi, "<2.0", "2.0rc1", true),
            (Pypi, ">1.0", "1.0.post1", true),
            (Pypi, "<=1.0", "1.0+x", true),
            (Npm, "<4.17.21", "4.17.20", true),
            (Npm, "<4.17.21", "4.17.21", false),
            (Npm, "==1.0.0", "1.0.0+build", true),
            (Cargo, ">=1.0.0,!=1.2.0", "1.2.0", false),
            (Cargo, ">=1.0.0,!=1.2.0", "1.2.1", true),
        ] {
            let version = Version::parse(ecosystem, version).unwrap();
            assert_eq!(
                Requirement::parse(ecosystem, requirement).unwrap().matches(&version),
                expected,
                "{requirement}"
            );
        }
        let crossed = Requirement::parse(Npm, "!=1.0.0").unwrap();
        assert!(!crossed.matches(&Version::parse(Pypi, "2.0").unwrap()));
    }

    #[test]
    fn what_means_different_things_elsewhere_is_refused() {
        for text in
            ["1.2.3", "^1.2.3", "~1.2.3", "=1.2.3", ">=1.0.0 <2.0.0", "==1.*", "1.x", "", ">=1.0.0,", "<1.0.0||>2.0.0"]
        {
            assert!(Requirement::parse(Ecosystem::Npm, text).is_err(), "{text}");
        }
        for text in ["~=1.0", "===1.0", "==1.*", "1.0"] {
            assert!(Requirement::parse(Ecosystem::Pypi, text).is_err(), "{text}");
        }
        let many = [">1.0"; MAX_COMPARISONS + 1].join(",");
        assert_eq!(Requirement::parse(Ecosystem::Pypi, &many), Err(RequirementError::TooMany));
        assert_eq!(Requirement::parse(Ecosystem::Pypi, " >= 1.0 , <2 ").unwrap().to_string(), ">=1.0,<2");
    }
}
