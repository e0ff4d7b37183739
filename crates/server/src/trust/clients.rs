//! Sigstore's own clients: certificates for keys of theirs, and log entries for what they sign with those.
//!
//! A certificate is asked for with a token, and is a call like any other. Whoever logs a signature has no token any more: the
//! certificate says who it is, because its row says for whom it was issued, and the signature shows that they are there. Of the
//! roles and attributes that the token had, nothing is left by then; what was granted here, and freezes, hold as they are now.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{Millis, Principal, WorkspaceName};
use countersign_gate::keyring::Keyring;
use countersign_ledger::state::StateOp;
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use countersign_ledger::{Append, Ledger};
use countersign_proof::digest::Digest;
use countersign_trust::authority::Issuance;
use countersign_trust::certificate::Certificate;
use countersign_trust::hashedrekord::{EntryError, HashedRekord, KIND, Verifier};
use countersign_trust::issuing::Wanted;
use countersign_trust::keys::low_s;
use countersign_trust::pem;
use countersign_trust::timestamp::{self, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::custody::{Custody, entropy};
use super::sign::Kept;
use super::{Trust, tools};
use crate::capability::Failure;
use crate::config::ClientSettings;
use crate::time::rfc3339;

/// How many rows of one digest are looked at for the same entry.
const TRIED: u32 = 50;
/// What the type of an artifact is that a client logged: its entry says no more.
const LOGGED: &str = KIND;

/// What the node has for clients of Sigstore's.
pub(crate) struct Clients {
    ledger: Ledger,
    keyring: Arc<Keyring>,
    custody: Arc<Custody>,
    /// Audiences of identity tokens that are good for a certificate, and for nothing else.
    pub audiences: Vec<String>,
    stamping: Pace,
    clock: fn() -> Millis,
}

/// What is kept of a certificate.
#[derive(Serialize, Deserialize)]
struct Issued {
    /// For whom, sealed and in base64.
    holder: String,
    /// Who vouched for the identity in it.
    issuer: String,
    /// The marks of whoever counts as the signer.
    authors: Vec<String>,
}

/// Who may log an entry.
pub(crate) struct Holder {
    pub principal: Principal,
    issuer: String,
    signer: String,
    authors: Vec<String>,
}

/// Why an entry is nobody's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// The entry itself is wrong.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The signature is by somebody whom this node does not know, or does not know any more.
    #[error("{0}")]
    Stranger(&'static str),
    /// It cannot be found out.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<NotAdmitted> for Failure {
    fn from(error: NotAdmitted) -> Self {
        match error {
            NotAdmitted::Entry(error) => Self::Input(error.to_string()),
            NotAdmitted::Stranger(why) => Self::Input(why.to_owned()),
            NotAdmitted::Failed(failure) => failure,
        }
    }
}

impl Clients {
    pub fn new(
        settings: &ClientSettings,
        (ledger, keyring): (Ledger, Arc<Keyring>),
        custody: Arc<Custody>,
        clock: fn() -> Millis,
    ) -> Self {
        let stamping = Pace::new(settings.timestamps_per_minute);
        Self { ledger, keyring, custody, audiences: settings.audiences.clone(), stamping, clock }
    }

    /// Reads what a client wants to log, and finds out who it is.
    ///
    /// # Errors
    /// [`NotAdmitted`].
    pub async fn admit(&self, body: &[u8]) -> Result<(HashedRekord, Holder), NotAdmitted> {
        let record = HashedRekord::parse_request(body)?;
        let holder = match &record.verifier {
            Verifier::Certificate(der) => self.holder(der).await?,
            // What a bare key has signed, anybody may have from the log.
            Verifier::PublicKey(_) => {
                return Err(NotAdmitted::Stranger("an entry needs a certificate of this node, not a bare key"));
            }
        };
        Ok((record, holder))
    }

    /// For whom a certificate was issued here, while it is valid.
    async fn holder(&self, der: &[u8]) -> Result<Holder, NotAdmitted> {
        let stranger = NotAdmitted::Stranger("the certificate was not issued by this node");
        let certificate = Certificate::from_der(der).map_err(EntryError::from)?;
        let id = certificate_id(&certificate);
        let row = self.ledger.read(move |r| r.trust_row(id)).await.map_err(Failure::from)?;
        let same = |row: &TrustRow| row.kind == TrustKind::Certificate && row.artifact == Digest::of(der).to_string();
        let Some(row) = row.filter(same) else { return Err(stranger) };
        if !certificate.is_valid_at((self.clock)() / 1000) {
            return Err(NotAdmitted::Stranger("the certificate is not valid any more; ask for another"));
        }
        let broken = |why: String| Failure::Undone(format!("certificate {id}: {why}"));
        let issued: Issued = serde_json::from_str(&row.body).map_err(|e| broken(e.to_string()))?;
        let keys = self.keyring.workspace(&row.workspace).await.map_err(|e| broken(e.to_string()))?;
        let sealed = STANDARD.decode(&issued.holder).map_err(|e| broken(e.to_string()))?;
        let record = keys.open(&purpose(&row.artifact), &sealed).map_err(|e| broken(e.to_string()))?;
        let record: PrincipalRecord = serde_json::from_slice(&record).map_err(|e| broken(e.to_string()))?;
        let principal = known_by_name(record, row.workspace);
        Ok(Holder { principal, issuer: issued.issuer, signer: row.signer, authors: issued.authors })
    }

    /// Whether a timestamp may be made now; if not, after how long.
    pub fn pace(&self) -> Result<(), Duration> {
        self.stamping.take(Instant::now())
    }

    /// Answers a request for a timestamp: DER of RFC 3161's answer, which may be a refusal.
    ///
    /// # Errors
    /// [`Failure`], if there is no authority or no randomness.
    pub async fn stamp(&self, request: &[u8], is_json: bool) -> Result<Vec<u8>, Failure> {
        let authorities = self.custody.authorities().await?;
        let (serial, now) = (serial()?, (self.clock)());
        let request = if is_json { Request::parse_json(request) } else { Request::parse(request) };
        let granted = request.and_then(|request| timestamp::grant(&authorities.current, &request, serial, now));
        Ok(granted.unwrap_or_else(timestamp::reject))
    }
}

impl Trust {
    /// A certificate for a key of the caller's, good for some minutes.
    pub(super) async fn issue(&self, principal: &Principal, wanted: tools::Issue) -> Result<Value, Failure> {
        let key = wanted.public_key.as_deref().zip(wanted.proof_of_possession.as_deref());
        let asked = Wanted::new(wanted.certificate_signing_request.as_deref(), key);
        let asked = asked.map_err(|e| Failure::Input(e.to_string()))?;
        let names = names_of(principal);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let spki = asked.proven(&names).map_err(|e| Failure::Input(e.to_string()))?;
        let named = self.identity(principal).await?;
        let (authorities, now, serial) = (self.custody.authorities().await?, (self.clock)(), serial()?);
        let root = authorities.current.public().root;
        let (identity, issuer) = (named.identity.clone(), named.issuer.clone());
        let issue = move || {
            let order = Issuance { identity: &identity, issuer: &issuer, public_key: &spki, serial, now_ms: now };
            authorities.current.issue(&order)
        };
        let certificate = self.computing.run(issue).await?;
        let certificate = certificate.map_err(|e| Failure::Input(format!("no certificate was issued: {e}")))?;
        let row = self.issued(principal, &certificate, &named).await?;
        let ops = vec![StateOp::TrustRecord { row: Box::new(row) }];
        self.ledger.append(Append { ops, ..Append::default() }).await?;
        let chain = [certificate.der(), &root].map(|der| pem::encode(der, pem::CERTIFICATE));
        Ok(json!({
            "certificate_chain": chain,
            "signer": named.identity.text(),
            "issuer": named.issuer,
            "expires_at": rfc3339(certificate.not_after() * 1000),
        }))
    }

    async fn issued(
        &self,
        principal: &Principal,
        certificate: &Certificate,
        named: &super::Named,
    ) -> Result<TrustRow, Failure> {
        let artifact = Digest::of(certificate.der()).to_string();
        let keys = self.keys(principal).await?;
        let undone = |why: String| Failure::Undone(format!("the certificate's holder: {why}"));
        let holder = serde_json::to_vec(&principal.record()).map_err(|e| undone(e.to_string()))?;
        let holder = keys.seal(&purpose(&artifact), &holder).map_err(|e| undone(e.to_string()))?;
        let issued = Issued {
            holder: STANDARD.encode(holder),
            issuer: named.issuer.clone(),
            authors: self.authors(principal).await?,
        };
        Ok(TrustRow {
            id: certificate_id(certificate),
            workspace: principal.workspace.clone(),
            kind: TrustKind::Certificate,
            at: certificate.not_before() * 1000,
            artifact,
            artifact_type: String::new(),
            subject: None,
            chain: None,
            signer: named.identity.text().to_owned(),
            valid: None,
            body: serde_json::to_string(&issued).map_err(|e| undone(e.to_string()))?,
        })
    }

    /// Logs a signature that the caller made with a certificate of this node, as a log of Rekor's second version does. What is in the
    /// log already is not logged again.
    pub(super) async fn log_entry(&self, principal: &Principal, wanted: Map<String, Value>) -> Result<Value, Failure> {
        let off = || Failure::NotFound("this node logs nothing for clients; see [trust.clients]".to_owned());
        let clients = self.clients.as_ref().ok_or_else(off)?;
        let (record, holder) = clients.admit(Value::Object(wanted).to_string().as_bytes()).await?;
        let own = holder.principal.workspace == principal.workspace
            && holder.principal.caller_key() == principal.caller_key();
        if !own {
            return Err(Failure::Input("the signature is by somebody else".to_owned()));
        }
        if let Some(row) = self.logged_before(principal, &record).await? {
            return self.entry_of(&row).await;
        }
        let row = self.logged(principal, record, holder).await?;
        self.entry_of(&row).await.map_err(Failure::after_the_fact)
    }

    /// The entry of what a client sends, if the log has it: what was logged is public, and whoever sends it again spends nothing of its
    /// holder's.
    pub async fn logged_already(&self, record: &HashedRekord, holder: &Holder) -> Result<Option<Value>, Failure> {
        match self.logged_before(&holder.principal, record).await? {
            Some(row) => self.entry_of(&row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn logged(&self, principal: &Principal, record: HashedRekord, holder: Holder) -> Result<TrustRow, Failure> {
        let undone = |why: String| Failure::Undone(format!("nothing was logged: {why}"));
        let (authorities, now, serial) = (self.custody.authorities().await?, (self.clock)(), serial()?);
        let stamp = timestamp::grant(&authorities.current, &Request::over(&record.signature), serial, now);
        let leaf = record.to_body().map_err(|e| undone(e.to_string()))?;
        let kept = Kept {
            signature: STANDARD.encode(&record.signature),
            timestamp: STANDARD.encode(stamp.map_err(|e| undone(e.to_string()))?),
            outside: Vec::new(),
            statement: None,
            authors: holder.authors,
            metadata: Map::new(),
            scan: None,
            object: None,
            image: None,
            issuer: Some(holder.issuer),
        };
        let row = TrustRow {
            id: Uuid::now_v7(),
            workspace: principal.workspace.clone(),
            kind: TrustKind::Signature,
            at: now,
            artifact: digest_of(&record)?,
            artifact_type: LOGGED.to_owned(),
            subject: None,
            chain: None,
            signer: holder.signer,
            valid: None,
            body: serde_json::to_string(&kept).map_err(|e| undone(e.to_string()))?,
        };
        self.record(&row, &leaf).await?;
        Ok(row)
    }

    async fn logged_before(&self, principal: &Principal, record: &HashedRekord) -> Result<Option<TrustRow>, Failure> {
        let query = TrustQuery {
            kind: Some(TrustKind::Signature),
            artifact: Some(digest_of(record)?),
            artifact_type: Some(LOGGED.to_owned()),
            limit: TRIED,
            ..TrustQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        // From one ECDSA signature, anybody makes another.
        let signature = low_s(&record.signature);
        let kept = |row: &TrustRow| STANDARD.decode(serde_json::from_str::<Kept>(&row.body).ok()?.signature).ok();
        Ok(page.rows.into_iter().find(|row| kept(row).is_some_and(|kept| low_s(&kept) == signature)))
    }

    /// The entry as a log answers it.
    async fn entry_of(&self, row: &TrustRow) -> Result<Value, Failure> {
        let whole = self.whole(row).await?;
        let entry = whole.bundle.entries.first().map(|entry| entry.to_json()).unwrap_or_default();
        serde_json::from_slice(&entry).map_err(|e| Failure::Undone(format!("the entry {}: {e}", row.id)))
    }
}

/// A caller of whom no more is known than the name: no roles, no attributes.
fn known_by_name(record: PrincipalRecord, workspace: WorkspaceName) -> Principal {
    Principal {
        kind: record.kind,
        id: record.id,
        issuer: record.issuer,
        on_behalf_of: record.on_behalf_of,
        development: record.development,
        workspace,
        ..Principal::node()
    }
}

/// What a proof of possession may be over: the token's subject or mail address, or the caller's name.
fn names_of(principal: &Principal) -> Vec<String> {
    let claims = ["sub", "email"].into_iter().filter_map(|name| principal.attributes.get(name).cloned());
    claims.chain([principal.id.clone()]).chain(principal.on_behalf_of.clone()).collect()
}

/// The id of a certificate's row: its time and its digest as a UUID of version 7, so that whoever has the certificate finds the row.
fn certificate_id(certificate: &Certificate) -> Uuid {
    let mut random = [0; 10];
    random.copy_from_slice(&Digest::of(certificate.der()).0[..10]);
    uuid::Builder::from_unix_timestamp_millis(certificate.not_before() * 1000, &random).into_uuid()
}

/// Keys of 256 bits alone are certified and registered, and SHA-256 goes with them.
fn digest_of(record: &HashedRekord) -> Result<String, Failure> {
    let bytes: Result<[u8; 32], _> = record.digest.as_slice().try_into();
    bytes.map(|bytes| Digest(bytes).to_string()).map_err(|_| Failure::Input("the digest is not SHA-256".to_owned()))
}

fn serial() -> Result<[u8; 16], Failure> {
    let mut serial = [0; 16];
    serial.copy_from_slice(&entropy()?[..16]);
    Ok(serial)
}

fn purpose(certificate: &str) -> Vec<u8> {
    [b"certificate-holder|".as_slice(), certificate.as_bytes()].concat()
}

/// So many per minute for all strangers together: GCRA, with the allowance of ten seconds at once.
struct Pace {
    interval: Duration,
    full_at: Mutex<Option<Instant>>,
}

impl Pace {
    const BURST: Duration = Duration::from_secs(10);

    fn new(per_minute: u32) -> Self {
        Self { interval: Duration::from_secs(60) / per_minute.max(1), full_at: Mutex::new(None) }
    }

    fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = full_at.filter(|at| *at > now).unwrap_or(now) + self.interval;
        let ahead = next - now;
        let burst = Self::BURST.max(self.interval);
        if ahead > burst {
            return Err(ahead - burst);
        }
        *full_at = Some(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_get_so_many_a_minute_and_no_more() {
        let (pace, start) = (Pace::new(60), Instant::now());
        let granted = (0..100).filter(|_| pace.take(start).is_ok()).count();
        assert_eq!(granted, 10);
        assert_eq!(pace.take(start), Err(Duration::from_secs(1)));
        assert_eq!(pace.take(start + Duration::from_secs(1)), Ok(()));
        let rare = Pace::new(1);
        assert_eq!((rare.take(start).is_ok(), rare.take(start).is_ok()), (true, false));
    }
}
