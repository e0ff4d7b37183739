//! The starter home: what a first start writes, so that there is something to use and to change.

use std::path::{Path, PathBuf};

use super::{ConfigError, Overrides, Places, with_environment};

const CONFIG: &str = r#"# Countersign. Every key, with its default, is described in docs/http.md and docs/identity.md.
listen = "127.0.0.1:8000"

# The bare hostname that names the transparency log. Required when others can reach the node.
# log_domain = "log.example.org"

# The development issuer signs tokens with a key in the data directory; only on loopback.
[development]
issuer = true

# Tokens of your identity provider:
# [[issuers]]
# issuer = "https://idp.example.org"
# discovery = true
# audience = "countersign"
# workspaces = ["default"]
# node_roles = ["operator", "auditor"]
"#;

const FILES: &[(&str, &str)] = &[
    ("countersign.toml", CONFIG),
    ("manifests/ads.yaml", include_str!("../../../../examples/manifests/ads.yaml")),
    ("policies/access/ads.cedar", include_str!("../../../../examples/policies/access/ads.cedar")),
    ("policies/access/operators.cedar", include_str!("../../../../examples/policies/access/operators.cedar")),
    ("policies/approval/ads.cedar", include_str!("../../../../examples/policies/approval/ads.cedar")),
];

/// The starter home's files: path relative to the home, and content.
pub fn starter_files() -> &'static [(&'static str, &'static str)] {
    FILES
}

/// Writes the starter home if there is no configuration file yet. Existing files are left alone.
///
/// # Errors
/// [`ConfigError::Io`]; what was written before stays.
pub fn write_starter(overrides: &Overrides) -> Result<Vec<PathBuf>, ConfigError> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let places = Places::new(&with_environment(overrides, &env)?, &env)?;
    if places.config_file.exists() {
        return Ok(Vec::new());
    }
    let mut written = Vec::new();
    // The configuration comes last: a start that was cut short is a first start again.
    for (name, content) in FILES.iter().rev() {
        let path = if *name == "countersign.toml" { places.config_file.clone() } else { places.base.join(name) };
        if write_new(&path, content)? {
            written.push(path);
        }
    }
    written.reverse();
    Ok(written)
}

fn write_new(path: &Path, content: &str) -> Result<bool, ConfigError> {
    let failed = |error| ConfigError::Io { path: path.to_owned(), error };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    std::io::Write::write_all(&mut file, content.as_bytes()).map_err(failed)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_starter_home_is_written_once_and_loads() {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = Overrides { home: Some(dir.path().join("home")), ..Overrides::default() };
        let written = write_starter(&flags).expect("written");
        assert_eq!(written.len(), FILES.len());
        assert!(write_starter(&flags).expect("nothing to do").is_empty());
        let config = Config::load_with(&flags, &|_| None).expect("the starter configuration is valid");
        assert!(config.manifests.join("ads.yaml").exists() && config.policies.join("access/ads.cedar").exists());
    }
}
