//! AWS Signature Version 4, in the `authorization` header, over one whole body.
//!
//! After "Create a signed AWS API request" of the IAM user guide and "Signature Calculations for the Authorization Header" of the S3 API
//! reference, whose rule for paths (encoded once, not normalised) is followed: what is given is what is sent. Pure: the time is an argument.

use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use super::Credentials;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// In capitals.
    pub method: &'a str,
    /// Already in the form in which it is sent ([`encoded`]).
    pub path: &'a str,
    /// Names and values, not encoded. One without a value has an empty one.
    pub query: &'a [(&'a str, &'a str)],
    /// All headers that are signed, `host` and `x-amz-date` among them.
    pub headers: &'a [(&'a str, &'a str)],
    /// SHA-256 of the body, in hexadecimal ([`body_digest`]).
    pub body_digest: &'a str,
}

/// For where.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The region.
    pub region: &'a str,
    /// The service, such as `s3`.
    pub service: &'a str,
}

/// A time as `x-amz-date` has it; `None` after the year 9999.
pub fn timestamp(unix_seconds: u64) -> Option<String> {
    let time = der::DateTime::from_unix_duration(std::time::Duration::from_secs(unix_seconds)).ok()?;
    let (year, month, day) = (time.year(), time.month(), time.day());
    Some(format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", time.hour(), time.minutes(), time.seconds()))
}

/// SHA-256 of a body in hexadecimal, as `x-amz-content-sha256` has it.
pub fn body_digest(body: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, body))
}

/// A text in the one encoding that signatures know: all but letters, digits and `-._~` of ASCII as `%XX`; slashes stay in paths.
pub fn encoded(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if is_path => out.push('/'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// A query as it is sent; a name whose value is empty stands alone.
pub fn query_string(query: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| match value.is_empty() {
        true => encoded(name, false),
        false => format!("{}={}", encoded(name, false), encoded(value, false)),
    };
    query.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// The `authorization` header. `time` is that of `x-amz-date`.
pub fn authorization(request: &Request<'_>, credentials: &Credentials, scope: &Scope<'_>, time: &str) -> String {
    let (names, canonical) = canonical_request(request);
    let day = time.get(..8).unwrap_or_default();
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let to_sign = format!("{ALGORITHM}\n{time}\n{place}\n{}", body_digest(canonical.as_bytes()));
    let first = Zeroizing::new(format!("AWS4{}", credentials.secret_access_key.as_str()));
    let key = [day, scope.region, scope.service, "aws4_request", &to_sign]
        .iter()
        .fold(Zeroizing::new(first.as_bytes().to_vec()), |key, text| Zeroizing::new(mac(&key, text)));
    let signature = hex::encode(&*key);
    let id = &credentials.access_key_id;
    format!("{ALGORITHM} Credential={id}/{place}, SignedHeaders={names}, Signature={signature}")
}

/// The signed headers' names, and the request in its one form.
fn canonical_request(request: &Request<'_>) -> (String, String) {
    let mut headers: Vec<(String, String)> =
        request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), folded(value))).collect();
    headers.sort();
    let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let mut query: Vec<(String, String)> =
        request.query.iter().map(|(name, value)| (encoded(name, false), encoded(value, false))).collect();
    query.sort();
    let query = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let Request { method, path, body_digest, .. } = request;
    (names.clone(), format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{body_digest}"))
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

    fn credentials(id: &str, secret: &str) -> Credentials {
        let secret_access_key = Zeroizing::new(secret.to_owned());
        Credentials { access_key_id: id.to_owned(), secret_access_key, session_token: None }
    }

    #[test]
    fn requests_are_signed_as_in_awss_test_suite() {
        let credentials = credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        for (name, text) in VECTORS {
            let (head, body) = text.split_once("\n\n").expect("head and body");
            let mut lines = head.lines();
            let method = lines.next().expect("a request line").split(' ').next().expect("a method");
            let all: Vec<_> = lines.map(|line| line.split_once(':').expect("a header")).collect();
            let expected = all.iter().find(|(name, _)| *name == "Authorization").expect("signed").1;
            // Backwards: what order the caller has them in is all the same.
            let headers: Vec<_> = all.iter().rev().copied().filter(|(name, _)| *name != "Authorization").collect();
            let body_digest = body_digest(body.as_bytes());
            let request = Request { method, path: "/", query: &[], headers: &headers, body_digest: &body_digest };
            let scope = Scope { region: "us-east-1", service: "service" };
            let time = timestamp(1_440_938_160).expect("a time");
            assert_eq!(authorization(&request, &credentials, &scope, &time), expected, "{name}");
        }
    }

    /// The four examples of "Signature Calculations for the Authorization Header: Transferring Payload in a Single Chunk" in the Amazon S3
    /// API reference, with the credentials that it publishes for them.
    #[test]
    fn requests_of_s3_are_signed_as_in_its_reference() {
        type Pairs<'a> = &'a [(&'a str, &'a str)];
        let examples: [(&str, &str, Pairs<'_>, Pairs<'_>, &str, &str); 4] = [
            (
                "GET",
                "test.txt",
                &[],
                &[("range", "bytes=0-9")],
                "",
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                "PUT",
                "test$file.text",
                &[],
                &[("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
                "Welcome to Amazon S3.",
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                "GET",
                "",
                &[("lifecycle", "")],
                &[],
                "",
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "GET",
                "",
                &[("prefix", "J"), ("max-keys", "2")],
                &[],
                "",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ];
        let credentials = credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let scope = Scope { region: "us-east-1", service: "s3" };
        for (method, key, query, further, body, expected) in examples {
            let (path, body_digest) = (format!("/{}", encoded(key, true)), body_digest(body.as_bytes()));
            let mut headers = vec![
                ("host", "examplebucket.s3.amazonaws.com"),
                ("x-amz-content-sha256", body_digest.as_str()),
                ("x-amz-date", "20130524T000000Z"),
            ];
            headers.extend(further);
            let request = Request { method, path: &path, query, headers: &headers, body_digest: &body_digest };
            let header = authorization(&request, &credentials, &scope, "20130524T000000Z");
            assert!(header.ends_with(&format!("Signature={expected}")), "{method} /{key}: {header}");
        }
    }

    #[test]
    fn what_is_sent_is_encoded_once() {
        for (text, path, value) in [
            ("a/b-c._~", "a/b-c._~", "a%2Fb-c._~"),
            ("w:x@y/1", "w%3Ax%40y/1", "w%3Ax%40y%2F1"),
            ("a b+\u{e9}%", "a%20b%2B%C3%A9%25", "a%20b%2B%C3%A9%25"),
        ] {
            assert_eq!((encoded(text, true).as_str(), encoded(text, false).as_str()), (path, value));
        }
        assert_eq!(query_string(&[("legal-hold", ""), ("versionId", "a+b")]), "legal-hold&versionId=a%2Bb");
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
