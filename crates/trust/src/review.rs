//! Reviews: what people decided about an artifact, and what that comes to.
//!
//! - Of one person's decisions for one team the newest counts; of two at the same time the stricter one.
//! - Who made or signed the artifact approves nothing. Their objections count: nobody has to accept their own mistake.
//! - An objection (`rejected`, `needs_changes`) stands until the same person decides anew, or, unless the rule is
//!   stricter, until somebody else approves later for the same team. Another team cannot lift it.
//! - A team that is required has approved if somebody of it did and no objection of it stands. A rejection that stands,
//!   of any team, is enough for the whole not to be approved.
//!
//! Who belongs to which team is the caller's to know: a review that gets here is of a member.

use std::collections::{BTreeMap, BTreeSet};

use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::text::visible;

/// Longest comment, in characters.
pub const MAX_COMMENT_CHARS: usize = 4_000;
/// Longest name of a person, in characters.
pub const MAX_PERSON_CHARS: usize = 512;
/// Longest name of a team, in characters.
pub const MAX_TEAM_CHARS: usize = 64;

/// What was decided. The stricter, the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may be used.
    Approved,
    /// Not like this.
    NeedsChanges,
    /// No.
    Rejected,
}

impl Decision {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::NeedsChanges => "needs_changes",
            Self::Rejected => "rejected",
        }
    }
}

/// One decision of one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// What it is called: its entry's or event's id.
    pub id: String,
    /// About which artifact.
    pub artifact: Digest,
    /// Who decided: the principal's id.
    pub by: String,
    /// For which team.
    pub team: String,
    /// What.
    pub decision: Decision,
    /// Why, in their words.
    #[serde(default)]
    pub comment: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

/// Why a review is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReview {
    /// Nobody, or too long a name.
    #[error("who decides is named by 1 to {MAX_PERSON_CHARS} characters")]
    Person,
    /// Not a name of a team.
    #[error("a team's name is 1 to {MAX_TEAM_CHARS} of a-z, 0-9, _, - and ., starting with a letter or a digit")]
    Team,
    /// Too long a comment.
    #[error("a comment has at most {MAX_COMMENT_CHARS} characters")]
    Comment,
    /// An objection that says nothing.
    #[error("a rejection or a demand for changes needs a comment that says why")]
    Unexplained,
}

impl Review {
    /// Whether its parts are within bounds.
    ///
    /// # Errors
    /// [`InvalidReview`].
    pub fn check(&self) -> Result<(), InvalidReview> {
        if self.by.is_empty() || self.by.chars().count() > MAX_PERSON_CHARS {
            return Err(InvalidReview::Person);
        }
        if !is_team(&self.team) {
            return Err(InvalidReview::Team);
        }
        if self.comment.chars().count() > MAX_COMMENT_CHARS {
            return Err(InvalidReview::Comment);
        }
        let silent = self.comment.trim().is_empty();
        if silent && self.decision != Decision::Approved { Err(InvalidReview::Unexplained) } else { Ok(()) }
    }

    /// The comment with everything hidden made visible.
    pub fn shown_comment(&self) -> String {
        visible(&self.comment).into_owned()
    }
}

/// Whether a text can be a team's name.
pub fn is_team(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    starts && name.len() <= MAX_TEAM_CHARS && name.chars().all(fits)
}

/// Who can lift an objection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiftedBy {
    /// Whoever made it, or somebody else of the same team who approves later.
    #[default]
    Team,
    /// Only whoever made it.
    Person,
}

/// What is asked of reviews.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Requirements {
    /// Teams that have to approve.
    pub teams: Vec<String>,
    /// Who can lift an objection.
    pub lifted_by: LiftedBy,
}

/// How a team stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TeamStatus {
    /// Somebody approved and no objection stands.
    Approved,
    /// Changes are asked for.
    NeedsChanges,
    /// A rejection stands.
    Rejected,
    /// Nobody whose word counts has decided.
    Missing,
}

/// One team's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TeamStanding {
    /// Which.
    pub team: String,
    /// Whether it is asked for.
    pub required: bool,
    /// How it stands.
    pub status: TeamStatus,
    /// Who made it so.
    pub by: Vec<String>,
    /// The reviews that made it so.
    pub evidence: Vec<String>,
    /// In words.
    pub detail: String,
}

/// A review that does not count, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// Which.
    pub id: String,
    /// Why.
    pub why: &'static str,
}

/// What the reviews of an artifact come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Every required team has approved, and no rejection stands.
    pub approved: bool,
    /// Whether a rejection stands.
    pub rejected: bool,
    /// Each team that is required or has decided, by name.
    pub teams: Vec<TeamStanding>,
    /// What does not count.
    pub set_aside: Vec<SetAside>,
    /// Why it is not approved. Empty if it is.
    pub reasons: Vec<String>,
}

