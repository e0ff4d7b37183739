//! Asking an outside timestamp authority for a stamp over a signature, before it is logged.
//!
//! Its answer is verified before it is used. Where it is not required and does not answer well, signing goes on without it, and the
//! authority is left alone for a while, so that not every signature waits for it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_domain::Millis;
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient};
use countersign_trust::root::AuthorityInstance;
use countersign_trust::stamping::{AnswerError, QUERY_TYPE, Question, REPLY_TYPE, outside_authority};
use countersign_trust::timestamp::{MAX_RESPONSE_BYTES, in_der_order};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use url::Url;

use super::custody::entropy;
use super::file;
use crate::capability::{Computing, Failure};
use crate::config::TimestampingSettings;

/// For how long an authority that is not required is not asked again after it failed.
const PAUSE: Duration = Duration::from_secs(30);

/// An outside timestamp authority.
pub(crate) struct Stamping {
    url: Url,
    http: PurposeClient,
    authority: Arc<AuthorityInstance>,
    required: bool,
    timeout: Duration,
    clock: fn() -> Millis,
    /// Since when it fails, and how.
    trouble: Mutex<Option<(Instant, String)>>,
}

/// What came of asking.
pub(super) enum Stamped {
    /// DER of the answer.
    Yes(Vec<u8>),
    /// Why there is none.
    No(String),
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Network(#[from] EgressError),
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("its answer is not used: {0}")]
    Answer(#[from] AnswerError),
    #[error("{0}")]
    Here(String),
}

impl Stamping {
    /// # Errors
    /// In words, if its certificates cannot be used or a way out not be set up.
    pub fn open(settings: &TimestampingSettings, egress: &Egress, clock: fn() -> Millis) -> Result<Self, String> {
        let http = egress.client_for(Purpose::Timestamp, &settings.url).map_err(|e| wrong(&e))?;
        let authority = Arc::new(authority(&settings.chain, settings)?);
        let now = clock() / 1000;
        if !authority.window.contains(now) {
            return Err(wrong(&format!("the certificates in {} are not valid now", settings.chain.display())));
        }
        Ok(Self {
            url: settings.url.clone(),
            http,
            authority,
            required: settings.required,
            timeout: settings.timeout,
            clock,
            trouble: Mutex::default(),
        })
    }

    /// Who runs it.
    pub fn operator(&self) -> &str {
        &self.authority.operator
    }

    /// A stamp over a signature.
    ///
    /// # Errors
    /// [`Failure::Outside`], if there is none and it is required.
    pub(super) async fn stamp(&self, signature: &[u8], computing: &Computing) -> Result<Stamped, Failure> {
        if let Some(why) = self.left_alone() {
            return Ok(Stamped::No(why));
        }
        let asked = self.ask(signature, computing).await;
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match asked {
            Ok(answer) => {
                if trouble.take().is_some() {
                    tracing::info!(authority = self.operator(), "the timestamp authority answers again");
                }
                Ok(Stamped::Yes(answer))
            }
            Err(error) => {
                let why = format!("the timestamp authority {}: {error}", self.url);
                tracing::warn!(required = self.required, "{why}");
                *trouble = Some((Instant::now(), why.clone()));
                match self.required {
                    true => Err(Failure::Outside(format!("nothing was signed: {why}"))),
                    false => Ok(Stamped::No(why)),
                }
            }
        }
    }

    fn left_alone(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, why) = trouble.as_ref().filter(|(since, _)| !self.required && since.elapsed() < PAUSE)?;
        let rest = PAUSE.saturating_sub(since.elapsed()).as_secs();
        Some(format!("not asked again for {rest} s: {why}"))
    }

    async fn ask(&self, signature: &[u8], computing: &Computing) -> Result<Vec<u8>, Trouble> {
        let seed = entropy().map_err(|e| Trouble::Here(e.to_string()))?;
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&seed[..16]);
        let question = Question::over(signature, nonce);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(QUERY_TYPE));
        headers.insert(ACCEPT, HeaderValue::from_static(REPLY_TYPE));
        let (from, deadline) = ((self.clock)() / 1000, Instant::now() + self.timeout);
        let body = Bytes::from(question.to_der());
        let response = self.http.send(Method::POST, &self.url, headers, body, deadline).await?;
        if !response.status().is_success() {
            return Err(Trouble::Status(response.status().as_u16()));
        }
        let answer = response.bytes(MAX_RESPONSE_BYTES, deadline).await?.to_vec();
        let (authority, to) = (Arc::clone(&self.authority), (self.clock)() / 1000);
        let checked = computing.run(move || {
            question.check(&answer, &authority, (from, to))?;
            Ok::<_, AnswerError>(in_der_order(&answer)?)
        });
        Ok(checked.await.map_err(|e| Trouble::Here(e.to_string()))??)
    }
}

/// The authority as it is, and as it was: what verifiers are told.
///
/// # Errors
/// In words, if certificates cannot be used.
pub(super) fn authorities(settings: &TimestampingSettings) -> Result<Vec<AuthorityInstance>, String> {
    std::iter::once(&settings.chain).chain(&settings.retired).map(|path| authority(path, settings)).collect()
}

fn authority(path: &Path, settings: &TimestampingSettings) -> Result<AuthorityInstance, String> {
    let pem = file(path).map_err(|e| wrong(&format!("{}: {e}", path.display())))?;
    outside_authority(&pem, settings.url.as_str().trim_end_matches('/'), &settings.operator)
        .map_err(|e| wrong(&format!("{}: {e}", path.display())))
}

fn wrong(why: &dyn std::fmt::Display) -> String {
    format!("[trust.timestamping]: {why}")
}
