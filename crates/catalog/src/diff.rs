//! What changed between two definitions, so that a person can see it in seconds.
//!
//! Changes are located by JSON Pointer (RFC 6901). Long texts are compared by words or lines. Everything printed goes
//! through [`visible`](mod@crate::visible): a diff must not hide what it is meant to show.

use std::fmt;
use std::time::Duration;

use countersign_proof::canonical::{JsonError, parse_strict};
use serde_json::{Map, Value};
use similar::{Algorithm, ChangeTag, DiffOp, TextDiff};

use crate::definition::LIMITS;
use crate::visible::{visible, visible_line};

/// At most this many changes are listed; the rest are counted.
pub const MAX_CHANGES: usize = 500;
/// At most this many characters of one value are shown.
pub const MAX_SHOWN: usize = 4_000;
/// Text comparison gives up looking for the smallest difference after this long, and shows a coarser one.
const TEXT_DIFF_TIME: Duration = Duration::from_millis(200);
/// Texts up to this many characters are shown whole, old and new.
const SHORT_TEXT: usize = 40;

/// The difference between two definitions.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Diff {
    /// The changes, in document order, at most [`MAX_CHANGES`].
    pub changes: Vec<Change>,
    /// How many more there are.
    pub omitted: usize,
}

/// One change.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Change {
    /// Where: a JSON Pointer, empty for the whole document; hidden characters made visible.
    pub path: String,
    /// What.
    #[serde(flatten)]
    pub kind: ChangeKind,
}

/// What happened at a path. All texts are safe to print.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ChangeKind {
    /// A member or element came.
    Added {
        /// Its JSON.
        new: String,
    },
    /// A member or element went.
    Removed {
        /// Its JSON.
        old: String,
    },
    /// A value became another.
    Changed {
        /// The old JSON.
        old: String,
        /// The new JSON.
        new: String,
    },
    /// A longer text changed.
    Text {
        /// The text in pieces: kept, removed and added, in order.
        pieces: Vec<Piece>,
    },
}

/// A piece of a changed text.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Piece {
    /// What became of it.
    pub sign: Sign,
    /// The piece, safe to print.
    pub text: String,
}

/// What became of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// In both.
    Kept,
    /// Only in the old text.
    Removed,
    /// Only in the new text.
    Added,
}

impl Diff {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Compares two raw definitions. Spelling (order of members, escapes, spaces) makes no difference.
///
/// # Errors
/// If one of them is not acceptable JSON within [`LIMITS`].
pub fn diff(old_raw: &str, new_raw: &str) -> Result<Diff, JsonError> {
    let old = parse_strict(old_raw.as_bytes(), &LIMITS)?;
    let new = parse_strict(new_raw.as_bytes(), &LIMITS)?;
    let mut found = Found { changes: Vec::new(), omitted: 0 };
    compare(&old, &new, "", &mut found);
    Ok(Diff { changes: found.changes, omitted: found.omitted })
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no change\n");
        }
        self.changes.iter().try_for_each(|change| write!(f, "{change}"))?;
        match self.omitted {
            0 => Ok(()),
            more => writeln!(f, "… and {more} more changes"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "(whole)" } else { &self.path };
        match &self.kind {
            ChangeKind::Added { new } => writeln!(f, "+ {path}: {new}"),
            ChangeKind::Removed { old } => writeln!(f, "- {path}: {old}"),
            ChangeKind::Changed { old, new } => writeln!(f, "~ {path}:\n    - {old}\n    + {new}"),
            ChangeKind::Text { pieces } => {
                writeln!(f, "~ {path}:")?;
                let mut text = String::new();
                for piece in pieces {
                    match piece.sign {
                        Sign::Kept => text.push_str(&piece.text),
                        Sign::Removed => text.push_str(&format!("[-{}-]", piece.text)),
                        Sign::Added => text.push_str(&format!("{{+{}+}}", piece.text)),
                    }
                }
                text.lines().try_for_each(|line| writeln!(f, "    {line}"))
            }
        }
    }
}

struct Found {
    changes: Vec<Change>,
    omitted: usize,
}

