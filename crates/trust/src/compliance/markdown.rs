//! The report as a document in Markdown (GitHub's flavour, for the tables).

use super::{Exception, Report, Status, TypeCoverage};
use crate::scans::Counts;
use crate::text::short_line;
use crate::time::to_rfc3339;

/// Longest text from outside in a cell, in characters.
const MAX_CELL_CHARS: usize = 400;

/// Writes the document. Text from outside is one line of plain text, whatever it holds.
pub fn markdown(report: &Report) -> String {
    let mut out = String::with_capacity(4096);
    head(&mut out, report);
    summary(&mut out, report);
    types(&mut out, report);
    activity(&mut out, report);
    exceptions(&mut out, &report.exceptions);
    evidence(&mut out, report);
    list(&mut out, "What this report does not cover", &report.not_covered);
    out
}

fn head(out: &mut String, report: &Report) {
    line(out, &format!("# Artifact trust report: {}", plain(&report.workspace)));
    line(out, "");
    line(out, &format!("Period: {} to {} (excluded)  ", time(report.from_ms), time(report.to_ms)));
    line(out, &format!("Made: {}  ", time(report.generated_at_ms)));
    let status = match report.status {
        Status::Complete => "complete: everything that this report counts could be counted",
        Status::Incomplete => "**incomplete**",
    };
    line(out, &format!("Status: {status}"));
    if report.status == Status::Incomplete {
        list(out, "Why it is incomplete", &report.incomplete_because);
    }
}

fn summary(out: &mut String, report: &Report) {
    let totals = &report.totals;
    heading(out, "Summary");
    table(out, &["measure", "of", "coverage"], &["---", "---:", "---:"]);
    for (name, coverage) in [
        ("signed artifacts", &totals.signed_coverage),
        ("artifacts with a signature verified as valid", &totals.verified_coverage),
        ("reviewed artifacts", &report.review_coverage),
        ("artifacts with a scan that reports findings", &report.scan_coverage),
    ] {
        let of = format!("{} / {}", coverage.part, coverage.whole);
        row(out, &[name, &of, &coverage.percent()]);
    }
    match report.findings.as_slice() {
        [] => {
            heading(out, "Findings");
            line(out, "None.");
        }
        findings => list(out, "Findings", findings),
    }
}

fn types(out: &mut String, report: &Report) {
    heading(out, "Artifacts by type");
    if report.types.is_empty() {
        line(out, "None.");
        return;
    }
    let right = "---:";
    let columns = ["type", "artifacts", "signed", "verified", "not valid", "signed, %", "verified, %"];
    table(out, &columns, &["---", right, right, right, right, right, right]);
    for of_type in report.types.iter().chain([&report.totals]) {
        type_row(out, of_type);
    }
}

fn type_row(out: &mut String, of_type: &TypeCoverage) {
    let counts = &of_type.counts;
    let numbers = [counts.artifacts, counts.signed, counts.verified, counts.failed].map(|n| n.to_string());
    let [artifacts, signed, verified, failed] = &numbers;
    let (signed_share, verified_share) = (of_type.signed_coverage.percent(), of_type.verified_coverage.percent());
    row(out, &[&plain(&counts.artifact_type), artifacts, signed, verified, failed, &signed_share, &verified_share]);
}

fn activity(out: &mut String, report: &Report) {
    heading(out, "Verifications, reviews and scans");
    table(out, &["what", "count"], &["---", "---:"]);
    let (verifications, reviews, scans) = (&report.verifications, &report.reviews, &report.scans);
    for (name, count) in [
        ("verifications", verifications.total),
        ("verifications: valid", verifications.valid),
        ("verifications: failed", verifications.failed),
        ("reviews: approved", reviews.approved),
        ("reviews: rejected", reviews.rejected),
        ("reviews: changes asked for", reviews.needs_changes),
        ("scan documents", scans.documents),
        ("scan verdicts: passed", scans.passed),
        ("scan verdicts: not passed", scans.failed),
    ] {
        row(out, &[name, &count.to_string()]);
    }
    for severity in Counts::SEVERITIES {
        let name = format!("scan findings: {}", severity.name());
        row(out, &[&name, &scans.findings.of(severity).to_string()]);
    }
}

