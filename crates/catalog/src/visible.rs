//! Text from strangers, made safe to look at.
//!
//! Tool descriptions, arguments and log lines may carry characters that a terminal or a browser acts on or does not show:
//! ANSI escapes, bidirectional overrides (CVE-2021-42574), zero-width and tag characters. [`visible`] shows each as
//! `⟨U+202E⟩`, so that what a person agrees to is what is there.

use std::borrow::Cow;

use unicode_general_category::{GeneralCategory, get_general_category};

/// `text` with every hidden character shown as `⟨U+XXXX⟩`; line feeds and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    show(text, |c| c == '\n' || c == '\t')
}

/// Like [`visible`], for places that hold one line: line feeds and tabs are shown too.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    show(text, |_| false)
}

/// Whether a person would not see this character for what it is. The brackets that mark hidden characters count, so that
/// nobody can write a mark by hand.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    match c {
        '⟨' | '⟩' => true,
        // Blank or invisible, though their general category says letter, mark or symbol.
        '\u{034f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' => true,
        '\u{180b}'..='\u{180f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0000}'..='\u{e0fff}' => true,
        _ => matches!(
            get_general_category(c),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
                | GeneralCategory::SpaceSeparator
                | GeneralCategory::PrivateUse
                | GeneralCategory::Surrogate
                | GeneralCategory::Unassigned
        ),
    }
}

/// The hidden characters of `text` except line feeds and tabs, with their byte offsets; at most `limit`.
pub fn hidden_characters(text: &str, limit: usize) -> Vec<(usize, char)> {
    let found = text.char_indices().filter(|&(_, c)| is_hidden(c) && c != '\n' && c != '\t');
    found.take(limit).collect()
}

/// For messages of ours that already hold marks beside text that may not have been through [`visible`].
pub(crate) fn visible_message(text: &str) -> Cow<'_, str> {
    show(text, |c| c == '⟨' || c == '⟩')
}

fn show(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let Some(first) = text.find(|c| is_hidden(c) && !keep(c)) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len() + 64);
    out.push_str(&text[..first]);
    for c in text[first..].chars() {
        if is_hidden(c) && !keep(c) {
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

    #[test]
    fn what_is_hidden_is_shown_and_the_rest_is_left_alone() {
        for (text, shown) in [
            ("plain text, naïve 日本語 😀", "plain text, naïve 日本語 😀"),
            ("two\nlines\tand a tab", "two\nlines\tand a tab"),
            ("\u{1b}[31mred", "⟨U+001B⟩[31mred"),
            ("a\rb\u{8}c\u{7f}", "a⟨U+000D⟩b⟨U+0008⟩c⟨U+007F⟩"),
            ("user\u{202e}gnp.exe", "user⟨U+202E⟩gnp.exe"),
            ("zero\u{200b}width\u{feff}", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
            ("tag\u{e0041}", "tag⟨U+E0041⟩"),
            ("no\u{a0}break", "no⟨U+00A0⟩break"),
            ("filler\u{3164}", "filler⟨U+3164⟩"),
            ("selector\u{fe01}\u{e0101}", "selector⟨U+FE01⟩⟨U+E0101⟩"),
            ("forged ⟨U+202E⟩", "forged ⟨U+27E8⟩U+202E⟨U+27E9⟩"),
        ] {
            assert_eq!(visible(text), shown);
        }
        assert_eq!(visible_line("a\nb"), "a⟨U+000A⟩b");
        assert!(matches!(visible("untouched"), Cow::Borrowed(_)));
    }

    #[test]
    fn hidden_characters_are_located() {
        assert_eq!(hidden_characters("a\u{200b}b\n\u{202e}", 10), vec![(1, '\u{200b}'), (6, '\u{202e}')]);
        assert_eq!(hidden_characters("\u{200b}\u{200b}", 1).len(), 1);
    }
}
