//! What people and programs read: lines, tables, JSON, colours, times.
//!
//! Colour is for terminals only, and `NO_COLOR` turns it off (<https://no-color.org>); `CLICOLOR_FORCE=1` turns it on in a
//! pipe. Text that came from outside is shown through [`visible`], because a terminal obeys control characters.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;

use serde_json::Value;

/// What a piece of text means, and so how it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// It worked.
    Good,
    /// It needs a look.
    Warn,
    /// It failed.
    Bad,
    /// A heading.
    Head,
    /// Something to type or to copy.
    Code,
    /// Less important.
    Dim,
}

impl Style {
    fn sequence(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Head => "\x1b[1m",
            Self::Code => "\x1b[36m",
            Self::Dim => "\x1b[2m",
        }
    }
}

fn wants_colour(terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("NO_COLOR") {
        return false;
    }
    let forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
    forced || (terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb"))
}

fn painted(colour: bool, style: Style, text: &str) -> String {
    if colour { format!("{}{text}\x1b[0m", style.sequence()) } else { text.to_owned() }
}

/// Text for standard output, in colour if that is wanted there.
pub fn paint(style: Style, text: &str) -> String {
    static COLOUR: OnceLock<bool> = OnceLock::new();
    painted(*COLOUR.get_or_init(|| wants_colour(std::io::stdout().is_terminal())), style, text)
}

/// Text for standard error, in colour if that is wanted there.
pub fn paint_err(style: Style, text: &str) -> String {
    static COLOUR: OnceLock<bool> = OnceLock::new();
    painted(*COLOUR.get_or_init(|| wants_colour(std::io::stderr().is_terminal())), style, text)
}

/// Whether a person looks at standard output.
pub fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether a question can be asked.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Writes a line. A reader that went away (`| head`) ends the process quietly, as it does for other tools.
pub fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let written =
        out.write_all(text.as_ref().as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    if written.is_err() {
        std::process::exit(0);
    }
}

/// Writes JSON for programs: indented, with a final newline.
pub fn json(value: &Value) {
    line(serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()));
}

/// A table for people: no frame, columns aligned; on a terminal, wide columns are wrapped to fit.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let header: Vec<String> = header.iter().map(|title| paint(Style::Dim, title)).collect();
    let room = on_terminal().then(terminal_size::terminal_size).flatten().map(|(width, _)| usize::from(width.0));
    laid_out(std::iter::once(header).chain(rows).collect(), room).iter().for_each(line);
}

/// The lines of a table, at most `room` characters wide if that can be had.
fn laid_out(rows: Vec<Vec<String>>, room: Option<usize>) -> Vec<String> {
    const NARROWEST: usize = 12;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..columns).map(widest).collect();
    let room = room.unwrap_or(usize::MAX).saturating_sub(2 * columns.saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        match widths.iter_mut().max().filter(|width| **width > NARROWEST) {
            Some(width) => *width -= 1,
            None => break,
        }
    }
    let mut lines = Vec::new();
    for row in &rows {
        let cells: Vec<Vec<String>> = row.iter().zip(&widths).map(|(cell, width)| wrapped(cell, *width)).collect();
        for number in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            let part = |cell: &Vec<String>| cell.get(number).cloned().unwrap_or_default();
            let padded = cells.iter().map(part).zip(&widths).map(|(text, to)| {
                let space = " ".repeat(to.saturating_sub(width(&text)));
                text + &space
            });
            lines.push(padded.collect::<Vec<_>>().join("  ").trim_end().to_owned());
        }
    }
    lines
}

/// Characters on the screen: the sequences of [`paint`] take no room.
fn width(text: &str) -> usize {
    text.split('\x1b')
        .enumerate()
        .map(|(n, part)| if n == 0 { part } else { part.split_once('m').map_or("", |(_, p)| p) })
        .map(|part| part.chars().count())
        .sum()
}

