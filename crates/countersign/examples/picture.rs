//! Takes the picture for the README: runs the demo for real and writes what it printed, as `docs/demo.svg` and as text.
//!
//! `cargo run -p countersign --example picture -- PATH-TO-COUNTERSIGN`, from the root of the repository. Nothing is edited by
//! hand, so the picture shows what the binary does.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Characters in a line; longer lines go on in the next.
const COLUMNS: usize = 124;
const LINE: usize = 18;
const CHARACTER: f64 = 7.8;
const MARGIN: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let binary = std::env::args().nth(1).ok_or("usage: picture PATH-TO-COUNTERSIGN")?;
    let run =
        Command::new(binary).args(["demo", "--fast"]).env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR").output()?;
    if !run.status.success() {
        return Err(format!("the demo failed: {}", String::from_utf8_lossy(&run.stderr)).into());
    }
    let printed = String::from_utf8(run.stdout)?;
    let lines: Vec<Vec<Span>> = printed.trim_matches('\n').lines().flat_map(|line| wrapped(spans(line))).collect();
    std::fs::write("docs/demo.svg", svg(&lines))?;
    let text: Vec<String> = lines.iter().map(|line| plain(line)).collect();
    embed(Path::new("README.md"), &text.join("\n"))?;
    println!("docs/demo.svg and README.md: {} lines", lines.len());
    Ok(())
}

/// Text in one style: the parameter of its SGR sequence (ECMA-48), 0 for none.
struct Span {
    style: u8,
    text: String,
}

fn spans(line: &str) -> Vec<Span> {
    let mut parts = line.split("\x1b[");
    let first = Span { style: 0, text: parts.next().unwrap_or_default().to_owned() };
    let styled = parts.filter_map(|part| {
        let (style, text) = part.split_once('m')?;
        Some(Span { style: style.parse().unwrap_or(0), text: text.to_owned() })
    });
    std::iter::once(first).chain(styled).filter(|span| !span.text.is_empty()).collect()
}

/// Breaks a line at the last space before the margin, and indents what follows.
fn wrapped(line: Vec<Span>) -> Vec<Vec<Span>> {
    let mut lines = vec![Vec::new()];
    let mut used = 0;
    for Span { style, mut text } in line {
        while used + text.chars().count() > COLUMNS {
            let room: String = text.chars().take(COLUMNS.saturating_sub(used)).collect();
            let at = room.rfind(' ').filter(|at| *at > 0).map_or(if used > 20 { 0 } else { room.len() }, |at| at + 1);
            let rest = text.split_off(at);
            lines.last_mut().into_iter().for_each(|last: &mut Vec<Span>| last.push(Span { style, text: text.clone() }));
            lines.push(vec![Span { style: 0, text: " ".repeat(13) }]);
            (used, text) = (13, rest);
        }
        used += text.chars().count();
        lines.last_mut().into_iter().for_each(|last| last.push(Span { style, text: text.clone() }));
    }
    lines
}

fn plain(line: &[Span]) -> String {
    let text: String = line.iter().map(|span| span.text.as_str()).collect();
    text.trim_end().to_owned()
}

fn svg(lines: &[Vec<Span>]) -> String {
    let width = 2 * MARGIN + (COLUMNS as f64 * CHARACTER) as usize;
    let height = 2 * MARGIN + lines.len() * LINE;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>Output of countersign demo</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#15181e\"/>\n\
         <g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, monospace\" font-size=\"13\" xml:space=\"preserve\">\n"
    );
    for (number, line) in lines.iter().enumerate() {
        let y = MARGIN + number * LINE + 13;
        let mut column = 0;
        for span in line {
            let length = span.text.chars().count();
            let x = MARGIN as f64 + column as f64 * CHARACTER;
            column += length;
            if span.text.trim().is_empty() {
                continue;
            }
            let (text, look) = (escaped(&span.text), look(span.style));
            let wide = length as f64 * CHARACTER;
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y}\" textLength=\"{wide:.1}\" {look}>{text}</text>");
        }
    }
    out.push_str("</g>\n</svg>\n");
    out
}

fn look(style: u8) -> &'static str {
    match style {
        1 => "fill=\"#ffffff\" font-weight=\"bold\"",
        2 => "fill=\"#8b93a1\"",
        31 => "fill=\"#ff7b72\"",
        32 => "fill=\"#7ee787\"",
        33 => "fill=\"#e3b341\"",
        36 => "fill=\"#79c0ff\"",
        _ => "fill=\"#d6dbe3\"",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Puts the text between the README's marks.
fn embed(readme: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    let (begin, end) = ("<!-- demo:begin -->\n", "<!-- demo:end -->");
    let page = std::fs::read_to_string(readme)?;
    let (before, rest) = page.split_once(begin).ok_or("the README has no beginning mark")?;
    let (_, after) = rest.split_once(end).ok_or("the README has no end mark")?;
    let block = format!(
        "![The demo in a terminal](docs/demo.svg)\n\n<details><summary>The same as text</summary>\n\n```text\n{text}\n```\n\n</details>\n"
    );
    std::fs::write(readme, format!("{before}{begin}{block}{end}{after}"))?;
    Ok(())
}
