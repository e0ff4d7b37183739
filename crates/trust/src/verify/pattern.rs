//! Who is expected: exactly, or by a pattern.

use std::fmt;

/// An expected identity or issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This text.
    Exact(String),
    /// `*` stands for any characters but `/`, `**` for any characters at all, everything else for itself. So a pattern
    /// for one repository's workflows cannot be met by a longer path.
    Glob(String),
}

impl Pattern {
    /// Whether it is met. The time is bounded by the product of the two lengths.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Glob(glob) => glob_matches(glob.as_bytes(), text.as_bytes()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "{text:?}"),
            Self::Glob(glob) => write!(f, "matching {glob:?}"),
        }
    }
}

/// Keeps, for each prefix of the text, whether the pattern so far matches it.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut rest = glob;
    while let [first, after @ ..] = rest {
        let (any, slashes, next) = match after {
            [b'*', more @ ..] if *first == b'*' => (true, true, more),
            _ => (*first == b'*', false, after),
        };
        if any {
            for i in 0..text.len() {
                reached[i + 1] |= reached[i] && (slashes || text[i] != b'/');
            }
        } else {
            for i in (0..text.len()).rev() {
                reached[i + 1] = reached[i] && text[i] == *first;
            }
            reached[0] = false;
        }
        rest = next;
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        for (glob, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "abc", true),
            ("*", "a/c", false),
            ("**", "a/c", true),
            ("*@example.com", "ann@example.com", true),
            ("*@example.com", "ann@example.com.evil.org", false),
            ("https://x/*/signer", "https://x/1/signer", true),
            ("https://x/*/signer", "https://x/1/2/signer", false),
            ("https://x/**/signer", "https://x/1/2/signer", true),
            ("*a*b*", "xaxxbx", true),
            ("*a*b*", "xbxxax", false),
            ("a?", "ab", false),
        ] {
            assert_eq!(Pattern::Glob(glob.to_owned()).matches(text), expected, "{glob} {text}");
        }
        assert!(Pattern::Exact("*".to_owned()).matches("*") && !Pattern::Exact("*".to_owned()).matches("a"));
        assert!(!Pattern::Glob("*".repeat(63) + "b").matches(&"a".repeat(4096)));
    }
}
