//! A stand-in for S3 of the tests' own, after the Amazon S3 API reference, on a free loopback port: one bucket with versions, conditional puts,
//! checksums, Object Lock and encryption headers. It checks signatures, refuses what it does not know, does what it is asked behind the
//! client's back, and errs when told to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use sha2::{Digest as _, Sha256};

/// The access key that is known.
pub const ACCESS_KEY: &str = "AKIAFAKEFAKEFAKEFAKE";
/// Its secret.
pub const SECRET: &str = "fake/secret+access/key+of/forty/characters";
/// Where the bucket is.
pub const REGION: &str = "eu-central-1";
/// The bucket.
pub const BUCKET: &str = "kept";

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// An error, before anything is done.
    Error(u16, &'static str),
    /// This status and body instead, before anything is done.
    Answer(u16, Vec<u8>),
    /// No answer for this long, then the right one.
    Late(Duration),
    /// The connection ends, before anything is done.
    Cut,
    /// It is done, and the connection ends.
    DoneAndCut,
    /// It is done; an internal error is the answer.
    DoneAndError,
    /// The right answer without a header, or with another value for it.
    Header(&'static str, Option<&'static str>),
    /// The right answer with other bytes.
    Body(Vec<u8>),
}

/// A version of an object.
#[derive(Debug, Clone, Default)]
pub struct Version {
    /// Its name.
    pub id: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it is the mark of a deletion.
    pub is_deletion: bool,
    /// Mode and date, as they were set.
    pub retention: Option<(String, String)>,
    /// Whether it is under legal hold.
    pub held: bool,
    /// Kind and key, as they were asked for.
    pub encryption: Option<(String, Option<String>)>,
    /// When it was put, as listings say it.
    pub at: String,
}

/// What the store has and does.
#[derive(Debug, Default)]
pub struct State {
    /// Versions of each key, the newest last.
    pub objects: BTreeMap<String, Vec<Version>>,
    /// Whether the bucket keeps versions.
    pub has_versions: bool,
    /// Whether it has Object Lock.
    pub has_lock: bool,
    /// Whether it passes over what it is asked to encrypt, or to lock.
    pub ignores: bool,
    /// Most keys of a page; 0 for as many as are asked for.
    pub page: usize,
    /// The operations that were asked for with a good signature.
    pub calls: Vec<&'static str>,
    /// Whether every connection is cut.
    pub is_away: bool,
    troubles: BTreeMap<&'static str, VecDeque<Trouble>>,
    made: u64,
}

/// A bucket that this process serves until it ends.
#[derive(Debug, Clone)]
pub struct Bucket {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

struct Request {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    raw_query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

type Refusal = (u16, &'static str, &'static str);

impl Bucket {
    /// Starts one with versions and Object Lock.
    ///
    /// # Errors
    /// If no port is to be had.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a free port")?;
        let state = State { has_versions: true, has_lock: true, ..State::default() };
        let bucket = Self { state: Arc::new(Mutex::new(state)), address: listener.local_addr()? };
        let serving = bucket.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let bucket = serving.clone();
                thread::spawn(move || bucket.serve(stream));
            }
        });
        Ok(bucket)
    }

    /// Its endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Looks at what it has, or changes it.
    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.lock())
    }

    /// The next requests of an operation go wrong, one after the other.
    pub fn trouble(&self, operation: &'static str, troubles: impl IntoIterator<Item = Trouble>) {
        self.with(|state| state.troubles.insert(operation, troubles.into_iter().collect()));
    }

    /// How often an operation was asked for.
    pub fn count(&self, operation: &str) -> usize {
        self.with(|state| state.calls.iter().filter(|call| **call == operation).count())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(copy) = stream.try_clone() else { return };
        let (mut input, mut output) = (BufReader::new(copy), stream);
        while let Some(request) = read(&mut input) {
            let Some(reply) = self.answer(&request) else { return };
            if write(&mut output, &reply, request.method == "HEAD").is_err() {
                return;
            }
        }
    }

    /// Nothing, where the connection is to be cut.
    fn answer(&self, request: &Request) -> Option<Reply> {
        if self.with(|state| state.is_away) {
            return None;
        }
        let name = match checked(request).and_then(|()| operation(request)) {
            Ok(name) => name,
            Err(refusal) => return Some(error(refusal)),
        };
        let trouble = self.with(|state| {
            state.calls.push(name);
            state.troubles.get_mut(name).and_then(VecDeque::pop_front)
        });
        match &trouble {
            Some(Trouble::Error(status, code)) => return Some(error((*status, *code, "told to"))),
            Some(Trouble::Answer(status, body)) => {
                return Some(Reply { status: *status, headers: Vec::new(), body: body.clone() });
            }
            Some(Trouble::Late(wait)) => thread::sleep(*wait),
            Some(Trouble::Cut) => return None,
            _ => {}
        }
        let mut reply = self.with(|state| state.act(name, request)).unwrap_or_else(error);
        match trouble {
            Some(Trouble::DoneAndCut) => return None,
            Some(Trouble::DoneAndError) => return Some(error((500, "InternalError", "told to"))),
            Some(Trouble::Header(name, value)) => {
                reply.headers.retain(|(header, _)| header != name);
                reply.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
            }
            Some(Trouble::Body(body)) => reply.body = body,
            _ => {}
        }
        Some(reply)
    }
}

