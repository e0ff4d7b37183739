//! What a chain of signatures comes to: each was verified again, and each place where something of it is kept was looked at again.
//!
//! What could not be looked at is never taken for fine: it keeps a chain from being complete, and is named in the reasons.

use serde::Serialize;

use crate::readiness::Outcome;

/// Where something of a signature is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceKind {
    /// The signed document itself, in the node's object store.
    Object,
    /// The signed image, in a registry, with the bundle beside it.
    Registry,
    /// The signature's entry in the log.
    TransparencyLog,
}

impl PlaceKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Object, Self::Registry, Self::TransparencyLog];

    fn many(self) -> &'static str {
        match self {
            Self::Object => "kept documents",
            Self::Registry => "images in registries",
            Self::TransparencyLog => "entries of the log",
        }
    }
}

/// How a place was found, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// It is there, and by its digest it is what was signed.
    Intact,
    /// What was signed is there, but its name leads to something else by now.
    Moved,
    /// Nobody looked: too many, or too large.
    NotChecked,
    /// Whoever keeps it is away, or does not let the node in.
    Unavailable,
    /// It is gone.
    Missing,
    /// Something else is in its place.
    Changed,
}

impl Held {
    /// All of them, the worst last.
    pub const ALL: [Self; 6] =
        [Self::Intact, Self::Moved, Self::NotChecked, Self::Unavailable, Self::Missing, Self::Changed];

    fn words(self) -> &'static str {
        match self {
            Self::Intact => "are there, and are what was signed",
            Self::Moved => "are no longer what their names lead to",
            Self::NotChecked => "were not looked at",
            Self::Unavailable => "could not be looked at",
            Self::Missing => "are missing",
            Self::Changed => "are not what was signed",
        }
    }

    /// The most that a chain with such a place is trusted.
    fn allows(self) -> TrustLevel {
        match self {
            Self::Intact => TrustLevel::High,
            Self::Moved | Self::NotChecked | Self::Unavailable => TrustLevel::Medium,
            Self::Missing => TrustLevel::Low,
            Self::Changed => TrustLevel::None,
        }
    }
}

/// One place, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// What kind of place.
    pub kind: PlaceKind,
    /// How it was found.
    pub status: Held,
    /// Its name there: an object's key, an image's reference, a log's origin.
    pub name: String,
    /// The digest that it was held against, where it is one of the place's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The leaf's index, in a log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// In words, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How many places of one kind were found how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// All of them.
    pub total: u64,
    /// [`Held::Intact`].
    pub intact: u64,
    /// [`Held::Moved`].
    pub moved: u64,
    /// [`Held::NotChecked`].
    pub not_checked: u64,
    /// [`Held::Unavailable`].
    pub unavailable: u64,
    /// [`Held::Missing`].
    pub missing: u64,
    /// [`Held::Changed`].
    pub changed: u64,
}

impl Tally {
    /// Counts the places of a kind.
    pub fn of<'a>(kind: PlaceKind, places: impl Iterator<Item = &'a Place>) -> Self {
        let mut tally = Self::default();
        for place in places.filter(|place| place.kind == kind) {
            tally.total += 1;
            *tally.count(place.status) += 1;
        }
        tally
    }

    fn count(&mut self, held: Held) -> &mut u64 {
        match held {
            Held::Intact => &mut self.intact,
            Held::Moved => &mut self.moved,
            Held::NotChecked => &mut self.not_checked,
            Held::Unavailable => &mut self.unavailable,
            Held::Missing => &mut self.missing,
            Held::Changed => &mut self.changed,
        }
    }
}

/// A signature of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What verifying it again found.
    pub outcome: Outcome,
    /// Whether it is of the manifest that names the others.
    pub is_manifest: bool,
    /// Where something of it is kept.
    pub places: Vec<Place>,
}

/// What was gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The signatures.
    pub links: Vec<Link>,
    /// Earlier verifications that failed.
    pub failed_verifications: u64,
    /// Whether there are more signatures than were looked at.
    pub truncated: bool,
}

/// Whether the chain is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainStatus {
    /// Nothing was signed.
    Unknown,
    /// A signature does not hold, or something else is in the place of what was signed.
    Broken,
    /// What there is holds, but not everything is there, or not everything could be looked at.
    Partial,
    /// A manifest and everything else is there and holds.
    Complete,
}

/// How far it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustLevel {
    /// Not at all.
    None,
    /// The signatures hold, and something that they are about is gone.
    Low,
    /// The signatures hold, and something is open.
    Medium,
    /// Everything holds.
    High,
}

/// What a chain comes to, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Whether it is whole.
    pub chain_status: ChainStatus,
    /// How far it carries.
    pub trust_level: TrustLevel,
    /// What decided that.
    pub reasons: Vec<String>,
}

