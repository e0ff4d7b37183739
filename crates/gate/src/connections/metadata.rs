//! What upstreams and authorization servers say of themselves: challenges (RFC 9110, 11.6.1; RFC 6750, 3), protected resource
//! metadata (RFC 9728), authorization server metadata (RFC 8414; OpenID Connect Discovery 1.0) and registrations (RFC 7591).
//!
//! Pure: bytes in, facts or a reason out. All of it is the word of strangers, so that every text is bounded, and none but names of
//! issuers and URLs is ever repeated to anybody.

use serde::Deserialize;
use url::Url;

use crate::broker::Secret;

/// Most scopes that are looked at, of one source.
pub const MAX_SCOPES: usize = 50;
/// Longest scope.
const MAX_SCOPE: usize = 200;
/// Longest URL or issuer.
const MAX_URL: usize = 2_048;
/// Longest client id or secret that a registration brings.
const MAX_CLIENT: usize = 4_096;
/// Longest challenge that is looked at.
const MAX_CHALLENGE: usize = 16 << 10;

/// What a `WWW-Authenticate` of the scheme `Bearer` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Challenge {
    /// `resource_metadata` (RFC 9728, 5.1).
    pub resource_metadata: Option<String>,
    /// `scope`.
    pub scopes: Option<Vec<String>>,
    /// `error`.
    pub error: Option<String>,
}

impl Challenge {
    /// The first `Bearer` challenge in these header values; one that cannot be read is none.
    pub fn read<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        values.into_iter().filter(|value| value.len() <= MAX_CHALLENGE).find_map(bearer)
    }

    /// Whether a credential was good, but not for this.
    pub fn wants_more(&self) -> bool {
        self.error.as_deref() == Some("insufficient_scope")
    }
}

/// One header value may hold several challenges; a scheme is a token that no `=` follows.
fn bearer(value: &str) -> Option<Challenge> {
    let mut rest = value;
    let mut found: Option<Challenge> = None;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (name, after) = token(rest)?;
        let spaced = after.trim_start_matches([' ', '\t']);
        match spaced.strip_prefix('=').filter(|next| !next.starts_with('=')) {
            Some(parameter) => {
                let (text, after) = parameter_value(parameter.trim_start_matches([' ', '\t']))?;
                rest = after;
                if let Some(challenge) = &mut found {
                    challenge.take(name, text)?;
                }
            }
            // Another scheme begins, or it is over.
            None if found.is_some() => return found,
            None => {
                found = name.eq_ignore_ascii_case("bearer").then(Challenge::default);
                // What follows another scheme may be a token68, of which nothing here is needed.
                rest = match (&found, spaced.split_once([' ', ','])) {
                    (None, Some((first, more))) if !first.contains('=') || first.ends_with('=') => more,
                    _ => spaced,
                };
            }
        }
        if rest.trim_matches([' ', '\t', ',']).is_empty() {
            return found;
        }
    }
}

