//! JSON with comments and trailing commas, edited in place: a member or an element is put in, and every other byte stays.

use serde_json::Value;

/// What must be in the document.
#[derive(Debug)]
pub enum Part {
    /// `{"container": {"name": value}}`; another value under the name is replaced.
    Member {
        /// A member of the document, an object.
        container: String,
        /// The member within it.
        name: String,
        /// Its value.
        value: Value,
    },
    /// `{"list": [value]}`, unless an element has the same `key` already.
    Element {
        /// A member of the document, an array.
        list: String,
        /// Which member tells elements apart.
        key: String,
        /// The element.
        value: Value,
    },
}

/// The document with the parts in it. An empty document is a new one.
///
/// # Errors
/// In words, if the document is not an object in JSON with comments, or something else stands where a part belongs.
pub fn merged(document: &str, parts: &[Part]) -> Result<String, String> {
    let mut text = if document.trim().is_empty() { "{}\n".to_owned() } else { document.to_owned() };
    for part in parts {
        text = with(&text, part)?;
    }
    Ok(text)
}

fn with(text: &str, part: &Part) -> Result<String, String> {
    let root = read(text)?;
    if !root.is_object() {
        return Err("the document is not an object".to_owned());
    }
    let scan = Scan { text };
    let start = scan.blank(0);
    match part {
        Part::Member { container, name, value } => match (root.get(container), scan.member(start, container)) {
            (Some(Value::Object(found)), Some((from, to))) => match (found.get(name), scan.member(from, name)) {
                (Some(there), _) if there == value => Ok(text.to_owned()),
                (Some(_), Some((from, to))) => Ok(splice(text, from, to, &indented(value, 2))),
                _ => Ok(insert(text, from, to, &format!("{}: {}", quoted(name), indented(value, 2)), 2)),
            },
            (Some(_), _) => Err(format!("{container:?} is not an object")),
            (None, _) => {
                let inner = serde_json::json!({ name: value });
                Ok(insert(text, start, scan.end(start), &format!("{}: {}", quoted(container), indented(&inner, 1)), 1))
            }
        },
        Part::Element { list, key, value } => match (root.get(list), scan.member(start, list)) {
            (Some(Value::Array(found)), Some((from, to))) => {
                if found.iter().any(|element| element.get(key) == value.get(key)) {
                    return Ok(text.to_owned());
                }
                Ok(insert(text, from, to, &indented(value, 2), 2))
            }
            (Some(_), _) => Err(format!("{list:?} is not an array")),
            (None, _) => {
                let inner = serde_json::json!([value]);
                Ok(insert(text, start, scan.end(start), &format!("{}: {}", quoted(list), indented(&inner, 1)), 1))
            }
        },
    }
}

fn splice(text: &str, from: usize, to: usize, new: &str) -> String {
    [&text[..from], new, &text[to..]].concat()
}

/// Puts something first into the object or array that stands at `from..to`.
fn insert(text: &str, from: usize, to: usize, new: &str, level: usize) -> String {
    let inner = &text[from + 1..to - 1];
    let empty = read_blank(inner);
    let (indent, outer) = ("  ".repeat(level), "  ".repeat(level - 1));
    let comma = if empty { String::new() } else { ",".to_owned() };
    let close = if empty && !inner.contains('\n') { format!("\n{outer}") } else { String::new() };
    splice(text, from + 1, from + 1, &format!("\n{indent}{new}{comma}{close}"))
}

/// Whether there is nothing but space and comments.
fn read_blank(inner: &str) -> bool {
    Scan { text: inner }.blank(0) == inner.len()
}

fn quoted(name: &str) -> String {
    Value::from(name).to_string()
}

fn indented(value: &Value, level: usize) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
    text.replace('\n', &format!("\n{}", "  ".repeat(level)))
}

/// The document's value.
fn read(text: &str) -> Result<Value, String> {
    let scan = Scan { text };
    let (mut plain, mut at) = (String::with_capacity(text.len()), 0);
    while at < text.len() {
        let next = scan.blank(at);
        if next > at {
            plain.push(' ');
        } else if text.as_bytes()[at] == b'"' {
            let end = scan.end(at);
            plain.push_str(&text[at..end]);
            at = end;
            continue;
        } else {
            let byte = text.as_bytes()[at];
            // A comma before the end of its object or array is one too many.
            let after = text.as_bytes().get(scan.blank(at + 1)).copied();
            let length = text[at..].chars().next().map_or(1, char::len_utf8);
            if byte != b',' || !matches!(after, Some(b'}' | b']')) {
                plain.push_str(&text[at..at + length]);
            }
            at += length;
            continue;
        }
        at = next;
    }
    serde_json::from_str(&plain).map_err(|error| format!("not JSON with comments ({error})"))
}

/// Finds where things stand in a text that [`read`] accepts.
struct Scan<'a> {
    text: &'a str,
}

