//! Reading the members of an envelope, with errors that name them.

use countersign_proof::canonical::MAX_SAFE_INTEGER;
use countersign_proof::digest::Digest;
use serde_json::{Map, Value};

use super::{
    ArtifactError, ArtifactId, Draft, Evidence, MAX_COMPLIANCE, MAX_DERIVED_FROM, MAX_EVIDENCE, MAX_SOURCE_CHARS,
};
use crate::time::parse_rfc3339;

/// The envelope's members.
pub(super) const ENVELOPE: [&str; 9] =
    ["id", "type", "version", "workspaceId", "createdAt", "jsonBody", "derivedFrom", "evidence", "compliance"];
/// Those of a source of evidence.
pub(super) const EVIDENCE: [&str; 4] = ["source", "title", "digest", "retrievedAt"];

const A_TIME: &str = "expected an RFC 3339 time with its offset, such as 2026-01-31T12:00:00Z";

/// The members of one object of an envelope.
pub(super) struct Members<'a> {
    members: &'a Map<String, Value>,
    /// What stands before a member's name in errors.
    path: String,
}

impl<'a> Members<'a> {
    pub(super) fn top(members: &'a Map<String, Value>) -> Self {
        Self { members, path: String::new() }
    }

    /// The envelope, and when it was made, in milliseconds.
    pub(super) fn read_envelope(&self) -> Result<(Draft, i64), ArtifactError> {
        self.only(&ENVELOPE)?;
        let created_at = self.text("createdAt")?;
        let created_at_ms = parse_rfc3339(created_at).ok_or_else(|| self.wrong("createdAt", A_TIME))?;
        let id = self.id()?;
        let draft = Draft {
            id,
            artifact_type: self.named("type", is_type_name, TYPE_NAME_RULE)?,
            version: self.version()?,
            workspace_id: self.named("workspaceId", is_workspace, WORKSPACE_RULE)?,
            created_at: created_at.to_owned(),
            json_body: self.object("jsonBody")?.clone(),
            derived_from: self.derived_from(id)?,
            evidence: self.evidence()?,
            compliance: self.compliance()?,
        };
        Ok((draft, created_at_ms))
    }

    fn id(&self) -> Result<ArtifactId, ArtifactError> {
        self.text("id")?.parse().map_err(|e: super::InvalidId| self.wrong("id", &e.to_string()))
    }

    fn version(&self) -> Result<u64, ArtifactError> {
        let version = self.required("version")?.as_u64();
        let version = version.filter(|version| (1..=MAX_SAFE_INTEGER.unsigned_abs()).contains(version));
        version.ok_or_else(|| self.wrong("version", "expected an integer from 1"))
    }

    fn derived_from(&self, id: ArtifactId) -> Result<Vec<ArtifactId>, ArtifactError> {
        let mut out = Vec::new();
        for (i, item) in self.list("derivedFrom", MAX_DERIVED_FROM)?.iter().enumerate() {
            let wrong = |problem: &str| self.wrong(&format!("derivedFrom[{i}]"), problem);
            let source: ArtifactId =
                item.as_str().unwrap_or_default().parse().map_err(|e: super::InvalidId| wrong(&e.to_string()))?;
            if source == id {
                return Err(wrong("an artifact is not made from itself"));
            }
            if out.contains(&source) {
                return Err(wrong("it is named twice"));
            }
            out.push(source);
        }
        Ok(out)
    }

    fn evidence(&self) -> Result<Vec<Evidence>, ArtifactError> {
        let mut out = Vec::new();
        for (i, item) in self.list("evidence", MAX_EVIDENCE)?.iter().enumerate() {
            let place = format!("evidence[{i}]");
            let members = item.as_object().ok_or_else(|| self.wrong(&place, "expected an object with a \"source\""))?;
            out.push(Members { members, path: format!("{place}.") }.read_evidence()?);
        }
        Ok(out)
    }

    fn read_evidence(&self) -> Result<Evidence, ArtifactError> {
        self.only(&EVIDENCE)?;
        let short = |text: &str| (1..=MAX_SOURCE_CHARS).contains(&text.chars().count());
        let rule = "expected text of 1 to 2048 characters";
        let digest = self
            .optional_text("digest")?
            .map(|text| text.parse::<Digest>().map_err(|e| self.wrong("digest", &e.to_string())));
        let retrieved_at = self.optional_text("retrievedAt")?;
        if retrieved_at.is_some_and(|text| parse_rfc3339(text).is_none()) {
            return Err(self.wrong("retrievedAt", A_TIME));
        }
        Ok(Evidence {
            source: self.named("source", short, rule)?,
            title: self.optional_text("title")?.map(|_| self.named("title", short, rule)).transpose()?,
            digest: digest.transpose()?,
            retrieved_at: retrieved_at.map(str::to_owned),
        })
    }

