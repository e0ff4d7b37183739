//! Rust source as tidy reads it: comments and texts blanked out, tests left away, imports written out in full.
//!
//! This is a reader of tokens, not a compiler: enough for code that rustfmt has formatted and that does not hide.

use std::path::PathBuf;

/// A source file of the workspace.
#[derive(Debug)]
pub struct SourceFile {
    /// Relative to the workspace.
    pub path: PathBuf,
    /// The text as it is.
    pub text: String,
    /// The text with comments, literals and what only tests compile blanked out; line for line and byte for byte as long.
    pub product: String,
}

/// A full path that the code names, and the line in which it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// Such as `std::fs::read`.
    pub path: String,
    /// Counted from 1.
    pub line: usize,
}

impl SourceFile {
    /// Reads a text.
    pub fn new(path: PathBuf, text: String) -> Self {
        let product = match path.file_name() {
            // By this code base's convention a file of this name is always `#[cfg(test)] mod tests;` of its parent.
            Some(name) if name == "tests.rs" => text.lines().map(|_| "\n").collect(),
            _ => without_tests(&blank(&text)),
        };
        Self { path, text, product }
    }

    /// Every path with `::` in the product's code; those of `use` trees are written out.
    pub fn mentions(&self) -> Vec<Mention> {
        mentions(&self.product)
    }

    /// The lines of the product's code that contain `needle`, counted from 1.
    pub fn lines_with(&self, needle: &str) -> Vec<usize> {
        let lines = self.product.lines().enumerate().filter(|(_, line)| line.contains(needle));
        lines.map(|(i, _)| i + 1).collect()
    }
}

/// Replaces comments and the insides of text and character literals by spaces, newlines kept.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = match literal_end(bytes, i) {
            Some(end) => end,
            None => {
                i += 1;
                continue;
            }
        };
        for byte in &mut out[i..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        i = end;
    }
    // Only whole literals and comments became spaces, so what is left of multi-byte characters is whole too.
    String::from_utf8_lossy(&out).into_owned()
}

/// If a comment or literal starts at `i`: where it ends.
fn literal_end(bytes: &[u8], i: usize) -> Option<usize> {
    let rest = &bytes[i..];
    let part_of_name = i > 0 && (bytes[i - 1].is_ascii_alphanumeric() || bytes[i - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => Some(i + find(rest, b"\n").unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(block_comment_end(bytes, i)),
        [b'"', ..] => Some(string_end(bytes, i + 1)),
        [b'b' | b'c', b'"', ..] if !part_of_name => Some(string_end(bytes, i + 2)),
        [b'r', b'"' | b'#', ..] if !part_of_name => raw_string_end(bytes, i + 1),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !part_of_name => raw_string_end(bytes, i + 2),
        [b'\'', b'\\', ..] => Some(i + 2 + find(&rest[3..], b"'").map_or(rest.len() - 2, |n| n + 2)),
        // A character, not a lifetime: the quote closes after one character of at most four bytes.
        [b'\'', _, ..] => (2..=5).find(|&n| rest.get(n) == Some(&b'\'') && is_one_char(&rest[1..n])).map(|n| i + n + 1),
        _ => None,
    }
}

fn is_one_char(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|s| s.chars().count() == 1)
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i < bytes.len() {
        match &bytes[i..] {
            [b'/', b'*', ..] => (depth, i) = (depth + 1, i + 2),
            [b'*', b'/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut i = start;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let hashes = bytes[start..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(start + hashes) != Some(&b'"') {
        return None; // a raw identifier
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let from = start + hashes + 1;
    Some(find(&bytes[from..], &close).map_or(bytes.len(), |n| from + n + close.len()))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Blanks out items under `#[cfg(test)]` (also with `any(test, …)`, which only widens what a test build may do).
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]").or_else(|| out.find("#[cfg(any(test")) {
        let end = item_end(out.as_bytes(), start);
        let blanked: String = out[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        out.replace_range(start..end, &blanked);
    }
    out
}

/// Where the item that follows an attribute ends: at its `;`, or at the brace that closes its body.
fn item_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_i32;
    // Past the attribute itself.
    let mut i = start + find(&bytes[start..], b"]").unwrap_or(0) + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' => depth -= 1,
            b'}' => {
                depth -= 1;
                if depth <= 0 {
                    return i + 1;
                }
            }
            b';' | b',' if depth == 0 => return i + 1,
            _ => {}
        }
        i += 1;
    }
    bytes.len()
}

