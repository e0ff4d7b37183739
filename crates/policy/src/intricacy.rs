//! A bound on how deep one policy's expression can be, checked before it is parsed.
//!
//! Cedar builds an expression as a tree and drops it by recursion, so that some hundreds of nested parentheses would
//! overflow the stack, which no caller can catch.

/// How deep brackets and `if`s may nest in one policy; each costs Cedar a dozen stack frames.
const MAX_NESTING: usize = 40;
/// How many operators, accesses and brackets one policy may have; a chain of them costs a few frames each. Elements of a
/// list don't count.
const MAX_JOINTS: usize = 1_000;

/// What is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooIntricate {
    #[error("brackets and ifs nested more than {MAX_NESTING} deep")]
    Nesting,
    #[error("more than {MAX_JOINTS} operators, accesses and brackets in one policy")]
    Joints,
}

#[derive(Default)]
struct Count {
    joints: usize,
    open: usize,
    ifs: usize,
}

/// The byte offset at which some policy passes a bound.
pub(crate) fn excess(text: &str) -> Option<(usize, TooIntricate)> {
    let bytes = text.as_bytes();
    let (mut at, mut count) = (0, Count::default());
    while at < bytes.len() {
        let width = count.step(&bytes[at..]);
        if count.open + count.ifs > MAX_NESTING {
            return Some((at, TooIntricate::Nesting));
        }
        if count.joints > MAX_JOINTS {
            return Some((at, TooIntricate::Joints));
        }
        at += width;
    }
    None
}

impl Count {
    /// Takes the next token and returns its width. Strings and comments are skipped whole.
    fn step(&mut self, rest: &[u8]) -> usize {
        match rest[0] {
            b'"' => return string_width(rest),
            b'/' if rest.starts_with(b"//") => return rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
            b';' => *self = Self::default(),
            b'(' | b'[' | b'{' => {
                self.open += 1;
                self.joints += 1;
            }
            b')' | b']' | b'}' => self.open = self.open.saturating_sub(1),
            b'&' | b'|' => {
                self.joints += 1;
                return 2;
            }
            b'!' | b'.' | b'-' | b'+' | b'*' => self.joints += 1,
            byte if is_word(byte) => return self.word(rest),
            _ => {}
        }
        1
    }

    fn word(&mut self, rest: &[u8]) -> usize {
        let width = rest.iter().take_while(|b| is_word(**b)).count();
        self.ifs += usize::from(&rest[..width] == b"if");
        self.joints += usize::from(matches!(&rest[..width], b"if" | b"has" | b"in" | b"like" | b"is"));
        width
    }
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

fn string_width(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_per_policy_and_look_at_code_only() {
        use TooIntricate::{Joints, Nesting};
        let many = "!".repeat(MAX_JOINTS);
        let deep = "(".repeat(MAX_NESTING);
        for (text, expected) in [
            (many.clone(), None),
            (format!("{many}!"), Some((MAX_JOINTS, Joints))),
            (format!("{many}; {many}"), None),
            (format!("\"{many}\\\"{many}\" {many}"), None),
            (format!("// {many} ; \"\n{many}"), None),
            (format!("{many} \"a;b\" !"), Some((MAX_JOINTS + 7, Joints))),
            (format!("{many}é!"), Some((MAX_JOINTS + 2, Joints))),
            (deep.clone(), None),
            (format!("{deep}("), Some((MAX_NESTING, Nesting))),
            ("()".repeat(MAX_NESTING * 2), None),
            ("if ".repeat(MAX_NESTING + 1), Some((3 * MAX_NESTING, Nesting))),
            ("iffy inside, ".repeat(MAX_JOINTS + 1), None),
            ("\"unterminated\\".into(), None),
        ] {
            assert_eq!(excess(&text), expected, "{text:.40}");
        }
    }
}
