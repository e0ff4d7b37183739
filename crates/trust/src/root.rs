//! Whom a verifier trusts, and for which time: Sigstore's `trusted_root.json`, and the client configuration around it.
//!
//! Everything that ever signed stays listed with the time in which it did: closed shards of a log, retired authorities.

use countersign_proof::digest::Digest;
use countersign_proof::note::{KeyKind, NoteError, VerifierKey};
use serde::{Deserialize, Serialize};

use crate::authority::PublicAuthority;
use crate::certificate::{Certificate, CertificateError, MAX_CERTIFICATE_BYTES};
use crate::entry::LogIdWire;
use crate::keys::{HashAlgorithm, ed25519_spki};
use crate::wire::{self, Base64, ShapeError, Timestamp};

/// The media type that is written.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";
/// Media types that are read.
const READ: [&str; 4] = [
    MEDIA_TYPE,
    "application/vnd.dev.sigstore.trustedroot.v0.1+json",
    "application/vnd.dev.sigstore.trustedroot+json;version=0.2",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
];
const CONFIG_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json";
const SIGNING_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.signingconfig.v0.2+json";
/// The largest trusted root that is read, in bytes.
pub const MAX_ROOT_BYTES: usize = 4 << 20;
/// Most logs and most authorities of one kind.
pub const MAX_LISTED: usize = 256;
/// Most certificates in one chain.
pub const MAX_CHAIN: usize = 8;

/// Why a trusted root cannot be read or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Not JSON, or not of this shape.
    #[error("not a trusted root: {0}")]
    Shape(#[from] ShapeError),
    /// Another type or version.
    #[error("files of type {0:?} are not read here")]
    MediaType(String),
    /// Too many entries, or too long a chain.
    #[error("the trusted root is beyond a bound: {0}")]
    Bound(&'static str),
    /// An authority without certificates.
    #[error("an authority has no certificates")]
    EmptyChain,
    /// A log or authority without the start of its time.
    #[error("a log or authority does not say from when on it is trusted")]
    NoStart,
    /// A certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The log's key or origin is none.
    #[error(transparent)]
    Log(#[from] NoteError),
}

/// A time in seconds; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First second.
    pub start: u64,
    /// Last second, if it has ended or will end.
    pub end: Option<u64>,
}

impl Window {
    /// From a second on, without end.
    pub fn since(start: u64) -> Self {
        Self { start, end: None }
    }

    /// Whether a time lies in it.
    pub fn contains(&self, seconds: u64) -> bool {
        seconds >= self.start && self.end.is_none_or(|end| seconds <= end)
    }
}

/// A transparency log, or a log of certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogInstance {
    /// Where it is reached. Its hostname is the origin in checkpoints.
    pub base_url: String,
    /// DER of the `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
    /// The key's name in Sigstore's algorithm registry.
    pub key_details: String,
    /// When what it signed is trusted.
    pub window: Window,
    /// By what entries and SCTs name it.
    pub log_id: Vec<u8>,
    /// By what checkpoints name its key, if that is another.
    pub checkpoint_key_id: Option<Vec<u8>>,
    /// Who runs it.
    pub operator: String,
}

impl LogInstance {
    /// A shard of a log of ours: its origin is a bare hostname, its key is Ed25519. Signatures are stamped before they are
    /// logged, so that a new shard's window has to begin a little before its first entry.
    ///
    /// # Errors
    /// [`RootError::Log`].
    pub fn shard(origin: &str, public_key: &[u8; 32], operator: &str, window: Window) -> Result<Self, RootError> {
        VerifierKey::new(origin, KeyKind::Ed25519, public_key)?;
        let log_id = log_id(origin, public_key);
        Ok(Self {
            base_url: format!("https://{origin}"),
            public_key: ed25519_spki(public_key),
            key_details: "PKIX_ED25519".to_owned(),
            window,
            checkpoint_key_id: Some(log_id.clone()),
            log_id,
            operator: operator.to_owned(),
        })
    }