fn mentions(code: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    let bytes = code.as_bytes();
    let (mut i, mut line) = (0, 1);
    while i < bytes.len() {
        if bytes[i] == b'\n' {
            line += 1;
        }
        let starts_word = is_word(bytes[i]) && (i == 0 || !is_word(bytes[i - 1]));
        if !starts_word {
            i += 1;
            continue;
        }
        let end = path_end(bytes, i);
        let path = &code[i..end];
        let lines = path.matches('\n').count();
        if path == "use" {
            let stop = code[end..].find(';').map_or(code.len(), |n| end + n);
            expand(code[end..stop].trim(), "", line, &mut found);
            line += code[end..stop].matches('\n').count();
            i = stop;
            continue;
        }
        if path.contains("::") {
            found.push(Mention { path: path.to_owned(), line });
        }
        line += lines;
        i = end;
    }
    found
}

/// Where a path like `a::b::c` ends.
fn path_end(bytes: &[u8], start: usize) -> usize {
    let mut i = start;
    loop {
        while i < bytes.len() && is_word(bytes[i]) {
            i += 1;
        }
        match &bytes[i..] {
            [b':', b':', next, ..] if is_word(*next) => i += 2,
            _ => return i,
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Writes a `use` tree out: `std::{fs, net::{self, TcpStream}}`.
fn expand(tree: &str, prefix: &str, line: usize, found: &mut Vec<Mention>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let inner = tree[open + 1..].rsplit_once('}').map_or(&tree[open + 1..], |(inner, _)| inner);
        let prefix = format!("{prefix}{}", tree[..open].trim());
        for part in split_top(inner) {
            expand(part, &prefix, line, found);
        }
        return;
    }
    let name = tree.split(" as ").next().unwrap_or_default().trim();
    let path = match name {
        "self" => prefix.trim_end_matches("::").to_owned(),
        name => format!("{prefix}{name}"),
    };
    if !name.is_empty() {
        found.push(Mention { path: path.trim_start_matches("::").to_owned(), line });
    }
}

fn split_top(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile::new("x.rs".into(), text.to_owned())
    }

    #[test]
    fn comments_and_literals_say_nothing() {
        let source = file(
            "// std::fs\nlet a = \"std::net \\\" x\"; /* std::env /* nested */ std::process */ let b = r#\"std::io\"#;\n\
             let c = '\"'; let d: &'static str = \"\\\\\"; let e = '\\''; let f = b\"x::y\"; let g = 'ü'; q::r();",
        );
        let paths: Vec<_> = source.mentions().into_iter().map(|m| m.path).collect();
        assert_eq!(paths, ["q::r"], "{}", source.product);
        assert_eq!(source.product.lines().count(), source.text.lines().count());
    }

    #[test]
    fn use_trees_are_written_out() {
        let source =
            file("use std::{fs, io::{self as i, Read}};\nuse ::tokio::net as n;\nfn f() { std::env::var(\"A\") }\n");
        let found = source.mentions();
        let paths: Vec<_> = found.iter().map(|m| (m.path.as_str(), m.line)).collect();
        let expected = [("std::fs", 1), ("std::io", 1), ("std::io::Read", 1), ("tokio::net", 2), ("std::env::var", 3)];
        assert_eq!(paths, expected);
    }

    #[test]
    fn what_only_tests_compile_does_not_count() {
        let source = file(
            "use a::b;\n#[cfg(test)]\nmod tests {\n  use std::fs;\n  fn f() { {} }\n}\n#[cfg(test)]\nuse std::net;\n\
             #[cfg(test)]\nmod more;\nfn g() { c::d() }\n",
        );
        let paths: Vec<_> = source.mentions().into_iter().map(|m| m.path).collect();
        assert_eq!(paths, ["a::b", "c::d"]);
    }
}