/// What `reviews` of `artifact` come to. `authors` made or signed it.
pub fn standing(artifact: &Digest, reviews: &[Review], required: &Requirements, authors: &[&str]) -> Standing {
    let mut set_aside = Vec::new();
    let counted = counted(artifact, reviews, authors, &mut set_aside);
    let mut names: BTreeSet<&str> = required.teams.iter().map(String::as_str).collect();
    names.extend(counted.iter().map(|review| review.team.as_str()));
    let team = |name: &&str| {
        let of_team: Vec<_> = counted.iter().copied().filter(|review| review.team == **name).collect();
        let is_required = required.teams.iter().any(|team| team == *name);
        team_standing(name, is_required, &of_team, required.lifted_by)
    };
    let teams: Vec<TeamStanding> = names.iter().map(team).collect();
    let keeps_back = |team: &&TeamStanding| match team.status {
        TeamStatus::Approved => false,
        TeamStatus::Rejected => true,
        TeamStatus::NeedsChanges | TeamStatus::Missing => team.required,
    };
    let reasons: Vec<String> = teams.iter().filter(keeps_back).map(|team| team.detail.clone()).collect();
    Standing {
        approved: reasons.is_empty(),
        rejected: teams.iter().any(|team| team.status == TeamStatus::Rejected),
        teams,
        set_aside,
        reasons,
    }
}

/// The newest review of each person for each team, in the order of time, without what authors approve of.
fn counted<'a>(
    artifact: &Digest,
    reviews: &'a [Review],
    authors: &[&str],
    set_aside: &mut Vec<SetAside>,
) -> Vec<&'a Review> {
    let mut newest: BTreeMap<(&str, &str), &Review> = BTreeMap::new();
    for review in reviews {
        if review.artifact != *artifact {
            set_aside.push(SetAside { id: review.id.clone(), why: "it is about another artifact" });
            continue;
        }
        let held = newest.entry((&review.by, &review.team)).or_insert(review);
        let later = (review.at_ms, review.decision) > (held.at_ms, held.decision);
        let older = if later { std::mem::replace(held, review) } else { review };
        if !std::ptr::eq(older, *held) {
            set_aside.push(SetAside { id: older.id.clone(), why: "the same person decided anew" });
        }
    }
    let (mut counted, own): (Vec<_>, Vec<_>) = newest
        .into_values()
        .partition(|review| review.decision != Decision::Approved || !authors.contains(&review.by.as_str()));
    let approves_own = |review: &Review| SetAside { id: review.id.clone(), why: "the reviewer made or signed it" };
    set_aside.extend(own.into_iter().map(approves_own));
    counted.sort_by(|a, b| a.at_ms.cmp(&b.at_ms).then_with(|| a.id.cmp(&b.id)));
    counted
}

