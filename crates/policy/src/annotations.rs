//! Annotations: what an approval policy says is owed, checked when the policy is loaded.
//!
//! Cedar itself ignores annotations, so that a misspelt one would silently owe nothing. Hence everything that isn't
//! known is refused.

use std::collections::BTreeSet;

use cedar_policy::{Effect, Policy};
use countersign_domain::Obligations;
use countersign_domain::obligation::{DEFAULT_EXPIRY_SECONDS, MAX_EXPIRY_SECONDS};

use crate::load::SetKind;
use crate::problem::near;

/// More approvers than this are surely a slip.
const MAX_APPROVALS: u32 = 16;
const MAX_ID_CHARS: usize = 64;
const MAX_REASON_CHARS: usize = 500;
const COMMON: [&str; 2] = ["id", "reason"];
const APPROVAL: [&str; 4] = ["confirm", "approvals", "approver_role", "expires"];

/// What one policy's annotations say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    pub id: Option<String>,
    pub reason: Option<String>,
    pub owed: Owed,
}

/// What one approval policy states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Owed {
    pub confirm: bool,
    pub approvals: u32,
    pub approver_roles: BTreeSet<String>,
    pub expires_seconds: Option<u64>,
}

/// Something wrong with one policy's annotations; `offset` is into the file's text.
pub(crate) struct Finding {
    pub offset: usize,
    pub message: String,
    pub help: Option<String>,
}

/// The strictest of everything that the matching policies state. The order of `matching` decides that of the reasons.
pub(crate) fn strictest<'a>(matching: impl IntoIterator<Item = (&'a str, Option<&'a str>, &'a Owed)>) -> Obligations {
    let mut total = Obligations::default();
    let mut expires: Option<u64> = None;
    for (id, reason, owed) in matching {
        total.confirm |= owed.confirm;
        total.approvals = total.approvals.max(owed.approvals);
        if !owed.approver_roles.is_empty() && !total.approver_roles.contains(&owed.approver_roles) {
            total.approver_roles.push(owed.approver_roles.clone());
        }
        expires = expires.into_iter().chain(owed.expires_seconds).min();
        total.reasons.extend(reason.filter(|r| !total.reasons.iter().any(|seen| seen == r)).map(str::to_owned));
        total.policies.push(id.to_owned());
    }
    if !total.is_empty() {
        total.expires_seconds = expires.unwrap_or(DEFAULT_EXPIRY_SECONDS);
    }
    total
}

/// Reads a policy's annotations; whatever is wrong goes to `findings`.
pub(crate) fn read(policy: &Policy, kind: SetKind, findings: &mut Vec<Finding>) -> Annotations {
    let mut reader = Reader { policy, findings };
    let mut read = Annotations::default();
    for (key, value) in policy.annotations() {
        match (key, kind) {
            ("id", _) => read.id = reader.check(key, identifier(value)),
            ("reason", _) => read.reason = reader.check(key, reason(value)),
            ("confirm", SetKind::Approval) => read.owed.confirm = reader.check(key, nothing(value)).is_some(),
            ("approvals", SetKind::Approval) => read.owed.approvals = reader.check(key, approvals(value)).unwrap_or(0),
            ("approver_role", SetKind::Approval) => {
                read.owed.approver_roles = reader.check(key, roles(value)).unwrap_or_default();
            }
            ("expires", SetKind::Approval) => read.owed.expires_seconds = reader.check(key, expiry(value)),
            _ => reader.refuse_unknown(key, kind),
        }
    }
    if kind == SetKind::Approval {
        reader.check_whole();
    }
    read
}

