//! The little of XML 1.0 that S3 answers with: elements, text, the five named references and numeric ones.
//!
//! Attributes (namespaces) are passed over. Document types, processing instructions, comments and CDATA are refused: S3 sends none, and
//! whoever sends some wants a parser to do more than read. Bounded in depth and in elements; the size is bounded by who reads the body.

const MAX_DEPTH: usize = 16;
/// A page of a listing has 1000 entries of some ten elements.
const MAX_ELEMENTS: usize = 50_000;

/// An element with what stands in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

impl Element {
    /// The text of the only child of this name; `None` if there is none, or several.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        let mut named = self.all(name);
        let first = named.next()?;
        named.next().is_none().then_some(first.text.as_str())
    }

    /// The children of this name.
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// The root element; `None` if the bytes are not such a document.
pub(super) fn parse(bytes: &[u8]) -> Option<Element> {
    let mut rest = std::str::from_utf8(bytes).ok()?;
    rest = rest.strip_prefix('\u{feff}').unwrap_or(rest);
    if rest.starts_with("<?xml ") {
        rest = rest.split_once("?>")?.1;
    }
    let (mut open, mut root, mut count): (Vec<Element>, Option<Element>, usize) = (Vec::new(), None, 0);
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        match open.last_mut() {
            Some(element) => element.text.push_str(&unescaped(text)?),
            None if text.trim().is_empty() => {}
            None => return None,
        }
        let end = end_of(tag)?;
        let (inside, behind) = (&tag[1..end], &tag[end + 1..]);
        rest = behind;
        if let Some(name) = inside.strip_prefix('/') {
            let element = open.pop().filter(|element| element.name == name.trim_end())?;
            close(element, &mut open, &mut root)?;
            continue;
        }
        count += 1;
        let (inside, is_empty) = inside.strip_suffix('/').map_or((inside, false), |inside| (inside, true));
        let name = inside.split_ascii_whitespace().next().filter(|name| inside.starts_with(*name))?;
        if count > MAX_ELEMENTS || open.len() >= MAX_DEPTH || !is_name(name) {
            return None;
        }
        let element = Element { name: name.to_owned(), ..Element::default() };
        match is_empty {
            true => close(element, &mut open, &mut root)?,
            false => open.push(element),
        }
    }
    if rest.trim().is_empty() && open.is_empty() { root } else { None }
}

/// Puts a whole element into what is open, or makes it the root, of which there is one.
fn close(mut element: Element, open: &mut [Element], root: &mut Option<Element>) -> Option<()> {
    if !element.children.is_empty() {
        // What stands between elements is their layout.
        element.text.clear();
    }
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None if root.is_none() => *root = Some(element),
        None => return None,
    }
    Some(())
}

/// Where the tag at the beginning ends: the first `>` that is not in quotes.
fn end_of(tag: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate().skip(1) {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'>') => return Some(at),
            (_, b'<') => return None,
            (_, _) => {}
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b))
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('&') {
        out.push_str(before);
        // The longest reference has ten characters.
        let (name, after) = behind.split_once(';').filter(|(name, _)| name.len() <= 10)?;
        out.push(match name {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#')?;
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)?
            }
        });
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_s3_answers_is_read() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\n  <Code>NoSuchKey</Code>\
            <Message>a &lt;b&gt; &amp; &#x63;&#100; &quot;é&quot;</Message>\n<Empty/><Empty a='>'></Empty></Error>\n";
        let error = parse(text.as_bytes()).expect("a document");
        assert_eq!((error.name.as_str(), error.text.as_str()), ("Error", ""));
        assert_eq!(error.text_of("Code"), Some("NoSuchKey"));
        assert_eq!(error.text_of("Message"), Some("a <b> & cd \"é\""));
        assert_eq!((error.text_of("Empty"), error.all("Empty").count()), (None, 2), "which of two?");
        assert_eq!(error.text_of("Other"), None);
    }

    #[test]
    fn what_is_none_of_s3s_is_refused() {
        let deep = format!("{}{}", "<a>".repeat(17), "</a>".repeat(17));
        let many = format!("<a>{}</a>", "<b/>".repeat(50_000));
        for text in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a/>text",
            "text<a/>",
            "<a><!-- c --></a>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            "<a>&b;</a>",
            "<a>&amp</a>",
            "<a>&#0xd800;</a>",
            "<a>&#55296;</a>",
            "<a><![CDATA[x]]></a>",
            "<a><?x y?></a>",
            "<a b=\"<\"/>",
            "<a b=\"/>",
            "< a/>",
            "<1/>",
            "<>",
            "</>",
            "{\"a\":1}",
            &deep,
            &many,
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{}", text.chars().take(60).collect::<String>());
        }
        assert_eq!(parse(b"<a>\xff</a>"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[<>/a&;#x0-9\"'? !\\[\\]-]{0,80}") {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn text_comes_back_as_it_was(text in "[ -~éß\u{10ffff}]{0,60}") {
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
            let read = parse(format!("<a><b>{escaped}</b></a>").as_bytes());
            prop_assert_eq!(read.as_ref().and_then(|a| a.text_of("b")), Some(text.as_str()));
        }
    }
}
