//! AWS Signature Version 4 for requests with a simple path and no query, which are all that KMS's JSON protocol has.
//!
//! After "Create a signed AWS API request" of the IAM user guide. Pure: the time is an argument.

use aws_lc_rs::hmac;
use countersign_proof::digest::Digest;
use zeroize::Zeroizing;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What is signed.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Already in the form in which it is sent.
    pub(super) path: &'a str,
    /// All headers that are signed, `host` and `x-amz-date` among them.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// By whom, and for where.
pub(super) struct Signer<'a> {
    pub(super) access_key_id: &'a str,
    pub(super) secret_access_key: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// A time as `x-amz-date` has it; `None` after the year 9999.
pub(super) fn timestamp(unix_seconds: u64) -> Option<String> {
    let time = der::DateTime::from_unix_duration(std::time::Duration::from_secs(unix_seconds)).ok()?;
    let (year, month, day) = (time.year(), time.month(), time.day());
    Some(format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", time.hour(), time.minutes(), time.seconds()))
}

/// The `authorization` header. `time` is that of `x-amz-date`.
pub(super) fn authorization(request: &Request<'_>, signer: &Signer<'_>, time: &str) -> String {
    let (names, canonical) = canonical_request(request);
    let day = time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{}/{}/aws4_request", signer.region, signer.service);
    let to_sign = format!("{ALGORITHM}\n{time}\n{scope}\n{}", Digest::of(canonical.as_bytes()).hex());
    let first = Zeroizing::new(format!("AWS4{}", signer.secret_access_key));
    let key = [day, signer.region, signer.service, "aws4_request", &to_sign]
        .iter()
        .fold(Zeroizing::new(first.as_bytes().to_vec()), |key, text| Zeroizing::new(mac(&key, text)));
    let signature = hex::encode(&*key);
    let id = signer.access_key_id;
    format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
}

/// The signed headers' names, and the request in its one form.
fn canonical_request(request: &Request<'_>) -> (String, String) {
    let mut headers: Vec<(String, String)> =
        request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), folded(value))).collect();
    headers.sort();
    let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let body = Digest::of(request.body).hex();
    let canonical = format!("{}\n{}\n\n{lines}\n{names}\n{body}", request.method, request.path);
    (names, canonical)
}

/// Without spaces at the ends, and one where there were several.
fn folded(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/data/sigv4/README.md` says whose they are.
    const VECTORS: [(&str, &str); 7] = [
        ("get-header-value-trim", include_str!("../../tests/data/sigv4/get-header-value-trim.txt")),
        ("get-vanilla-with-session-token", include_str!("../../tests/data/sigv4/get-vanilla-with-session-token.txt")),
        ("post-header-key-sort", include_str!("../../tests/data/sigv4/post-header-key-sort.txt")),
        ("post-header-value-case", include_str!("../../tests/data/sigv4/post-header-value-case.txt")),
        ("post-sts-header-before", include_str!("../../tests/data/sigv4/post-sts-header-before.txt")),
        ("post-vanilla", include_str!("../../tests/data/sigv4/post-vanilla.txt")),
        ("post-x-www-form-urlencoded", include_str!("../../tests/data/sigv4/post-x-www-form-urlencoded.txt")),
    ];

    #[test]
    fn requests_are_signed_as_in_awss_test_suite() {
        for (name, text) in VECTORS {
            let (head, body) = text.split_once("\n\n").unwrap();
            let mut lines = head.lines();
            let method = lines.next().unwrap().split(' ').next().unwrap();
            let all: Vec<_> = lines.map(|line| line.split_once(':').unwrap()).collect();
            let expected = all.iter().find(|(name, _)| *name == "Authorization").unwrap().1;
            // Backwards: what order the caller has them in is all the same.
            let headers: Vec<_> = all.iter().rev().copied().filter(|(name, _)| *name != "Authorization").collect();
            let request = Request { method, path: "/", headers: &headers, body: body.as_bytes() };
            let signer = Signer {
                access_key_id: "AKIDEXAMPLE",
                secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
                region: "us-east-1",
                service: "service",
            };
            let time = timestamp(1_440_938_160).unwrap();
            assert_eq!(authorization(&request, &signer, &time), expected, "{name}");
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, Some("19700101T000000Z")),
            (951_782_400, Some("20000229T000000Z")),
            (1_440_938_160, Some("20150830T123600Z")),
            (253_402_300_799, Some("99991231T235959Z")),
            (253_402_300_800, None),
        ] {
            assert_eq!(timestamp(seconds).as_deref(), expected);
        }
    }
}
