//! The scan of definitions: what in a tool, prompt or resource speaks to the model behind the user's back.
//!
//! Pure and deterministic: a definition and its surroundings in, findings out, in time that grows with the length of the
//! text. The rules, their reasons and their limits stand in `docs/scan.md`; the twins by which they are measured in
//! `twins/`. The parts:
//!
//! - `fields`: the strings of a definition, each with its place and its role (who reads it, as what);
//! - `text`: a string folded to what a model reads, as words with clauses, quotation and negation;
//! - `words`: who is spoken to, and what is denied;
//! - `phrases`: the table of what is said to a model that should not be said, in several languages;
//! - `prose`, `paths`, `urls`, `hidden`, `encoded`, `markup`, `names`: the rules.

mod encoded;
mod fields;
mod hidden;
mod markup;
mod names;
mod paths;
mod phrases;
mod prose;
mod rule;
#[cfg(test)]
mod tests;
mod text;
mod urls;
mod words;

use serde_json::Value;

pub use names::Surroundings;
pub use rule::Rule;

pub use crate::definition::Kind;
use crate::visible::visible_line;
use fields::{Field, Role};

/// At most this many findings of one definition are kept: the gravest, in document order.
pub const MAX_FINDINGS: usize = 64;
/// At most this many characters of an excerpt, before hidden characters are made visible.
const MAX_EXCERPT: usize = 120;

/// How grave a finding is. `high` and above are what an honest definition has no reason for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Unusual, and common among honest definitions.
    Low,
    /// To be read by a person before the definition is accepted.
    Medium,
    /// Speaks to the model against its user, or hides something.
    High,
    /// Hidden on purpose.
    Critical,
}

impl Severity {
    /// All, the least first.
    pub const ALL: [Self; 5] = [Self::Info, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// Its name in findings, configuration and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|severity| severity.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no severity: info, low, medium, high or critical"))
    }
}

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// How grave.
    pub severity: Severity,
    /// Where: a JSON Pointer into what was scanned. For the name of a member, the pointer of the member.
    pub pointer: String,
    /// First byte in the string at that place.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
    /// That part of the string with a little around it; hidden characters are visible.
    pub excerpt: String,
    /// What it means.
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = visible_line(&self.pointer);
        let place = if place.is_empty() { "/" } else { &place };
        write!(f, "{} {} at {place}: {}: {}", self.severity, self.rule, self.message, self.excerpt)
    }
}

impl Kind {
    /// The member of a listing that holds such entries, as in MCP.
    pub fn member(self) -> &'static str {
        match self {
            Self::Tool => "tools",
            Self::Prompt => "prompts",
            Self::Resource => "resources",
            Self::Template => "resourceTemplates",
        }
    }

    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Tool, Self::Prompt, Self::Resource, Self::Template];
}

/// Scans one definition of the upstream of this name.
pub fn scan(kind: Kind, upstream: &str, definition: &Value, around: &Surroundings) -> Vec<Finding> {
    let fields = fields::of(kind, definition);
    let mut found = Found::default();
    for field in &fields {
        check_field(field, upstream, around, &mut found);
    }
    prose::check_together(&fields, &mut found);
    if kind == Kind::Tool {
        names::check(upstream, definition, around, &mut found);
    }
    found.finish()
}

/// Scans what a server says of itself when it is initialised.
pub fn scan_instructions(upstream: &str, instructions: &str, around: &Surroundings) -> Vec<Finding> {
    let mut found = Found::default();
    let field = Field { pointer: String::new(), role: Role::Instructions, text: instructions };
    check_field(&field, upstream, around, &mut found);
    found.finish()
}

/// Scans a listing: the entries of its `tools`, `prompts`, `resources` and `resourceTemplates`, and its `instructions`.
/// The listing's own tools are part of the surroundings. Pointers start at the listing.
pub fn scan_listing(upstream: &str, listing: &Value, around: &Surroundings) -> Vec<Finding> {
    let mut around = around.clone();
    around.add_listing(upstream, listing);
    let mut all = Vec::new();
    let mut keep = |prefix: String, found: Vec<Finding>| {
        all.extend(found.into_iter().map(|f| Finding { pointer: format!("{prefix}{}", f.pointer), ..f }));
    };
    if let Some(text) = listing.get("instructions").and_then(Value::as_str) {
        keep("/instructions".into(), scan_instructions(upstream, text, &around));
    }
    for kind in Kind::ALL {
        let entries = listing.get(kind.member()).and_then(Value::as_array);
        for (i, entry) in entries.into_iter().flatten().enumerate() {
            keep(format!("/{}/{i}", kind.member()), scan(kind, upstream, entry, &around));
        }
    }
    all
}

/// The gravest severity among findings.
pub fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|f| f.severity).max()
}

fn check_field(field: &Field<'_>, upstream: &str, around: &Surroundings, found: &mut Found) {
    hidden::check(field, found);
    // Types, patterns and names of members are for machines; where they hold sentences, a model reads them all the same.
    let sentences = Field { role: Role::Unlisted, ..field.clone() };
    let field = match field.role {
        Role::Machine if field.text.split(' ').nth(3).is_none() => return,
        Role::Machine => &sentences,
        _ => field,
    };
    let text = text::Text::new(field.text);
    prose::check(field, &text, found);
    paths::check(field, &text, found);
    urls::check(field, &text, found);
    markup::check(field, around, found);
    encoded::check(field, found);
    names::check_references(field, &text, upstream, around, found);
}

/// Findings on their way.
#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
}

impl Found {
    fn push(
        &mut self,
        rule: Rule,
        severity: Severity,
        field: &Field<'_>,
        range: std::ops::Range<usize>,
        message: impl Into<String>,
    ) {
        let known =
            |f: &Finding| f.rule == rule && f.pointer == field.pointer && f.start <= range.start && range.start < f.end;
        // One finding for each rule and stretch: the gravest.
        if let Some(before) = self.findings.iter_mut().find(|f| known(f)) {
            if before.severity < severity {
                before.severity = severity;
                before.message = message.into();
            }
            return;
        }
        // Collected with room to spare, so that the gravest survive the bound.
        if self.findings.len() < 16 * MAX_FINDINGS {
            self.findings.push(Finding {
                rule,
                severity,
                pointer: field.pointer.clone(),
                start: range.start,
                end: range.end,
                excerpt: excerpt(field.text, range),
                message: message.into(),
            });
        }
    }

    fn finish(mut self) -> Vec<Finding> {
        if self.findings.len() > MAX_FINDINGS {
            self.findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
            self.findings.truncate(MAX_FINDINGS);
        }
        self.findings.sort_by(|a, b| (&a.pointer, a.start, a.rule).cmp(&(&b.pointer, b.start, b.rule)));
        self.findings
    }
}

/// The range with up to twenty characters on both sides, bounded, on one line.
fn excerpt(text: &str, range: std::ops::Range<usize>) -> String {
    let clamp = |at: usize| {
        let mut at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (clamp(range.start), clamp(range.end));
    let from = text[..start].char_indices().rev().take(20).last().map_or(start, |(i, _)| i);
    let to = text[end..].char_indices().take(20).last().map_or(end, |(i, c)| end + i + c.len_utf8());
    let shown: String = text[from..to].chars().take(MAX_EXCERPT).map(|c| if c == '\n' { ' ' } else { c }).collect();
    let open = if from > 0 { "…" } else { "" };
    let close = if text[from..to].chars().nth(MAX_EXCERPT).is_some() || to < text.len() { "…" } else { "" };
    format!("{open}{}{close}", visible_line(&shown))
}
