//! An outside timestamp authority (RFC 3161): by which certificates its operator lets it be known, what it is asked, and
//! whether its answer is used.
//!
//! A node's own stamps say what the node says. One by somebody else, over the same signature, is a time that the node
//! alone cannot make up.

use crate::certificate::{Certificate, CertificateError};
use crate::pem::{self, PemError};
use crate::report::{Code, SignedTime};
use crate::root::{AuthorityInstance, MAX_CHAIN, Window};
use crate::timestamp::{Request, TimestampError, Token};
use crate::verify::{check_stamp, check_timestamp_chain};

/// By how much clocks of different parties may differ, in seconds. Signers' certificates begin as much earlier.
pub const CLOCK_SLACK_SECONDS: u64 = 30;
/// The media type of a request (RFC 3161 section 3.4).
pub const QUERY_TYPE: &str = "application/timestamp-query";
/// The media type of an answer.
pub const REPLY_TYPE: &str = "application/timestamp-reply";

/// Why certificates are not those of a timestamp authority that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Too many certificates, or not one chain.
    #[error("the certificates are not one chain of at most {MAX_CHAIN} from the authority's own to a root")]
    Order,
    /// They are never valid at the same time.
    #[error("the certificates of the chain are at no time valid together")]
    Never,
    /// Not for timestamps, wrongly signed, or by keys of a kind that is not supported.
    #[error("{detail} ({code})")]
    Unusable {
        /// The stable name.
        code: Code,
        /// For people.
        detail: String,
    },
}

/// An authority that somebody else runs, from its certificates in PEM, in any order. It is trusted for as long as all of
/// them are valid.
///
/// # Errors
/// [`ChainError`].
pub fn outside_authority(chain: &[u8], uri: &str, operator: &str) -> Result<AuthorityInstance, ChainError> {
    let certificates = pem::certificates(chain)?;
    let certificates = certificates.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>()?;
    let chain = in_order(certificates).ok_or(ChainError::Order)?;
    let start = chain.iter().map(Certificate::not_before).max().unwrap_or(u64::MAX);
    let end = chain.iter().map(Certificate::not_after).min().unwrap_or(0);
    if start > end {
        return Err(ChainError::Never);
    }
    check_timestamp_chain(&chain, start).map_err(|(code, detail)| ChainError::Unusable { code, detail })?;
    Ok(AuthorityInstance {
        uri: uri.to_owned(),
        organisation: operator.to_owned(),
        common_name: chain[0].subject().to_string(),
        chain,
        window: Window { start, end: Some(end) },
        operator: operator.to_owned(),
    })
}

/// From the one that issued no other up to the root; nothing is left over.
fn in_order(mut rest: Vec<Certificate>) -> Option<Vec<Certificate>> {
    rest.dedup();
    if rest.len() > MAX_CHAIN {
        return None;
    }
    let is_issuer = |c: &Certificate| rest.iter().any(|other| other != c && other.issuer() == c.subject());
    let mut leaves = (0..rest.len()).filter(|i| !is_issuer(&rest[*i]));
    let (first, None) = (leaves.next()?, leaves.next()) else { return None };
    let mut chain = vec![rest.swap_remove(first)];
    while !rest.is_empty() {
        let issuer = rest.iter().position(|c| Some(c.subject()) == chain.last().map(Certificate::issuer))?;
        chain.push(rest.swap_remove(issuer));
    }
    Some(chain)
}

/// Why an answer is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not a stamp, a refusal, or one over other bytes.
    #[error(transparent)]
    Token(#[from] TimestampError),
    /// It answers another question, or an earlier one again.
    #[error("the timestamp answers another request: its nonce is not ours")]
    Nonce,
    /// Not by the authority that was asked, or its chain does not hold.
    #[error("{detail} ({code})")]
    Untrusted {
        /// The stable name.
        code: Code,
        /// For people.
        detail: String,
    },
    /// The authority's clock and ours are too far apart.
    #[error("the timestamp says {stamp} and our clock {from} to {to}, in seconds: one of the two is wrong")]
    Clock {
        /// What it says.
        stamp: u64,
        /// The earliest that would be used.
        from: u64,
        /// The latest that would be used.
        to: u64,
    },
}

/// One question to a timestamp authority.
#[derive(Debug, Clone)]
pub struct Question {
    message: Vec<u8>,
    nonce: [u8; 16],
}

impl Question {
    /// For a stamp over a message. The nonce is entropy for this question alone.
    pub fn over(message: &[u8], nonce: [u8; 16]) -> Self {
        let mut nonce = nonce;
        // A positive integer has one DER encoding, and this one no leading zeros.
        nonce[0] = nonce[0] & 0x7f | 0x40;
        Self { message: message.to_vec(), nonce }
    }

    /// DER of the request.
    pub fn to_der(&self) -> Vec<u8> {
        Request::over(&self.message).with_nonce(&self.nonce).to_der()
    }

    /// Whether an answer is the authority's stamp over this message, made for this question between `from` and `to` (seconds
    /// of our clock, around which the usual slack is allowed).
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn check(
        &self,
        answer: &[u8],
        authority: &AuthorityInstance,
        (from, to): (u64, u64),
    ) -> Result<SignedTime, AnswerError> {
        let token = Token::from_response(answer)?;
        token.check_message(&self.message)?;
        if token.nonce() != Some(&self.nonce) {
            return Err(AnswerError::Nonce);
        }
        let time = check_stamp(&token, authority).map_err(|(code, detail)| AnswerError::Untrusted { code, detail })?;
        let (from, to) = (from.saturating_sub(CLOCK_SLACK_SECONDS), to.saturating_add(CLOCK_SLACK_SECONDS));
        match (from..=to).contains(&time.seconds) {
            true => Ok(time),
            false => Err(AnswerError::Clock { stamp: time.seconds, from, to }),
        }
    }
}
