//! Texts that may take their secrets from the node's environment: `Bearer ${ADS_TOKEN}`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error as _};

/// A text with `${VARIABLE}` references. `$$` stands for one `$`. Its value is never printed: it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvText {
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(String),
}

/// A referenced environment variable that is not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {0} is not set")]
pub struct MissingVariable(pub String);

impl EnvText {
    /// Reads a template.
    ///
    /// # Errors
    /// In words, if a `$` is followed by neither `$` nor `{NAME}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let inner = rest.strip_prefix('{').and_then(|r| r.split_once('}'));
            let (name, after) = inner
                .filter(|(name, _)| is_variable(name))
                .ok_or("a '$' must start ${VARIABLE} (letters, digits and '_') or be doubled as '$$'".to_owned())?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Variable(name.to_owned()));
            rest = after;
        }
        literal.push_str(rest);
        if literal.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            return Err("control characters are not allowed here".to_owned());
        }
        parts.push(Part::Literal(literal));
        Ok(Self { parts })
    }

    /// The text with its variables filled in from `lookup`.
    ///
    /// # Errors
    /// For the first variable that `lookup` does not know.
    pub fn resolve(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<String, MissingVariable> {
        self.parts.iter().try_fold(String::new(), |mut out, part| {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Variable(name) => out.push_str(&lookup(name).ok_or_else(|| MissingVariable(name.clone()))?),
            }
            Ok(out)
        })
    }

    /// The names of the variables that it refers to, in order.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }
}

/// Shows where variables stand, and nothing of what is written between them.
impl fmt::Debug for EnvText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Literal(text) if text.is_empty() => Ok(()),
            Part::Literal(_) => f.write_str("…"),
            Part::Variable(name) => write!(f, "${{{name}}}"),
        })
    }
}

impl<'de> Deserialize<'de> for EnvText {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(input)?).map_err(D::Error::custom)
    }
}

impl JsonSchema for EnvText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EnvText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A text. ${VARIABLE} is taken from the node's environment; $$ stands for one $.",
            "pattern": "^([^$]|\\$\\$|\\$\\{[A-Za-z_][A-Za-z0-9_]*\\})*$",
        })
    }
}

/// A name that POSIX shells accept for an environment variable.
pub(super) fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_and_values_are_not_printed() {
        let text = EnvText::parse("Bearer ${TOKEN}$$x").expect("a template");
        assert_eq!(text.resolve(|name| (name == "TOKEN").then(|| "t".into())), Ok("Bearer t$x".to_owned()));
        assert_eq!(text.resolve(|_| None), Err(MissingVariable("TOKEN".into())));
        assert_eq!(format!("{text:?}"), "…${TOKEN}…");
        assert_eq!(text.variables().collect::<Vec<_>>(), ["TOKEN"]);
        for wrong in ["$", "${", "${}", "${1A}", "$TOKEN", "${A B}", "a\u{1b}"] {
            assert!(EnvText::parse(wrong).is_err(), "{wrong}");
        }
    }
}
