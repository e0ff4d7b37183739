//! A string as a model reads it: folded to plain letters, cut into words with clauses, quotation and negation.
//!
//! Folding undoes what hides words from word lists: full-width and mathematical letters, letters of other scripts inside of
//! Latin words, characters without width, case. Every word knows its bytes in the original.

use std::ops::Range;

use super::words::{COMMANDS, DENIAL_STEMS, DENIALS, LEADERS, OBLIGED, OMISSIONS, REFUSALS, REPORTS, YOU};
use unicode_general_category::{GeneralCategory, get_general_category};

/// How far a negation reaches back and forth, in words.
const REACH: usize = 24;

/// What stands between a word and the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gap {
    /// Nothing or blank space.
    None,
    /// A comma, a bracket, a line's end.
    Comma,
    /// A colon, a semicolon, a dash.
    Clause,
    /// The end of a sentence, or a blank line.
    Sentence,
}

/// One word.
#[derive(Debug, Clone)]
pub(super) struct Word {
    /// Bytes in the folded text.
    pub folded: Range<usize>,
    /// Bytes in the original.
    pub bytes: Range<usize>,
    /// What is in front of it.
    pub gap: Gap,
    /// Whether it is quoted as an example of what others say.
    pub quoted: bool,
}

/// A folded, cut text.
pub(super) struct Text {
    /// Lower-case, without what has no width.
    pub folded: String,
    /// For each byte of `folded`, the byte of the original.
    origin: Vec<u32>,
    pub words: Vec<Word>,
}

impl Text {
    pub(super) fn new(original: &str) -> Self {
        let (folded, origin) = fold(original);
        let mut text = Self { folded, origin, words: Vec::new() };
        text.cut();
        text.mark_quotes();
        text
    }

    pub(super) fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", |w| &self.folded[w.folded.clone()])
    }

    /// Bytes of the original behind bytes of the folded text.
    pub(super) fn original(&self, folded: Range<usize>) -> Range<usize> {
        let at = |i: usize| self.origin.get(i).map_or(0, |&o| o as usize);
        at(folded.start)..at(folded.end).max(at(folded.start))
    }

    /// Bytes of the original from one word to another.
    pub(super) fn span(&self, words: Range<usize>) -> Range<usize> {
        let start = self.words.get(words.start).map_or(0, |w| w.bytes.start);
        let end = self.words.get(words.end.saturating_sub(1)).map_or(start, |w| w.bytes.end);
        start..end.max(start)
    }

    /// The first word at or after a byte of the folded text.
    pub(super) fn word_at(&self, folded: usize) -> usize {
        self.words.partition_point(|w| w.folded.end <= folded)
    }

    /// The words of the sentence around a word.
    pub(super) fn sentence(&self, at: usize) -> Range<usize> {
        let mut start = at.min(self.words.len().saturating_sub(1));
        while start > 0 && self.words[start].gap < Gap::Sentence && at - start < 4 * REACH {
            start -= 1;
        }
        let mut end = at + 1;
        while end < self.words.len() && self.words[end].gap < Gap::Sentence && end - at < 4 * REACH {
            end += 1;
        }
        start..end.min(self.words.len())
    }

    /// Whether a command can begin with this word: nothing in front of it is its subject.
    pub(super) fn begins(&self, at: usize) -> bool {
        let Some(word) = self.words.get(at) else { return false };
        if at == 0 || word.gap > Gap::None {
            return true;
        }
        let before = self.word(at - 1);
        if LEADERS.contains(&before) {
            return true;
        }
        before == "to" && at >= 2 && OBLIGED.contains(&self.word(at - 2))
    }

    /// Whether the sentence around a word speaks to its reader: a command, or "you".
    pub(super) fn is_addressed(&self, at: usize) -> bool {
        self.sentence(at).any(|i| {
            let word = self.word(i);
            YOU.contains(&word) || (COMMANDS.contains(&word) && self.begins(i))
        })
    }

    /// Whether what begins at a word is denied: "never reads …", "do not paste …".
    pub(super) fn is_denied(&self, at: usize) -> bool {
        let mut i = at;
        let mut command = None;
        while i > 0 && at - i < REACH {
            if self.words[i].gap >= Gap::Clause {
                return false;
            }
            let after_comma = |i: usize| self.words[i].gap == Gap::Comma;
            let led = LEADERS.contains(&self.word(i - 1)) && after_comma(i - 1);
            if COMMANDS.contains(&self.word(i)) && (after_comma(i) || led) {
                command = Some(i);
            }
            i -= 1;
            let word = self.word(i);
            if DENIALS.contains(&word) || DENIAL_STEMS.iter().any(|stem| word.starts_with(stem)) {
                // "Never forget to …" denies nothing, and a command of its own after a comma is not denied by what stands
                // before the comma, unless that is a list: "never read, copy or send …".
                let doubled = (i + 1..at).take(3).any(|j| OMISSIONS.contains(&self.word(j)));
                let list = |command: usize| command - i <= 2 && COMMANDS.contains(&self.word(i + 1));
                let anew = command.is_some_and(|command| !list(command));
                if !doubled {
                    return !anew;
                }
            }
        }
        false
    }

    /// Whether the rest of the sentence says that what came before is refused, removed or never done.
    pub(super) fn is_refused(&self, at: usize) -> bool {
        let sentence = self.sentence(at);
        (at..sentence.end).take(REACH).any(|i| {
            let word = self.word(i);
            matches!(word, "never" | "not" | "nie" | "nunca" | "jamais")
                || REFUSALS.iter().any(|stem| word.starts_with(stem))
        })
    }

    fn cut(&mut self) {
        let mut gap = Gap::Sentence;
        let mut start = None;
        let chars: Vec<(usize, char)> = self.folded.char_indices().collect();
        let mut words = Vec::new();
        let close = |start: &mut Option<usize>, end: usize, gap: &mut Gap, words: &mut Vec<(Range<usize>, Gap)>| {
            if let Some(from) = start.take() {
                words.push((from..end, *gap));
                *gap = Gap::None;
            }
        };
        for (n, &(i, c)) in chars.iter().enumerate() {
            let next = chars.get(n + 1).map(|&(_, c)| c);
            let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() && !is_ideograph(c));
            if is_ideograph(c) {
                close(&mut start, i, &mut gap, &mut words);
                words.push((i..i + c.len_utf8(), gap));
                gap = Gap::None;
            } else if c.is_alphanumeric() || c == '_' || (c == '\'' && start.is_some() && inside(next)) || is_mark(c) {
                start.get_or_insert(i);
            } else {
                close(&mut start, i, &mut gap, &mut words);
                gap = gap.max(gap_of(c, next));
            }
        }
        close(&mut start, self.folded.len(), &mut gap, &mut words);
        self.words = words
            .into_iter()
            .map(|(folded, gap)| Word { bytes: self.original(folded.clone()), folded, gap, quoted: false })
            .collect();
    }

    /// Marks what is quoted behind words such as "detects" or "for example".
    fn mark_quotes(&mut self) {
        let mut open: Option<(char, usize)> = None;
        let mut spans = Vec::new();
        for (i, c) in self.folded.char_indices() {
            match open {
                Some((close, from)) if c == close => {
                    spans.push(from..i);
                    open = None;
                }
                Some((_, from)) if i - from > 400 => open = None,
                Some(_) => {}
                None => open = closing_quote(c).map(|close| (close, i)),
            }
        }
        for span in spans {
            let first = self.word_at(span.start);
            // What is reported stands before the quotation or, in a list of quotations, before the first of them.
            let reported = (first.saturating_sub(REACH)..first)
                .rev()
                .take_while(|&i| i + 1 >= first || self.words[i + 1].gap < Gap::Sentence)
                .any(|i| REPORTS.iter().any(|stem| self.folded[self.words[i].folded.start..].starts_with(stem)));
            if reported && self.words.get(first).is_some_and(|w| first == 0 || w.gap < Gap::Sentence) {
                self.words
                    .iter_mut()
                    .skip(first)
                    .take_while(|w| w.folded.start < span.end)
                    .for_each(|w| w.quoted = true);
            }
        }
    }
}