impl Found {
    fn push(&mut self, path: &str, kind: impl FnOnce() -> ChangeKind) {
        if self.changes.len() < MAX_CHANGES {
            self.changes.push(Change { path: visible_line(path).into_owned(), kind: kind() });
        } else {
            self.omitted += 1;
        }
    }
}

fn compare(old: &Value, new: &Value, path: &str, found: &mut Found) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(old), Value::Object(new)) => compare_objects(old, new, path, found),
        (Value::Array(old), Value::Array(new)) => compare_arrays(old, new, path, found),
        (Value::String(old), Value::String(new)) if old.len() > SHORT_TEXT || new.len() > SHORT_TEXT => {
            found.push(path, || ChangeKind::Text { pieces: compare_texts(old, new) });
        }
        _ => found.push(path, || ChangeKind::Changed { old: shown(old), new: shown(new) }),
    }
}

fn compare_objects(old: &Map<String, Value>, new: &Map<String, Value>, path: &str, found: &mut Found) {
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let inner = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
        match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) => compare(old, new, &inner, found),
            (Some(old), None) => found.push(&inner, || ChangeKind::Removed { old: shown(old) }),
            (None, Some(new)) => found.push(&inner, || ChangeKind::Added { new: shown(new) }),
            (None, None) => {}
        }
    }
}

/// Elements are aligned by content, so that one insertion is one change.
fn compare_arrays(old: &[Value], new: &[Value], path: &str, found: &mut Found) {
    let texts = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>();
    let (old_texts, new_texts) = (texts(old), texts(new));
    let old_refs: Vec<&str> = old_texts.iter().map(String::as_str).collect();
    let new_refs: Vec<&str> = new_texts.iter().map(String::as_str).collect();
    for op in similar::capture_diff_slices(Algorithm::Myers, &old_refs, &new_refs) {
        let (old_range, new_range) = (op.old_range(), op.new_range());
        if matches!(op, DiffOp::Equal { .. }) {
            continue;
        }
        let pairs = old_range.len().min(new_range.len());
        for k in 0..pairs {
            let at = new_range.start + k;
            compare(&old[old_range.start + k], &new[at], &format!("{path}/{at}"), found);
        }
        for k in old_range.skip(pairs) {
            found.push(&format!("{path}/{k}"), || ChangeKind::Removed { old: shown(&old[k]) });
        }
        for k in new_range.skip(pairs) {
            found.push(&format!("{path}/{k}"), || ChangeKind::Added { new: shown(&new[k]) });
        }
    }
}

/// By words; texts of many lines by lines, since a word that moved lines is noise there.
fn compare_texts(old: &str, new: &str) -> Vec<Piece> {
    let mut config = TextDiff::configure();
    config.timeout(TEXT_DIFF_TIME);
    let by_lines = old.lines().count() > 12 || new.lines().count() > 12;
    let diff = if by_lines { config.diff_lines(old, new) } else { config.diff_words(old, new) };
    let pieces = coalesce(diff.iter_all_changes().map(|change| (change.tag(), change.value())));
    let last = pieces.len().saturating_sub(1);
    let shorten = |(i, (sign, text)): (usize, (Sign, String))| {
        let text = if sign == Sign::Kept { context(&text, i == 0, i == last) } else { cut(&text) };
        Piece { sign, text: visible(&text).into_owned() }
    };
    pieces.into_iter().take(MAX_CHANGES).enumerate().map(shorten).collect()
}

