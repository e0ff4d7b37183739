//! What KMS answers: the members that are read, and what its errors mean here ("Common errors" and each action's page of the AWS
//! KMS API reference).

use countersign_egress::EgressError;
use serde::Deserialize;

use crate::KeyError;

/// Longest message of KMS that is passed on, in characters.
const MAX_MESSAGE: usize = 300;

/// `KeyMetadata`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Metadata {
    pub(super) arn: String,
    pub(super) key_spec: String,
    pub(super) key_usage: String,
    pub(super) key_state: String,
    pub(super) origin: String,
}

/// Of `CreateKey` and `DescribeKey`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described {
    pub(super) key_metadata: Metadata,
}

/// Of `GetPublicKey`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PublicKey {
    pub(super) key_spec: String,
    pub(super) key_usage: String,
    pub(super) public_key: String,
}

/// Of `Sign`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Signed {
    pub(super) signature: String,
}

/// Of `Encrypt`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Encrypted {
    pub(super) ciphertext_blob: String,
}

/// Of `Decrypt`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Decrypted {
    pub(super) plaintext: String,
}

/// Of actions whose answer says nothing more; some answer with an empty body.
#[derive(Debug)]
pub(super) struct Nothing;

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(input).map(|_| Self)
    }
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The alias is taken.
    AlreadyExists,
    /// There is no such key or alias.
    NotFound(String),
    /// Certainly nothing was done, and the same may succeed later.
    NotDone(String),
    /// It may have been done.
    Unclear(String),
    /// It is final.
    Final(KeyError),
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        Self::Final(error)
    }
}

impl From<Fault> for KeyError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::AlreadyExists => Self::Refused("AWS KMS already has the alias".to_owned()),
            Fault::NotFound(words) => Self::NotFound(words),
            Fault::NotDone(words) | Fault::Unclear(words) => Self::Unavailable(words),
            Fault::Final(error) => error,
        }
    }
}

impl From<EgressError> for Fault {
    fn from(error: EgressError) -> Self {
        let words = format!("AWS KMS: {error}");
        match error {
            EgressError::Setup(_) | EgressError::Refused(_) => Self::Final(KeyError::Config(words)),
            EgressError::Unreachable(_) => Self::NotDone(words),
            EgressError::Timeout { sent: false } => Self::NotDone(words),
            EgressError::Timeout { sent: true } | EgressError::Lost(_) => Self::Unclear(words),
            EgressError::TooLarge { .. } => Self::Final(KeyError::Malformed(words)),
        }
    }
}

/// `__type` and `message` of an error; the first may have a namespace before it, the second is spelled in two ways.
#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(default, rename = "__type")]
    kind: String,
    #[serde(default, alias = "Message")]
    message: String,
}

/// What an answer that is not 200 means. `header` is `x-amzn-errortype`, for answers whose body says nothing.
pub(super) fn fault(status: u16, header: Option<&str>, body: &[u8], is_secret: impl Fn(&str) -> bool) -> Fault {
    let said: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
    let kind = if said.kind.is_empty() { header.unwrap_or_default() } else { &said.kind };
    let kind = kind.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
    let kind: String = kind.chars().filter(char::is_ascii_alphanumeric).take(80).collect();
    let hidden = is_secret(&said.message) || is_secret(&kind);
    let message: String = said.message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
    let (kind, message) = if hidden { (String::new(), String::new()) } else { (kind, message) };
    let mut words = format!("AWS KMS answered {status}");
    for part in [&kind, &message].into_iter().filter(|part| !part.is_empty()) {
        words.push(' ');
        words.push_str(part);
    }
    meaning(status, &kind, words)
}

fn meaning(status: u16, kind: &str, words: String) -> Fault {
    let refused = |hint: &str| Fault::Final(KeyError::Refused(format!("{words}{hint}")));
    match kind {
        "AlreadyExistsException" => Fault::AlreadyExists,
        "NotFoundException" => Fault::NotFound(words),
        "ThrottlingException" | "Throttling" | "RequestLimitExceeded" | "TooManyRequestsException" => {
            Fault::NotDone(words)
        }
        "KeyUnavailableException" => Fault::NotDone(words),
        "KMSInternalException" | "DependencyTimeoutException" | "InternalFailure" | "ServiceUnavailableException" => {
            Fault::Unclear(words)
        }
        "AccessDeniedException" => refused("; the credentials' policy and the key's policy must both allow it"),
        "KMSInvalidStateException" | "DisabledException" => {
            refused("; the key must be enabled and not about to be deleted: look at it in the KMS console")
        }
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "RequestExpired" | "IncompleteSignature" => {
            refused("; check the secret access key, the region and this machine's clock")
        }
        "ExpiredTokenException" | "ExpiredToken" => refused("; the temporary credentials have expired: renew them"),
        "UnrecognizedClientException" | "InvalidClientTokenId" | "MissingAuthenticationTokenException" => {
            refused("; AWS does not know these credentials: check the access key and the session token")
        }
        "InvalidCiphertextException" | "IncorrectKeyException" => {
            refused("; the wrapped root was changed, or another key than the configured one wrapped it")
        }
        "LimitExceededException" => refused("; a quota of the account is used up"),
        _ if status == 429 => Fault::NotDone(words),
        _ if status >= 500 => Fault::Unclear(words),
        _ if status < 400 => {
            Fault::Final(KeyError::Malformed(format!("{words}, which KMS does not; check the endpoint")))
        }
        _ => refused(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do_and_whether_waiting_helps() {
        let error = |status, body: &str| KeyError::from(fault(status, None, body.as_bytes(), |_| false));
        let body = |kind: &str| format!("{{\"__type\":\"{kind}\",\"message\":\"as told\"}}");
        for (status, kind) in [
            (400, "ThrottlingException"),
            (400, "com.amazonaws.kms#KeyUnavailableException"),
            (500, "KMSInternalException"),
            (503, ""),
            (429, ""),
        ] {
            assert!(error(status, &body(kind)).is_transient(), "{status} {kind}");
        }
        for (status, kind, said) in [
            (400, "AccessDeniedException", "policy"),
            (400, "com.amazonaws.kms#KMSInvalidStateException", "enabled"),
            (400, "DisabledException", "enabled"),
            (403, "InvalidSignatureException", "clock"),
            (400, "UnrecognizedClientException", "session token"),
            (400, "InvalidCiphertextException", "changed"),
            (400, "ValidationException", "ValidationException as told"),
        ] {
            let error = error(status, &body(kind));
            assert!(matches!(&error, KeyError::Refused(words) if words.contains(said)), "{error}");
        }
        assert!(matches!(error(400, &body("NotFoundException")), KeyError::NotFound(_)));
        assert!(matches!(error(302, ""), KeyError::Malformed(_)));
        let by_header = fault(400, Some("NotFoundException:http://internal.amazon.com/"), b"", |_| false);
        assert!(matches!(by_header, Fault::NotFound(_)));
    }

    #[test]
    fn messages_from_outside_are_bounded_and_hold_no_credentials() {
        let long = format!("{{\"__type\":\"X\",\"message\":\"a\\nb{}\"}}", "x".repeat(10_000));
        let words = KeyError::from(fault(400, None, long.as_bytes(), |_| false)).to_string();
        assert!(words.len() < 500 && words.contains("X ab") && !words.contains('\n'));
        let echo = br#"{"__type":"X","message":"you sent s3cr3t"}"#;
        let words = KeyError::from(fault(400, None, echo, |text| text.contains("s3cr3t"))).to_string();
        assert!(words.contains("400") && !words.contains("s3cr3t"), "{words}");
    }
}
