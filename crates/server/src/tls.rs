//! TLS on the listener, and whom client certificates name.
//!
//! Certificate and key are read again when their files change, and on SIGHUP: connections that are open go on with what they
//! began with, new ones get the new certificate. Files that cannot be used leave the old ones in force, and the log says so.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_domain::Principal;
use countersign_proof::digest::Digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use crate::config::{ClientAuth, ClientRule, SubjectName, TlsSettings};

/// Who vouches for a principal that a client certificate names.
pub const CERTIFICATE_ISSUER: &str = "countersign-mtls";
/// The most names of one certificate that are looked at.
const MAX_NAMES: usize = 100;
const POLL: Duration = Duration::from_secs(1);

/// What a connection proved about its client.
#[derive(Debug, Clone)]
pub(crate) struct ClientCertificate {
    /// SHA-256 of the certificate, DER (RFC 8705, section 3.1).
    pub thumbprint: [u8; 32],
    /// Whom it names by the configuration.
    pub principal: Option<Arc<Principal>>,
}

/// The listener's TLS.
pub(crate) struct Tls {
    settings: TlsSettings,
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads certificate, key and authorities.
    ///
    /// # Errors
    /// In words, with the file.
    pub fn open(settings: TlsSettings) -> Result<Arc<Self>, String> {
        let current = ArcSwap::new(load(&settings)?);
        Ok(Arc::new(Self { settings, current }))
    }

    /// For a new connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// What a client's verified certificate says of it.
    pub fn client(&self, certificate: &CertificateDer<'_>) -> ClientCertificate {
        let thumbprint = Digest::of(certificate).0;
        ClientCertificate { thumbprint, principal: named(&self.settings.clients, certificate).map(Arc::new) }
    }

    /// Reads the files again; on an error the old ones stay in force.
    fn reload(&self) {
        match load(&self.settings) {
            Ok(config) => {
                self.current.store(config);
                tracing::info!("the TLS certificate was read again");
            }
            Err(why) => tracing::error!(why, "the TLS certificate could not be read again; the one before stays"),
        }
    }

    /// Follows the files and SIGHUP. Never ends.
    pub async fn follow(self: Arc<Self>) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => return tracing::warn!(%error, "SIGHUP will not reload the TLS certificate"),
        };
        let mut known = self.fingerprint();
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = tick.tick() => false,
                _ = hangup.recv() => true,
            };
            let now = self.fingerprint();
            if asked || now != known {
                known = now;
                self.reload();
            }
        }
    }

    fn fingerprint(&self) -> Vec<Option<(u64, i64, i64, u64)>> {
        let files = [Some(&self.settings.certificate), Some(&self.settings.key), self.settings.client_ca.as_ref()];
        let facts = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.len(), m.mtime(), m.mtime_nsec(), m.ino()));
        files.into_iter().flatten().map(|path| facts(path)).collect()
    }
}

fn load(settings: &TlsSettings) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates(&settings.certificate)?;
    let key = private_key(&settings.key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match (settings.client_auth, &settings.client_ca) {
        (ClientAuth::None, _) | (_, None) => builder.with_no_client_auth(),
        (ClientAuth::Optional | ClientAuth::Required, Some(path)) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match settings.client_auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                ClientAuth::None | ClientAuth::Required => verifier,
            };
            let verifier = verifier.build().map_err(|error| format!("{}: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let wrong = |error: rustls::Error| format!("{}: {error}", settings.certificate.display());
    let mut config = builder.with_single_cert(chain, key).map_err(wrong)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let all = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
    if all.is_empty() { Err(wrong(&"there is no certificate in it")) } else { Ok(all) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    // A group may share it, as certificate tools have it; the world may not.
    let mode = std::fs::metadata(path).map_err(|error| wrong(&error))?.mode();
    if mode & 0o007 != 0 {
        return Err(wrong(&"everybody can read this key; run chmod o= on it"));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| wrong(&error))
}

/// The principal by the first rule that fits.
fn named(rules: &[ClientRule], certificate: &CertificateDer<'_>) -> Option<Principal> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let uris: Vec<&str> = parsed.valid_uri_names().take(MAX_NAMES).collect();
    let names: Vec<String> = parsed.valid_dns_names().take(MAX_NAMES).map(str::to_ascii_lowercase).collect();
    rules.iter().find_map(|rule| {
        let name = match &rule.name {
            SubjectName::Uri(wanted) => uris.iter().copied().find(|uri| fits(wanted, uri))?,
            SubjectName::Dns(wanted) => names.iter().map(String::as_str).find(|name| fits(wanted, name))?,
        };
        Some(Principal {
            kind: rule.kind,
            id: rule.principal.clone().unwrap_or_else(|| name.to_owned()),
            issuer: CERTIFICATE_ISSUER.to_owned(),
            on_behalf_of: None,
            workspace: rule.workspace.clone(),
            roles: rule.roles.clone(),
            scopes: rule.scopes.clone(),
            development: false,
            attributes: BTreeMap::new(),
        })
    })
}

fn fits(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix('*') {
        // A wildcard certificate is not all of the names that it stands for.
        Some(start) => name.starts_with(start) && name.len() > start.len() && !name.contains('*'),
        None => name == wanted,
    }
}
