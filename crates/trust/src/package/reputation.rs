//! What is known of a package besides: facts, each with its number. None of them is a mark, and none overrules another.

use serde::Serialize;

use super::known::resembles;
use super::name::PackageRef;
use super::registry::{History, Release};
use crate::time::to_rfc3339;

const DAY_MS: i64 = 86_400_000;

/// The facts that there are; what nobody says is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Reputation {
    /// When this release was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_at: Option<String>,
    /// Whole days since then. Negative where the registry's time lies ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_days: Option<i64>,
    /// Whole days since the package's first release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_age_days: Option<i64>,
    /// Releases of the package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releases: Option<u64>,
    /// Releases that were taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yanked_releases: Option<u64>,
    /// The newest release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<String>,
    /// Who may publish, as a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintainers: Option<u64>,
    /// Who published this release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_by: Option<String>,
    /// Where its source is said to be. Only an attestation shows that it was built from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// This release was taken back, with the reason or an empty text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yanked: Option<String>,
    /// This release is to be used no more, with the words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<String>,
    /// A well-known name that this one is one slip away from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resembles: Option<String>,
}

impl Reputation {
    /// From what the registry says, at a time in milliseconds.
    pub(super) fn of(package: &PackageRef, release: Option<&Release>, history: Option<&History>, now_ms: i64) -> Self {
        let days = |then: i64| now_ms.saturating_sub(then).div_euclid(DAY_MS);
        let published = release.and_then(|r| r.published_ms).or(history.and_then(|h| h.this_ms));
        let seconds = published.and_then(|ms| u64::try_from(ms / 1000).ok());
        Self {
            published_at: seconds.map(to_rfc3339),
            age_days: published.map(days),
            package_age_days: history.and_then(|h| h.first_ms).map(days),
            releases: history.map(|h| h.releases),
            yanked_releases: history.and_then(|h| h.yanked),
            latest: history.and_then(|h| h.latest.clone()),
            maintainers: release.and_then(|r| r.maintainers),
            published_by: release.and_then(|r| r.published_by.clone()),
            repository: release.and_then(|r| r.repository.clone()),
            yanked: release.and_then(|r| r.yanked.clone()),
            deprecated: release.and_then(|r| r.deprecated.clone()),
            resembles: resembles(package).map(str::to_owned),
        }
    }
}
