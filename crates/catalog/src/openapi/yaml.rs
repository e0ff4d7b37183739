//! The manifest as a person would like to read it: short values on one line, long ones as blocks, comments for review.

use serde_json::{Map, Value};

use super::Note;
use super::operation::Tool;
use crate::visible::is_hidden;

/// How long a value on one line may be.
const LINE: usize = 100;

pub(super) fn render(head: &Map<String, Value>, tools: &[Tool], notes: &[Note]) -> String {
    let mut out = String::from("# Made from an OpenAPI document. Review before use:\n");
    out.push_str("# - every `effect`: it is guessed from the HTTP method, and decides what is recorded and retried;\n");
    out.push_str("# - every description: agents read it as instructions.\n");
    if !notes.is_empty() {
        out.push_str("#\n# Notes:\n");
        for note in notes {
            out.push_str(&format!("# - {}: {}\n", note.place, note.text));
        }
    }
    for (key, value) in head {
        member(&mut out, key, value, 0);
    }
    out.push_str("tools:\n");
    for tool in tools {
        out.push_str(&format!("  {}:\n", scalar(&tool.summary.name)));
        out.push_str(&format!("    effect: {} # by {}; review\n", tool.summary.effect.as_str(), tool.summary.method));
        for (key, value) in &tool.entry() {
            member(&mut out, key, value, 2);
        }
    }
    out
}

fn member(out: &mut String, key: &str, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let flow = flow(value);
    if depth > 1 && flow.len() <= LINE || is_leaf(value) {
        out.push_str(&format!("{indent}{}: {flow}\n", scalar(key)));
        return;
    }
    out.push_str(&format!("{indent}{}:\n", scalar(key)));
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| member(out, key, value, depth + 1)),
        Value::Array(items) => items.iter().for_each(|item| {
            out.push_str(&format!("{indent}  - {}\n", self::flow(item)));
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// On one line.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| format!("{}: {}", scalar(key), flow(value)));
            let text = members.collect::<Vec<_>>().join(", ");
            if text.is_empty() { "{}".to_owned() } else { format!("{{ {text} }}") }
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => scalar(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A text, quoted unless nobody could take it for anything else. What is hidden is escaped, so that a reviewer sees it.
fn scalar(text: &str) -> String {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.len() <= 60
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-/.".contains(c))
        && !words.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_hidden(c) => out.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