impl State {
    /// The newest version of a key, the mark of a deletion included.
    pub fn newest(&self, key: &str) -> Option<&Version> {
        self.objects.get(key)?.last()
    }

    /// Lays bytes over a key, as somebody else with rights might.
    pub fn lay_over(&mut self, key: &str, bytes: &[u8]) {
        let version = Version { bytes: bytes.to_vec(), ..self.fresh() };
        self.add(key, version);
    }

    /// Deletes a key for those who do not name a version.
    pub fn delete(&mut self, key: &str) {
        let version = Version { is_deletion: true, ..self.fresh() };
        self.add(key, version);
    }

    fn fresh(&mut self) -> Version {
        self.made += 1;
        let id = if self.has_versions { format!("v{}+/{}", self.made, "x".repeat(20)) } else { "null".to_owned() };
        Version { id, at: date(now()), ..Version::default() }
    }

    fn add(&mut self, key: &str, version: Version) {
        let versions = self.objects.entry(key.to_owned()).or_default();
        if !self.has_versions {
            versions.clear();
        }
        versions.push(version);
    }

    fn act(&mut self, name: &str, request: &Request) -> std::result::Result<Reply, Refusal> {
        let key = request.key().unwrap_or_default();
        match name {
            "GetBucketVersioning" => {
                let status = if self.has_versions { "<Status>Enabled</Status>" } else { "" };
                Ok(xml(format!(
                    "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{status}</VersioningConfiguration>"
                )))
            }
            "GetObjectLockConfiguration" if self.has_lock => Ok(xml(
                "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
                    .to_owned(),
            )),
            "GetObjectLockConfiguration" => Err((
                404,
                "ObjectLockConfigurationNotFoundError",
                "Object Lock configuration does not exist for this bucket",
            )),
            "ListObjectsV2" => Ok(self.list(request)),
            "PutObject" => self.put(&key, request),
            "GetObject" | "HeadObject" => self.get(&key, request),
            "PutObjectRetention" => self.retain(&key, request),
            _ => self.hold(&key, request),
        }
    }

