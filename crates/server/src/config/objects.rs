//! `[trust] objects` or `[trust.s3]`: where artifacts are kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_egress::Network;
use countersign_keys::{AwsCredentialSources, SecretSource};
use countersign_ledger::objects::RetentionMode;
use countersign_store::objects::{Encryption, S3Config};
use toml::Spanned;
use url::Url;

use super::file::FileS3;
use super::{ConfigError, Source, parse_duration};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// S3's own bound for a retention.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Where artifacts are kept.
#[derive(Debug, Clone)]
pub enum ObjectSettings {
    /// In a directory.
    Directory(PathBuf),
    /// In a bucket.
    S3(Box<S3Settings>),
}

/// A bucket, and what it takes to get there.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The bucket and how objects are kept in it.
    pub store: S3Config,
    /// Where the credentials are.
    pub credentials: AwsCredentialSources,
    /// Networks that are not public, in which its endpoint may be.
    pub networks: Vec<Network>,
}

pub(super) fn settings(
    directory: Option<Spanned<PathBuf>>,
    s3: Option<FileS3>,
    source: &Source,
    base: &Path,
    data_dir: &Path,
) -> Result<ObjectSettings, ConfigError> {
    match (directory, s3) {
        (None, None) => Ok(ObjectSettings::Directory(data_dir.join("objects"))),
        (Some(path), None) => Ok(ObjectSettings::Directory(base.join(path.into_inner()))),
        (None, Some(section)) => bucket(section, source, base).map(|settings| ObjectSettings::S3(Box::new(settings))),
        (Some(path), Some(_)) => {
            let message = "artifacts are kept in a directory (objects) or in a bucket ([trust.s3]), not in both";
            Err(source.complain(&path, message.to_owned()))
        }
    }
}

fn bucket(section: FileS3, source: &Source, base: &Path) -> Result<S3Settings, ConfigError> {
    let mut config = S3Config::new(section.bucket.get_ref().clone(), section.region.clone());
    config.prefix = section.prefix.trim_end_matches('/').to_owned();
    if let Some(text) = &section.endpoint {
        config.endpoint =
            Some(Url::parse(text.get_ref()).map_err(|e| source.complain(text, format!("endpoint: {e}")))?);
    }
    config.retention = retention(section.retention.as_ref(), section.mode.as_ref(), source)?;
    config.encryption = encryption(section.encryption.as_ref(), section.kms_key.clone(), source, &section.bucket)?;
    if let Some(text) = &section.timeout {
        config.timeout = parse_duration(text.get_ref()).map_err(|m| source.complain(text, m))?;
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&config.timeout) {
            return Err(source.complain(text, "timeout is from 100ms to 60s".to_owned()));
        }
    }
    let credentials = credentials(&section, base);
    let networks = match &section.networks {
        None => Vec::new(),
        Some(texts) => {
            let read = |text: &String| text.parse::<Network>().map_err(|e| source.complain(texts, e.to_string()));
            texts.get_ref().iter().map(read).collect::<Result<_, _>>()?
        }
    };
    config.check().map_err(|message| source.complain(&section.bucket, message))?;
    Ok(S3Settings { store: config, credentials, networks })
}

/// The environment's, as of AWS's own tools, where no file is named.
fn credentials(section: &FileS3, base: &Path) -> AwsCredentialSources {
    let mut sources = AwsCredentialSources::default();
    for (file, source) in [
        (&section.access_key_id_file, &mut sources.access_key_id),
        (&section.secret_access_key_file, &mut sources.secret_access_key),
        (&section.session_token_file, &mut sources.session_token),
    ] {
        file.iter().for_each(|path| *source = SecretSource::File(base.join(path)));
    }
    sources
}

fn retention(
    kept: Option<&Spanned<String>>,
    mode: Option<&Spanned<String>>,
    source: &Source,
) -> Result<Option<(RetentionMode, Duration)>, ConfigError> {
    let mode = match mode.map(|text| (text, text.get_ref().as_str())) {
        None | Some((_, "compliance")) => RetentionMode::Compliance,
        Some((_, "governance")) => RetentionMode::Governance,
        Some((text, other)) => {
            return Err(source.complain(text, format!("mode is \"compliance\" or \"governance\", not {other:?}")));
        }
    };
    let Some(text) = kept else { return Ok(None) };
    let kept = parse_duration(text.get_ref()).map_err(|m| source.complain(text, m))?;
    if !(DAY..=LONGEST).contains(&kept) {
        return Err(source.complain(text, "retention is from 1d to 36500d".to_owned()));
    }
    Ok(Some((mode, kept)))
}

fn encryption(
    kind: Option<&Spanned<String>>,
    kms_key: Option<String>,
    source: &Source,
    bucket: &Spanned<String>,
) -> Result<Option<Encryption>, ConfigError> {
    match (kind.map(|text| (text, text.get_ref().as_str())), kms_key) {
        (None, None) => Ok(None),
        (Some((_, "AES256")), None) => Ok(Some(Encryption::Aes256)),
        (Some((_, "aws:kms")), key) => Ok(Some(Encryption::Kms(key))),
        (Some((text, "AES256")), Some(_)) => {
            Err(source.complain(text, "kms_key needs encryption = \"aws:kms\"".to_owned()))
        }
        (Some((text, other)), _) => {
            Err(source.complain(text, format!("encryption is \"AES256\" or \"aws:kms\", not {other:?}")))
        }
        (None, Some(_)) => Err(source.complain(bucket, "kms_key needs encryption = \"aws:kms\"".to_owned())),
    }
}