fn closing_quote(c: char) -> Option<char> {
    match c {
        '"' => Some('"'),
        '`' => Some('`'),
        '“' | '„' => Some('”'),
        '«' => Some('»'),
        '「' => Some('」'),
        _ => None,
    }
}

fn gap_of(c: char, next: Option<char>) -> Gap {
    match c {
        '.' | '!' | '?' if next.is_none_or(char::is_whitespace) => Gap::Sentence,
        '。' | '！' | '？' | '।' | '\u{2029}' => Gap::Sentence,
        '\n' if next == Some('\n') => Gap::Sentence,
        ':' | ';' | '–' | '—' | '：' | '；' | '(' | '[' | '<' | '|' | '•' => Gap::Clause,
        ',' | '\n' | ')' | ']' | '>' | '，' | '、' | '،' | '"' | '{' | '}' | '*' | '#' => Gap::Comma,
        _ => Gap::None,
    }
}

/// Scripts that write no spaces: each character counts as a word.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c), 0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff)
}

fn is_mark(c: char) -> bool {
    !c.is_ascii() && matches!(get_general_category(c), GeneralCategory::NonspacingMark | GeneralCategory::SpacingMark)
}

/// Whether a character takes no place in a line and says nothing.
fn is_weightless(c: char) -> bool {
    match u32::from(c) {
        0x00ad | 0x034f | 0x115f | 0x1160 | 0x180b..=0x180f | 0x3164 | 0xfe00..=0xfe0f | 0xffa0 | 0xe0000..=0xe0fff => {
            true
        }
        0..=0x7f => c.is_ascii_control() && !c.is_ascii_whitespace(),
        _ => matches!(get_general_category(c), GeneralCategory::Format | GeneralCategory::Control),
    }
}

