//! Options of the commands: `--name value`, `--name` alone, nothing else. Unknown ones are refused.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};

/// What stood behind the command's name.
#[derive(Debug, Default)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// Reads them; `known` are the names that the command takes, without dashes.
    ///
    /// # Errors
    /// On anything that the command does not take.
    pub fn parse(arguments: &[String], known: &[&str]) -> Result<Self> {
        let mut found = BTreeMap::new();
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            let Some(name) = argument.strip_prefix("--") else { bail!("unexpected {argument:?}") };
            ensure!(known.contains(&name), "no option --{name}; there are: {}", known.join(", "));
            let value = rest.next_if(|next| !next.starts_with("--")).cloned().unwrap_or_default();
            found.insert(name.to_owned(), value);
        }
        Ok(Self(found))
    }

    /// An option's value.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// An option's value, read, or the default.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn value<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| anyhow::anyhow!("--{name} {text}: not a value for it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            Options::parse(&words, &["writes", "json"])
        };
        let options = parse(&["--writes", "10", "--json"]).unwrap();
        assert_eq!(options.value("writes", 5_u32).unwrap(), 10);
        assert_eq!(options.text("json"), Some(""));
        assert!(options.value::<u32>("json", 5).is_err());
        assert!(parse(&["--other"]).is_err() && parse(&["more"]).is_err());
    }
}
