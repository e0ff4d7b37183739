//! What is wrong with a policy file, and where, in a form that an editor and a person can both use.

use std::fmt;

use miette::Diagnostic;
use serde::{Deserialize, Serialize};

/// Whether a problem keeps a set from being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The set is refused.
    Error,
    /// The set is loaded; someone should look.
    Warning,
}

/// One problem in one file. Shown as `access/finance.cedar:3:5: …`; the alternate form (`{:#}`) adds the line and the help.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
pub struct PolicyProblem {
    /// The file as the caller named it.
    pub file: String,
    /// Counted from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// In characters, counted from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Whether it keeps the set from being loaded.
    pub severity: Severity,
    /// The source line.
    pub excerpt: Option<String>,
}

/// How much of a source line is shown.
const MAX_EXCERPT_CHARS: usize = 160;

impl PolicyProblem {
    /// A problem with a file as a whole.
    pub(crate) fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: message.into(),
            help: None,
            severity: Severity::Error,
            excerpt: None,
        }
    }

    /// A problem at a byte offset of a file's text.
    pub(crate) fn at(file: &str, text: &str, offset: usize, message: impl Into<String>) -> Self {
        let (line, column) = position(text, offset);
        let excerpt = text.lines().nth(line - 1).map(|l| l.trim_end().chars().take(MAX_EXCERPT_CHARS).collect());
        Self { line, column, excerpt, ..Self::of_file(file, message) }
    }

    /// One of Cedar's own findings; `fallback` is the offset where Cedar names none.
    pub(crate) fn from_cedar(file: &str, text: &str, fallback: usize, finding: &dyn Diagnostic) -> Self {
        let offset = finding.labels().and_then(|mut l| l.next()).map_or(fallback, |label| label.offset());
        let mut problem = Self::at(file, text, offset, without_policy_prefix(&finding.to_string()));
        problem.help = finding.help().map(|help| without_policy_prefix(&help.to_string()).to_owned());
        problem
    }

    pub(crate) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.file)?,
            line => write!(f, "{}:{line}:{}: ", self.file, self.column)?,
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        if !f.alternate() {
            return Ok(());
        }
        if let Some(excerpt) = &self.excerpt {
            let visible: String = excerpt.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            write!(f, "\n  | {visible}\n  | {:>1$}", "^", self.column)?;
        }
        self.help.iter().try_for_each(|help| write!(f, "\n  = {help}"))
    }
}

/// Line and column, from 1, of a byte offset; an offset past the end means the end.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Up to three known names near an unknown one, for "did you mean".
pub(crate) fn near<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (unknown.chars().count() / 3).clamp(2, 8);
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (strsim::osa_distance(unknown, name), name))
        .filter(|(d, _)| *d <= limit)
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Cedar begins with "for policy `…`, "; the location already says so.
fn without_policy_prefix(message: &str) -> &str {
    let after = message.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, "));
    after.map_or(message, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        for (text, offset, expected) in [
            ("abc", 0, (1, 1)),
            ("a\nbc", 3, (2, 2)),
            ("é\nüb", 5, (2, 2)),
            ("é", 1, (1, 1)),
            ("a\n", 99, (2, 1)),
            ("", 0, (1, 1)),
        ] {
            assert_eq!(position(text, offset), expected, "{text:?} at {offset}");
        }
    }

    #[test]
    fn near_names_are_near() {
        assert_eq!(near("budgt", ["budget", "name", "startDate"]), ["budget"]);
        assert_eq!(
            near("ads:createCampain", ["ads:createCampaign", "ads:getCampaign"]),
            ["ads:createCampaign", "ads:getCampaign"]
        );
        assert!(near("zzz", ["budget"]).is_empty());
    }
}