impl Challenge {
    /// `None` if a parameter comes twice.
    fn take(&mut self, name: &str, text: String) -> Option<()> {
        let before = match name.to_ascii_lowercase().as_str() {
            "resource_metadata" => self.resource_metadata.replace(text).is_some(),
            "scope" => self.scopes.replace(scopes_of(text.split(' '))).is_some(),
            "error" => self.error.replace(text).is_some(),
            _ => false,
        };
        (!before).then_some(())
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c: char| !is_part(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// RFC 6749, 3.3: printable, each once, and not without bound.
pub(crate) fn scopes_of<'a>(given: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    let good = |scope: &&str| {
        let fits = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        !scope.is_empty() && scope.len() <= MAX_SCOPE && scope.bytes().all(fits)
    };
    for scope in given.into_iter().filter(good) {
        if scopes.len() < MAX_SCOPES && !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    scopes
}

/// Where the metadata of a protected resource are looked for when nobody says where (RFC 9728, 3.1), with the resource that a
/// document there is about.
pub fn resource_places(upstream: &Url) -> Vec<Url> {
    let place = |path: &str| {
        let mut url = upstream.clone();
        url.set_path(&format!("/.well-known/oauth-protected-resource{path}"));
        url
    };
    let path = upstream.path().trim_end_matches('/');
    let mut places = vec![place(path)];
    if !path.is_empty() || upstream.query().is_some() {
        let mut root = place("");
        root.set_query(None);
        places.push(root);
    }
    places
}

/// Where the metadata of an authorization server are looked for, in the order of MCP, Authorization Server Metadata Discovery.
pub fn server_places(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/').to_owned();
    let place = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    let mut places = vec![
        place(format!("/.well-known/oauth-authorization-server{path}")),
        place(format!("/.well-known/openid-configuration{path}")),
    ];
    if !path.is_empty() {
        places.push(place(format!("{path}/.well-known/openid-configuration")));
    }
    places
}

/// What an upstream says of its protection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceMetadata {
    /// What it calls itself, to the letter: tokens are asked for under this name.
    pub resource: String,
    /// Its authorization servers' issuers, to the letter.
    pub servers: Vec<String>,
    /// The scopes that are needed for what everybody does there.
    pub scopes: Option<Vec<String>>,
}

impl ResourceMetadata {
    /// Reads a document about this upstream. `stated` is what the operator says that the upstream is called.
    ///
    /// # Errors
    /// In words.
    pub fn read(document: &[u8], upstream: &Url, stated: Option<&str>) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            resource: String,
            #[serde(default)]
            authorization_servers: Vec<String>,
            #[serde(default)]
            scopes_supported: Option<Vec<String>>,
        }
        let document: Document =
            serde_json::from_slice(document).map_err(|_| "it is no protected resource metadata (RFC 9728)")?;
        let is_it = match stated {
            Some(stated) => document.resource == stated,
            None => is_resource(&document.resource, upstream),
        };
        if !is_it {
            let expected = stated.unwrap_or(upstream.as_str());
            return Err(format!("it is about {}, not about {expected}", shown(&document.resource)));
        }
        let servers = document.authorization_servers.into_iter().filter(|issuer| issuer.len() <= MAX_URL).take(16);
        Ok(Self {
            resource: document.resource,
            servers: servers.collect(),
            scopes: document.scopes_supported.map(|scopes| scopes_of(scopes.iter().map(String::as_str))),
        })
    }
}

/// RFC 9728, 3.3: the very URL that is used, or the whole origin, whose document lies at the root. That no path and `/` are the same
/// is the only thing that is made equal.
fn is_resource(resource: &str, upstream: &Url) -> bool {
    if resource.len() > MAX_URL || resource.contains('#') {
        return false;
    }
    let Ok(url) = Url::parse(resource) else { return false };
    let bare = url.username().is_empty() && url.password().is_none();
    let whole_origin = url.path() == "/" && url.query().is_none() && url.origin() == upstream.origin();
    bare && (url == *upstream || whole_origin)
}

/// An authorization server by its own metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMetadata {
    /// Its issuer, to the letter.
    pub issuer: String,
    /// Where people consent.
    pub authorization: Url,
    /// Where tokens are had.
    pub token: Url,
    /// Where they are withdrawn.
    pub revocation: Option<Url>,
    /// Where clients register.
    pub registration: Option<Url>,
    /// Whether it takes the address of a client's metadata document for its id.
    pub takes_documents: bool,
    /// How clients may authenticate; it does not say without.
    pub methods: Option<Vec<String>>,
    /// Whether every answer names the issuer (RFC 9207).
    pub names_itself: bool,
    /// Whether `offline_access` is a scope there.
    pub offline: bool,
}