    /// The key that signs SCTs of an authority of ours. Nothing is reached at its address: SCTs are embedded.
    pub fn ct(authority: &PublicAuthority, base_url: &str, window: Window) -> Self {
        Self {
            base_url: base_url.to_owned(),
            public_key: authority.ct_key.clone(),
            key_details: "PKIX_ECDSA_P256_SHA_256".to_owned(),
            window,
            log_id: Digest::of(&authority.ct_key).0.to_vec(),
            checkpoint_key_id: None,
            operator: authority.organisation.clone(),
        }
    }

    /// The origin of its checkpoints: the hostname in its address, as verifiers of Sigstore's take it.
    pub fn origin(&self) -> &str {
        let rest = self.base_url.split_once("://").map_or(self.base_url.as_str(), |(_, rest)| rest);
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        host.rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or(host, |(host, _)| host)
    }

    /// The ID by which checkpoints name its key.
    pub fn checkpoint_id(&self) -> &[u8] {
        self.checkpoint_key_id.as_deref().unwrap_or(&self.log_id)
    }
}

/// The ID of a log of Rekor's second version: the whole hash of which a signed note's key ID is the beginning.
pub fn log_id(origin: &str, public_key: &[u8; 32]) -> Vec<u8> {
    Digest::of_parts(&[origin.as_bytes(), b"\n", &[KeyKind::Ed25519 as u8], public_key]).0.to_vec()
}

/// A certificate or timestamp authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityInstance {
    /// Where it is reached.
    pub uri: String,
    /// For people.
    pub organisation: String,
    /// For people.
    pub common_name: String,
    /// From the one that issued leaves (for timestamps: from the leaf) to the root, which is trusted.
    pub chain: Vec<Certificate>,
    /// When it is trusted.
    pub window: Window,
    /// Who runs it.
    pub operator: String,
}

impl AuthorityInstance {
    /// The issuer of certificates of an authority of ours.
    ///
    /// # Errors
    /// [`RootError::Certificate`].
    pub fn signing(authority: &PublicAuthority, uri: &str, window: Window) -> Result<Self, RootError> {
        Self::new(authority, "Signing root", uri, &[&authority.root], window)
    }

    /// The timestamp authority of an authority of ours.
    ///
    /// # Errors
    /// [`RootError::Certificate`].
    pub fn timestamping(authority: &PublicAuthority, uri: &str, window: Window) -> Result<Self, RootError> {
        let [leaf, root] = &authority.timestamp_chain;
        Self::new(authority, "Timestamp authority", uri, &[leaf, root], window)
    }

    fn new(
        authority: &PublicAuthority,
        role: &str,
        uri: &str,
        chain: &[&Vec<u8>],
        window: Window,
    ) -> Result<Self, RootError> {
        Ok(Self {
            uri: uri.to_owned(),
            organisation: authority.organisation.clone(),
            common_name: role.to_owned(),
            chain: chain.iter().map(|der| Certificate::from_der(der)).collect::<Result<_, _>>()?,
            window,
            operator: authority.organisation.clone(),
        })
    }
}

/// Everybody whom a verifier trusts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedRoot {
    /// Transparency logs, with closed shards.
    pub logs: Vec<LogInstance>,
    /// Issuers of certificates, with retired ones.
    pub certificate_authorities: Vec<AuthorityInstance>,
    /// Keys that sign SCTs.
    pub ct_logs: Vec<LogInstance>,
    /// Timestamp authorities.
    pub timestamp_authorities: Vec<AuthorityInstance>,
}

/// Where a node's services are reached, for those who sign with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// Issues certificates.
    pub certificate_authority: String,
    /// Vouches for identities.
    pub identity_provider: String,
    /// The log that is written to now.
    pub log: String,
    /// Makes timestamps.
    pub timestamp_authority: String,
    /// Who runs them.
    pub operator: String,
    /// Since when, in seconds.
    pub start: u64,
}