/// Breaks at spaces, and inside a word that is longer than a line. Painted cells are short and stay whole.
fn wrapped(cell: &str, to: usize) -> Vec<String> {
    if width(cell) <= to || cell.contains('\x1b') {
        return cell.lines().map(str::to_owned).collect();
    }
    let mut lines = vec![String::new()];
    for word in cell.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let last = lines.last_mut().map(|line| (line.chars().count(), line));
            let Some((used, line)) = last else { break };
            let space = usize::from(used > 0);
            if used + space + word.len() <= to {
                line.extend(std::iter::repeat_n(' ', space).chain(word));
                break;
            }
            if used == 0 {
                line.extend(word.drain(..to.max(1)));
            }
            lines.push(String::new());
        }
    }
    lines
}

/// A member as text: strings bare, absent and null as a dash, everything made visible.
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => "–".into(),
        Some(Value::String(text)) => visible(text),
        Some(other) => visible(&other.to_string()),
    }
}

/// Text from outside with everything that a terminal would obey, or that the eye would miss, as an escape.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !deceives(c) {
            out.push(c);
        } else {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
    }
    out
}

/// Controls, marks that reorder text (Unicode UAX 9), characters without width or ink, variation selectors, private use
/// and tags. The catalog's `⟨U+XXXX⟩` marks, which the node puts into previews, stay as they are.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{2800}'
        )
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fe00}'..='\u{fe0f}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}')
}

/// The first `len` characters of a long word, with an ellipsis.
pub fn short(text: &str, len: usize) -> String {
    if text.chars().count() <= len { text.to_owned() } else { text.chars().take(len).chain(['…']).collect() }
}

/// Milliseconds since 1970 as `2026-11-21 02:08:22Z`.
pub fn utc(ms: i64) -> String {
    let (days, second) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000) / 1000);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Days since 1970 as a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A span of time in its two largest units: `14m 3s`, `2h 5m`, `3d 4h`.
pub fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Now, milliseconds since 1970, by this machine's clock.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Reads `90s`, `15m`, `12h`, `7d` as milliseconds.
///
/// # Errors
/// With a sentence for clap, if it is anything else or longer than ten years.
pub fn parse_span(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a duration such as 90s, 15m, 12h or 7d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).filter(|ms| (0..=315_360_000_000).contains(ms)).ok_or_else(wrong)
}

/// Asks on standard error and reads one line; anything but `y` or `yes` is a no.
pub fn ask(question: &str) -> bool {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_an_escape() {
        assert_eq!(visible("a\u{1b}[2Jb\u{202e}c\nd é 漢"), "a\\u{1b}[2Jb\\u{202e}c\nd é 漢");
        assert_eq!(visible("\u{e0041}\u{200b}"), "\\u{e0041}\\u{200b}");
    }

    #[test]
    fn tables_align_and_wrap_without_losing_a_character() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let rows = vec![row(&["A", "B"]), row(&["\x1b[32mok\x1b[0m", "one two three four five"]), row(&["–", "x"])];
        assert_eq!(laid_out(rows.clone(), None), ["A   B", "\x1b[32mok\x1b[0m  one two three four five", "–   x"]);
        let narrow = laid_out(rows, Some(18));
        assert_eq!(narrow, ["A   B", "\x1b[32mok\x1b[0m  one two three", "    four five", "–   x"]);
        assert_eq!(wrapped("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
    }

    #[test]
    fn times_are_utc() {
        for (ms, expected) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_795_227_302_999, "2026-11-21 02:15:02Z"),
            (-1, "1969-12-31 23:59:59Z"),
        ] {
            assert_eq!(utc(ms), expected);
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("90s", 90_000), ("15m", 900_000), ("12h", 43_200_000), ("7d", 604_800_000)] {
            assert_eq!(parse_span(text), Ok(ms));
        }
        for text in ["", "m", "5", "5w", "-1s", "99999999d", "é", "5é"] {
            assert!(parse_span(text).is_err(), "{text:?}");
        }
    }
}
