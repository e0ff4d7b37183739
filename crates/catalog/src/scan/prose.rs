//! What the words of a definition say to the model.

use super::fields::{Field, Role};
use super::phrases::{Match, PHRASES};
use super::text::{Gap, Text};
use super::words::COMMANDS;
use super::{Found, Rule, Severity};

/// At most this many bytes of descriptions are read together.
const MAX_TOGETHER: usize = 64 << 10;
/// How many words after its name a model may be commanded.
const ADDRESS_REACH: usize = 16;

/// By what a text calls a model.
#[rustfmt::skip]
const MODELS: &[&str] = &[
    "assistant", "assistants", "llm", "llms", "model", "models", "ai", "ais", "agent", "agents", "claude", "chatgpt",
    "gpt", "copilot", "gemini", "bot", "chatbot",
];

pub(super) fn check(field: &Field<'_>, text: &Text, found: &mut Found) {
    if field.role == Role::ParameterName {
        // The words of a name are joined by underscores; spaces keep every offset.
        let spaced = field.text.replace(['_', '-'], " ");
        return check_phrases(field, &Text::new(&spaced), found);
    }
    check_phrases(field, text, found);
    if let Some(at) = addresses_model(text).filter(|_| !matches!(field.role, Role::Message | Role::Instructions)) {
        let data = field.role.is_data();
        let severity = if data { Severity::High } else { Severity::Low };
        let message = if data { "speaks to the model where only data belongs" } else { "speaks to the model by name" };
        found.push(Rule::Misplaced, severity, field, text.span(at..at + 6), message);
    }
    if let Some(at) = claims_to_be_system(text) {
        found.push(
            Rule::Authority,
            Severity::High,
            field,
            text.span(at..at + 8),
            "claims to be a message of the system",
        );
    }
}

fn check_phrases(field: &Field<'_>, text: &Text, found: &mut Found) {
    PHRASES.find(text, |m| {
        if let Some(severity) = counts(&m, text, field.role) {
            found.push(m.phrase.rule, severity, field, text.span(m.words), m.phrase.message);
        }
    });
}

/// How grave a phrase is where it stands; `None` where it says nothing to the model.
fn counts(m: &Match<'_>, text: &Text, role: Role) -> Option<Severity> {
    let (phrase, at) = (m.phrase, m.words.start);
    if phrase.command && !text.begins(at) {
        return None;
    }
    if phrase.asking && !role.asks() && !text.is_addressed(at) {
        return None;
    }
    if phrase.addressed && !text.is_addressed(at) {
        return None;
    }
    if !phrase.negative && (text.is_denied(at) || (!phrase.command && text.is_refused(m.words.end))) {
        return None;
    }
    // Quoted as what others say: worth knowing, no more.
    Some(if text.words[at].quoted { Severity::Info } else { phrase.severity })
}

/// The word by which a model is called and then told to do something: "assistant: …", "[LLM] …", "to the agent: …".
pub(super) fn addresses_model(text: &Text) -> Option<usize> {
    (0..text.words.len()).find(|&at| {
        let called = MODELS.contains(&text.word(at)) && !text.words[at].quoted;
        let to_the = at >= 2 && text.word(at - 1) == "the" && matches!(text.word(at - 2), "to" | "for" | "note");
        let calls = called
            && (at == 0 || text.words[at].gap >= Gap::Comma || to_the)
            && text.words.get(at + 1).is_some_and(|next| next.gap >= Gap::Comma);
        calls
            && (at + 1..text.words.len()).take(ADDRESS_REACH).any(|i| {
                let word = text.word(i);
                word == "you" || (COMMANDS.contains(&word) && text.begins(i))
            })
    })
}

/// A line that begins "System:" and goes on to speak to the reader.
fn claims_to_be_system(text: &Text) -> Option<usize> {
    (0..text.words.len()).find(|&at| {
        let word = &text.words[at];
        matches!(text.word(at), "system" | "developer")
            && !word.quoted
            && (at == 0 || word.gap >= Gap::Comma)
            && text.folded[word.folded.end..].trim_start_matches(['>', ']', '*', ' ']).starts_with(':')
            && (at + 1..text.words.len()).take(2 * ADDRESS_REACH).any(|i| matches!(text.word(i), "you" | "your"))
    })
}

/// Reads title, description and parameters as one text: a model does, and an instruction may be cut over them.
pub(super) fn check_together(fields: &[Field<'_>], found: &mut Found) {
    let mut whole = String::new();
    let mut starts = Vec::new();
    for field in fields.iter().filter(|f| matches!(f.role, Role::Description | Role::Parameter)) {
        if whole.len() + field.text.len() > MAX_TOGETHER {
            break;
        }
        starts.push((whole.len(), field));
        whole.push_str(field.text);
        whole.push(' ');
    }
    if starts.len() < 2 {
        return;
    }
    let text = Text::new(&whole);
    PHRASES.find(&text, |m| {
        let span = text.span(m.words.clone());
        let holder = |byte: usize| starts.partition_point(|(start, _)| *start <= byte).saturating_sub(1);
        let (first, last) = (holder(span.start), holder(span.end.saturating_sub(1)));
        if first == last || m.phrase.severity < Severity::High {
            return;
        }
        let (start, field) = &starts[first];
        if counts(&m, &text, field.role).is_some_and(|s| s >= Severity::High) {
            let message = format!("{}, in pieces: it goes on at {}", m.phrase.message, starts[last].1.pointer);
            found.push(Rule::Split, Severity::High, field, span.start - start..field.text.len(), message);
        }
    });
}