/// Neighbouring changes become one removal and one addition; a space between two changed words counts as changed, since
/// a text that changes its mind at every word cannot be read.
fn coalesce<'a>(changes: impl Iterator<Item = (ChangeTag, &'a str)>) -> Vec<(Sign, String)> {
    let mut pieces: Vec<(Sign, String)> = Vec::new();
    let (mut removed, mut added, mut space) = (String::new(), String::new(), String::new());
    let mut flush = |removed: &mut String, added: &mut String, kept: &str| {
        for (sign, text) in [(Sign::Removed, &**removed), (Sign::Added, &**added), (Sign::Kept, kept)] {
            match pieces.last_mut() {
                _ if text.is_empty() => {}
                Some((last, so_far)) if *last == sign => so_far.push_str(text),
                _ => pieces.push((sign, text.to_owned())),
            }
        }
        removed.clear();
        added.clear();
    };
    for (tag, text) in changes {
        let changing = !removed.is_empty() || !added.is_empty();
        match tag {
            ChangeTag::Equal if changing && space.is_empty() && text.trim_matches(' ').is_empty() => {
                space.push_str(text)
            }
            ChangeTag::Equal => flush(&mut removed, &mut added, &(std::mem::take(&mut space) + text)),
            ChangeTag::Delete | ChangeTag::Insert => {
                if !space.is_empty() {
                    removed.push_str(&space);
                    added.push_str(&space);
                    space.clear();
                }
                if tag == ChangeTag::Delete { removed.push_str(text) } else { added.push_str(text) }
            }
        }
    }
    flush(&mut removed, &mut added, &space);
    pieces
}

/// Keeps the ends of an unchanged stretch that touch a change.
fn context(text: &str, first: bool, last: bool) -> String {
    const AROUND: usize = 120;
    let count = text.chars().count();
    if count <= 2 * AROUND + 3 {
        return text.to_owned();
    }
    let head: String = if first { String::new() } else { text.chars().take(AROUND).collect() };
    let tail: String = if last { String::new() } else { text.chars().skip(count - AROUND).collect() };
    format!("{head} … {tail}")
}

fn shown(value: &Value) -> String {
    visible_line(&cut(&value.to_string())).into_owned()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        None => text.to_owned(),
        Some((at, _)) => format!("{} … ({} bytes more)", &text[..at], text.len() - at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str, expected: &str) {
        assert_eq!(diff(old, new).expect("JSON").to_string(), expected, "{old} → {new}");
    }

    #[test]
    fn changes_are_named_by_their_path() {
        check(r#"{"a":1,"b":[1]}"#, r#"{ "b":[1], "a":1 }"#, "no change\n");
        check(r#"{"a":1}"#, r#"{"a":2}"#, "~ /a:\n    - 1\n    + 2\n");
        check(r#"{"a":1}"#, r#"{"b~/":1}"#, "- /a: 1\n+ /b~0~1: 1\n");
        check(r#"{"r":["a","c"]}"#, r#"{"r":["a","b","c"]}"#, "+ /r/1: \"b\"\n");
        check(r#"{"r":["a","b","c"]}"#, r#"{"r":["a","c"]}"#, "- /r/1: \"b\"\n");
        check(r#"{"r":[{"x":1}]}"#, r#"{"r":[{"x":2}]}"#, "~ /r/0/x:\n    - 1\n    + 2\n");
        check("1", "true", "~ (whole):\n    - 1\n    + true\n");
    }

    #[test]
    fn a_long_text_shows_the_words_that_changed_and_hidden_ones_too() {
        let old = r#"{"description":"Creates an advertising campaign for the caller's account."}"#;
        let new = r#"{"description":"Creates an advertising campaign for any bank's account.\u200b"}"#;
        let text = diff(old, new).expect("JSON").to_string();
        assert!(text.starts_with("~ /description:\n    Creates an advertising campaign for "), "{text}");
        assert!(text.contains("[-the caller's account.-]{+any bank's account.⟨U+200B⟩+}"), "{text}");
    }

    #[test]
    fn an_unchanged_stretch_is_shortened_and_output_is_bounded() {
        let filler = "word ".repeat(400);
        let old = serde_json::json!({ "d": format!("{filler}end") }).to_string();
        let new = serde_json::json!({ "d": format!("{filler}fin") }).to_string();
        let text = diff(&old, &new).expect("JSON").to_string();
        assert!(text.len() < 400 && text.contains('…'), "{text}");
        let many: Vec<u32> = (0..2_000).collect();
        let result = diff("[]", &serde_json::json!(many).to_string()).expect("JSON");
        assert_eq!((result.changes.len(), result.omitted), (MAX_CHANGES, 1_500));
    }
}