fn team_standing(name: &str, required: bool, reviews: &[&Review], lifted_by: LiftedBy) -> TeamStanding {
    let last_approval = reviews.iter().filter(|r| r.decision == Decision::Approved).map(|r| r.at_ms).max();
    let stands = |review: &&&Review| match (review.decision, lifted_by) {
        (Decision::Approved, _) => false,
        // A person's newest decision is the only one here, so that a later approval is somebody else's.
        (Decision::NeedsChanges | Decision::Rejected, LiftedBy::Team) => {
            last_approval.is_none_or(|at| at <= review.at_ms)
        }
        (Decision::NeedsChanges | Decision::Rejected, LiftedBy::Person) => true,
    };
    let worst = reviews.iter().filter(stands).map(|review| review.decision).max();
    let decisive = worst.or(last_approval.map(|_| Decision::Approved));
    let by_whom: Vec<&Review> = match decisive {
        Some(Decision::Approved) => reviews.iter().copied().filter(|r| r.decision == Decision::Approved).collect(),
        Some(decision) => reviews.iter().filter(stands).copied().filter(|r| r.decision == decision).collect(),
        None => Vec::new(),
    };
    let by: Vec<String> = by_whom.iter().map(|review| review.by.clone()).collect();
    let people = visible(&by.join(", ")).into_owned();
    let (status, detail) = match decisive {
        Some(Decision::Approved) => (TeamStatus::Approved, format!("{name} approved it ({people})")),
        Some(Decision::NeedsChanges) => (TeamStatus::NeedsChanges, format!("{name} asks for changes ({people})")),
        Some(Decision::Rejected) => (TeamStatus::Rejected, format!("{name} rejected it ({people})")),
        None => (TeamStatus::Missing, format!("{name} has not decided")),
    };
    let evidence = by_whom.iter().map(|review| review.id.clone()).collect();
    TeamStanding { team: name.to_owned(), required, status, by, evidence, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `person/team decision time`, such as `sarah/security + 5`.
    fn review(text: &str) -> Review {
        let parts: Vec<&str> = text.split([' ', '/']).collect();
        let decision = match parts[2] {
            "+" => Decision::Approved,
            "~" => Decision::NeedsChanges,
            _ => Decision::Rejected,
        };
        Review {
            id: text.to_owned(),
            artifact: Digest::of(b"artifact"),
            by: parts[0].to_owned(),
            team: parts[1].to_owned(),
            decision,
            comment: "because".to_owned(),
            at_ms: parts[3].parse().unwrap(),
        }
    }

    fn of(reviews: &[&str], lifted_by: LiftedBy) -> Standing {
        let reviews: Vec<Review> = reviews.iter().map(|text| review(text)).collect();
        let required = Requirements { teams: vec!["security".to_owned(), "ops".to_owned()], lifted_by };
        standing(&Digest::of(b"artifact"), &reviews, &required, &["marcus"])
    }

    #[test]
    fn what_reviews_come_to() {
        for (reviews, by_team, by_person) in [
            (&["sarah/security + 1", "riley/ops + 2"][..], true, true),
            (&["sarah/security + 1"], false, false),
            (&[], false, false),
            // Another team's approval is no substitute, and its rejection is an objection.
            (&["sarah/security + 1", "kim/legal + 2"], false, false),
            (&["sarah/security + 1", "riley/ops + 2", "kim/legal - 3"], false, false),
            (&["sarah/security + 1", "riley/ops + 2", "kim/legal ~ 3"], true, true),
            (&["sarah/security + 1", "riley/ops ~ 2"], false, false),
            // The author approves nothing, and may object.
            (&["sarah/security + 1", "marcus/ops + 2"], false, false),
            (&["sarah/security + 1", "riley/ops + 2", "marcus/ops - 3"], false, false),
            (&["sarah/security + 1", "riley/ops + 2", "marcus/ops - 3", "marcus/ops + 4"], true, true),
            (&["marcus/ops - 1", "marcus/ops + 2"], false, false),
            // A person's newest word counts, in whatever order it is told.
            (&["sarah/security - 1", "sarah/security + 2", "riley/ops + 2"], true, true),
            (&["sarah/security + 2", "sarah/security - 1", "riley/ops + 2"], true, true),
            (&["sarah/security + 1", "sarah/security - 2", "riley/ops + 2"], false, false),
            (&["sarah/security + 2", "sarah/security - 2", "riley/ops + 2"], false, false),
            // An objection is lifted by a later approval of the team, where the rule allows that.
            (&["sarah/security - 1", "alex/security + 2", "riley/ops + 2"], true, false),
            (&["sarah/security - 2", "alex/security + 1", "riley/ops + 2"], false, false),
            (&["sarah/security - 2", "alex/security + 2", "riley/ops + 2"], false, false),
            (&["sarah/security - 1", "alex/ops + 2", "riley/security ~ 3"], false, false),
        ] {
            assert_eq!(of(reviews, LiftedBy::Team).approved, by_team, "{reviews:?}");
            assert_eq!(of(reviews, LiftedBy::Person).approved, by_person, "{reviews:?}");
        }
    }

    #[test]
    fn what_keeps_it_back_is_said() {
        let standing = of(&["sarah/security - 1", "sarah/security + 0", "marcus/ops + 2"], LiftedBy::Team);
        assert_eq!(standing.reasons, ["ops has not decided", "security rejected it (sarah)"]);
        assert!(standing.rejected);
        let set_aside: Vec<_> = standing.set_aside.iter().map(|s| (s.id.as_str(), s.why)).collect();
        let expected = [
            ("sarah/security + 0", "the same person decided anew"),
            ("marcus/ops + 2", "the reviewer made or signed it"),
        ];
        assert_eq!(set_aside, expected);
        let other = standing_of_another();
        assert_eq!((other.approved, other.set_aside[0].why), (false, "it is about another artifact"));
        let approved = of(&["sarah/security + 1", "riley/ops + 2"], LiftedBy::Team);
        assert_eq!(approved.teams[1].evidence, ["sarah/security + 1"]);
        assert_eq!(approved.reasons, Vec::<String>::new());
    }

    fn standing_of_another() -> Standing {
        let required = Requirements { teams: vec!["security".to_owned()], lifted_by: LiftedBy::Team };
        standing(&Digest::of(b"another"), &[review("sarah/security + 1")], &required, &[])
    }

    #[test]
    fn reviews_are_within_bounds() {
        let good = review("sarah/security - 1");
        assert_eq!(good.check(), Ok(()));
        for (change, expected) in [
            (Box::new(|r: &mut Review| r.by = String::new()) as Box<dyn Fn(&mut Review)>, InvalidReview::Person),
            (Box::new(|r| r.team = "Security Team".to_owned()), InvalidReview::Team),
            (Box::new(|r| r.team = "-".to_owned()), InvalidReview::Team),
            (Box::new(|r| r.team = String::new()), InvalidReview::Team),
            (Box::new(|r| r.comment = "x".repeat(MAX_COMMENT_CHARS + 1)), InvalidReview::Comment),
            (Box::new(|r| r.comment = " ".to_owned()), InvalidReview::Unexplained),
        ] {
            let mut wrong = good.clone();
            change(&mut wrong);
            assert_eq!(wrong.check(), Err(expected));
        }
        let silent = Review { decision: Decision::Approved, comment: String::new(), ..good.clone() };
        assert_eq!(silent.check(), Ok(()));
        let hidden = Review { comment: "ok\u{202e}\nnext".to_owned(), ..good };
        assert_eq!(hidden.shown_comment(), "ok⟨U+202E⟩\nnext");
    }
}