impl ServerMetadata {
    /// Reads the document of this issuer.
    ///
    /// # Errors
    /// In words.
    pub fn read(document: &[u8], issuer: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            authorization_endpoint: Option<String>,
            token_endpoint: Option<String>,
            revocation_endpoint: Option<String>,
            registration_endpoint: Option<String>,
            #[serde(default)]
            client_id_metadata_document_supported: bool,
            token_endpoint_auth_methods_supported: Option<Vec<String>>,
            #[serde(default)]
            authorization_response_iss_parameter_supported: bool,
            scopes_supported: Option<Vec<String>>,
            response_types_supported: Option<Vec<String>>,
            code_challenge_methods_supported: Option<Vec<String>>,
        }
        let document: Document =
            serde_json::from_slice(document).map_err(|_| "it is no authorization server metadata (RFC 8414)")?;
        if document.issuer != issuer {
            return Err(format!("it is of {}, not of {}", shown(&document.issuer), shown(issuer)));
        }
        let says = |list: &Option<Vec<String>>, word: &str| list.iter().flatten().any(|one| one == word);
        if !says(&document.code_challenge_methods_supported, "S256") {
            return Err("the authorization server does not say that it checks PKCE with S256".to_owned());
        }
        if document.response_types_supported.is_some() && !says(&document.response_types_supported, "code") {
            return Err("the authorization server gives out no authorization codes".to_owned());
        }
        let needed = |url: Option<String>, what: &str| url.ok_or_else(|| format!("it names no {what}"));
        let optional = |url: Option<String>| url.as_deref().map(secure).transpose();
        Ok(Self {
            authorization: secure(&needed(document.authorization_endpoint, "authorization_endpoint")?)?,
            token: secure(&needed(document.token_endpoint, "token_endpoint")?)?,
            revocation: optional(document.revocation_endpoint)?,
            registration: optional(document.registration_endpoint)?,
            takes_documents: document.client_id_metadata_document_supported,
            methods: document.token_endpoint_auth_methods_supported,
            names_itself: document.authorization_response_iss_parameter_supported,
            offline: says(&document.scopes_supported, "offline_access"),
            issuer: document.issuer,
        })
    }

    /// All places to which the node itself goes, or sends people.
    pub fn endpoints(&self) -> impl Iterator<Item = &Url> {
        [&self.authorization, &self.token].into_iter().chain(&self.revocation).chain(&self.registration)
    }
}

/// An issuer's URL (RFC 8414, 2).
///
/// # Errors
/// In words.
pub fn issuer_url(issuer: &str) -> Result<Url, String> {
    let url = secure(issuer)?;
    match url.query() {
        Some(_) => Err(format!("{} has a query, which an issuer has not", shown(issuer))),
        None => Ok(url),
    }
}

/// `https`, or `http` on this machine; without credentials and fragment.
///
/// # Errors
/// In words.
pub fn secure(text: &str) -> Result<Url, String> {
    let wrong = |why: &str| format!("{} {why}", shown(text));
    if text.len() > MAX_URL {
        return Err(wrong("is too long"));
    }
    let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
    // Written as it is sent, a name in other letters takes more room.
    if url.as_str().len() > MAX_URL {
        return Err(wrong("is too long"));
    }
    let local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(wrong("names no host")),
    };
    if url.scheme() != "https" && !(local && url.scheme() == "http") {
        return Err(wrong("must be https"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(wrong("has a user name, a password or a fragment"));
    }
    Ok(url)
}

/// How the node shows itself to a token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, Deserialize)]
pub enum Method {
    /// It does not: a public client.
    #[serde(rename = "none")]
    None,
    /// HTTP Basic.
    #[serde(rename = "client_secret_basic")]
    Basic,
    /// In the form.
    #[serde(rename = "client_secret_post")]
    Post,
}

impl Method {
    /// The name in metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic => "client_secret_basic",
            Self::Post => "client_secret_post",
        }
    }

    fn of(name: &str) -> Option<Self> {
        [Self::None, Self::Basic, Self::Post].into_iter().find(|method| method.as_str() == name)
    }

    /// The best of those that a server takes: with a secret, if that is possible. A server that does not say takes Basic (RFC 8414, 2).
    pub fn choose(offered: Option<&[String]>, with_secret: bool) -> Option<Self> {
        let Some(offered) = offered else { return Some(if with_secret { Self::Basic } else { Self::None }) };
        let takes = |method: &Self| offered.iter().any(|name| name == method.as_str());
        let wanted: &[Self] = if with_secret { &[Self::Basic, Self::Post] } else { &[Self::None] };
        wanted.iter().copied().find(takes)
    }
}

/// What a server answered to a registration (RFC 7591, 3.2.1).
#[derive(Debug, Clone)]
pub struct Registered {
    /// The client's id.
    pub client_id: String,
    /// Its secret.
    pub secret: Option<Secret>,
    /// When the secret ends, seconds since the epoch.
    pub ends: Option<u64>,
    /// How it authenticates.
    pub method: Method,
}

