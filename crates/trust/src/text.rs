//! Text from strangers on its way to people: cut to a length, and with everything hidden made visible.
//!
//! A hidden character is shown as `⟨U+202E⟩`. What counts as hidden is a table, so that this crate needs no database of
//! characters; a test holds it against one.

use std::borrow::Cow;

/// `text` with every hidden character shown as `⟨U+XXXX⟩`; line feeds and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    show(text, |c| c == '\n' || c == '\t')
}

/// Like [`visible`], for places that hold one line: line feeds and tabs are shown too.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    show(text, |_| false)
}

/// One visible line of at most `limit` characters of `text`; what was cut is an ellipsis.
pub(crate) fn short_line(text: &str, limit: usize) -> String {
    visible_line(&cut(text, limit)).into_owned()
}

/// At most `limit` characters, the last of them an ellipsis if there were more.
pub(crate) fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    if text.chars().nth(limit).is_none() {
        return Cow::Borrowed(text);
    }
    let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
    Cow::Owned(kept + "…")
}

/// Whether a person would not see this character for what it is. The brackets that mark hidden characters count, so
/// that nobody can write a mark by hand.
pub(crate) fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    let at = HIDDEN.partition_point(|(_, last)| *last < u32::from(c));
    HIDDEN.get(at).is_some_and(|(first, _)| *first <= u32::from(c))
}

/// Controls, formats, separators other than a blank, private use, and what is invisible though its category says letter
/// or mark; in order.
const HIDDEN: &[(u32, u32)] = &[
    (0x80, 0xa0),
    (0xad, 0xad),
    (0x34f, 0x34f),
    (0x600, 0x605),
    (0x61c, 0x61c),
    (0x6dd, 0x6dd),
    (0x70f, 0x70f),
    (0x890, 0x891),
    (0x8e2, 0x8e2),
    (0x115f, 0x1160),
    (0x1680, 0x1680),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x2000, 0x200f),
    (0x2028, 0x202f),
    (0x205f, 0x206f),
    (0x27e8, 0x27e9),
    (0x2800, 0x2800),
    (0x3000, 0x3000),
    (0x3164, 0x3164),
    (0xe000, 0xf8ff),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0x10ffff),
];

fn show(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let hidden = |c: char| is_hidden(c) && !keep(c);
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        if hidden(c) {
            out.push_str(&format!("⟨U+{:04X}⟩", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_general_category::{GeneralCategory, get_general_category};

    #[test]
    fn what_is_hidden_is_shown_and_the_rest_is_left_alone() {
        for (text, shown) in [
            ("plain text, naïve 日本語 😀", "plain text, naïve 日本語 😀"),
            ("two\nlines\tand a tab", "two\nlines\tand a tab"),
            ("\u{1b}[31mred", "⟨U+001B⟩[31mred"),
            ("user\u{202e}gnp.exe", "user⟨U+202E⟩gnp.exe"),
            ("tag\u{e0041}", "tag⟨U+E0041⟩"),
            ("forged ⟨U+202E⟩", "forged ⟨U+27E8⟩U+202E⟨U+27E9⟩"),
        ] {
            assert_eq!(visible(text), shown);
        }
        assert_eq!(visible_line("a\nb"), "a⟨U+000A⟩b");
        for (text, limit, expected) in
            [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("äöü", 2, "ä…"), ("", 0, ""), ("a", 1, "a")]
        {
            assert_eq!(cut(text, limit), expected);
        }
    }

    #[test]
    fn the_table_knows_every_character_that_unicode_calls_invisible() {
        let invisible = [
            GeneralCategory::Control,
            GeneralCategory::Format,
            GeneralCategory::LineSeparator,
            GeneralCategory::ParagraphSeparator,
            GeneralCategory::PrivateUse,
        ];
        for c in '\0'..=char::MAX {
            let category = get_general_category(c);
            if invisible.contains(&category) || (category == GeneralCategory::SpaceSeparator && c != ' ') {
                assert!(is_hidden(c), "U+{:04X} {category:?}", u32::from(c));
            }
            if c.is_alphanumeric() && get_general_category(c) == GeneralCategory::LowercaseLetter {
                assert!(!is_hidden(c), "U+{:04X}", u32::from(c));
            }
        }
    }
}