fn fold(original: &str) -> (String, Vec<u32>) {
    let mut folded = String::with_capacity(original.len());
    let mut origin = Vec::with_capacity(original.len() + 1);
    let mut latin = LatinWords::new(original);
    for (i, c) in original.char_indices() {
        if is_weightless(c) {
            continue;
        }
        let plain = plain_letter(c);
        let plain = if latin.contains(i) { homoglyph(plain) } else { plain };
        for lower in plain.to_lowercase() {
            folded.push(lower);
            origin.extend(std::iter::repeat_n(u32::try_from(i).unwrap_or(u32::MAX), lower.len_utf8()));
        }
    }
    origin.push(u32::try_from(original.len()).unwrap_or(u32::MAX));
    (folded, origin)
}

/// Which bytes lie in words that have an ASCII letter.
struct LatinWords {
    spans: Vec<Range<usize>>,
    at: usize,
}

impl LatinWords {
    fn new(text: &str) -> Self {
        let mut spans = Vec::new();
        let (mut start, mut ascii, mut other) = (0, false, false);
        for (i, c) in text.char_indices().chain([(text.len(), ' ')]) {
            if c.is_alphabetic() {
                ascii |= c.is_ascii();
                other |= !c.is_ascii();
            } else if !is_weightless(c) {
                if ascii && other {
                    spans.push(start..i);
                }
                (start, ascii, other) = (i + c.len_utf8(), false, false);
            }
        }
        Self { spans, at: 0 }
    }

    fn contains(&mut self, byte: usize) -> bool {
        while self.spans.get(self.at).is_some_and(|span| span.end <= byte) {
            self.at += 1;
        }
        self.spans.get(self.at).is_some_and(|span| span.contains(&byte))
    }
}

/// Full-width, mathematical and circled letters and digits as plain ones; typographic apostrophes.
fn plain_letter(c: char) -> char {
    let letter = |base: char, offset: u32| char::from_u32(u32::from(base) + offset).unwrap_or(c);
    match u32::from(c) {
        code @ 0xff01..=0xff5e => letter('!', code - 0xff01),
        code @ 0x1d400..=0x1d6a3 => match (code - 0x1d400) % 52 {
            capital @ 0..=25 => letter('a', capital),
            small => letter('a', small - 26),
        },
        code @ 0x1d7ce..=0x1d7ff => letter('0', (code - 0x1d7ce) % 10),
        code @ 0x24b6..=0x24cf => letter('a', code - 0x24b6),
        code @ 0x24d0..=0x24e9 => letter('a', code - 0x24d0),
        code @ 0x1f130..=0x1f149 => letter('a', code - 0x1f130),
        0x2018 | 0x2019 => '\'',
        _ => c,
    }
}

/// Letters of other scripts that look like Latin ones.
fn homoglyph(c: char) -> char {
    // Each letter in front of the one that it looks like.
    const PAIRS: &str = "аaеeоoрpсcуyхxіiѕsјjԁdһhԛqԝwոnսuαaοoρpνvιiτtυuκkεeıiɡgɑaАaВbЕeКkМmНhОoРpСcТtХxІi";
    let mut pairs = PAIRS.chars();
    while let (Some(from), Some(to)) = (pairs.next(), pairs.next()) {
        if from == c {
            return to;
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let text = Text::new(text);
        (0..text.words.len()).map(|i| text.word(i).to_owned()).collect()
    }

    #[test]
    fn a_text_is_folded_to_what_is_read() {
        for (text, expected) in [
            ("Ig\u{200b}nore Ａｌｌ", vec!["ignore", "all"]),
            ("𝐢𝐠𝐧𝐨𝐫𝐞 𝟏𝟐", vec!["ignore", "12"]),
            ("p\u{430}ssword оплата", vec!["password", "оплата"]),
            ("don’t e.g. x.y", vec!["don't", "e", "g", "x", "y"]),
            ("忽略 it", vec!["忽", "略", "it"]),
        ] {
            assert_eq!(words(text), expected);
        }
        let text = Text::new("a\u{200b}b ｃｄ");
        assert_eq!(text.span(0..1), 0..5);
        assert_eq!(text.span(1..2), 6..12);
    }

    #[test]
    fn mood_negation_and_quotation_are_told_apart() {
        let find = |text: &Text, word: &str| (0..text.words.len()).find(|&i| text.word(i) == word).expect("the word");
        for (text, word, begins, denied) in [
            ("Read the key.", "read", true, false),
            ("Never read the key.", "read", false, true),
            ("Then always read the key.", "read", true, false),
            ("The server will read the key.", "read", false, false),
            ("It does not open files, read the key.", "read", true, false),
            ("Never copy, read or send the key.", "send", true, true),
            ("Never forget to read the key.", "read", true, false),
        ] {
            let text = Text::new(text);
            let at = find(&text, word);
            assert_eq!((text.begins(at), text.is_denied(at)), (begins, denied), "{}", text.folded);
        }
        let text = Text::new("Finds attacks such as \"ignore all\". Say \"stop\" and ignore all.");
        assert!(text.words[find(&text, "ignore")].quoted);
        assert!(!text.words.last().expect("a word").quoted);
    }
}
