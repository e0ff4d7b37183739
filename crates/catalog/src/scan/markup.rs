//! What renderers hide or follow: comments, invisible elements, chat templates, links with data in them, blank space.

use super::fields::{Field, Role};
use super::{Found, Rule, Severity, Surroundings, encoded, prose, text::Text, urls};

/// A stretch of blank space from this many line feeds or characters on moves the rest out of sight.
const BLANK_LINES: usize = 20;
const BLANK: usize = 300;
/// How much of a link is looked at.
const MAX_LINK: usize = 1_000;
/// The longest tag that is looked at, in bytes on either side.
const MAX_TAG: usize = 300;
/// What a link must not carry out.
const CARRIED: &[&str] = &[
    "conversation",
    "chat",
    "history",
    "message",
    "secret",
    "password",
    "prompt",
    "context",
    "memory",
    "credential",
    "api_key",
    "apikey",
    "environment",
    "cookie",
    "transcript",
];
/// Openings of a turn in the templates of chat models, followed by a role.
const TURNS: &[&str] = &["<|im_start|>", "<|start_header_id|>", "<|start|>", "<start_of_turn>", "<|"];
const ROLES: &[&str] = &["system", "user", "assistant", "developer", "model", "tool"];
const TEMPLATES: &[&str] = &["[inst]", "<<sys>>", "[system]\n", "</system>", "<system>"];

pub(super) fn check(field: &Field<'_>, around: &Surroundings, found: &mut Found) {
    let lower = field.text.to_ascii_lowercase();
    hidden_parts(field, &lower, around, found);
    turns(field, &lower, found);
    links(field, &lower, found);
    padding(field, found);
}

/// Comments and invisible elements that speak to the model.
fn hidden_parts(field: &Field<'_>, lower: &str, around: &Surroundings, found: &mut Found) {
    for (open, close) in [("<!--", "-->"), ("[//]: #", "\n"), ("{#", "#}"), ("<!", ">")] {
        let mut from = 0;
        while let Some(at) = lower[from..].find(open).map(|i| from + i) {
            let start = at + open.len();
            let end = lower[start..].find(close).map_or(lower.len(), |i| start + i);
            hidden_part(field, start..end, around, found);
            from = end;
        }
    }
    for style in [
        "display:none",
        "display: none",
        "visibility:hidden",
        "visibility: hidden",
        "font-size:0",
        "font-size: 0",
        "opacity:0",
        "opacity: 0",
        " hidden>",
    ] {
        let mut from = 0;
        while let Some(at) = lower[from..].find(style).map(|i| from + i) {
            from = at + style.len();
            let Some(start) = element_around(lower.as_bytes(), at) else { continue };
            let end = lower[start..].find("</").map_or(lower.len(), |i| start + i);
            hidden_part(field, start..end, around, found);
            from = end.max(from);
        }
    }
}

/// The byte behind the tag that holds this byte, if a tag of sensible length does.
fn element_around(text: &[u8], at: usize) -> Option<usize> {
    let before = &text[at.saturating_sub(MAX_TAG)..at];
    let open = before.iter().rposition(|b| *b == b'<')?;
    if before[open..].contains(&b'>') {
        return None;
    }
    text[at..].iter().take(MAX_TAG).position(|b| *b == b'>').map(|i| at + i + 1)
}

fn hidden_part(field: &Field<'_>, range: std::ops::Range<usize>, around: &Surroundings, found: &mut Found) {
    let part = &field.text[range.clone()];
    let text = Text::new(part);
    let names_tool = (0..text.words.len()).any(|i| around.is_distinct_name(text.word(i)));
    let speaks = prose::addresses_model(&text).is_some()
        || encoded::what_is_said(part).is_some()
        || (names_tool && text.is_addressed(0));
    if speaks {
        found.push(
            Rule::HiddenMarkup,
            Severity::High,
            field,
            range,
            "text that rendered pages hide speaks to the model",
        );
    }
}

/// A new turn of the conversation, as chat templates open it.
fn turns(field: &Field<'_>, lower: &str, found: &mut Found) {
    let message = "opens a new turn of the conversation, as a chat template does";
    for open in TURNS {
        for (at, _) in lower.match_indices(open) {
            let after = &lower[at + open.len()..];
            let role = ROLES.iter().find(|role| after.starts_with(**role));
            let ends = role.is_some_and(|role| after[role.len()..].starts_with(['\n', '|', '>', '<']));
            if let Some(role) = role.filter(|_| ends) {
                found.push(Rule::Authority, Severity::Critical, field, at..at + open.len() + role.len(), message);
            }
        }
    }
    for open in TEMPLATES {
        if let Some(at) = lower.find(open) {
            found.push(Rule::Authority, Severity::Medium, field, at..at + open.len(), message);
        }
    }
}

/// Addresses with a place for the conversation or for secrets: rendering or following them carries that out.
fn links(field: &Field<'_>, lower: &str, found: &mut Found) {
    if matches!(field.role, Role::Uri | Role::Machine) {
        return;
    }
    for (mark, _) in lower.match_indices("://") {
        let rest = urls::window(&lower[mark..], MAX_LINK);
        let end = rest.find(|c: char| c.is_whitespace() || c == '"' || c == '`').unwrap_or(rest.len());
        let address = &rest[..end];
        let mut places = address.match_indices(['{', '<', '[', '$']).map(|(i, _)| &address[i..]);
        let carries = places.find_map(|place| {
            let inside = &place[..place.find(['}', '>', ']', '&', ')']).unwrap_or(place.len())];
            CARRIED.iter().find(|word| inside.contains(**word) && !inside.contains("_id"))
        });
        if carries.is_some() {
            let image = lower.as_bytes()[mark.saturating_sub(12)..mark].windows(2).any(|pair| pair == b"](");
            let severity = if image { Severity::High } else { Severity::Medium };
            found.push(
                Rule::ExfilLink,
                severity,
                field,
                mark..mark + end,
                "a link with a place for the conversation or for secrets",
            );
        }
    }
}

fn padding(field: &Field<'_>, found: &mut Found) {
    let (mut start, mut lines) = (0, 0);
    for (i, c) in field.text.char_indices() {
        if c.is_whitespace() {
            lines += usize::from(c == '\n');
        } else {
            if i > start && (lines >= BLANK_LINES || i - start >= BLANK) {
                found.push(Rule::Padding, Severity::Medium, field, start..i, "much blank space, and text behind it");
            }
            (start, lines) = (i + c.len_utf8(), 0);
        }
    }
}