struct Reader<'a> {
    policy: &'a Policy,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    fn offset_of(&self, key: &str) -> usize {
        let ast = self.policy.as_ref();
        let annotation = ast.annotations().find(|(name, _)| name.as_ref() == key);
        annotation.and_then(|(_, a)| a.loc.as_ref()).or(ast.loc()).map_or(0, |loc| loc.start())
    }

    fn report(&mut self, offset: usize, message: String, help: Option<String>) {
        self.findings.push(Finding { offset, message, help });
    }

    fn check<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|wrong| self.report(self.offset_of(key), format!("@{key} {wrong}"), None)).ok()
    }

    fn refuse_unknown(&mut self, key: &str, kind: SetKind) {
        let offset = self.offset_of(key);
        if APPROVAL.contains(&key) {
            let help = "an access policy allows or denies; put a policy with this annotation into the approval set, and \
                        leave the access policy to say who may ask at all";
            let message = format!("@{key} means nothing in the access set: it would not soften or tighten this policy");
            return self.report(offset, message, Some(help.to_owned()));
        }
        let known = || COMMON.into_iter().chain(APPROVAL.into_iter().filter(|_| kind == SetKind::Approval));
        let help = match near(key, known()).first() {
            Some(name) => format!("did you mean @{name}?"),
            None => format!("known here: {}", known().map(|k| format!("@{k}")).collect::<Vec<_>>().join(", ")),
        };
        self.report(offset, format!("unknown annotation @{key}"), Some(help));
    }

    /// Rules across the annotations of an approval policy. They look at what is written, not at what could be read, so
    /// that one slip is reported once.
    fn check_whole(&mut self) {
        let has = |key| self.policy.annotation(key).is_some();
        let start = self.policy.as_ref().loc().map_or(0, |loc| loc.start());
        if self.policy.effect() == Effect::Forbid {
            let help = "an approval policy is a permit whose annotations say what is owed; to deny, put the forbid into the access set";
            return self.report(start, "forbid in the approval set".into(), Some(help.into()));
        }
        if !has("confirm") && !has("approvals") && !has("approver_role") {
            let help = "add @confirm, or @approvals(\"1\") with @approver_role(\"…\")";
            self.report(start, "an approval policy that states nothing owed".into(), Some(help.into()));
        } else if has("approver_role") && !has("approvals") {
            let offset = self.offset_of("approver_role");
            let help = "say how many: @approvals(\"1\")";
            self.report(offset, "@approver_role without @approvals owes nothing".into(), Some(help.into()));
        }
    }
}

fn nothing(value: &str) -> Result<(), String> {
    if value.is_empty() { Ok(()) } else { Err("takes no value".into()) }
}

fn identifier(value: &str) -> Result<String, String> {
    let fits = (1..=MAX_ID_CHARS).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    // `policy7` is how an unnamed policy is called.
    let taken = value.strip_prefix("policy").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match (fits, taken) {
        (true, false) => Ok(value.to_owned()),
        (false, _) => Err(format!("must be 1 to {MAX_ID_CHARS} of A-Z, a-z, 0-9, '-', '_' and '.'")),
        (true, true) => Err("must not look like the name of an unnamed policy (policy and a number)".into()),
    }
}

fn reason(value: &str) -> Result<String, String> {
    match value.trim() {
        "" => Err("is empty".into()),
        text if text.chars().count() > MAX_REASON_CHARS => Err(format!("is longer than {MAX_REASON_CHARS} characters")),
        text if text.chars().any(char::is_control) => Err("holds control characters".into()),
        text => Ok(text.to_owned()),
    }
}

fn approvals(value: &str) -> Result<u32, String> {
    match plain_number(value) {
        Some(n) if (1..=u64::from(MAX_APPROVALS)).contains(&n) => Ok(n as u32),
        _ => Err(format!("must be a whole number from 1 to {MAX_APPROVALS}, such as @approvals(\"2\")")),
    }
}

fn roles(value: &str) -> Result<BTreeSet<String>, String> {
    let named: Vec<&str> = value.split(',').map(str::trim).collect();
    let roles: BTreeSet<String> = named.iter().map(|r| (*r).to_owned()).collect();
    if roles.contains("") || roles.len() != named.len() {
        return Err("must be one role, or several alternatives separated by commas, none empty or twice".into());
    }
    Ok(roles)
}

fn expiry(value: &str) -> Result<u64, String> {
    let wrong = || "must be a duration such as \"90s\", \"15m\" or \"2h\", at most 24h".to_owned();
    let unit = value.chars().last().filter(char::is_ascii).ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = plain_number(&value[..value.len() - 1]).and_then(|n| n.checked_mul(factor));
    seconds.filter(|s| (1..=MAX_EXPIRY_SECONDS).contains(s)).ok_or_else(wrong)
}