    fn put(&mut self, key: &str, request: &Request) -> std::result::Result<Reply, Refusal> {
        match request.header("if-none-match") {
            "" => {}
            "*" if self.newest(key).is_some_and(|newest| !newest.is_deletion) => {
                return Err((
                    412,
                    "PreconditionFailed",
                    "At least one of the pre-conditions you specified did not hold",
                ));
            }
            "*" => {}
            _ => return Err((501, "NotImplemented", "only * is known")),
        }
        let (mode, until) =
            (request.header("x-amz-object-lock-mode"), request.header("x-amz-object-lock-retain-until-date"));
        let hold = request.header("x-amz-object-lock-legal-hold");
        let locks = !(mode.is_empty() && until.is_empty() && hold.is_empty());
        if locks && !self.has_lock {
            return Err((400, "InvalidRequest", "Bucket is missing Object Lock Configuration"));
        }
        if locks && request.header("content-md5").is_empty() && request.header("x-amz-checksum-sha256").is_empty() {
            return Err((400, "InvalidRequest", "Content-MD5 or a checksum is required for Object Lock parameters"));
        }
        let retention = match (mode, until) {
            ("", "") => None,
            ("COMPLIANCE" | "GOVERNANCE", until) if until > date(now()).as_str() => {
                Some((mode.to_owned(), until.to_owned()))
            }
            _ => return Err((400, "InvalidArgument", "the lock's mode, or its date, which must be in the future")),
        };
        let encryption = match request.header("x-amz-server-side-encryption") {
            "" => None,
            kind @ ("AES256" | "aws:kms") => {
                let key = request.header("x-amz-server-side-encryption-aws-kms-key-id");
                Some((kind.to_owned(), (!key.is_empty()).then(|| key.to_owned())))
            }
            _ => return Err((400, "InvalidArgument", "the encryption")),
        };
        let mut version = Version { bytes: request.body.clone(), ..self.fresh() };
        if !self.ignores {
            (version.retention, version.held, version.encryption) = (retention, hold == "ON", encryption);
        }
        let headers = self.headers_of(&version);
        self.add(key, version);
        Ok(Reply { status: 200, headers, body: Vec::new() })
    }

