//! Characters that no screen shows, told apart from the same characters where a language needs them.
//!
//! Emoji are joined by U+200D and followed by variation selectors; Persian and Indic scripts need joiners; Hebrew and Arabic
//! have direction marks; three flags are spelled with tag characters. Everything else that is invisible has no honest reason
//! in a definition, or is harmless litter (a byte order mark, a lone U+200B), which is told by how much there is of it.

use super::fields::Field;
use super::{Found, Rule, Severity};

/// This many invisible characters in a row carry data.
const RUN: usize = 4;

pub(super) fn check(field: &Field<'_>, found: &mut Found) {
    if field.text.is_ascii() && !field.text.bytes().any(|b| b.is_ascii_control()) {
        return;
    }
    let chars: Vec<(usize, char)> = field.text.char_indices().collect();
    let rtl = chars.iter().any(|&(_, c)| is_right_to_left(c));
    let mut i = 0;
    while i < chars.len() {
        let end = match class(chars[i].1) {
            Class::Shown => i + 1,
            Class::Tag => tags(field, &chars, i, found),
            Class::Selector => selectors(field, &chars, i, found),
            Class::ZeroWidth => zero_width(field, &chars, i, found),
            Class::Direction => direction(field, &chars, i, rtl, found),
            Class::Control => {
                let message = format!("the control character U+{:04X}", u32::from(chars[i].1));
                report(field, &chars, i..i + 1, Severity::High, message, found);
                i + 1
            }
        };
        i = end.max(i + 1);
    }
    if let Some(at) = unbalanced(&chars) {
        report(field, &chars, at..at + 1, Severity::High, "a change of direction that is never closed", found);
    }
}

enum Class {
    Shown,
    Tag,
    Selector,
    ZeroWidth,
    Direction,
    Control,
}

fn class(c: char) -> Class {
    match u32::from(c) {
        0x0a | 0x0d | 0x09 => Class::Shown,
        0..=0x1f | 0x7f..=0x9f => Class::Control,
        0xe0000..=0xe007f => Class::Tag,
        0xfe00..=0xfe0f | 0xe0100..=0xe01ef | 0x180b..=0x180d | 0x180f => Class::Selector,
        0x200b..=0x200d
        | 0x2060..=0x2064
        | 0xfeff
        | 0x180e
        | 0x034f
        | 0x115f
        | 0x1160
        | 0x3164
        | 0xffa0
        | 0x2800
        | 0x206a..=0x206f
        | 0xfff9..=0xfffb
        | 0x1d173..=0x1d17a => Class::ZeroWidth,
        0x200e | 0x200f | 0x061c | 0x202a..=0x202e | 0x2066..=0x2069 => Class::Direction,
        _ => Class::Shown,
    }
}

fn report(
    field: &Field<'_>,
    chars: &[(usize, char)],
    range: std::ops::Range<usize>,
    severity: Severity,
    message: impl Into<String>,
    found: &mut Found,
) {
    let end = chars.get(range.end).map_or(field.text.len(), |&(at, _)| at);
    found.push(Rule::HiddenText, severity, field, chars[range.start].0..end, message);
}

fn run(chars: &[(usize, char)], from: usize, same: impl Fn(char) -> bool) -> usize {
    from + chars[from..].iter().take_while(|&&(_, c)| same(c)).count()
}

/// Tag characters: a flag of a region, or text that only a model reads.
fn tags(field: &Field<'_>, chars: &[(usize, char)], from: usize, found: &mut Found) -> usize {
    let end = run(chars, from, |c| matches!(class(c), Class::Tag));
    let flag = from > 0
        && chars[from - 1].1 == '\u{1f3f4}'
        && chars[end - 1].1 == '\u{e007f}'
        && (4..=7).contains(&(end - from));
    if !flag {
        let text: String = chars[from..end]
            .iter()
            .filter_map(|&(_, c)| char::from_u32(u32::from(c) - 0xe0000))
            .filter(|c| !c.is_control())
            .take(80)
            .collect();
        report(field, chars, from..end, Severity::Critical, format!("tag characters that spell {text:?}"), found);
    }
    end
}