/// Digits only: `u64::from_str` would also take "+2".
fn plain_number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(kind: SetKind, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        read(&Policy::parse(None, text).expect("policy"), kind, &mut findings);
        findings.into_iter().map(|f| f.message).collect()
    }

    #[test]
    fn slips_in_annotations_are_refused() {
        use SetKind::{Access, Approval};
        for (kind, annotations, expected) in [
            (Approval, "@confirm", None),
            (
                Approval,
                "@approvals(\"2\") @approver_role(\"treasurer, cfo\") @expires(\"15m\") @reason(\"r\") @id(\"a.b-c\")",
                None,
            ),
            (Approval, "@confirm(\"yes\")", Some("takes no value")),
            (Approval, "@approvals(\"0\")", Some("from 1 to 16")),
            (Approval, "@approvals(\"+2\")", Some("from 1 to 16")),
            (Approval, "@approvals(\"two\")", Some("from 1 to 16")),
            (Approval, "@approvals(\"17\")", Some("from 1 to 16")),
            (Approval, "@approvals", Some("from 1 to 16")),
            (Approval, "@approver_role(\"cfo\")", Some("without @approvals")),
            (Approval, "@approver_role(\"cfo\") @confirm", Some("without @approvals")),
            (Approval, "@approvals(\"1\") @approver_role(\"cfo,,x\")", Some("none empty")),
            (Approval, "@approvals(\"1\") @approver_role(\"cfo, cfo\")", Some("none empty")),
            (Approval, "@confirm @expires(\"15\")", Some("duration")),
            (Approval, "@confirm @expires(\"0m\")", Some("duration")),
            (Approval, "@confirm @expires(\"25h\")", Some("duration")),
            (Approval, "@confirm @expires(\"m\")", Some("duration")),
            (Approval, "@confirm @expires(\"15µ\")", Some("duration")),
            (Approval, "@confirm @expires(\"99999999999999999999d\")", Some("duration")),
            (Approval, "", Some("states nothing")),
            (Approval, "@expires(\"5m\")", Some("states nothing")),
            (Approval, "@aprovals(\"2\") @confirm", Some("unknown annotation @aprovals")),
            (Access, "@id(\"x\") @reason(\"y\")", None),
            (Access, "@confirm", Some("means nothing in the access set")),
            (Access, "@id(\"policy3\")", Some("unnamed policy")),
            (Access, "@id(\"a#b\")", Some("1 to 64")),
            (Access, "@reason(\" \")", Some("is empty")),
            (Access, "@owner(\"me\")", Some("unknown annotation @owner")),
        ] {
            let found = findings(kind, &format!("{annotations} permit(principal, action, resource);"));
            match expected {
                None => assert!(found.is_empty(), "{annotations}: {found:?}"),
                Some(part) => assert!(found.len() == 1 && found[0].contains(part), "{annotations}: {found:?}"),
            }
        }
        assert!(
            findings(Approval, "@confirm forbid(principal, action, resource);")[0]
                .contains("forbid in the approval set")
        );
    }

    #[test]
    fn the_strictest_of_each_applies() {
        let owed = |confirm, approvals, roles: &[&str], expires_seconds| Owed {
            confirm,
            approvals,
            approver_roles: roles.iter().map(|r| (*r).to_owned()).collect(),
            expires_seconds,
        };
        let [a, b, c, d] = [
            owed(true, 0, &[], Some(3_600)),
            owed(false, 1, &["treasurer", "cfo"], Some(600)),
            owed(false, 2, &["cfo"], None),
            owed(false, 1, &["cfo"], None),
        ];
        let total = strictest([("a", Some("x"), &a), ("b", Some("y"), &b), ("c", Some("x"), &c), ("d", None, &d)]);
        let expected = Obligations {
            confirm: true,
            approvals: 2,
            approver_roles: vec![b.approver_roles.clone(), c.approver_roles.clone()],
            expires_seconds: 600,
            reasons: vec!["x".into(), "y".into()],
            policies: ["a", "b", "c", "d"].map(str::to_owned).into(),
        };
        assert_eq!(total, expected);
        assert_eq!(strictest([("c", None, &c)]).expires_seconds, DEFAULT_EXPIRY_SECONDS);
        assert_eq!(strictest([]), Obligations::default());
    }
}
