//! Past decisions against another set: what was decided then, what would be decided now, and how the two differ.

use countersign_domain::Obligations;
use serde::{Deserialize, Serialize};

use crate::decide::{Decision, Facts, Verdict};
use crate::load::Policies;

/// A decision as events record it (their `policy` member).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedDecision {
    /// The set that decided.
    pub version: String,
    /// What it said.
    pub decision: Verdict,
    /// The policies that determined it.
    #[serde(default)]
    pub determining: Vec<String>,
    /// What was owed.
    #[serde(default, skip_serializing_if = "Obligations::is_empty")]
    pub owed: Obligations,
}

/// How a decision would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Not at all, as far as the caller would notice.
    Same,
    /// Allowed then, denied now.
    NowDenied,
    /// Denied then, allowed now.
    NowAllowed,
    /// Allowed without anyone then; now people have to agree.
    NewlyOwed,
    /// People had to agree then; now nobody has to.
    NoLongerOwed,
    /// Other people, more or fewer of them, or another time to answer.
    OwedOtherwise,
}

impl Change {
    /// The name in replies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::NowDenied => "now-denied",
            Self::NowAllowed => "now-allowed",
            Self::NewlyOwed => "newly-owed",
            Self::NoLongerOwed => "no-longer-owed",
            Self::OwedOtherwise => "owed-otherwise",
        }
    }
}

impl RecordedDecision {
    /// A decision in the form of a record.
    pub fn of(version: &str, decision: &Decision) -> Self {
        Self {
            version: version.to_owned(),
            decision: decision.verdict,
            determining: decision.determining.iter().map(|policy| policy.id.clone()).collect(),
            owed: decision.owed.clone(),
        }
    }

    /// What would change for the caller, if the other decision stood in the place of this one. Which policies decide, and the
    /// words of their reasons, are no change.
    pub fn change_to(&self, other: &Self) -> Change {
        let allowed = |decision: &Self| decision.decision == Verdict::Allow;
        match (allowed(self), allowed(other)) {
            (false, false) => Change::Same,
            (true, false) => Change::NowDenied,
            (false, true) => Change::NowAllowed,
            (true, true) => match (self.owed.is_empty(), other.owed.is_empty()) {
                (true, true) => Change::Same,
                (true, false) => Change::NewlyOwed,
                (false, true) => Change::NoLongerOwed,
                (false, false) if demands(&self.owed) == demands(&other.owed) => Change::Same,
                (false, false) => Change::OwedOtherwise,
            },
        }
    }
}

/// What people are asked for, without the policies' names and words.
fn demands(owed: &Obligations) -> Obligations {
    let mut roles = owed.approver_roles.clone();
    roles.sort();
    roles.dedup();
    Obligations { approver_roles: roles, reasons: Vec::new(), policies: Vec::new(), ..owed.clone() }
}

impl Policies {
    /// Whether a call of the past can be decided by this set: its tool is there, does what it did, and takes such arguments.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn fits(&self, facts: &Facts<'_>) -> Result<(), String> {
        self.prepare(facts).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(decision: Verdict, owed: Obligations) -> RecordedDecision {
        RecordedDecision { version: "v".into(), decision, determining: vec!["a".into()], owed }
    }

    #[test]
    fn what_a_caller_would_notice_is_a_change() {
        let nothing = Obligations::default;
        let owed = |approvals, role: &str, reason: &str| Obligations {
            approvals,
            approver_roles: vec![[role.to_owned()].into()],
            expires_seconds: 60,
            reasons: vec![reason.into()],
            policies: vec![reason.into()],
            ..nothing()
        };
        let allow = |owed| recorded(Verdict::Allow, owed);
        let deny = || recorded(Verdict::Deny, nothing());
        for (before, after, expected) in [
            (allow(nothing()), allow(nothing()), Change::Same),
            (deny(), recorded(Verdict::Error, nothing()), Change::Same),
            (allow(nothing()), deny(), Change::NowDenied),
            (allow(owed(1, "a", "x")), recorded(Verdict::Error, nothing()), Change::NowDenied),
            (deny(), allow(owed(1, "a", "x")), Change::NowAllowed),
            (allow(nothing()), allow(owed(1, "a", "x")), Change::NewlyOwed),
            (allow(owed(1, "a", "x")), allow(nothing()), Change::NoLongerOwed),
            (allow(owed(1, "a", "x")), allow(owed(1, "a", "y")), Change::Same),
            (allow(owed(1, "a", "x")), allow(owed(2, "a", "x")), Change::OwedOtherwise),
            (allow(owed(1, "a", "x")), allow(owed(1, "b", "x")), Change::OwedOtherwise),
        ] {
            assert_eq!(before.change_to(&after), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_record_reads_what_events_say() {
        let text = r#"{"version":"sha256:00","decision":"deny","determining":["access/a.cedar#b"]}"#;
        let read: RecordedDecision = serde_json::from_str(text).expect("an event's member");
        assert_eq!((read.decision, read.determining.len(), read.owed.is_empty()), (Verdict::Deny, 1, true));
    }
}