impl Scan<'_> {
    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or(0)
    }

    /// Past space and comments.
    fn blank(&self, mut at: usize) -> usize {
        loop {
            let rest = self.text.get(at..).unwrap_or("");
            if rest.starts_with("//") {
                at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                at += rest.find("*/").map_or(rest.len(), |end| end + 2);
            } else if rest.starts_with([' ', '\t', '\r', '\n', '\u{feff}']) {
                at += rest.chars().next().map_or(1, char::len_utf8);
            } else {
                return at;
            }
        }
    }

    /// Past the value that starts here.
    fn end(&self, at: usize) -> usize {
        match self.byte(at) {
            b'"' => {
                let mut at = at + 1;
                while at < self.text.len() && self.byte(at) != b'"' {
                    at += if self.byte(at) == b'\\' { 2 } else { 1 };
                }
                (at + 1).min(self.text.len())
            }
            b'{' | b'[' => {
                let mut at = self.blank(at + 1);
                while at < self.text.len() && !matches!(self.byte(at), b'}' | b']') {
                    at = if matches!(self.byte(at), b',' | b':') { at + 1 } else { self.end(at) };
                    at = self.blank(at);
                }
                (at + 1).min(self.text.len())
            }
            _ => {
                let rest = self.text.get(at..).unwrap_or("");
                let plain = rest.find([',', '}', ']', ':', ' ', '\t', '\r', '\n', '/']);
                // At least one byte on, whatever it is.
                at + plain.unwrap_or(rest.len()).max(1)
            }
        }
    }

    /// Where the value of a member stands, in the object that starts here.
    fn member(&self, object: usize, name: &str) -> Option<(usize, usize)> {
        let mut found = None;
        let mut at = self.blank(object + 1);
        while self.byte(at) == b'"' {
            let end = self.end(at);
            let key: String = serde_json::from_str(self.text.get(at..end)?).ok()?;
            let value = self.blank(self.blank(end) + 1);
            let past = self.end(value);
            if key == name {
                // Of two members with one name, the last is the one that counts.
                found = Some((value, past));
            }
            at = self.blank(past);
            at = if self.byte(at) == b',' { self.blank(at + 1) } else { at };
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn server(url: &str) -> Vec<Part> {
        let value = json!({ "url": url });
        vec![Part::Member { container: "servers".into(), name: "countersign".into(), value }]
    }

    #[test]
    fn what_is_there_stays_and_the_entry_is_put_in_once() {
        for document in [
            "",
            "{}",
            "{ }\n",
            "{\n  // mine\n}\n",
            "// first\n{\n  \"theme\": \"dark\", // \"servers\": {\n  \"a\": [1, 2,],\n}\n",
            "{\"servers\": {}}",
            "{\"servers\": {\"other\": {\"url\": \"http://x//y\"}, /* , */ }}",
            "{\n\t\"servers\": {\n\t\t\"other\": {\"s\": \"\\\"}\"}\n\t}\n}",
        ] {
            let once = merged(document, &server("u")).expect(document);
            let value = read(&once).expect(&once);
            assert_eq!(value["servers"]["countersign"]["url"], "u", "{once}");
            assert_eq!(merged(&once, &server("u")).expect("again"), once);
            let changed = merged(&once, &server("v")).expect("changed");
            assert_eq!(read(&changed).expect("valid")["servers"]["countersign"]["url"], "v");
            if let (false, Ok(before)) = (document.is_empty(), read(document)) {
                // Everything of the old document is in the new one, in its order.
                let mut rest = once.as_str();
                for line in document.split(['{', '}']).map(str::trim).filter(|part| !part.is_empty()) {
                    let at = rest.find(line).unwrap_or_else(|| panic!("{line:?} is missing in {once}"));
                    rest = &rest[at + line.len()..];
                }
                assert_eq!(before.get("theme"), value.get("theme"));
            }
        }
    }

    #[test]
    fn an_element_is_put_in_unless_one_has_its_key() {
        let part =
            |id: &str| vec![Part::Element { list: "inputs".into(), key: "id".into(), value: json!({ "id": id }) }];
        let one = merged("{\"inputs\": [{\"id\": \"a\"}]}", &part("b")).expect("put in");
        assert_eq!(read(&one).expect("valid")["inputs"], json!([{ "id": "b" }, { "id": "a" }]));
        assert_eq!(merged(&one, &part("a")).expect("there"), one);
    }

    #[test]
    fn what_cannot_be_edited_safely_is_refused() {
        for document in
            ["[]", "{", "{\"servers\": []}", "{\"a\" 1}", "{\"a\": 'x'}", "{\"a\": \"b", "{\"a\":1} {}", "/*"]
        {
            assert!(merged(document, &server("u")).is_err(), "{document}");
        }
    }
}