impl TrustedRoot {
    /// Adds an authority of ours with all its roles. `base_url` is the node's.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn add_authority(
        &mut self,
        authority: &PublicAuthority,
        base_url: &str,
        window: Window,
    ) -> Result<(), RootError> {
        self.certificate_authorities.push(AuthorityInstance::signing(authority, base_url, window)?);
        self.timestamp_authorities.push(AuthorityInstance::timestamping(authority, base_url, window)?);
        self.ct_logs.push(LogInstance::ct(authority, base_url, window));
        Ok(())
    }

    /// Reads a trusted root, ours or another's. Keys of kinds that are not supported are kept: they only matter when a
    /// bundle leads to them.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn parse(json: &[u8]) -> Result<Self, RootError> {
        let wire: RootWire = wire::parse(json, MAX_ROOT_BYTES)?;
        if !READ.contains(&wire.media_type.as_str()) {
            return Err(RootError::MediaType(wire.media_type.chars().take(128).collect()));
        }
        let lengths =
            [wire.tlogs.len(), wire.certificate_authorities.len(), wire.ctlogs.len(), wire.timestamp_authorities.len()];
        if lengths.iter().any(|length| *length > MAX_LISTED) {
            return Err(RootError::Bound("more than 256 of one kind"));
        }
        let logs = |list: Vec<LogWire>| list.into_iter().map(LogInstance::try_from).collect::<Result<Vec<_>, _>>();
        let authorities =
            |list: Vec<AuthorityWire>| list.into_iter().map(AuthorityInstance::try_from).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            logs: logs(wire.tlogs)?,
            certificate_authorities: authorities(wire.certificate_authorities)?,
            ct_logs: logs(wire.ctlogs)?,
            timestamp_authorities: authorities(wire.timestamp_authorities)?,
        })
    }

    /// Writes `trusted_root.json`.
    pub fn to_json(&self) -> Vec<u8> {
        wire::to_json(&RootWire::from(self))
    }

    /// Writes the client configuration: this trusted root, and where to sign.
    pub fn to_trust_config(&self, services: &Services) -> Vec<u8> {
        let service = |url: &str, version: u32| {
            let valid_for = WindowWire::from(Window::since(services.start));
            vec![ServiceWire {
                url: url.to_owned(),
                major_api_version: version,
                valid_for,
                operator: services.operator.clone(),
            }]
        };
        let any = || SelectorWire { selector: "ANY" };
        let signing_config = SigningConfigWire {
            media_type: SIGNING_MEDIA_TYPE,
            ca_urls: service(&services.certificate_authority, 1),
            oidc_urls: service(&services.identity_provider, 1),
            rekor_tlog_urls: service(&services.log, 2),
            rekor_tlog_config: any(),
            tsa_urls: service(&services.timestamp_authority, 1),
            tsa_config: any(),
        };
        wire::to_json(&ConfigWire { media_type: CONFIG_MEDIA_TYPE, trusted_root: RootWire::from(self), signing_config })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RootWire {
    media_type: String,
    #[serde(default)]
    tlogs: Vec<LogWire>,
    #[serde(default)]
    certificate_authorities: Vec<AuthorityWire>,
    #[serde(default)]
    ctlogs: Vec<LogWire>,
    #[serde(default)]
    timestamp_authorities: Vec<AuthorityWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogWire {
    base_url: String,
    hash_algorithm: String,
    public_key: PublicKeyWire,
    log_id: LogIdWire,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint_key_id: Option<LogIdWire>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    operator: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PublicKeyWire {
    raw_bytes: Base64,
    key_details: String,
    #[serde(default)]
    valid_for: Option<WindowWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowWire {
    #[serde(default)]
    start: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AuthorityWire {
    #[serde(default)]
    subject: SubjectWire,
    #[serde(default)]
    uri: String,
    cert_chain: ChainWire,
    #[serde(default)]
    valid_for: Option<WindowWire>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    operator: String,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SubjectWire {
    #[serde(default)]
    organization: String,
    #[serde(default)]
    common_name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainWire {
    certificates: Vec<RawBytes>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawBytes {
    raw_bytes: Base64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigWire {
    media_type: &'static str,
    trusted_root: RootWire,
    signing_config: SigningConfigWire,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SigningConfigWire {
    media_type: &'static str,
    ca_urls: Vec<ServiceWire>,
    oidc_urls: Vec<ServiceWire>,
    rekor_tlog_urls: Vec<ServiceWire>,
    rekor_tlog_config: SelectorWire,
    tsa_urls: Vec<ServiceWire>,
    tsa_config: SelectorWire,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceWire {
    url: String,
    major_api_version: u32,
    valid_for: WindowWire,
    operator: String,
}

#[derive(Serialize)]
struct SelectorWire {
    selector: &'static str,
}

impl From<Window> for WindowWire {
    fn from(window: Window) -> Self {
        Self { start: Some(Timestamp(window.start)), end: window.end.map(Timestamp) }
    }
}

impl WindowWire {
    fn read(window: Option<Self>) -> Result<Window, RootError> {
        let window = window.ok_or(RootError::NoStart)?;
        let start = window.start.ok_or(RootError::NoStart)?.0;
        Ok(Window { start, end: window.end.map(|end| end.0) })
    }
}

impl From<&TrustedRoot> for RootWire {
    fn from(root: &TrustedRoot) -> Self {
        Self {
            media_type: MEDIA_TYPE.to_owned(),
            tlogs: root.logs.iter().map(LogWire::from).collect(),
            certificate_authorities: root.certificate_authorities.iter().map(AuthorityWire::from).collect(),
            ctlogs: root.ct_logs.iter().map(LogWire::from).collect(),
            timestamp_authorities: root.timestamp_authorities.iter().map(AuthorityWire::from).collect(),
        }
    }
}

impl From<&LogInstance> for LogWire {
    fn from(log: &LogInstance) -> Self {
        let id = |id: &Vec<u8>| LogIdWire { key_id: Base64(id.clone()) };
        Self {
            base_url: log.base_url.clone(),
            hash_algorithm: HashAlgorithm::Sha256.sigstore_name().to_owned(),
            public_key: PublicKeyWire {
                raw_bytes: Base64(log.public_key.clone()),
                key_details: log.key_details.clone(),
                valid_for: Some(log.window.into()),
            },
            log_id: id(&log.log_id),
            checkpoint_key_id: log.checkpoint_key_id.as_ref().map(id),
            operator: log.operator.clone(),
        }
    }
}

impl TryFrom<LogWire> for LogInstance {
    type Error = RootError;

    fn try_from(wire: LogWire) -> Result<Self, RootError> {
        if wire.hash_algorithm != HashAlgorithm::Sha256.sigstore_name() {
            return Err(ShapeError::Shape("a log's tree must be over SHA2_256".to_owned()).into());
        }
        Ok(Self {
            base_url: wire.base_url,
            public_key: wire.public_key.raw_bytes.0,
            key_details: wire.public_key.key_details,
            window: WindowWire::read(wire.public_key.valid_for)?,
            log_id: wire.log_id.key_id.0,
            checkpoint_key_id: wire.checkpoint_key_id.map(|id| id.key_id.0),
            operator: wire.operator,
        })
    }
}

impl From<&AuthorityInstance> for AuthorityWire {
    fn from(authority: &AuthorityInstance) -> Self {
        let raw = |c: &Certificate| RawBytes { raw_bytes: Base64(c.der().to_vec()) };
        Self {
            subject: SubjectWire {
                organization: authority.organisation.clone(),
                common_name: authority.common_name.clone(),
            },
            uri: authority.uri.clone(),
            cert_chain: ChainWire { certificates: authority.chain.iter().map(raw).collect() },
            valid_for: Some(authority.window.into()),
            operator: authority.operator.clone(),
        }
    }
}

impl TryFrom<AuthorityWire> for AuthorityInstance {
    type Error = RootError;

    fn try_from(wire: AuthorityWire) -> Result<Self, RootError> {
        let certificates = wire.cert_chain.certificates;
        if certificates.is_empty() {
            return Err(RootError::EmptyChain);
        }
        if certificates.len() > MAX_CHAIN || certificates.iter().any(|c| c.raw_bytes.0.len() > MAX_CERTIFICATE_BYTES) {
            return Err(RootError::Bound("a chain has more than 8 certificates, or one larger than 16 KiB"));
        }
        Ok(Self {
            uri: wire.uri,
            organisation: wire.subject.organization,
            common_name: wire.subject.common_name,
            chain: certificates.iter().map(|c| Certificate::from_der(&c.raw_bytes.0)).collect::<Result<_, _>>()?,
            window: WindowWire::read(wire.valid_for)?,
            operator: wire.operator,
        })
    }
}