/// Judges a chain.
pub fn judge(chain: &Chain) -> Judgement {
    if chain.links.is_empty() {
        return Judgement {
            chain_status: ChainStatus::Unknown,
            trust_level: TrustLevel::None,
            reasons: vec!["nothing was signed under this name in this workspace".to_owned()],
        };
    }
    let invalid = chain.links.iter().filter(|link| matches!(link.outcome, Outcome::Invalid(_))).count();
    let unknown = chain.links.iter().filter(|link| matches!(link.outcome, Outcome::Unknown(_))).count();
    let has_manifest = chain.links.iter().any(|link| link.is_manifest);
    let worst = places(chain).map(|place| place.status).max().unwrap_or(Held::Intact);

    let is_whole = has_manifest && unknown == 0 && !chain.truncated && worst == Held::Intact;
    let chain_status = match (invalid, worst) {
        (0, Held::Changed) | (1.., _) => ChainStatus::Broken,
        (0, _) if is_whole => ChainStatus::Complete,
        (0, _) => ChainStatus::Partial,
    };
    let is_open = !has_manifest || unknown > 0 || chain.truncated || chain.failed_verifications > 0;
    let trust_level = match (chain_status, is_open) {
        (ChainStatus::Broken | ChainStatus::Unknown, _) => TrustLevel::None,
        (ChainStatus::Partial | ChainStatus::Complete, true) => worst.allows().min(TrustLevel::Medium),
        (ChainStatus::Partial | ChainStatus::Complete, false) => worst.allows(),
    };
    let mut reasons = vec![format!("{} signatures, each verified again now", chain.links.len())];
    let mut because = |applies: bool, why: String| reasons.extend(applies.then_some(why));
    because(invalid > 0, format!("{invalid} of them do not hold"));
    because(unknown > 0, format!("{unknown} of them could not be verified"));
    because(chain.truncated, "there are more, which were not looked at".to_owned());
    because(true, if has_manifest { "a manifest is signed" } else { "no manifest is signed" }.to_owned());
    reasons.extend(places_in_words(chain));
    let failed = chain.failed_verifications;
    reasons.extend((failed > 0).then(|| format!("{failed} earlier verifications failed")));
    Judgement { chain_status, trust_level, reasons }
}

fn places(chain: &Chain) -> impl Iterator<Item = &Place> {
    chain.links.iter().flat_map(|link| &link.places)
}

/// Entries of the log go without saying while they are there: a signature without one does not hold.
fn places_in_words(chain: &Chain) -> Vec<String> {
    let mut words = Vec::new();
    for kind in PlaceKind::ALL {
        let mut tally = Tally::of(kind, places(chain));
        for held in Held::ALL {
            let (total, count) = (tally.total, *tally.count(held));
            if count > 0 && (kind != PlaceKind::TransparencyLog || held != Held::Intact) {
                words.push(format!("{count} of {total} {} {}", kind.many(), held.words()));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kind: PlaceKind, status: Held) -> Place {
        Place { kind, status, name: "x".into(), digest: None, index: None, detail: None }
    }

    fn link(is_manifest: bool, places: &[(PlaceKind, Held)]) -> Link {
        let places = places.iter().map(|(kind, held)| place(*kind, *held)).collect();
        Link { outcome: Outcome::Valid, is_manifest, places }
    }

    fn chain(links: Vec<Link>) -> Chain {
        Chain { links, failed_verifications: 0, truncated: false }
    }

    #[test]
    fn a_place_that_is_not_fine_never_leaves_a_chain_complete() {
        use ChainStatus::{Broken, Complete, Partial};
        use TrustLevel::{High, Low, Medium, None};
        for (held, status, level) in [
            (Held::Intact, Complete, High),
            (Held::Moved, Partial, Medium),
            (Held::NotChecked, Partial, Medium),
            (Held::Unavailable, Partial, Medium),
            (Held::Missing, Partial, Low),
            (Held::Changed, Broken, None),
        ] {
            for kind in PlaceKind::ALL {
                let intact = (PlaceKind::TransparencyLog, Held::Intact);
                let judged = judge(&chain(vec![link(true, &[intact]), link(false, &[intact, (kind, held)])]));
                assert_eq!((judged.chain_status, judged.trust_level), (status, level), "{kind:?} {held:?}");
                let named = judged.reasons.iter().any(|reason| reason.contains(held.words()));
                assert!(named || (kind == PlaceKind::TransparencyLog && held == Held::Intact), "{judged:?}");
            }
        }
    }

    #[test]
    fn what_is_open_lowers_trust_and_what_is_broken_ends_it() {
        let whole = || chain(vec![link(true, &[(PlaceKind::TransparencyLog, Held::Intact)])]);
        let judged = judge(&whole());
        assert_eq!(judged.reasons, ["1 signatures, each verified again now", "a manifest is signed"]);
        let level = |chain: &Chain| (judge(chain).chain_status, judge(chain).trust_level);
        let mut failed = whole();
        failed.failed_verifications = 2;
        assert_eq!(level(&failed), (ChainStatus::Complete, TrustLevel::Medium));
        let mut truncated = whole();
        truncated.truncated = true;
        assert_eq!(level(&truncated), (ChainStatus::Partial, TrustLevel::Medium));
        let mut open = whole();
        open.links[0].outcome = Outcome::Unknown("not yet under a checkpoint".into());
        assert_eq!(level(&open), (ChainStatus::Partial, TrustLevel::Medium));
        let mut broken = whole();
        broken.links[0].outcome = Outcome::Invalid("signature_wrong".into());
        assert_eq!(level(&broken), (ChainStatus::Broken, TrustLevel::None));
        // What is gone weighs more than what is open.
        let gone = chain(vec![link(false, &[(PlaceKind::Object, Held::Missing)])]);
        assert_eq!(level(&gone), (ChainStatus::Partial, TrustLevel::Low));
        assert_eq!(level(&chain(Vec::new())), (ChainStatus::Unknown, TrustLevel::None));
    }
}
