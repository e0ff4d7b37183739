//! The checks on a receipt, one function each, in the order of the report.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Disclosure, EVENT_VERSION, Label, Receipt, ReceiptEvent};
use crate::canonical::{CanonicalError, to_canonical};
use crate::commitment::{commit, event_entry};
use crate::digest::Digest;
use crate::merkle::{leaf_hash, verify_inclusion};
use crate::note::SignedNote;
use crate::report::{CheckName, Code, EventSummary, FileKind, Report, Verdict};
use crate::verify::{CheckedNote, Outcome, TrustAnchors, note_checks};

type Finding<T = String> = Result<T, (Code, String)>;

/// Verifies a receipt against the given keys. Never fails: what is wrong stands in the report.
pub fn verify(file_bytes: &[u8], anchors: &TrustAnchors) -> Report {
    let readable = Receipt::parse(file_bytes).map_err(|e| (e.code(), e.to_string()));
    let readable = readable.and_then(|receipt| {
        let facts = receipt.events.iter().map(EventFacts::read).collect::<Finding<Vec<_>>>()?;
        check_ids(&receipt.subject, &facts)?;
        Ok((receipt, facts))
    });
    match readable {
        Ok((receipt, facts)) => report(&receipt, &facts, anchors),
        Err((code, detail)) => Report::unreadable(FileKind::Receipt, &NAMES, code, &detail),
    }
}

const NAMES: [CheckName; 10] = [
    CheckName::Parse,
    CheckName::Canonical,
    CheckName::Commitment,
    CheckName::Inclusion,
    CheckName::CheckpointSignature,
    CheckName::Cosignatures,
    CheckName::Quorum,
    CheckName::Parents,
    CheckName::Sequence,
    CheckName::Disclosures,
];

fn report(receipt: &Receipt, facts: &[EventFacts], anchors: &TrustAnchors) -> Report {
    let events: Vec<_> = receipt.events.iter().zip(facts).collect();
    let (notes, inclusion, signatures) = match check_notes(receipt, anchors) {
        Ok(notes) => {
            let (inclusion, signatures) = (check_inclusion(receipt, &notes).into(), note_checks(&notes, anchors));
            (notes, inclusion, signatures)
        }
        Err((code, detail)) => (Vec::new(), unusable(), unusable_notes(code, detail)),
    };
    let mut checks = vec![
        Outcome::Passed(format!("a receipt with {} events", events.len())).named(CheckName::Parse),
        Outcome::from(check_canonical(receipt)).named(CheckName::Canonical),
        Outcome::from(check_commitments(receipt)).named(CheckName::Commitment),
        inclusion.named(CheckName::Inclusion),
    ];
    checks.extend(signatures);
    checks.push(Outcome::from(check_parents(receipt, facts)).named(CheckName::Parents));
    checks.push(Outcome::from(check_sequence(&events)).named(CheckName::Sequence));
    checks.push(check_disclosures(receipt, facts).named(CheckName::Disclosures));

    let mut report = Report::from_checks(FileKind::Receipt, checks);
    report.subject = Some(receipt.subject.clone());
    report.events = events.iter().map(|(entry, facts)| facts.summary(entry)).collect();
    report.describe_parties(&notes, anchors);
    describe_events(&mut report, receipt);
    report
}

/// The members of an event that verification looks at. Everything else is covered by the commitment alone.
#[derive(Deserialize)]
struct EventFacts {
    v: u64,
    #[serde(rename = "type")]
    event_type: String,
    id: String,
    workspace: String,
    seq: u64,
    prev: Option<Digest>,
    time: i64,
    parent: Option<String>,
    call: Option<String>,
    principal: Option<PrincipalFacts>,
    input_digest: Option<String>,
    outcome: Option<OutcomeFacts>,
}

// Flattened members make these two readable from objects only, not from arrays.
#[derive(Deserialize)]
struct PrincipalFacts {
    #[serde(default)]
    development: bool,
    #[serde(flatten)]
    _other: Map<String, Value>,
}

#[derive(Deserialize)]
struct OutcomeFacts {
    output_digest: Option<String>,
    #[serde(flatten)]
    _other: Map<String, Value>,
}

impl EventFacts {
    fn read(entry: &ReceiptEvent) -> Finding<Self> {
        let bad = |detail: String| (Code::EventShape, detail);
        if !entry.event.is_object() {
            return Err(bad("an event is not an object".into()));
        }
        let facts = Self::deserialize(&entry.event).map_err(|e| bad(format!("event at {}: {e}", entry.index)))?;
        if facts.v != EVENT_VERSION {
            return Err(bad(format!("event {}: version {} is not known", facts.id, facts.v)));
        }
        if facts.id.is_empty() || facts.seq == 0 {
            return Err(bad(format!("event {:?}: an ID is not empty, and sequences start at 1", facts.id)));
        }
        Ok(facts)
    }

    fn development(&self) -> bool {
        self.principal.as_ref().is_some_and(|principal| principal.development)
    }

