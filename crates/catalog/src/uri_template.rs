//! Whether a URI is one of a template's (RFC 6570), read backwards: the literal parts must be there, in order.
//!
//! Expansion is the client's; here a variable stands for any text that its kind of expression can produce. Matching walks
//! the literals once from the left, so its time is bounded by the lengths alone.

/// Most expressions in one template.
const MAX_EXPRESSIONS: usize = 20;

/// A template taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriTemplate {
    head: String,
    parts: Vec<(Hole, String)>,
}

/// What may stand in the place of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hole {
    /// Whether reserved characters may stand there unencoded (`+`, `#`, and the separators of `/`, `?`, `&`, `;`, `.`).
    reserved: bool,
    /// Whether it may be empty.
    empty: bool,
}

impl UriTemplate {
    /// Reads a template. `None` where it is not one that can be matched: unbalanced braces, expressions without anything
    /// between them, too many.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pieces = text.split('{');
        let head = pieces.next()?.to_owned();
        let mut parts = Vec::new();
        for piece in pieces {
            let (expression, literal) = piece.split_once('}')?;
            let operator = expression.chars().next()?;
            let reserved = matches!(operator, '+' | '#' | '/' | '?' | '&' | ';' | '.');
            let names = if reserved { &expression[1..] } else { expression };
            if names.is_empty() || literal.contains('}') {
                return None;
            }
            parts.push((Hole { reserved, empty: reserved }, literal.to_owned()));
        }
        // A template without any literal at its beginning would take every URI there is.
        let bounded = !head.is_empty() && (1..=MAX_EXPRESSIONS).contains(&parts.len());
        // Two expressions side by side can only be told apart where the second begins with a separator.
        let separated = parts.windows(2).all(|pair| !pair[0].1.is_empty() || pair[1].0.reserved);
        (bounded && separated && !text.split('{').next()?.contains('}')).then_some(Self { head, parts })
    }

    /// Whether the URI has the template's form.
    pub fn matches(&self, uri: &str) -> bool {
        // A path that climbs is not one that a reviewer of the template had in mind.
        if climbs(uri) {
            return false;
        }
        let Some(mut rest) = uri.strip_prefix(self.head.as_str()) else { return false };
        let last = self.parts.len() - 1;
        for (number, (hole, literal)) in self.parts.iter().enumerate() {
            let end = match (number == last, literal.is_empty()) {
                (true, true) => Some(rest.len()),
                (true, false) => rest.ends_with(literal.as_str()).then(|| rest.len() - literal.len()),
                (false, true) => Some(rest.find(['/', '?', '#', '&', ';', '.']).unwrap_or(rest.len())),
                // The shortest text that fits; a variable without an operator holds no separators anyway.
                (false, false) => {
                    let skip = usize::from(!hole.empty);
                    let from = rest.char_indices().nth(skip).map_or(rest.len(), |(at, _)| at);
                    rest[from..].find(literal.as_str()).map(|at| at + from)
                }
            };
            let Some(end) = end else { return false };
            let value = &rest[..end];
            if !hole.takes(value) {
                return false;
            }
            rest = &rest[end + literal.len()..];
        }
        rest.is_empty()
    }
}

impl Hole {
    fn takes(self, value: &str) -> bool {
        let separator = |c: char| matches!(c, '/' | '?' | '#' | '&' | ';' | '[' | ']' | '@');
        (self.empty || !value.is_empty()) && (self.reserved || !value.contains(separator))
    }
}

/// Whether a path segment is `..`, written plainly or encoded.
fn climbs(uri: &str) -> bool {
    let decoded =
        uri.replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/").replace('\\', "/");
    decoded.split(['/', '?', '#']).any(|segment| segment == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_fits_or_it_does_not() {
        for (template, uri, fits) in [
            ("file:///{path}", "file:///a.txt", true),
            ("file:///{path}", "file:///a/b.txt", false),
            ("file:///{+path}", "file:///a/b.txt", true),
            ("file:///{+path}", "file:///a/../b.txt", false),
            ("file:///{+path}", "file:///a/%2e%2E/b.txt", false),
            ("file:///{path}", "file:///", false),
            ("file:///{path}", "http:///a", false),
            ("test://template/{id}/data", "test://template/123/data", true),
            ("test://template/{id}/data", "test://template/1/2/data", false),
            ("test://template/{id}/data", "test://template//data", false),
            ("test://template/{id}/data", "test://template/123/data/more", false),
            ("db://{table}/{row}", "db://users/7", true),
            ("db://{table}/{row}", "db://users", false),
            ("db://{table}{?limit}", "db://users?limit=5", true),
            ("db://{table}{?limit}", "db://users", true),
            ("w://x{/segments*}", "w://x/a/b", true),
        ] {
            let parsed = UriTemplate::parse(template).unwrap_or_else(|| panic!("{template}"));
            assert_eq!(parsed.matches(uri), fits, "{template} {uri}");
        }
    }

    #[test]
    fn what_cannot_be_matched_is_no_template() {
        for text in ["file:///a", "{all}", "{+all}", "a://{", "a://{}", "a://{x}{y}", "a://}{x}", "a://{x}}"] {
            assert_eq!(UriTemplate::parse(text), None, "{text}");
        }
        let many = format!("a://{}", "{x}/".repeat(MAX_EXPRESSIONS + 1));
        assert_eq!(UriTemplate::parse(&many), None);
    }
}