    fn headers_of(&self, version: &Version) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        let mut say = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
        if self.has_versions {
            say("x-amz-version-id", &version.id);
        }
        if let Some((mode, until)) = &version.retention {
            say("x-amz-object-lock-mode", mode);
            say("x-amz-object-lock-retain-until-date", until);
        }
        if version.held {
            say("x-amz-object-lock-legal-hold", "ON");
        }
        if let Some((kind, _)) = &version.encryption {
            say("x-amz-server-side-encryption", kind);
        }
        headers
    }

    fn version(&mut self, key: &str, request: &Request) -> std::result::Result<&mut Version, Refusal> {
        let versions = self.objects.get_mut(key).filter(|versions| !versions.is_empty());
        let versions = versions.ok_or((404, "NoSuchKey", "The specified key does not exist."))?;
        match request.query("versionId") {
            None => Ok(versions.last_mut().expect("not empty")),
            Some(id) => {
                let found = versions.iter_mut().find(|version| version.id == id);
                found.ok_or((404, "NoSuchVersion", "The specified version does not exist."))
            }
        }
    }

    fn get(&mut self, key: &str, request: &Request) -> std::result::Result<Reply, Refusal> {
        let version = self.version(key, request)?.clone();
        if version.is_deletion {
            let mut reply = error(match request.query("versionId") {
                None => (404, "NoSuchKey", "The specified key does not exist."),
                Some(_) => (405, "MethodNotAllowed", "The specified method is not allowed against this resource."),
            });
            reply.headers.push(("x-amz-delete-marker".to_owned(), "true".to_owned()));
            return Ok(reply);
        }
        Ok(Reply { status: 200, headers: self.headers_of(&version), body: version.bytes })
    }

    fn retain(&mut self, key: &str, request: &Request) -> std::result::Result<Reply, Refusal> {
        if !self.has_lock {
            return Err((400, "InvalidRequest", "Bucket is missing Object Lock Configuration"));
        }
        let body = request.text();
        let (mode, until) = (between(&body, "Mode"), between(&body, "RetainUntilDate"));
        let version = self.version(key, request)?;
        if let Some((was, before)) = &version.retention
            && was == "COMPLIANCE"
            && (until.as_str() < before.as_str() || mode != "COMPLIANCE")
        {
            return Err((403, "AccessDenied", "Access Denied because object protected by object lock."));
        }
        version.retention = Some((mode, until));
        Ok(Reply { status: 200, headers: Vec::new(), body: Vec::new() })
    }

    fn hold(&mut self, key: &str, request: &Request) -> std::result::Result<Reply, Refusal> {
        if !self.has_lock {
            return Err((400, "InvalidRequest", "Bucket is missing Object Lock Configuration"));
        }
        let status = between(&request.text(), "Status");
        let ignores = self.ignores;
        let version = self.version(key, request)?;
        match status.as_str() {
            _ if ignores => {}
            "ON" => version.held = true,
            "OFF" => version.held = false,
            _ => return Err((400, "MalformedXML", "the hold's status")),
        }
        Ok(Reply { status: 200, headers: Vec::new(), body: Vec::new() })
    }

    fn list(&self, request: &Request) -> Reply {
        let (prefix, after) =
            (request.query("prefix").unwrap_or_default(), request.query("start-after").unwrap_or_default());
        let asked = request.query("max-keys").and_then(|text| text.parse().ok()).unwrap_or(1000_usize).min(1000);
        let most = if self.page == 0 { asked } else { self.page.min(asked) };
        let is_there = |versions: &[Version]| versions.last().is_some_and(|newest| !newest.is_deletion);
        let mut keys = self
            .objects
            .iter()
            .filter(|(key, versions)| key.starts_with(prefix) && key.as_str() > after && is_there(versions));
        let page: String = keys
            .by_ref()
            .take(most)
            .map(|(key, versions)| {
                let (key, at) = (encoded(key, true), versions.last().map_or("", |newest| &newest.at));
                format!(
                    "<Contents><Key>{key}</Key><LastModified>{at}</LastModified><Owner><ID>x</ID></Owner></Contents>"
                )
            })
            .collect();
        let truncated = keys.next().is_some();
        xml(format!(
            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{BUCKET}</Name><EncodingType>url</EncodingType>\
             <IsTruncated>{truncated}</IsTruncated>{page}</ListBucketResult>"
        ))
    }
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn key(&self) -> Option<String> {
        decoded(self.path.strip_prefix(&format!("/{BUCKET}/"))?)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The headers that requests here may have.
const KNOWN: [&str; 18] = [
    "accept",
    "authorization",
    "content-length",
    "content-md5",
    "content-type",
    "host",
    "if-none-match",
    "user-agent",
    "x-amz-checksum-sha256",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-object-lock-legal-hold",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-security-token",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "connection",
];

/// Signature and checksums, written after AWS's description, apart from the product's.
fn checked(request: &Request) -> std::result::Result<(), Refusal> {
    if let Some(name) = request.headers.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        eprintln!("unknown header {name}");
        return Err((501, "NotImplemented", "A header you provided implies functionality that is not implemented"));
    }
    let date_ = request.header("x-amz-date");
    let skew = seconds(date_).map(|then| now().abs_diff(then));
    match skew {
        None => return Err((403, "AccessDenied", "a date is required")),
        Some(skew) if skew > 900 => {
            return Err((
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
            ));
        }
        Some(_) => {}
    }
    if hex::encode(Sha256::digest(&request.body)) != request.header("x-amz-content-sha256") {
        return Err((400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match"));
    }
    let scope = format!("{}/{REGION}/s3/aws4_request", &date_[..8]);
    let rest = request.header("authorization").strip_prefix("AWS4-HMAC-SHA256 Credential=");
    let (credential, rest) =
        rest.and_then(|rest| rest.split_once(", SignedHeaders=")).ok_or((403, "AccessDenied", "not signed"))?;
    if !credential.starts_with(&format!("{ACCESS_KEY}/")) {
        return Err((403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."));
    }
    if credential != format!("{ACCESS_KEY}/{scope}") {
        return Err((400, "AuthorizationHeaderMalformed", "the region is wrong; expecting 'eu-central-1'"));
    }
    let (names, signature) = rest.split_once(", Signature=").ok_or((403, "AccessDenied", "not signed"))?;
    let signed: Vec<&str> = names.split(';').collect();
    let must = |name: &String| {
        name == "host" || name == "if-none-match" || name.starts_with("content-m") || name.starts_with("x-amz-")
    };
    if let Some(name) = request.headers.keys().find(|name| must(name) && !signed.contains(&name.as_str())) {
        eprintln!("{name} is not signed");
        return Err((403, "AccessDenied", "There were headers present in the request which were not signed"));
    }
    if signature != signature_of(request, names, &scope) {
        return Err((403, "SignatureDoesNotMatch", "The request signature we calculated does not match"));
    }
    let checksum = request.header("x-amz-checksum-sha256");
    let md5 = request.header("content-md5");
    let wrong = (!checksum.is_empty() && checksum != STANDARD.encode(Sha256::digest(&request.body)))
        || (!md5.is_empty() && md5 != STANDARD.encode(Md5::digest(&request.body)));
    if wrong { Err((400, "BadDigest", "The checksum you specified did not match")) } else { Ok(()) }
}

fn signature_of(request: &Request, names: &str, scope: &str) -> String {
    let mut pairs: Vec<String> = request
        .query
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name, false), encoded(value, false)))
        .collect();
    pairs.sort();
    let lines: String = names.split(';').map(|name| format!("{name}:{}\n", request.header(name).trim())).collect();
    let (method, path, query) = (&request.method, &request.path, pairs.join("&"));
    let body = request.header("x-amz-content-sha256");
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{body}");
    let digest = hex::encode(Sha256::digest(canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{digest}", request.header("x-amz-date"));
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in [&request.header("x-amz-date")[..8], REGION, "s3", "aws4_request", &to_sign] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
        mac.update(part.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    hex::encode(key)
}

fn operation(request: &Request) -> std::result::Result<&'static str, Refusal> {
    let names: Vec<&str> =
        request.query.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "versionId").collect();
    let bucket = request.path == format!("/{BUCKET}");
    if !bucket && request.key().is_none() {
        return Err((404, "NoSuchBucket", "The specified bucket does not exist"));
    }
    match (request.method.as_str(), bucket, names.as_slice()) {
        ("GET", true, ["versioning"]) => Ok("GetBucketVersioning"),
        ("GET", true, ["object-lock"]) => Ok("GetObjectLockConfiguration"),
        ("GET", true, _)
            if request.query("list-type") == Some("2") && request.query("encoding-type") == Some("url") =>
        {
            Ok("ListObjectsV2")
        }
        ("PUT", false, []) => Ok("PutObject"),
        ("GET", false, []) => Ok("GetObject"),
        ("HEAD", false, []) => Ok("HeadObject"),
        ("PUT", false, ["retention"]) => Ok("PutObjectRetention"),
        ("PUT", false, ["legal-hold"]) => Ok("PutObjectLegalHold"),
        _ => {
            eprintln!("unknown request {} {}?{}", request.method, request.path, request.raw_query);
            Err((501, "NotImplemented", "unknown here"))
        }
    }
}

fn error((status, code, message): Refusal) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Reply { status, headers: Vec::new(), body: body.into_bytes() }
}

fn xml(text: String) -> Reply {
    Reply {
        status: 200,
        headers: Vec::new(),
        body: format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}").into_bytes(),
    }
}