    fn digest(&self, label: Label) -> Option<&str> {
        match label {
            Label::Input => self.input_digest.as_deref(),
            Label::Output => self.outcome.as_ref()?.output_digest.as_deref(),
        }
    }

    fn summary(&self, entry: &ReceiptEvent) -> EventSummary {
        EventSummary {
            id: self.id.clone(),
            event_type: self.event_type.clone(),
            workspace: self.workspace.clone(),
            seq: self.seq,
            time: self.time,
            log: entry.log.clone(),
            index: entry.index,
            commitment: entry.commitment.to_string(),
            development: self.development(),
        }
    }
}

fn check_ids(subject: &str, facts: &[EventFacts]) -> Finding<()> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = facts.iter().find(|facts| !seen.insert(facts.id.as_str())) {
        return Err((Code::EventDuplicate, format!("event {} occurs twice", twice.id)));
    }
    if seen.contains(subject) {
        return Ok(());
    }
    Err((Code::SubjectMissing, format!("the subject {subject:?} is not among the events")))
}

fn check_canonical(receipt: &Receipt) -> Finding {
    let values = receipt.events.iter().map(|entry| &entry.event);
    let values = values.chain(receipt.disclosures.iter().map(|disclosure| &disclosure.value));
    let canonical = values.map(to_canonical).collect::<Result<Vec<_>, CanonicalError>>();
    let canonical = canonical.map_err(|e| (Code::NotCanonical, e.to_string()))?;
    Ok(format!("{} values in RFC 8785 form", canonical.len()))
}

fn check_commitments(receipt: &Receipt) -> Finding {
    for entry in &receipt.events {
        let canonical = to_canonical(&entry.event).map_err(|e| (Code::NotCanonical, e.to_string()))?;
        if commit(&entry.salt, &canonical) != entry.commitment {
            let id = entry.event.get("id").and_then(Value::as_str).unwrap_or_default();
            return Err((Code::CommitmentMismatch, format!("event {id} is not what was committed to")));
        }
    }
    Ok(format!("{} events open their commitments", receipt.events.len()))
}

/// Every checkpoint is well-formed, used, and the only one for its log and size.
fn check_notes(receipt: &Receipt, anchors: &TrustAnchors) -> Finding<Vec<CheckedNote>> {
    let mut unused: BTreeSet<_> = receipt.events.iter().map(|entry| (entry.log.clone(), entry.proof.size)).collect();
    let mut notes = Vec::new();
    for text in &receipt.checkpoints {
        let note = SignedNote::parse(text).map_err(|e| (Code::CheckpointMalformed, e.to_string()))?;
        let note = CheckedNote::new(&note, anchors).map_err(|e| (Code::CheckpointMalformed, e.to_string()))?;
        if !unused.remove(&(note.checkpoint.origin.clone(), note.checkpoint.size)) {
            let detail = format!("the checkpoint of {:?} is used by no event, or there twice", note.checkpoint.origin);
            return Err((Code::CheckpointUnused, detail));
        }
        notes.push(note);
    }
    match unused.first() {
        Some((log, size)) => Err((Code::CheckpointMissing, format!("no checkpoint of {log:?} at size {size}"))),
        None => Ok(notes),
    }
}

fn unusable_notes(code: Code, detail: String) -> [crate::report::Check; 3] {
    [
        Outcome::Failed(code, detail).named(CheckName::CheckpointSignature),
        unusable().named(CheckName::Cosignatures),
        unusable().named(CheckName::Quorum),
    ]
}

fn unusable() -> Outcome {
    Outcome::Skipped(None, "the checkpoints are unusable".into())
}

fn check_inclusion(receipt: &Receipt, notes: &[CheckedNote]) -> Finding {
    for entry in &receipt.events {
        let fits =
            |note: &&CheckedNote| note.checkpoint.origin == entry.log && note.checkpoint.size == entry.proof.size;
        let Some(note) = notes.iter().find(fits) else {
            let detail = format!("no usable checkpoint of {:?} at size {}", entry.log, entry.proof.size);
            return Err((Code::CheckpointMissing, detail));
        };
        let leaf = leaf_hash(&event_entry(&entry.commitment));
        let checkpoint = &note.checkpoint;
        verify_inclusion(&leaf, entry.index, checkpoint.size, &entry.proof.hashes, &checkpoint.root)
            .map_err(|e| (Code::InclusionMismatch, format!("entry {} of {:?}: {e}", entry.index, entry.log)))?;
    }
    Ok(format!("{} entries are in their logs", receipt.events.len()))
}

