//! Names against the whole catalog: look-alikes, typing errors, and words about other servers' tools.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::fields::{Field, Role};
use super::text::Text;
use super::{Found, Rule, Severity};
use crate::names::confusable_key;

/// At most this many tools are compared with.
const MAX_TOOLS: usize = 20_000;
/// Names shorter than this are one typing error away from too many others.
const MIN_SQUATTED: usize = 5;
/// Words that make a mention of another server's tool a rule about it.
const RULES: &[&str] =
    &["must", "always", "never", "every", "deprecated", "don't", "forbidden", "mandatory", "disregard", "replaces"];

/// The tools that there are, of all upstreams.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    tools: Vec<Known>,
    by_name: HashMap<String, Vec<usize>>,
    by_key: HashMap<String, Vec<usize>>,
    /// Every name, and every name without one of its characters: two names that are one error apart share one of these.
    by_error: HashMap<String, Vec<usize>>,
}

#[derive(Debug, Clone)]
struct Known {
    upstream: String,
    name: String,
    words: BTreeSet<String>,
    parameters: BTreeSet<String>,
}

impl Known {
    fn of(upstream: &str, tool: &Value) -> Option<Self> {
        let name = tool.get("name")?.as_str()?;
        let description = tool.get("description").and_then(Value::as_str).unwrap_or_default();
        let words = description.split(|c: char| !c.is_alphanumeric()).filter(|w| w.len() > 2).take(200);
        let parameters = tool.pointer("/inputSchema/properties").and_then(Value::as_object);
        Some(Self {
            upstream: upstream.to_owned(),
            name: name.chars().take(128).collect(),
            words: words.map(str::to_lowercase).collect(),
            parameters: parameters.into_iter().flat_map(|p| p.keys().take(100).cloned()).collect(),
        })
    }

    /// Whether it reads like the other: the same words, or the same parameters and some of the words.
    fn imitates(&self, other: &Self) -> bool {
        let share = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
            let both = a.intersection(b).count();
            // In hundredths of all words that either has.
            (both * 100).checked_div(a.len() + b.len() - both).unwrap_or(0)
        };
        let words = share(&self.words, &other.words);
        words >= 60 || (words >= 25 && !self.parameters.is_empty() && self.parameters == other.parameters)
    }
}

impl Surroundings {
    /// Adds one tool of an upstream.
    pub fn add(&mut self, upstream: &str, tool: &Value) {
        let Some(known) = Known::of(upstream, tool).filter(|_| self.tools.len() < MAX_TOOLS) else { return };
        let index = self.tools.len();
        self.by_name.entry(known.name.to_lowercase()).or_default().push(index);
        self.by_key.entry(confusable_key(&known.name)).or_default().push(index);
        for form in one_less(&known.name) {
            self.by_error.entry(form).or_default().push(index);
        }
        self.tools.push(known);
    }

    /// Adds the tools of a listing.
    pub fn add_listing(&mut self, upstream: &str, listing: &Value) {
        for tool in listing.get("tools").and_then(Value::as_array).into_iter().flatten() {
            self.add(upstream, tool);
        }
    }

    /// Whether a word is the name of a tool, and no word of the language.
    pub(super) fn is_distinct_name(&self, word: &str) -> bool {
        is_distinct(word) && self.by_name.contains_key(word)
    }

    fn at<'a>(&'a self, map: &'a HashMap<String, Vec<usize>>, key: &str) -> impl Iterator<Item = &'a Known> {
        map.get(key).into_iter().flatten().take(64).map(|&index| &self.tools[index])
    }
}

fn is_distinct(word: &str) -> bool {
    word.len() > 3 && word.contains('_')
}

/// The name in lower case, and without each of its characters in turn.
fn one_less(name: &str) -> BTreeSet<String> {
    let chars: Vec<char> = name.to_lowercase().chars().take(64).collect();
    let without = |skip: usize| chars.iter().enumerate().filter(|(i, _)| *i != skip).map(|(_, c)| *c).collect();
    (0..=chars.len()).map(without).collect()
}

/// Case and separators aside.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | '.' | '/' | ':')).flat_map(char::to_lowercase).collect()
}

pub(super) fn check(upstream: &str, tool: &Value, around: &Surroundings, found: &mut Found) {
    let Some(known) = Known::of(upstream, tool) else { return };
    let Some(text) = tool.get("name").and_then(Value::as_str) else { return };
    let field = Field { pointer: "/name".into(), role: Role::Name, text };
    let whole = 0..text.len();
    let mixed = text.chars().any(|c| c.is_ascii_alphabetic())
        && text.chars().any(|c| c.is_alphabetic() && confusable_key(&c.to_string()).is_ascii() && !c.is_ascii());
    if mixed {
        found.push(
            Rule::Confusable,
            Severity::High,
            &field,
            whole.clone(),
            "letters of other scripts that look like Latin ones",
        );
    }
    for other in around.at(&around.by_key, &confusable_key(text)) {
        if plain(&other.name) != plain(text) {
            let message = format!("it looks like {}:{}", other.upstream, other.name);
            found.push(Rule::Confusable, Severity::High, &field, whole.clone(), message);
        } else if other.upstream == upstream && other.name != text {
            let message = format!("it differs from {}:{} only in case or separators", other.upstream, other.name);
            found.push(Rule::Confusable, Severity::Medium, &field, whole.clone(), message);
        }
    }
    if text.chars().count() < MIN_SQUATTED {
        return;
    }
    for form in one_less(text) {
        for other in around.at(&around.by_error, &form) {
            if other.upstream != upstream && plain(&other.name) != plain(text) && known.imitates(other) {
                let message =
                    format!("one typing error away from {}:{}, and it reads like it", other.upstream, other.name);
                found.push(Rule::Typosquat, Severity::High, &field, whole.clone(), message);
            }
        }
    }
}

/// Words about tools of other servers: a mention is worth knowing, a rule about them is shadowing.
pub(super) fn check_references(
    field: &Field<'_>,
    text: &Text,
    upstream: &str,
    around: &Surroundings,
    found: &mut Found,
) {
    if matches!(field.role, Role::Name | Role::ParameterName | Role::Uri) {
        return;
    }
    for at in 0..text.words.len() {
        let word = text.word(at);
        let Some(known) = around.by_name.get(word) else { continue };
        if known.iter().any(|&index| around.tools[index].upstream == upstream) {
            continue;
        }
        let near = at.saturating_sub(4)..(at + 5).min(text.words.len());
        let named = |index: &&usize| {
            let other = &around.tools[**index];
            is_distinct(word)
                || other.name.chars().skip(1).any(char::is_uppercase)
                || near.clone().any(|i| text.word(i) == other.upstream)
        };
        let Some(other) = known.iter().find(named).map(|&index| &around.tools[index]) else { continue };
        let sentence = text.sentence(at);
        let rules = sentence
            .clone()
            .any(|i| RULES.contains(&text.word(i)) || (text.word(i) == "not" && i > 0 && text.word(i - 1) == "do"));
        let spoken_of = text.words[at].quoted;
        let (severity, message) = if rules && !spoken_of {
            (Severity::High, format!("makes a rule about {}:{}, a tool of another server", other.upstream, other.name))
        } else {
            (Severity::Info, format!("mentions {}:{}, a tool of another server", other.upstream, other.name))
        };
        found.push(Rule::Shadowing, severity, field, text.span(at..at + 1), message);
    }
}