fn selectors(field: &Field<'_>, chars: &[(usize, char)], from: usize, found: &mut Found) -> usize {
    let end = run(chars, from, |c| matches!(class(c), Class::Selector));
    let after_letter = from == 0 || chars[from - 1].1.is_ascii_alphabetic() || chars[from - 1].1.is_whitespace();
    if end - from > 1 {
        let severity = if end - from >= RUN { Severity::Critical } else { Severity::High };
        report(
            field,
            chars,
            from..end,
            severity,
            format!("{} variation selectors in a row carry data", end - from),
            found,
        );
    } else if after_letter {
        report(
            field,
            chars,
            from..end,
            Severity::Medium,
            "a variation selector behind a character that has no variants",
            found,
        );
    }
    end
}

fn zero_width(field: &Field<'_>, chars: &[(usize, char)], from: usize, found: &mut Found) -> usize {
    let end = run(chars, from, |c| matches!(class(c), Class::ZeroWidth));
    let before = from.checked_sub(1).map(|i| chars[i].1);
    let after = chars.get(end).map(|&(_, c)| c);
    let latin = |c: Option<char>| c.is_some_and(|c| c.is_alphabetic() && (u32::from(c) < 0x0250));
    let needs_joiner = |c: Option<char>| c.is_some_and(|c| !latin(Some(c)) && !c.is_whitespace() && !c.is_ascii());
    let joiner = matches!(chars[from].1, '\u{200c}' | '\u{200d}');
    let (severity, message) = match end - from {
        n if n >= RUN => (Severity::Critical, format!("{n} characters of no width in a row carry data")),
        1 if joiner && needs_joiner(before) => return end,
        // Thai, Lao, Khmer and Burmese break lines with it.
        1 if chars[from].1 == '\u{200b}' && needs_joiner(before) && needs_joiner(after) => return end,
        _ if latin(before) && latin(after) => (Severity::High, "a character of no width inside of a word".to_owned()),
        1 => (Severity::Low, format!("the character U+{:04X}, which has no width", u32::from(chars[from].1))),
        n => (Severity::Medium, format!("{n} characters of no width in a row")),
    };
    report(field, chars, from..end, severity, message, found);
    end
}

fn direction(field: &Field<'_>, chars: &[(usize, char)], at: usize, rtl: bool, found: &mut Found) -> usize {
    let c = chars[at].1;
    let (severity, message) = match c {
        '\u{202d}' | '\u{202e}' => (Severity::High, "an override of the direction shows the text in another order"),
        _ if rtl => return at + 1,
        '\u{202a}' | '\u{202b}' | '\u{2066}'..='\u{2068}' => {
            (Severity::Medium, "a change of direction in a text of one direction")
        }
        _ => (Severity::Low, "a direction mark in a text of one direction"),
    };
    report(field, chars, at..at + 1, severity, message, found);
    at + 1
}

/// The first embedding or isolate that is not closed (CVE-2021-42574), beside the overrides, which count anyway.
fn unbalanced(chars: &[(usize, char)]) -> Option<usize> {
    let mut open = Vec::new();
    for (i, &(_, c)) in chars.iter().enumerate() {
        match c {
            '\u{202a}' | '\u{202b}' => open.push((i, '\u{202c}')),
            '\u{2066}'..='\u{2068}' => open.push((i, '\u{2069}')),
            '\u{202c}' | '\u{2069}' if open.last().is_some_and(|&(_, close)| close == c) => {
                open.pop();
            }
            _ => {}
        }
    }
    open.first().map(|&(i, _)| i)
}

fn is_right_to_left(c: char) -> bool {
    matches!(u32::from(c), 0x0590..=0x08ff | 0xfb1d..=0xfdff | 0xfe70..=0xfefc | 0x10800..=0x10fff | 0x1e800..=0x1efff)
}
