//! What S3 answers: the elements and headers that are read, and what its errors mean here ("Error responses" and each action's page of
//! the Amazon S3 API reference).

use std::time::Duration;

use countersign_domain::Millis;
use countersign_egress::EgressError;
use countersign_ledger::objects::{Listed, Lock, ObjectError, Retention, RetentionMode};
use http::HeaderMap;

use super::xml::{self, Element};

/// Longest message of the store that is passed on, in characters.
const MAX_MESSAGE: usize = 300;
/// Longest version that is kept, in bytes. AWS's have at most 1024 (mostly 32).
const MAX_VERSION: usize = 1024;

/// A header's text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Why a request has no answer that is of use.
#[derive(Debug)]
pub(super) enum Fault {
    /// The store is away, or cannot do it now; what was asked may have been done.
    Away(String),
    /// No connection came about: nothing of what was asked was sent.
    Unsent(String),
    /// There was no answer in time; what was asked may have been done, or be done yet.
    Silent(String),
    /// There is no such object or version.
    Missing,
    /// There is something under the key already.
    Exists,
    /// The object has more bytes than it may have.
    TooLarge,
    /// It is final. `code` is S3's name of the error.
    Refused { code: String, words: String },
    /// It is nothing that S3 answers.
    Odd(String),
}

impl Fault {
    /// What it means for who asked about a key.
    pub(super) fn about(self, key: &str) -> ObjectError {
        match self {
            Self::Away(words) | Self::Unsent(words) | Self::Silent(words) | Self::Odd(words) => {
                ObjectError::Unavailable(words)
            }
            Self::Missing => ObjectError::Missing(key.to_owned()),
            Self::Exists => ObjectError::Taken(key.to_owned()),
            Self::TooLarge => {
                ObjectError::Changed { key: key.to_owned(), problem: "it is longer than it was".to_owned() }
            }
            Self::Refused { code, words } if is_full(&code) => ObjectError::Full(words),
            Self::Refused { words, .. } => ObjectError::Refused(words),
        }
    }

    /// Whether the same may succeed at once.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Unsent(_) | Self::Silent(_))
    }

    /// The same after an earlier attempt that may have been done: what became of the last one does not say that nothing was.
    pub(super) fn after(self, may_be_done: bool) -> Self {
        match self {
            Self::Unsent(words) | Self::Refused { words, .. } if may_be_done => Self::Away(words),
            other => other,
        }
    }
}

impl From<EgressError> for Fault {
    fn from(error: EgressError) -> Self {
        match error {
            EgressError::TooLarge { .. } => Self::TooLarge,
            EgressError::Setup(_) | EgressError::Refused(_) => {
                Self::Refused { code: String::new(), words: error.to_string() }
            }
            EgressError::Unreachable(_) | EgressError::Timeout { sent: false } => Self::Unsent(error.to_string()),
            EgressError::Timeout { sent: true } => Self::Silent(error.to_string()),
            EgressError::Lost(_) => Self::Away(error.to_string()),
        }
    }
}