fn between(text: &str, name: &str) -> String {
    let inside = text.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
    inside.map_or(String::new(), |(inside, _)| inside.to_owned())
}

fn read(input: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, raw_query) = target.split_once('?').unwrap_or((&target, ""));
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decoded(name)?, decoded(value)?))
    };
    let query = raw_query.split('&').filter(|part| !part.is_empty()).map(pair).collect::<Option<_>>()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(Some(0), |text| text.parse().ok())?;
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    Some(Request { method, path: path.to_owned(), query, raw_query: raw_query.to_owned(), headers, body })
}

fn write(output: &mut TcpStream, reply: &Reply, is_head: bool) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    output.write_all(head.as_bytes())?;
    if is_head { Ok(()) } else { output.write_all(&reply.body) }
}

fn encoded(text: &str, is_path: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (is_path && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn is_leap(year: u64) -> bool {
    (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
}

/// `20260301T120000Z` in seconds since 1970.
fn seconds(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: u64 = lengths.iter().take(usize::try_from(month).ok()?.checked_sub(1)?).sum();
    Some(
        (before + months + day.checked_sub(1)?) * 86_400
            + number(9, 11)? * 3600
            + number(11, 13)? * 60
            + number(13, 15)?,
    )
}

/// The other way round, as listings have it.
fn date(seconds: u64) -> String {
    let (mut days, mut year, mut month) = (seconds / 86_400, 1970, 0);
    while days >= if is_leap(year) { 366 } else { 365 } {
        days -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let time = seconds % 86_400;
    format!("{year:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", month + 1, days + 1, time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (at, text, compact) in [
            (0, "1970-01-01T00:00:00Z", "19700101T000000Z"),
            (951_782_400, "2000-02-29T00:00:00Z", "20000229T000000Z"),
            (1_772_366_399, "2026-03-01T11:59:59Z", "20260301T115959Z"),
        ] {
            assert_eq!((date(at).as_str(), seconds(compact)), (text, Some(at)));
        }
    }
}
