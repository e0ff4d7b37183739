//! Credentials, and what a registry says about which it wants (RFC 9110, section 11.6.1; RFC 7617; the token flow of Docker's
//! "Token Authentication Specification").

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::RegistryError;

/// Longest `WWW-Authenticate` that is read.
const MAX_CHALLENGE: usize = 4 << 10;
/// Longest token that is taken.
const MAX_TOKEN: usize = 16 << 10;
/// Longest answer of a token endpoint.
pub(crate) const MAX_TOKEN_ANSWER: usize = 64 << 10;

/// A text that is never printed and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input).map(Self::new)
    }
}

/// What proves who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password, or whatever a registry takes in its place.
    Login {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that the registry itself takes.
    Token(Secret),
}

impl Credentials {
    /// As an `Authorization` header. A name with a colon cannot be sent (RFC 7617, section 2).
    pub(crate) fn header(&self) -> Result<HeaderValue, RegistryError> {
        match self {
            Credentials::Login { username, .. } if username.contains(':') => Err(unusable()),
            Credentials::Login { username, password } => {
                let pair = Zeroizing::new(format!("{username}:{}", password.0.as_str()));
                authorization("Basic", &Zeroizing::new(STANDARD.encode(pair.as_bytes())))
            }
            Credentials::Token(token) => authorization("Bearer", &token.0),
        }
    }
}

fn unusable() -> RegistryError {
    RegistryError::Refused("the credential has characters that can't be sent".to_owned())
}

fn authorization(scheme: &str, credential: &str) -> Result<HeaderValue, RegistryError> {
    let text = Zeroizing::new(format!("{scheme} {credential}"));
    let mut value = HeaderValue::from_str(&text).map_err(|_| unusable())?;
    value.set_sensitive(true);
    Ok(value)
}

/// What a registry wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A name and a password with each request.
    Basic,
    /// A token from somewhere.
    Bearer {
        /// A URL, as it came.
        realm: String,
        /// What it calls itself there.
        service: Option<String>,
    },
}

/// The challenge that is answered: a token rather than a password. The scope that a registry names is left aside, since it could
/// name another repository than the one that is meant.
pub(crate) fn wanted(headers: &HeaderMap) -> Option<Wanted> {
    let texts = headers.get_all(WWW_AUTHENTICATE).into_iter().filter_map(|value| value.to_str().ok());
    let challenges: Vec<_> =
        texts.filter(|text| text.len() <= MAX_CHALLENGE).filter_map(challenges).flatten().collect();
    let bearer = challenges.iter().filter(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"));
    let bearer = bearer.filter_map(|challenge| {
        let realm = challenge.parameter("realm")?;
        Some(Wanted::Bearer { realm, service: challenge.parameter("service") })
    });
    let basic = challenges.iter().filter(|challenge| challenge.scheme.eq_ignore_ascii_case("basic"));
    bearer.chain(basic.map(|_| Wanted::Basic)).next()
}

#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parameter(&self, name: &str) -> Option<String> {
        let found = self.parameters.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }
}

/// Several challenges and their parameters are all separated by commas; a word that no `=` follows begins the next challenge.
fn challenges(text: &str) -> Option<Vec<Challenge>> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (word, after) = word(rest)?;
        match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(after) => {
                let (value, after) = value(after.trim_start_matches([' ', '\t']))?;
                found.last_mut()?.parameters.push((word.to_owned(), value));
                rest = after;
            }
            None => {
                found.push(Challenge { scheme: word.to_owned(), parameters: Vec::new() });
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    Some(found)
}

/// A token of RFC 9110, section 5.6.2.
fn word(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or a quoted string.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return word(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// The `Authorization` that a token endpoint's answer gives.
pub(crate) fn granted(answer: &[u8]) -> Result<HeaderValue, RegistryError> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<Secret>,
        access_token: Option<Secret>,
    }
    let refuse = || RegistryError::malformed("the token endpoint's answer has no usable token");
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| refuse())?;
    let token = answer.token.or(answer.access_token).ok_or_else(refuse)?.0;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(is_token) {
        return Err(refuse());
    }
    authorization("Bearer", &token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Wanted> {
        Some(Wanted::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    }

    #[test]
    fn challenges_are_understood() {
        for (texts, expected) in [
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull""#][..],
                bearer("https://a/t", Some("s")),
            ),
            (&[r#"bearer  realm = "https://a/\"t" , Service=s"#], bearer("https://a/\"t", Some("s"))),
            (&[r#"Basic realm="x, Bearer y""#], Some(Wanted::Basic)),
            (&[r#"Basic realm="x", Bearer realm="https://a""#], bearer("https://a", None)),
            (&["Basic", r#"Bearer realm="https://a""#], bearer("https://a", None)),
            (&[r#"Bearer service="s""#, "Basic"], Some(Wanted::Basic)),
            (&[r#"Bearer realm="https://a"#], None),
            (&["Negotiate"], None),
            (&[r#"="x""#], None),
            (&[""], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(text).expect("a header"));
            }
            assert_eq!(wanted(&headers), expected, "{texts:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_not(text in "[ -~]{0,80}") {
            // Every character is in a scheme, a name or a value at most once.
            let found = challenges(&text).unwrap_or_default();
            let length = |c: &Challenge| c.parameters.iter().fold(c.scheme.len(), |sum, (n, v)| sum + n.len() + v.len());
            prop_assert!(found.iter().map(length).sum::<usize>() <= text.len());
        }
    }

    #[test]
    fn tokens_are_taken_and_nothing_else() {
        for (answer, expected) in [
            (r#"{"token":"a.b-c"}"#, Some("Bearer a.b-c")),
            (r#"{"access_token":"x","expires_in":60}"#, Some("Bearer x")),
            (r#"{"token":"x","access_token":"y"}"#, Some("Bearer x")),
            (r#"{"token":""}"#, None),
            (r#"{"token":"a\r\nx: y"}"#, None),
            (r#"{"token":"a b"}"#, None),
            (r#"{"token":1}"#, None),
            ("{}", None),
            ("<html>", None),
        ] {
            let value = granted(answer.as_bytes());
            assert_eq!(value.as_ref().ok().map(HeaderValue::as_bytes), expected.map(str::as_bytes), "{answer}");
            assert!(value.is_err() || value.is_ok_and(|value| value.is_sensitive()));
        }
    }

    #[test]
    fn secrets_are_not_printed_and_names_with_colons_not_sent() {
        let login = |username: &str| Credentials::Login {
            username: username.to_owned(),
            password: Secret::new("s3cret".to_owned()),
        };
        assert!(!format!("{:?}", login("anna")).contains("s3cret"));
        assert_eq!(login("anna").header().expect("a header").as_bytes(), b"Basic YW5uYTpzM2NyZXQ=");
        assert!(login("an:na").header().is_err());
        assert!(Credentials::Token(Secret::new("a\nb".to_owned())).header().is_err());
    }
}