/// S3-compatible stores have quotas and disks; AWS has neither.
fn is_full(code: &str) -> bool {
    matches!(code, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity" | "EntityTooLarge")
}

/// What an answer that is not 2xx means. One to `HEAD` has no body, and its status has to do.
pub(super) fn fault(status: u16, headers: &HeaderMap, body: Option<&[u8]>, is_secret: impl Fn(&str) -> bool) -> Fault {
    let said = body.and_then(xml::parse).filter(|root| root.name == "Error").unwrap_or_default();
    let told = |name: &str, most: usize| {
        let text = said.text_of(name).unwrap_or_default();
        let text: String = text.chars().filter(|c| !c.is_control()).take(most).collect();
        if is_secret(&text) { String::new() } else { text }
    };
    let (code, message) = (told("Code", 80), told("Message", MAX_MESSAGE));
    let region = header(headers, "x-amz-bucket-region")
        .map_or_else(|| told("Region", 40), |text| text.chars().take(40).collect());
    let mut words = format!("S3 answered {status}");
    for part in [&code, &message].into_iter().filter(|part| !part.is_empty()) {
        words.push(' ');
        words.push_str(part);
    }
    let is_deleted = header(headers, "x-amz-delete-marker") == Some("true");
    match (status, body) {
        (404, None) => Fault::Missing,
        _ if is_deleted => Fault::Missing,
        _ => meaning(status, code, words, &region),
    }
}

fn meaning(status: u16, code: String, words: String, region: &str) -> Fault {
    let hint = match code.as_str() {
        "NoSuchKey" | "NoSuchVersion" => return Fault::Missing,
        "PreconditionFailed" => return Fault::Exists,
        "SlowDown"
        | "ServiceUnavailable"
        | "InternalError"
        | "RequestTimeout"
        | "OperationAborted"
        | "ConditionalRequestConflict" => return Fault::Away(words),
        // It was changed under way.
        "BadDigest" | "XAmzContentChecksumMismatch" | "IncompleteBody" | "XAmzContentSHA256Mismatch" => {
            return Fault::Away(words);
        }
        _ if status >= 500 || status == 429 => return Fault::Away(words),
        "NoSuchBucket" => "; make the bucket, or look at `bucket` and `endpoint`".to_owned(),
        "AccessDenied" | "AllAccessDisabled" => {
            "; the credentials' policy and the bucket's must both allow it (docs/artifact.md lists what is needed)"
                .to_owned()
        }
        "" if status == 403 => "; the credentials' policy and the bucket's must both allow it".to_owned(),
        "SignatureDoesNotMatch" => "; check the secret access key and the region".to_owned(),
        "RequestTimeTooSkewed" => "; this machine's clock is wrong".to_owned(),
        "InvalidAccessKeyId" | "InvalidToken" => {
            "; the store does not know these credentials: check the access key and the session token".to_owned()
        }
        "ExpiredToken" => "; the temporary credentials have expired: renew them".to_owned(),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => match region {
            "" => "; the bucket is in another region".to_owned(),
            region => format!("; the bucket is in the region {region}"),
        },
        _ if (300..400).contains(&status) => match region {
            "" => return Fault::Odd(format!("{words}, which is not the bucket's answer; check the endpoint")),
            region => format!("; the bucket is in the region {region}"),
        },
        _ if code.starts_with("KMS.") => "; look at the key of `kms_key`".to_owned(),
        "" => return Fault::Odd(format!("{words} and nothing that S3 would; check the endpoint")),
        _ => String::new(),
    };
    Fault::Refused { code, words: words + &hint }
}

/// The version that an answer is about. `null` is what a bucket without versions calls it.
pub(super) fn version_of(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    match headers.get("x-amz-version-id").map(|value| value.to_str()) {
        None | Some(Ok("null")) => Ok(None),
        Some(Ok(text)) if (1..=MAX_VERSION).contains(&text.len()) => Ok(Some(text.to_owned())),
        Some(_) => Err(Fault::Odd("the store named a version that is none".to_owned())),
    }
}

/// What keeps an object, as an answer's headers say.
pub(super) fn lock_of(headers: &HeaderMap) -> Result<Lock, Fault> {
    let odd = || Fault::Odd("the store's words about a lock are not S3's".to_owned());
    let mode = match header(headers, "x-amz-object-lock-mode") {
        None => None,
        Some("COMPLIANCE") => Some(RetentionMode::Compliance),
        Some("GOVERNANCE") => Some(RetentionMode::Governance),
        Some(_) => return Err(odd()),
    };
    let until = header(headers, "x-amz-object-lock-retain-until-date");
    let until = until.map(|text| read_date(text).ok_or_else(odd)).transpose()?;
    let retention = match (mode, until) {
        (Some(mode), Some(until)) => Some(Retention { mode, until }),
        (None, None) => None,
        (_, _) => return Err(odd()),
    };
    Ok(Lock { retention, held: hold_of(headers) == Some(true) })
}

/// Whether an object is under legal hold. Where that is not shown, it never was under one, or these credentials may not see it.
pub(super) fn hold_of(headers: &HeaderMap) -> Option<bool> {
    match header(headers, "x-amz-object-lock-legal-hold") {
        Some("ON") => Some(true),
        Some("OFF") => Some(false),
        _ => None,
    }
}

/// A document whose root has one of these names: not every store gives the root the one that AWS does.
pub(super) fn document(body: &[u8], roots: &[&str]) -> Result<Element, Fault> {
    let odd = || Fault::Odd(format!("the store's answer is no {}; check the endpoint", roots.join(" or ")));
    xml::parse(body).filter(|found| roots.contains(&found.name.as_str())).ok_or_else(odd)
}

/// A page of a listing, without the prefix; whether the store has more.
pub(super) fn listing(body: &[u8], prefix: &str) -> Result<(Vec<Listed>, bool), Fault> {
    let odd = || Fault::Odd("the store's listing is not S3's".to_owned());
    let page = document(body, &["ListBucketResult"])?;
    let mut found = Vec::new();
    for entry in page.all("Contents") {
        let key = entry.text_of("Key").and_then(decoded).ok_or_else(odd)?;
        let at = entry.text_of("LastModified").and_then(read_date).ok_or_else(odd)?;
        let key = key.strip_prefix(prefix).ok_or_else(odd)?.to_owned();
        found.push(Listed { key, at });
    }
    match page.text_of("IsTruncated") {
        Some("true") if found.is_empty() => Err(odd()),
        Some("true") => Ok((found, true)),
        Some("false") => Ok((found, false)),
        _ => Err(odd()),
    }
}

/// `encoding-type=url`: as in forms, so that keys that XML cannot hold can be listed.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let pair = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// `2026-03-01T12:00:00Z`, perhaps with a fraction of which milliseconds are read.
pub(super) fn read_date(text: &str) -> Option<Millis> {
    let text = text.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_fraction = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|b| b.is_ascii_digit());
    let millis: Millis = format!("{fraction:0<3}").get(..3).filter(|_| is_fraction)?.parse().ok()?;
    let time: der::DateTime = format!("{whole}Z").parse().ok()?;
    Millis::try_from(time.unix_duration().as_millis()).ok()?.checked_add(millis)
}

