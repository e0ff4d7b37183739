//! Whether a package of a public registry may be used: what is asked of whom, and what the answers mean.
//!
//! Nothing is fetched here. A [`plan::Plan`] names the requests in stages, takes the answers, and ends in a
//! [`report::Report`]. The workspace's own list comes first: what it denies is answered without asking anybody. A source
//! that does not answer is never taken for a clean bill: the verdict is then unknown.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`name`] | `pypi:requests==2.31.0` and package URLs | PEP 503, npm and crates.io rules, purl |
//! | [`version`], [`requirement`] | versions in their order, and simple ranges | PEP 440, SemVer 2 |
//! | [`list`](mod@list) | what a workspace allows and denies | |
//! | [`source`] | where to ask, and how a source ended | |
//! | [`plan`] | the requests, stage by stage | |
//! | [`registry`] | what the registry says of a release | PyPI's JSON, npm's registry, crates.io's API |
//! | [`attestation`], [`publisher`] | who published it, proved | PEP 740, npm provenance and publish attestations |
//! | [`vulnerability`], [`cvss`] | what is known against it | OSV 1, GitHub's advisories, CVSS 3 |
//! | [`reputation`] | facts with their numbers, never marks | |
//! | [`report`] | the verdict with its reasons | |

pub mod attestation;
pub mod cvss;
pub mod list;
pub mod name;
pub mod plan;
pub mod publisher;
pub mod registry;
pub mod report;
pub mod reputation;
pub mod requirement;
pub mod source;
pub mod version;
pub mod vulnerability;

mod known;
mod npm;
mod pypi;

use serde::de::DeserializeOwned;

/// Reads an answer into a type that names what is used of it. Answers have members that are of no use here, and are large,
/// so that they are neither held to a closed shape nor kept whole.
fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, source::Trouble> {
    serde_json::from_slice(body).map_err(|error| source::Trouble::unreadable(&error))
}

/// What others wrote, made short and visible before it is shown: at most `most` characters, no control characters.
fn plain(text: &str, most: usize) -> String {
    let visible = |c: char| if c.is_control() || is_bidi_control(c) { ' ' } else { c };
    let mut out: String = text.chars().take(most).map(visible).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// Characters that change the order in which text is shown (UAX #9), so that it says another thing than it seems to.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