/// Every event is of the subject's workspace, and of its call or an ancestor of it; every named parent is there and comes
/// earlier. Without this, an approval of another call could be put beside a receipt and pass for its own.
fn check_parents(receipt: &Receipt, facts: &[EventFacts]) -> Finding {
    let by_id: BTreeMap<&str, &EventFacts> = facts.iter().map(|facts| (facts.id.as_str(), facts)).collect();
    let Some(subject) = by_id.get(receipt.subject.as_str()) else {
        return Err((Code::SubjectMissing, "the subject is not among the events".into()));
    };
    let (mut links, mut erased) = (0, 0);
    for event in facts {
        if event.workspace != subject.workspace {
            return Err((Code::WorkspaceMismatch, format!("event {} is of another workspace", event.id)));
        }
        match event.parent.as_deref().map(|id| (id, by_id.get(id))) {
            None => {}
            Some((_, Some(parent))) if parent.seq < event.seq => links += 1,
            Some((_, Some(_))) => {
                return Err((Code::ParentOrder, format!("event {} does not come after its parent", event.id)));
            }
            Some((id, None)) if receipt.erased.iter().any(|gone| gone == id) => erased += 1,
            Some((id, None)) => {
                return Err((Code::ParentMissing, format!("event {} names the absent parent {id:?}", event.id)));
            }
        }
    }
    let ancestors = ancestors(subject, &by_id);
    let of_subject = |event: &&EventFacts| {
        ancestors.contains(event.id.as_str()) || (event.call.is_some() && event.call == subject.call)
    };
    if let Some(stranger) = facts.iter().find(|event| !of_subject(event)) {
        return Err((Code::CallMismatch, format!("event {} has nothing to do with the subject", stranger.id)));
    }
    Ok(format!("{links} parent links hold, {erased} lead to erased events"))
}

/// The subject and what its parent links reach. Parents come earlier, which was checked before, so that this ends.
fn ancestors<'a>(subject: &'a EventFacts, by_id: &BTreeMap<&str, &'a EventFacts>) -> BTreeSet<&'a str> {
    let parent = |event: &&'a EventFacts| by_id.get(event.parent.as_deref()?).copied();
    std::iter::successors(Some(subject), parent).map(|event| event.id.as_str()).collect()
}

/// Where two events are neighbours in the workspace's sequence, the later one names the earlier one's commitment.
fn check_sequence(events: &[(&ReceiptEvent, &EventFacts)]) -> Finding {
    let mut sorted = events.to_vec();
    sorted.sort_by_key(|(_, facts)| facts.seq);
    if let Some((_, facts)) = sorted.iter().find(|(_, facts)| facts.prev.is_none() != (facts.seq == 1)) {
        return Err((Code::SequenceBroken, format!("event {}: only the first has no predecessor", facts.id)));
    }
    let mut neighbours = 0;
    for pair in sorted.windows(2) {
        let [(entry, facts), (later_entry, later)] = pair else { continue };
        let same_log = entry.log == later_entry.log;
        if facts.seq == later.seq || (same_log && entry.index >= later_entry.index) {
            return Err((Code::SequenceOrder, format!("events {} and {} are out of order", facts.id, later.id)));
        }
        if facts.seq + 1 != later.seq {
            continue;
        }
        if later.prev != Some(entry.commitment) {
            return Err((Code::SequenceBroken, format!("event {} does not follow {}", later.id, facts.id)));
        }
        neighbours += 1;
    }
    Ok(format!("{neighbours} pairs of neighbours are chained"))
}

fn check_disclosures(receipt: &Receipt, facts: &[EventFacts]) -> Outcome {
    if receipt.disclosures.is_empty() {
        return Outcome::Skipped(None, "no values are disclosed".into());
    }
    let finding = receipt.disclosures.iter().try_for_each(|disclosure| check_disclosure(disclosure, facts));
    finding.map(|()| format!("{} values match their digests", receipt.disclosures.len())).into()
}

fn check_disclosure(disclosure: &Disclosure, facts: &[EventFacts]) -> Finding<()> {
    let label = disclosure.label.as_str();
    let event = facts.iter().find(|facts| facts.id == disclosure.event);
    let Some(expected) = event.and_then(|facts| facts.digest(disclosure.label)) else {
        return Err((Code::DisclosureUnknown, format!("event {:?} has no {label} digest", disclosure.event)));
    };
    let digest = disclosure.digest().map_err(|e| (Code::NotCanonical, e.to_string()))?;
    if digest.to_string() == expected {
        return Ok(());
    }
    Err((Code::DisclosureMismatch, format!("the disclosed {label} is not that of event {}", disclosure.event)))
}

fn describe_events(report: &mut Report, receipt: &Receipt) {
    if report.verdict == Verdict::Valid {
        report.statements.push("The node recorded these events; that they are true is its claim.".into());
    }
    report.statements.push("Times are the node's claim.".into());
    if report.events.iter().any(|event| event.development) {
        let warning = "A development identity took part: anyone with a shell on the node could have acted under it.";
        report.statements.push(warning.into());
    }
    if !receipt.erased.is_empty() {
        let names = receipt.erased.join(", ");
        report.not_checked.push(format!("Events that the file says were erased: {names}."));
    }
    if !receipt.keys.is_empty() {
        report.not_checked.push("The keys inside the file: they are hints and never count.".into());
    }
    report.not_checked.extend([
        "Events that the file does not hold, and whether more were recorded for this call.".to_owned(),
        "Arguments and results that are not disclosed.".to_owned(),
    ]);
}