fn exceptions(out: &mut String, exceptions: &[Exception]) {
    heading(out, "Exceptions");
    if exceptions.is_empty() {
        line(out, "None.");
        return;
    }
    table(out, &["time", "kind", "subject", "detail", "evidence"], &["---"; 5]);
    for exception in exceptions {
        let evidence = exception.evidence.as_deref().map_or_else(|| "none".to_owned(), plain);
        let (kind, subject) = (plain(&exception.kind), plain(&exception.subject));
        row(out, &[&time(exception.at_ms), &kind, &subject, &plain(&exception.detail), &evidence]);
    }
}

fn evidence(out: &mut String, report: &Report) {
    heading(out, "Evidence");
    if report.evidence.is_empty() {
        line(out, "None.");
        return;
    }
    line(out, "Each entry can be proved with its bundle or receipt, without this node.");
    line(out, "");
    table(out, &["entry", "shows", "about", "log", "index", "time"], &["---", "---", "---", "---", "---:", "---"]);
    for entry in &report.evidence {
        let texts = [&entry.id, &entry.kind, &entry.subject, &entry.log].map(|text| plain(text));
        let [id, kind, subject, log] = &texts;
        row(out, &[id, kind, subject, log, &entry.index.to_string(), &time(entry.at_ms)]);
    }
}

fn list(out: &mut String, title: &str, items: &[String]) {
    heading(out, title);
    for item in items {
        line(out, &format!("- {}", plain(item)));
    }
}

fn heading(out: &mut String, title: &str) {
    line(out, "");
    line(out, &format!("## {title}"));
    line(out, "");
}

fn table(out: &mut String, columns: &[&str], alignment: &[&str]) {
    row(out, columns);
    row(out, alignment);
}

/// A row of cells that are plain already.
fn row(out: &mut String, cells: &[&str]) {
    line(out, &format!("| {} |", cells.join(" | ")));
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn time(at_ms: i64) -> String {
    u64::try_from(at_ms / 1000).map_or_else(|_| "before 1970".to_owned(), to_rfc3339)
}

/// Text from outside as one line in which Markdown and HTML see no markup. HTML's characters become references, which
/// every renderer undoes; a backslash before other ASCII punctuation makes it literal (CommonMark, section 2.4).
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in short_line(text, MAX_CELL_CHARS).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // A reference, since table cells are cut at bars before backslashes are read, and not by all renderers
            // alike.
            '|' => out.push_str("&#124;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '!' | '~' | '$' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    // GitHub makes links of bare addresses and tells people whose names it sees.
    let out = out.replace("://", ":&#47;&#47;").replace('@', "&#64;").replace("www.", "www&#46;");
    // At its start a list's item could be a heading, a rule or a list.
    let digits = out.bytes().take_while(u8::is_ascii_digit).count();
    let at = match out.as_bytes().get(digits) {
        Some(b'-' | b'=' | b'+' | b'#') if digits == 0 => Some(0),
        Some(b'.' | b')') if digits > 0 => Some(digits),
        Some(_) | None => None,
    };
    match at {
        Some(at) => format!("{}\\{}", &out[..at], &out[at..]),
        None => out,
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn text_from_outside_is_no_markup() {
        for (text, expected) in [
            ("api:v1.2.1-security", "api:v1.2.1-security"),
            ("a | b", "a &#124; b"),
            ("two\nlines", "two⟨U+000A⟩lines"),
            ("`code`", "\\`code\\`"),
            ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            ("&lt;", "&amp;lt;"),
            ("[click](javascript:x)", "\\[click\\](javascript:x)"),
            ("![i](https://evil.example/x)", "\\!\\[i\\](https:&#47;&#47;evil.example/x)"),
            ("https://evil.example", "https:&#47;&#47;evil.example"),
            ("www.evil.example", "www&#46;evil.example"),
            ("me@example.com", "me&#64;example.com"),
            ("**bold** _it_ ~~no~~", "\\*\\*bold\\*\\* \\_it\\_ \\~\\~no\\~\\~"),
            ("---", "\\---"),
            ("# title", "\\# title"),
            ("1. one", "1\\. one"),
            ("1.2.3", "1\\.2.3"),
            ("v1.2", "v1.2"),
            ("2026", "2026"),
            ("back\\slash\\|", "back\\\\slash\\\\&#124;"),
            ("bidi\u{202e}x", "bidi⟨U+202E⟩x"),
            ("", ""),
        ] {
            assert_eq!(plain(text), expected);
        }
        assert_eq!(plain(&"x".repeat(1000)).chars().count(), 400);
    }
}
