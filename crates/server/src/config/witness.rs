//! Witnessing: whom this node asks for cosignatures, and whose checkpoints it cosigns.

use std::collections::BTreeSet;

use countersign_proof::note::{KeyKind, VerifierKey};
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::{ConfigError, Source};

/// The most witnesses that are asked: a receipt carries a line of each.
const MAX_WITNESSES: usize = 16;
/// The most logs whose checkpoints are cosigned.
const MAX_LOGS: usize = 256;

/// A witness that this node asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessSettings {
    /// Its submission prefix, with a trailing slash.
    pub url: Url,
    /// Its cosignature key; the key's name is the witness's.
    pub key: VerifierKey,
}

/// What this node cosigns as a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessForSettings {
    /// Name of its cosignature key.
    pub name: String,
    /// Keys of the logs; a key's name is its log's origin.
    pub logs: Vec<VerifierKey>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileWitness {
    url: Spanned<String>,
    vkey: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileWitnessFor {
    name: Option<Spanned<String>>,
    logs: Spanned<Vec<Spanned<String>>>,
}

pub(super) fn witnesses(file: Vec<FileWitness>, source: &Source) -> Result<Vec<WitnessSettings>, ConfigError> {
    let mut keys = BTreeSet::new();
    let mut settings = Vec::with_capacity(file.len());
    for witness in file {
        let url = prefix(witness.url.get_ref()).map_err(|why| source.complain(&witness.url, why))?;
        let key = key(&witness.vkey, KeyKind::CosignatureV1, source)?;
        if !keys.insert(*key.public_key()) {
            return Err(source.complain(&witness.vkey, "this witness is configured twice".to_owned()));
        }
        if keys.len() > MAX_WITNESSES {
            return Err(source.complain(&witness.vkey, format!("at most {MAX_WITNESSES} witnesses are asked")));
        }
        settings.push(WitnessSettings { url, key });
    }
    Ok(settings)
}

pub(super) fn witness_for(
    file: FileWitnessFor,
    source: &Source,
    log_domain: &str,
) -> Result<WitnessForSettings, ConfigError> {
    let name = match &file.name {
        None => format!("{log_domain}/witness"),
        Some(name) if is_name(name.get_ref()) => name.get_ref().clone(),
        Some(name) => {
            let words =
                "a witness's name is a URL without its scheme: no spaces, control characters or '+', at most 200";
            return Err(source.complain(name, words.to_owned()));
        }
    };
    let logs = file.logs.get_ref();
    if logs.is_empty() || logs.len() > MAX_LOGS {
        return Err(source.complain(&file.logs, format!("give 1 to {MAX_LOGS} keys of logs")));
    }
    let logs = logs.iter().map(|text| key(text, KeyKind::Ed25519, source)).collect::<Result<_, _>>()?;
    Ok(WitnessForSettings { name, logs })
}

fn key(text: &Spanned<String>, kind: KeyKind, source: &Source) -> Result<VerifierKey, ConfigError> {
    let key = text.get_ref().parse::<VerifierKey>().map_err(|why| source.complain(text, why.to_string()))?;
    if key.kind() == kind {
        return Ok(key);
    }
    let words = match kind {
        KeyKind::Ed25519 => "this is a witness's key; a log's is needed (signature type 0x01)",
        KeyKind::CosignatureV1 => "this is a log's key; a witness's is needed (signature type 0x04)",
    };
    Err(source.complain(text, words.to_owned()))
}

fn prefix(text: &str) -> Result<Url, String> {
    let wrong = || format!("{text:?} is not an http or https URL without a query");
    let mut url = Url::parse(text).map_err(|_| wrong())?;
    let is_plain = url.query().is_none() && url.fragment().is_none() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_plain || !url.username().is_empty() {
        return Err(wrong());
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn is_name(name: &str) -> bool {
    (1..=200).contains(&name.len()) && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}
