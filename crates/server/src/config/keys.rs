//! `[keys]`: who keeps the keys that must not lie in a file or a database.

use std::path::Path;
use std::time::Duration;

use countersign_keys::{AwsKmsConfig, Pkcs11Config, SecretSource, TokenChoice};
use url::Url;

use super::file::FileKeys;
use super::{ConfigError, Source, parse_duration};

/// Who keeps keys.
#[derive(Debug, Clone)]
pub struct KeySettings {
    /// Where.
    pub keeper: KeeperSettings,
    /// Whether the root key is wrapped there, instead of lying in `root.key`.
    pub wrap_root: bool,
}

/// Where keys are kept.
#[derive(Debug, Clone)]
pub enum KeeperSettings {
    /// On a token with a PKCS#11 module.
    Pkcs11(Pkcs11Config),
    /// In AWS KMS.
    AwsKms(AwsKmsConfig),
}

pub(super) fn settings(file: FileKeys, source: &Source, base: &Path) -> Result<KeySettings, ConfigError> {
    let complain = |message: &str| source.complain(&file.provider, message.to_owned());
    let timeout = match &file.timeout {
        None => None,
        Some(text) => Some(parse_duration(text.get_ref()).map_err(|m| source.complain(text, m))?),
    };
    let keeper = match file.provider.get_ref().as_str() {
        "pkcs11" => {
            let module = file.module.clone().ok_or_else(|| complain("pkcs11 needs the module's path, `module`"))?;
            let token = match (&file.token, file.slot) {
                (Some(label), None) => TokenChoice::Label(label.clone()),
                (None, Some(slot)) => TokenChoice::Slot(slot),
                (_, _) => return Err(complain("pkcs11 needs a `token` by its label, or a `slot`")),
            };
            let pin = match (&file.pin_file, &file.pin_env) {
                (Some(path), None) => SecretSource::File(base.join(path)),
                (None, Some(name)) => SecretSource::Env(name.clone()),
                (_, _) => return Err(complain("pkcs11 needs the PIN, from `pin_file` or `pin_env`")),
            };
            let mut config = Pkcs11Config::new(module, token, pin);
            config.timeout = timeout.unwrap_or(config.timeout);
            KeeperSettings::Pkcs11(config)
        }
        "aws-kms" => KeeperSettings::AwsKms(kms(&file, source, timeout)?),
        other => return Err(complain(&format!("provider is \"pkcs11\" or \"aws-kms\", not {other:?}"))),
    };
    if let (KeeperSettings::AwsKms(config), true) = (&keeper, file.wrap_root)
        && config.root_key.is_none()
    {
        return Err(complain("wrap_root needs a symmetric key of KMS, `root_key`"));
    }
    Ok(KeySettings { keeper, wrap_root: file.wrap_root })
}

fn kms(file: &FileKeys, source: &Source, timeout: Option<Duration>) -> Result<AwsKmsConfig, ConfigError> {
    let complain = |message: &str| source.complain(&file.provider, message.to_owned());
    let region = file.region.clone().ok_or_else(|| complain("aws-kms needs a `region`"))?;
    let mut config = AwsKmsConfig::new(region);
    config.timeout = timeout.unwrap_or(config.timeout);
    config.root_key.clone_from(&file.root_key);
    if let Some(text) = &file.endpoint {
        let url = Url::parse(text.get_ref()).map_err(|e| source.complain(text, e.to_string()))?;
        config.endpoint = Some(url);
    }
    Ok(config)
}