/// A moment in whole seconds, as S3 takes it; `None` after the year 9999.
pub(super) fn written_date(at: Millis) -> Option<String> {
    der::DateTime::from_unix_duration(Duration::from_secs(at / 1000)).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    fn error(code: &str, message: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>")
    }

    #[test]
    fn errors_say_what_to_do_and_whether_waiting_helps() {
        let none = HeaderMap::new();
        let told = |status, code: &str| fault(status, &none, Some(error(code, "as told").as_bytes()), |_| false);
        for (status, code) in [
            (503, "SlowDown"),
            (500, "InternalError"),
            (409, "OperationAborted"),
            (409, "ConditionalRequestConflict"),
            (400, "RequestTimeout"),
            (400, "BadDigest"),
            (429, "Whatever"),
        ] {
            assert!(told(status, code).may_pass(), "{status} {code}");
        }
        assert!(fault(502, &none, Some(b"<html>"), |_| false).may_pass());
        for (status, code, word) in [
            (404, "NoSuchBucket", "make the bucket"),
            (403, "AccessDenied", "policy"),
            (403, "SignatureDoesNotMatch", "secret access key"),
            (403, "RequestTimeTooSkewed", "clock"),
            (400, "ExpiredToken", "renew"),
            (400, "KMS.NotFoundException", "kms_key"),
            (400, "InvalidRequest", "InvalidRequest as told"),
        ] {
            let Fault::Refused { words, .. } = told(status, code) else { panic!("{status} {code}") };
            assert!(words.contains(word), "{words}");
        }
        for code in ["NoSuchKey", "NoSuchVersion"] {
            assert!(matches!(told(404, code), Fault::Missing));
        }
        assert!(matches!(fault(404, &none, None, |_| false), Fault::Missing), "to HEAD");
        let deleted = headers(&[("x-amz-delete-marker", "true")]);
        assert!(matches!(
            fault(405, &deleted, Some(error("MethodNotAllowed", "").as_bytes()), |_| false),
            Fault::Missing
        ));
        assert!(matches!(told(412, "PreconditionFailed"), Fault::Exists));
        let elsewhere = headers(&[("x-amz-bucket-region", "eu-west-1")]);
        let Fault::Refused { words, .. } = fault(301, &elsewhere, None, |_| false) else { panic!("a redirect") };
        assert!(words.contains("in the region eu-west-1"), "{words}");
        for (status, body) in [(302, Some(&b""[..])), (404, Some(b"<html>")), (400, Some(b"{}")), (204, Some(b""))] {
            assert!(matches!(fault(status, &none, body, |_| false), Fault::Odd(_)), "{status}");
        }
        assert!(matches!(told(507, "QuotaExceeded"), Fault::Away(_)));
        assert!(matches!(told(400, "QuotaExceeded").about("k"), ObjectError::Full(_)));
    }

    #[test]
    fn after_an_attempt_that_may_have_been_done_nothing_is_certain_any_more() {
        let refused = || Fault::Refused { code: "AccessDenied".into(), words: "no".into() };
        assert!(matches!(refused().after(false), Fault::Refused { .. }));
        assert!(matches!(Fault::Unsent("no".into()).after(false), Fault::Unsent(_)));
        assert!(matches!(refused().after(true), Fault::Away(_)));
        assert!(matches!(Fault::Unsent("no".into()).after(true), Fault::Away(_)));
        assert!(matches!(Fault::Exists.after(true), Fault::Exists), "a put goes on to look at what is there");
        for (error, sent) in [
            (EgressError::Unreachable("x".into()), false),
            (EgressError::Timeout { sent: false }, false),
            (EgressError::Timeout { sent: true }, true),
            (EgressError::Lost("x".into()), true),
        ] {
            let fault = Fault::from(error);
            assert!(fault.may_pass() && matches!(fault, Fault::Unsent(_)) != sent, "{fault:?}");
        }
    }

    #[test]
    fn messages_from_outside_are_bounded_and_hold_no_credentials() {
        let none = HeaderMap::new();
        let long = fault(400, &none, Some(error("X", &"x\n".repeat(10_000)).as_bytes()), |_| false);
        let Fault::Refused { words, .. } = long else { panic!("{long:?}") };
        assert!(words.len() < 500 && !words.contains('\n'), "{words}");
        let echo = fault(400, &none, Some(error("X", "you sent s3cr3t").as_bytes()), |text| text.contains("s3cr3t"));
        let Fault::Refused { words, .. } = echo else { panic!("{echo:?}") };
        assert!(words.contains("400 X") && !words.contains("s3cr3t"), "{words}");
    }

    #[test]
    fn locks_and_versions_are_read_from_headers() {
        let lock = |pairs: &[(&'static str, &'static str)]| lock_of(&headers(pairs)).ok();
        let (mode, until) = ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date");
        assert_eq!(lock(&[]), Some(Lock::default()));
        let retention = Some(Retention { mode: RetentionMode::Compliance, until: 1_772_366_400_500 });
        assert_eq!(
            lock(&[(mode, "COMPLIANCE"), (until, "2026-03-01T12:00:00.500Z"), ("x-amz-object-lock-legal-hold", "ON")]),
            Some(Lock { retention, held: true })
        );
        assert_eq!(lock(&[("x-amz-object-lock-legal-hold", "OFF")]), Some(Lock::default()));
        let hold = |text| hold_of(&headers(&[("x-amz-object-lock-legal-hold", text)]));
        assert_eq!((hold("ON"), hold("OFF"), hold_of(&HeaderMap::new())), (Some(true), Some(false), None));
        for wrong in [
            vec![(mode, "COMPLIANCE")],
            vec![(until, "2026-03-01T12:00:00Z")],
            vec![(mode, "compliance"), (until, "2026-03-01T12:00:00Z")],
            vec![(mode, "COMPLIANCE"), (until, "tomorrow")],
        ] {
            assert_eq!(lock(&wrong), None, "{wrong:?}");
        }
        let version = |value| version_of(&headers(&[("x-amz-version-id", value)])).ok();
        assert_eq!(version("null"), Some(None));
        assert_eq!(
            version("3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY"),
            Some(Some("3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY".into()))
        );
        assert_eq!((version(""), version_of(&HeaderMap::new()).ok()), (None, Some(None)));
    }

    #[test]
    fn dates_are_read_and_written() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-03-01T12:00:00.000Z", Some(1_772_366_400_000)),
            ("2026-03-01T12:00:00.1Z", Some(1_772_366_400_100)),
            ("2026-03-01T12:00:00.123456789Z", Some(1_772_366_400_123)),
            ("2026-03-01T12:00:00", None),
            ("2026-03-01T12:00:00.Z", None),
            ("2026-03-01T12:00:00.-1Z", None),
            ("2026-02-30T12:00:00Z", None),
            ("2026-03-01 12:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(read_date(text), millis, "{text}");
        }
        assert_eq!(written_date(1_772_366_400_999).as_deref(), Some("2026-03-01T12:00:00Z"));
        assert_eq!(written_date(Millis::MAX), None);
    }

    #[test]
    fn listings_are_read_without_their_prefix() {
        let page = |entries: &str, truncated: &str| {
            format!("<ListBucketResult>{truncated}<Name>b</Name>{entries}</ListBucketResult>")
        };
        let entry = |key: &str| {
            format!("<Contents><Key>{key}</Key><LastModified>1970-01-01T00:00:01.000Z</LastModified></Contents>")
        };
        let no = "<IsTruncated>false</IsTruncated>";
        let text = page(&(entry("p/a%3Ab") + &entry("p/c+d%2B")), no);
        let listed = |key: &str| Listed { key: key.to_owned(), at: 1000 };
        let read = listing(text.as_bytes(), "p/").ok();
        assert_eq!(read, Some((vec![listed("a:b"), listed("c d+")], false)));
        for wrong in [
            page("", ""),
            page("", "<IsTruncated>true</IsTruncated>"),
            page(&entry("other"), no),
            page(&entry("p/%zz"), no),
            page("<Contents><Key>p/a</Key></Contents>", no),
            "<Other/>".to_owned(),
        ] {
            assert!(listing(wrong.as_bytes(), "p/").is_err(), "{wrong}");
        }
    }
}