    fn compliance(&self) -> Result<Vec<String>, ArtifactError> {
        let mut out: Vec<String> = Vec::new();
        for (i, item) in self.list("compliance", MAX_COMPLIANCE)?.iter().enumerate() {
            let wrong = |problem: &str| self.wrong(&format!("compliance[{i}]"), problem);
            let tag = item.as_str().filter(|tag| is_tag(tag)).ok_or_else(|| wrong(TAG_RULE))?;
            if out.iter().any(|known| known == tag) {
                return Err(wrong("it is named twice"));
            }
            out.push(tag.to_owned());
        }
        Ok(out)
    }

    /// Refuses members of other names: what a reader does not know it may not pass on as signed and understood.
    fn only(&self, known: &[&str]) -> Result<(), ArtifactError> {
        let Some(member) = self.members.keys().find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
        let plain = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
        let meant = known.iter().find(|name| plain(name) == plain(member));
        let meant = meant.or_else(|| ["body", "content", "payload"].contains(&member.as_str()).then_some(&"jsonBody"));
        let help = match meant.filter(|name| known.contains(name)) {
            Some(name) => format!("did you mean {name:?}?"),
            None => format!("there may be {}", known.join(", ")),
        };
        Err(ArtifactError::Unknown { member: format!("{}{}", self.path, shorten(member)), help })
    }

    fn required(&self, name: &str) -> Result<&'a Value, ArtifactError> {
        self.members.get(name).ok_or_else(|| ArtifactError::Missing { member: format!("{}{name}", self.path) })
    }

    fn text(&self, name: &str) -> Result<&'a str, ArtifactError> {
        self.required(name)?.as_str().ok_or_else(|| self.wrong(name, "expected text"))
    }

    fn optional_text(&self, name: &str) -> Result<Option<&'a str>, ArtifactError> {
        self.members.contains_key(name).then(|| self.text(name)).transpose()
    }

    fn named(&self, name: &str, fits: impl Fn(&str) -> bool, rule: &str) -> Result<String, ArtifactError> {
        let text = self.text(name)?;
        if fits(text) { Ok(text.to_owned()) } else { Err(self.wrong(name, rule)) }
    }

    fn object(&self, name: &str) -> Result<&'a Map<String, Value>, ArtifactError> {
        self.required(name)?.as_object().ok_or_else(|| self.wrong(name, "expected an object"))
    }

    /// A list that may be left out.
    fn list(&self, name: &str, most: usize) -> Result<&'a [Value], ArtifactError> {
        let Some(value) = self.members.get(name) else { return Ok(&[]) };
        let list = value.as_array().ok_or_else(|| self.wrong(name, "expected a list"))?;
        if list.len() > most {
            return Err(self.wrong(name, &format!("it has {} entries; at most {most} are accepted", list.len())));
        }
        Ok(list)
    }

    fn wrong(&self, name: &str, problem: &str) -> ArtifactError {
        ArtifactError::Member { member: format!("{}{name}", self.path), problem: problem.to_owned() }
    }
}

/// A name out of a file, for a message.
fn shorten(name: &str) -> String {
    name.chars().take(64).collect()
}

pub(super) const TYPE_NAME_RULE: &str = "expected 1 to 64 of a-z, 0-9, '_', '-' and '.', starting with a letter";
pub(super) const TYPE_NAME_PATTERN: &str = "^[a-z][a-z0-9_.-]{0,63}$";

/// Whether an artifact type may bear this name.
pub(super) fn is_type_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b))
        && name.starts_with(|c: char| c.is_ascii_lowercase())
}

pub(super) const WORKSPACE_RULE: &str =
    "expected 1 to 128 of A-Z, a-z, 0-9, '_', '-', '.', ':' and '@', starting with a letter, a digit or '_'";
pub(super) const WORKSPACE_PATTERN: &str = "^[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,127}$";

/// Workspaces of partners may have other names than ours.
fn is_workspace(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:@-".contains(&b))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

pub(super) const TAG_RULE: &str =
    "expected 1 to 64 of A-Z, a-z, 0-9, '_', '-', '.', ':' and '/', starting with a letter or a digit";
pub(super) const TAG_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}$";

/// Whether this is a compliance tag or flag, such as `HIPAA` or `PHI_ACCESSED`.
pub(super) fn is_tag(tag: &str) -> bool {
    (1..=64).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b))
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric())
}
