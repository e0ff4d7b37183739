//! Verifying a directory of exported files. Nothing else is needed; checkpoints and keys make it stronger.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::Frontier;
use countersign_proof::note::{SignedNote, VerifierKey};
use serde_json::Value;

use super::{Content, EventLine, FIRST_PREV, Line, MAX_LINE, files};
use crate::fsck::opening_fits;

const MAX_ISSUES: usize = 1000;

/// What to verify against, beyond the files themselves.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Signed notes: where the files hold a log from its first leaf, its root at that size must be the note's.
    pub checkpoints: Vec<String>,
    /// Keys that must have signed those notes. Without keys, notes count for nothing and are reported as unsigned.
    pub keys: Vec<VerifierKey>,
}

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IssueKind {
    /// A file cannot be read.
    Unreadable,
    /// A line is not one of ours.
    Malformed,
    /// A line does not name the hash of the line before.
    ChainBroken,
    /// A leaf of a log was left out.
    IndexGap,
    /// A leaf appears again, or a log goes on after another one began.
    Duplicate,
    /// A workspace's numbers leave one out or repeat one.
    SequenceGap,
    /// An event's `prev` is not the commitment of the workspace's event before.
    PrevMismatch,
    /// Event and salt do not lead to the commitment.
    CommitmentMismatch,
    /// A public entry does not lead to the leaf hash beside it.
    LeafMismatch,
    /// What the line says beside the event is not what the event says.
    EventMismatch,
    /// A checkpoint is malformed or not signed by any of the keys.
    CheckpointSignature,
    /// The lines lead to another root than the checkpoint says.
    RootMismatch,
    /// The files do not hold the leaves that the checkpoint is about.
    CheckpointNotReached,
}

impl IssueKind {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
            Self::ChainBroken => "chain-broken",
            Self::IndexGap => "index-gap",
            Self::Duplicate => "duplicate",
            Self::SequenceGap => "sequence-gap",
            Self::PrevMismatch => "prev-mismatch",
            Self::CommitmentMismatch => "commitment-mismatch",
            Self::LeafMismatch => "leaf-mismatch",
            Self::EventMismatch => "event-mismatch",
            Self::CheckpointSignature => "checkpoint-signature",
            Self::RootMismatch => "root-mismatch",
            Self::CheckpointNotReached => "checkpoint-not-reached",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// What kind.
    pub kind: IssueKind,
    /// File and line number (from 1), if it is about a line.
    pub at: Option<(String, u64)>,
    /// More words for a person.
    pub detail: String,
}

/// What was looked at and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files read.
    pub files: u64,
    /// Lines read.
    pub lines: u64,
    /// Lines of public entries.
    pub entries: u64,
    /// Lines of events without the event.
    pub erased: u64,
    /// Commitments computed again from events and salts.
    pub recomputed: u64,
    /// Whether the first line is the first of the chain. If not, earlier files are not there, which is not an issue but
    /// means that nothing is known of them.
    pub from_the_beginning: bool,
    /// Where a log that was opened after a loss gave numbers of a workspace a second time.
    pub renumbered: u64,
    /// Checkpoints whose signature and root hold.
    pub checkpoints: u64,
    /// Hash of the last line.
    pub last_line: Option<Digest>,
    /// What is wrong, at most 1000.
    pub issues: Vec<Issue>,
    /// Issues beyond that.
    pub more_issues: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.issues.is_empty() && self.more_issues == 0
    }

    fn add(&mut self, kind: IssueKind, at: Option<(String, u64)>, detail: impl Into<String>) {
        if self.issues.len() < MAX_ISSUES {
            self.issues.push(Issue { kind, at, detail: detail.into() });
        } else {
            self.more_issues += 1;
        }
    }
}

/// Verifies all the files of an export.
pub fn verify(directory: &Path, options: &VerifyOptions) -> VerifyReport {
    let mut check = Check::default();
    check.read_checkpoints(options);
    match files(directory) {
        Ok(files) => {
            for (_, path) in files {
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                check.file(&name, &path);
            }
        }
        Err(error) => check.report.add(IssueKind::Unreadable, None, error.to_string()),
    }
    for wanted in std::mem::take(&mut check.wanted) {
        let detail = format!("{} at {} leaves", wanted.origin, wanted.size);
        check.report.add(IssueKind::CheckpointNotReached, None, detail);
    }
    check.report
}

#[derive(Default)]
struct Check {
    report: VerifyReport,
    /// The log being read: origin, next index, and its tree if it was read from its first leaf.
    log: Option<(String, u64, Option<Frontier>)>,
    finished: HashSet<String>,
    /// Number and commitment of each workspace's last event.
    tails: HashMap<String, (u64, Digest)>,
    /// Workspaces whose next number may be one that was given before.
    may_repeat: HashSet<String>,
    wanted: Vec<Checkpoint>,
}

impl Check {
    fn read_checkpoints(&mut self, options: &VerifyOptions) {
        for note in &options.checkpoints {
            let opened = options.keys.iter().find_map(|key| Checkpoint::open(note, key).ok());
            match opened {
                Some(checkpoint) => self.wanted.push(checkpoint),
                None => {
                    let origin =
                        SignedNote::parse(note).ok().and_then(|n| Checkpoint::parse(n.text()).ok()).map(|c| c.origin);
                    let detail = format!("{}: not signed by any of the keys", origin.unwrap_or_default());
                    self.report.add(IssueKind::CheckpointSignature, None, detail);
                }
            }
        }
    }