impl Registered {
    /// Reads the answer to a registration that asked for this method.
    ///
    /// # Errors
    /// In words, with a short code of the server's at most.
    pub fn read(status: u16, body: &[u8], asked: Method) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Answer {
            client_id: Option<String>,
            client_secret: Option<Secret>,
            #[serde(default)]
            client_secret_expires_at: u64,
            token_endpoint_auth_method: Option<String>,
            error: Option<String>,
        }
        let answer = serde_json::from_slice::<Answer>(body);
        if status != 200 && status != 201 {
            let code = answer.ok().and_then(|answer| answer.error).unwrap_or_default();
            let known =
                !code.is_empty() && code.len() <= 40 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            return Err(format!("{status}, {}", if known { code.as_str() } else { "no code" }));
        }
        let answer = answer.map_err(|_| "its answer cannot be read")?;
        let method = match answer.token_endpoint_auth_method.as_deref() {
            Some(name) => Method::of(name).ok_or("it wants a kind of authentication that is not spoken here")?,
            None => asked,
        };
        let printable = |text: &str| {
            !text.is_empty() && text.len() <= MAX_CLIENT && text.bytes().all(|b| (0x20..0x7f).contains(&b))
        };
        let client_id = answer.client_id.filter(|id| printable(id)).ok_or("its answer has no usable client_id")?;
        let secret = answer.client_secret.filter(|_| method != Method::None);
        if (method != Method::None && secret.is_none()) || !secret.iter().all(|secret| printable(secret.expose())) {
            return Err("its answer has no usable client_secret".to_owned());
        }
        let ends = Some(answer.client_secret_expires_at).filter(|at| *at > 0 && secret.is_some());
        Ok(Self { client_id, secret, ends, method })
    }
}

