//! Where the ledger is kept when it is not in the data directory.

use toml::Spanned;

use super::{ConfigError, Source};

/// The URL of a Postgres database. It may hold a password, and so is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL, for the driver alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(..)")
    }
}

pub(super) fn url(
    over: Option<String>,
    file: Option<&Spanned<String>>,
    source: &Source,
) -> Result<Option<DatabaseUrl>, ConfigError> {
    const WRONG: &str = "a database URL begins with postgres://; leave it out for SQLite in the data directory";
    let is_ours = |text: &str| text.starts_with("postgres://") || text.starts_with("postgresql://");
    match (over, file) {
        (Some(text), _) if is_ours(&text) => Ok(Some(DatabaseUrl(text))),
        (Some(_), _) => Err(ConfigError::Value {
            source_name: "COUNTERSIGN_DATABASE_URL or DATABASE_URL".into(),
            message: WRONG.into(),
        }),
        (None, Some(text)) if is_ours(text.get_ref()) => Ok(Some(DatabaseUrl(text.get_ref().clone()))),
        (None, Some(text)) => Err(source.complain(text, WRONG.into())),
        (None, None) => Ok(None),
    }
}