    fn file(&mut self, name: &str, path: &Path) {
        self.report.files += 1;
        let mut reader = match File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) => return self.report.add(IssueKind::Unreadable, Some((name.to_owned(), 0)), error.to_string()),
        };
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            let read = (&mut reader).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut bytes);
            let at = Some((name.to_owned(), number));
            match read {
                Ok(0) => return,
                Ok(_) if bytes.last() == Some(&b'\n') => {}
                Ok(_) => return self.report.add(IssueKind::Malformed, at, "the line has no end or is too long"),
                Err(error) => return self.report.add(IssueKind::Unreadable, at, error.to_string()),
            }
            bytes.pop();
            self.report.lines += 1;
            match Line::parse(&bytes) {
                Ok(line) => self.line(&line, at),
                Err(why) => self.report.add(IssueKind::Malformed, at, why),
            }
        }
    }

    fn line(&mut self, line: &Line, at: Option<(String, u64)>) {
        match self.report.last_line {
            None => self.report.from_the_beginning = line.prev_line == FIRST_PREV,
            Some(expected) if expected != line.prev_line => {
                self.report.add(IssueKind::ChainBroken, at.clone(), "it does not name the line before");
            }
            Some(_) => {}
        }
        self.report.last_line = Some(line.hash());
        self.place(line, &at);
        match &line.content {
            Content::Event(event) => {
                self.sequence(line, event, &at);
                self.opening(line, event, &at);
            }
            Content::Public { leaf, .. } => {
                self.report.entries += 1;
                if line.entry().leaf_hash() != leaf.0 {
                    self.report.add(IssueKind::LeafMismatch, at.clone(), format!("entry {}", line.id));
                }
            }
        }
        self.roots(line, &at);
    }

    fn opening(&mut self, line: &Line, event: &EventLine, at: &Option<(String, u64)>) {
        let Some((body, salt)) = &event.opening else {
            self.report.erased += 1;
            return;
        };
        self.report.recomputed += 1;
        if !opening_fits(&event.commitment, salt, body) {
            self.report.add(IssueKind::CommitmentMismatch, at.clone(), format!("event {}", line.id));
        }
    }

    /// Leaf after leaf, log after log.
    fn place(&mut self, line: &Line, at: &Option<(String, u64)>) {
        let same = self.log.as_ref().is_some_and(|(origin, ..)| *origin == line.origin);
        if !same {
            let first = self.log.is_none();
            if let Some((origin, ..)) = self.log.take() {
                self.finished.insert(origin);
            }
            if self.finished.contains(&line.origin) {
                self.report.add(IssueKind::Duplicate, at.clone(), format!("{} goes on after another log", line.origin));
            } else if !first && line.index != 0 {
                self.report.add(
                    IssueKind::IndexGap,
                    at.clone(),
                    format!("{} begins at leaf {}", line.origin, line.index),
                );
            }
            self.log = Some((line.origin.clone(), line.index, (line.index == 0).then(Frontier::new)));
            let event = match &line.content {
                Content::Event(line) => line.event.as_ref(),
                Content::Public { .. } => None,
            };
            if event.and_then(|e| e.get("sequences")).and_then(Value::as_str) == Some("may-repeat") {
                self.may_repeat = self.tails.keys().cloned().collect();
            }
        }
        let Some((_, next, tree)) = &mut self.log else { return };
        let kind = match line.index.cmp(next) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Less => Some(IssueKind::Duplicate),
            std::cmp::Ordering::Greater => Some(IssueKind::IndexGap),
        };
        if let Some(kind) = kind {
            *tree = None;
            let detail = format!("leaf {} where {next} was expected", line.index);
            self.report.add(kind, at.clone(), detail);
        }
        *next = line.index.saturating_add(1);
        if let Some(tree) = tree {
            tree.append(line.entry().leaf_hash());
        }
    }

    /// Number after number in each workspace.
    fn sequence(&mut self, line: &Line, held: &EventLine, at: &Option<(String, u64)>) {
        let seq = held.seq;
        let repeats = self.may_repeat.remove(&line.workspace);
        let last = self.tails.insert(line.workspace.clone(), (seq, held.commitment));
        let next = last.map_or(1, |(seq, _)| seq.saturating_add(1));
        // Without the beginning nothing is known of a workspace that was not met yet.
        let unknown = last.is_none() && !self.report.from_the_beginning;
        let renumbered = repeats && seq < next;
        self.report.renumbered += u64::from(renumbered);
        if seq != next && !unknown && !renumbered {
            let detail = format!("number {seq} where {next} was expected in workspace {}", line.workspace);
            self.report.add(IssueKind::SequenceGap, at.clone(), detail);
        }
        let Some(event) = &held.event else { return };
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        let says = text("id") == Some(&line.id)
            && text("workspace") == Some(&line.workspace)
            && event.get("seq").and_then(Value::as_u64) == Some(seq);
        if !says {
            self.report.add(IssueKind::EventMismatch, at.clone(), format!("event {}", line.id));
        }
        let prev = last.map(|(_, commitment)| commitment.to_string());
        if seq == next && !unknown && text("prev") != prev.as_deref() {
            self.report.add(IssueKind::PrevMismatch, at.clone(), format!("event {}", line.id));
        }
    }

    fn roots(&mut self, line: &Line, at: &Option<(String, u64)>) {
        let Some((origin, _, Some(tree))) = &self.log else { return };
        let due = |c: &Checkpoint| c.origin == *origin && c.size == tree.size();
        let root = self.wanted.iter().any(due).then(|| tree.root());
        let Some(root) = root else { return };
        for checkpoint in self.wanted.extract_if(.., |c| c.origin == line.origin && c.size == line.index + 1) {
            if checkpoint.root == root {
                self.report.checkpoints += 1;
            } else {
                let detail = format!("{} at {} leaves", checkpoint.origin, checkpoint.size);
                self.report.add(IssueKind::RootMismatch, at.clone(), detail);
            }
        }
    }
}