/// A stranger's URL in a message: short, and nothing hidden in it.
pub(crate) fn shown(text: &str) -> String {
    let short: String = text.chars().take(200).collect();
    format!("{:?}", countersign_catalog::visible_line(&short))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn challenges_are_read() {
        for (value, metadata, scope, error) in [
            ("Bearer", None, None, None),
            (r#"Bearer resource_metadata="https://a/x", scope="a b""#, Some("https://a/x"), Some("a b"), None),
            (r#"bearer scope=a,error="insufficient_scope""#, None, Some("a"), Some("insufficient_scope")),
            (r#"Basic realm="x, Bearer scope=\"no\"", Bearer scope="yes""#, None, Some("yes"), None),
            (r#"Negotiate abc==, Bearer scope="yes""#, None, Some("yes"), None),
            (r#"Bearer scope = "b a b" , Basic scope="no""#, None, Some("b a"), None),
        ] {
            let read = Challenge::read([value]).unwrap_or_else(|| panic!("{value}"));
            assert_eq!(read.resource_metadata.as_deref(), metadata, "{value}");
            assert_eq!(read.scopes.map(|scopes| scopes.join(" ")).as_deref(), scope, "{value}");
            assert_eq!(read.error.as_deref(), error, "{value}");
        }
        for none in ["", "Basic realm=x", r#"Bearer scope="a"#, "Bearer scope=a, scope=b", "=", "DPoP algs=\"ES256\""] {
            assert_eq!(Challenge::read([none]), None, "{none}");
        }
        assert_eq!(Challenge::read(["Basic realm=x", "Bearer error=e"]).and_then(|c| c.error).as_deref(), Some("e"));
    }

    #[test]
    fn metadata_are_looked_for_where_the_standards_say() {
        let all = |places: Vec<Url>| places.into_iter().map(String::from).collect::<Vec<_>>();
        let resource = "https://a.example/.well-known/oauth-protected-resource";
        assert_eq!(all(resource_places(&url("https://a.example"))), [resource]);
        assert_eq!(all(resource_places(&url("https://a.example/t/mcp"))), [&format!("{resource}/t/mcp"), resource]);
        assert_eq!(
            all(server_places(&url("https://i.example"))),
            [
                "https://i.example/.well-known/oauth-authorization-server",
                "https://i.example/.well-known/openid-configuration"
            ]
        );
        assert_eq!(
            all(server_places(&url("https://i.example/t"))),
            [
                "https://i.example/.well-known/oauth-authorization-server/t",
                "https://i.example/.well-known/openid-configuration/t",
                "https://i.example/t/.well-known/openid-configuration",
            ]
        );
    }

    #[test]
    fn a_document_about_another_resource_is_refused() {
        let read = |resource: &str, upstream: &str, stated: Option<&str>| {
            let document = json!({"resource": resource, "authorization_servers": ["https://i.example"]}).to_string();
            ResourceMetadata::read(document.as_bytes(), &url(upstream), stated)
        };
        let upstream = "https://a.example/mcp";
        for good in [upstream, "https://a.example", "https://a.example/"] {
            assert_eq!(read(good, upstream, None).expect(good).resource, good);
        }
        for wrong in [
            "https://evil.example/mcp",
            "http://a.example/mcp",
            "https://a.example:8443",
            "https://a.example/mc",
            "https://a.example/mcp/",
            "https://a.example/mcp?x",
            "https://a.example/mcp#x",
            "https://u@a.example/mcp",
            "a.example",
        ] {
            assert!(read(wrong, upstream, None).is_err(), "{wrong}");
        }
        assert!(read("urn:x", upstream, Some("urn:x")).is_ok());
        assert!(read(upstream, upstream, Some("https://a.example")).is_err());
    }

    #[test]
    fn a_server_is_believed_only_about_itself() {
        let good = json!({
            "issuer": "https://i.example", "authorization_endpoint": "https://i.example/a",
            "token_endpoint": "https://i.example/t", "code_challenge_methods_supported": ["plain", "S256"],
            "scopes_supported": ["x", "offline_access"], "authorization_response_iss_parameter_supported": true,
        });
        let read = |document: &Value| ServerMetadata::read(document.to_string().as_bytes(), "https://i.example");
        let found = read(&good).expect("readable");
        assert!(found.names_itself && found.offline && !found.takes_documents && found.registration.is_none());
        for (name, value, part) in [
            ("issuer", json!("https://i.example/"), "not of"),
            ("issuer", Value::Null, "no authorization server metadata"),
            ("code_challenge_methods_supported", Value::Null, "PKCE"),
            ("code_challenge_methods_supported", json!(["plain"]), "PKCE"),
            ("response_types_supported", json!(["token"]), "codes"),
            ("token_endpoint", Value::Null, "token_endpoint"),
            ("token_endpoint", json!("http://i.example/t"), "https"),
            ("authorization_endpoint", json!("javascript:alert(1)"), "no host"),
            ("registration_endpoint", json!("ftp://i.example"), "https"),
        ] {
            let mut document = good.clone();
            document[name] = value;
            let error = read(&document).expect_err(name);
            assert!(error.contains(part), "{name}: {error}");
        }
    }

    #[test]
    fn a_url_is_as_short_as_it_has_to_be_in_the_form_that_is_sent() {
        let long = format!("https://i.example/{}", "ä".repeat(800));
        assert!(long.len() <= MAX_URL && secure(&long).is_err_and(|why| why.contains("too long")));
        let fits = secure(&format!("https://i.example/{}", "ä".repeat(200))).expect("short");
        assert_eq!(secure(fits.as_str()), Ok(fits.clone()), "what is sent is what was checked");
    }

    #[test]
    fn registrations_are_read_strictly() {
        let read = |status, body: Value, asked| Registered::read(status, body.to_string().as_bytes(), asked);
        let good =
            read(201, json!({"client_id": "c", "client_secret": "s", "client_secret_expires_at": 9}), Method::Basic);
        let good = good.expect("readable");
        assert_eq!((good.method, good.ends, good.client_id.as_str()), (Method::Basic, Some(9), "c"));
        // A secret that a public client was given is nobody's.
        let public = read(201, json!({"client_id": "c", "client_secret": "s"}), Method::None).expect("readable");
        assert!(public.secret.is_none());
        let other = json!({"client_id": "c", "client_secret": "s", "token_endpoint_auth_method": "client_secret_post"});
        assert_eq!(read(200, other, Method::None).expect("readable").method, Method::Post);
        for (status, body, part) in [
            (400, json!({"error": "invalid_redirect_uri", "error_description": "<b>"}), "400, invalid_redirect_uri"),
            (500, json!("words"), "no code"),
            (201, json!({"client_secret": "s"}), "client_id"),
            (201, json!({"client_id": "a\nb", "client_secret": "s"}), "client_id"),
            (201, json!({"client_id": "c"}), "client_secret"),
            (201, json!({"client_id": "c", "token_endpoint_auth_method": "private_key_jwt"}), "not spoken"),
        ] {
            let error = read(status, body, Method::Basic).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
        let some = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(Method::choose(None, true), Some(Method::Basic));
        assert_eq!(Method::choose(some(&["client_secret_post", "none"]).as_deref(), true), Some(Method::Post));
        assert_eq!(Method::choose(some(&["client_secret_post"]).as_deref(), false), None);
    }
}
