//! A stand-in for AWS KMS on a real socket, after the AWS KMS API reference: it checks signatures and requests, keeps keys and
//! aliases, signs with real keys, and errs when told to.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_proof::digest::Digest;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

pub const ACCESS_KEY: &str = "AKIAFAKEFAKEFAKEFAKE";
pub const SECRET: &str = "fake/secret+access/key+of/forty/characters";
pub const ROOT: &str = "alias/root";
const REGION: &str = "eu-central-1";
const SPKI_HEAD: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";

/// What goes wrong with a call.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// An error, before anything is done.
    Error(u16, &'static str),
    /// This answer instead, before anything is done.
    Answer(u16, Vec<u8>),
    /// No answer for a long time.
    Silence,
    /// The connection ends, before anything is done.
    Cut,
    /// It is done, and the connection ends.
    DoneAndCut,
    /// It is done; an internal error is the answer.
    DoneAndError,
    /// Another node gives the alias to a key of its own just before.
    Overtaken,
    /// The answer has another value for one member.
    Changed(&'static str, Value),
    /// The signature is by another key, or over something else.
    ForeignSignature,
    OtherDigest,
    /// r and s, as JWS has them.
    NotDer,
}

#[derive(Debug, Clone)]
pub struct Key {
    secret: SigningKey,
    pub spec: &'static str,
    pub usage: &'static str,
    pub state: &'static str,
    pub origin: &'static str,
    pub tags: Value,
}

#[derive(Default)]
pub struct State {
    pub keys: BTreeMap<String, Key>,
    pub aliases: BTreeMap<String, String>,
    /// Every call that came with a good signature.
    pub calls: Vec<String>,
    pub troubles: BTreeMap<&'static str, VecDeque<Trouble>>,
    pub session_token: Option<String>,
    pub secret: Option<String>,
}

#[derive(Clone)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    pub address: SocketAddr,
}

type Refusal = (u16, &'static str, &'static str);

impl Fake {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self { state: Arc::default(), address: listener.local_addr().unwrap() };
        for alias in [ROOT, "alias/other-root"] {
            let arn = fake.with(|state| state.make("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", json!([])));
            fake.with(|state| state.aliases.insert(alias.to_owned(), arn));
        }
        let serving = fake.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let fake = serving.clone();
                let service = service_fn(move |request| fake.clone().answer(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        fake
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }

    /// The next calls of an action go wrong, one after the other.
    pub fn trouble(&self, action: &'static str, troubles: impl IntoIterator<Item = Trouble>) {
        self.with(|state| state.troubles.insert(action, troubles.into_iter().collect()));
    }

    pub fn count(&self, action: &str) -> usize {
        self.with(|state| state.calls.iter().filter(|call| *call == action).count())
    }

    /// Signing keys that are not about to be deleted.
    pub fn living(&self) -> Vec<String> {
        let is_living = |key: &Key| key.usage == "SIGN_VERIFY" && key.state == "Enabled";
        self.with(|state| state.keys.iter().filter(|(_, key)| is_living(key)).map(|(arn, _)| arn.clone()).collect())
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let refused = |(status, kind, message): Refusal| error(status, kind, message);
        let action = match self.with(|state| checked(state, &head.method, head.uri.path(), &head.headers, &body)) {
            Ok(action) => action,
            Err(refusal) => return Ok(refused(refusal)),
        };
        let trouble = self.with(|state| {
            state.calls.push(action.clone());
            state.troubles.get_mut(action.as_str()).and_then(VecDeque::pop_front)
        });
        let cut = || std::io::Error::other("told to");
        match &trouble {
            Some(Trouble::Error(status, kind)) => return Ok(error(*status, kind, "told to")),
            Some(Trouble::Answer(status, body)) => {
                let response = Response::builder().status(*status).header("location", "/elsewhere");
                return Ok(response.body(Full::new(body.clone().into())).unwrap());
            }
            Some(Trouble::Silence) => tokio::time::sleep(Duration::from_secs(60)).await,
            Some(Trouble::Cut) => return Err(cut()),
            _ => {}
        }
        let parsed: Value = serde_json::from_slice(&body).unwrap();
        let done = self.with(|state| state.act(&action, &parsed, trouble.as_ref()));
        match (done, trouble) {
            (_, Some(Trouble::DoneAndCut)) => Err(cut()),
            (_, Some(Trouble::DoneAndError)) => Ok(error(500, "KMSInternalException", "told to")),
            (Ok(mut answer), Some(Trouble::Changed(member, value))) => {
                answer[member] = value;
                Ok(json_response(200, &answer))
            }
            (Ok(answer), _) => Ok(json_response(200, &answer)),
            (Err(refusal), _) => Ok(refused(refusal)),
        }
    }
}

fn error(status: u16, kind: &str, message: &str) -> Response<Full<Bytes>> {
    json_response(status, &json!({ "__type": kind, "message": message }))
}

fn json_response(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let response = Response::builder().status(status).header("content-type", "application/x-amz-json-1.1");
    response.body(Full::new(body.into())).unwrap()
}

/// The action, if the request is signed as it must be. Written after AWS's description, apart from the product's signing.
fn checked(
    state: &State,
    method: &http::Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<String, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if method != http::Method::POST || path != "/" || text("content-type") != "application/x-amz-json-1.1" {
        return Err((404, "UnknownOperationException", "not of the JSON 1.1 protocol"));
    }
    if text("x-amz-security-token") != state.session_token.as_deref().unwrap_or_default() {
        return Err((400, "UnrecognizedClientException", "The security token included in the request is invalid."));
    }
    let (date, authorization) = (text("x-amz-date"), text("authorization"));
    if seconds(date).is_none_or(|then| now().abs_diff(then) > 300) {
        return Err((400, "InvalidSignatureException", "Signature expired"));
    }
    let scope = format!("{}/{REGION}/kms/aws4_request", &date[..8]);
    let names = authorization
        .strip_prefix(&format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders="))
        .and_then(|rest| rest.split_once(", Signature="));
    let Some((names, signature)) = names else {
        return Err((400, "IncompleteSignatureException", "not for this key, day, region or service"));
    };
    for required in ["host", "x-amz-date", "x-amz-target", "content-type"] {
        assert!(names.split(';').any(|name| name == required), "{required} is not signed");
    }
    let lines: String = names.split(';').map(|name| format!("{name}:{}\n", text(name).trim())).collect();
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", Digest::of(body).hex());
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", Digest::of(canonical.as_bytes()).hex());
    let secret = state.secret.as_deref().unwrap_or(SECRET);
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [&date[..8], REGION, "kms", "aws4_request", &to_sign] {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    if hex::encode(key) != signature {
        return Err((400, "InvalidSignatureException", "The request signature we calculated does not match"));
    }
    let action = text("x-amz-target").strip_prefix("TrentService.");
    action.map(str::to_owned).ok_or((400, "UnknownOperationException", ""))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn seconds(date: &str) -> Option<u64> {
    let number = |from: usize, to: usize| date.get(from..to)?.parse::<u16>().ok();
    let byte = |from: usize| number(from, from + 2).map(|number| number as u8);
    let time = der::DateTime::new(number(0, 4)?, byte(4)?, byte(6)?, byte(9)?, byte(11)?, byte(13)?).ok()?;
    Some(time.unix_duration().as_secs())
}

impl State {
    pub fn make(&mut self, spec: &'static str, usage: &'static str, tags: Value) -> String {
        let mut seed = [0; 32];
        aws_lc_rs::rand::fill(&mut seed).unwrap();
        let arn = format!("arn:aws:kms:{REGION}:111122223333:key/{}", hex::encode(&Digest::of(&seed).0[..16]));
        let secret = SigningKey::from_slice(&seed).unwrap();
        self.keys.insert(arn.clone(), Key { secret, spec, usage, state: "Enabled", origin: "AWS_KMS", tags });
        arn
    }

    fn find(&self, body: &Value) -> Result<(String, Key), Refusal> {
        let name = body["KeyId"].as_str().unwrap();
        let arn = self.aliases.get(name).map_or(name, String::as_str);
        let key = self.keys.get(arn).ok_or((400, "NotFoundException", "Invalid keyId"))?;
        Ok((arn.to_owned(), key.clone()))
    }

    fn in_use(&self, body: &Value, usage: &str) -> Result<(String, Key), Refusal> {
        let (arn, key) = self.find(body)?;
        match key.state {
            "Enabled" if key.usage == usage => Ok((arn, key)),
            "Enabled" => Err((400, "InvalidKeyUsageException", "")),
            "Disabled" => Err((400, "DisabledException", "the key is disabled.")),
            _ => Err((400, "KMSInvalidStateException", "the key is pending deletion.")),
        }
    }

    fn act(&mut self, action: &str, body: &Value, trouble: Option<&Trouble>) -> Result<Value, Refusal> {
        match action {
            "CreateKey" => {
                assert_eq!((&body["KeySpec"], &body["KeyUsage"]), (&json!("ECC_NIST_P256"), &json!("SIGN_VERIFY")));
                let arn = self.make("ECC_NIST_P256", "SIGN_VERIFY", body["Tags"].clone());
                Ok(self.metadata(&arn))
            }
            "CreateAlias" => {
                let (alias, target) = (body["AliasName"].as_str().unwrap(), body["TargetKeyId"].as_str().unwrap());
                assert!(alias.starts_with("alias/") && self.keys.contains_key(target));
                if matches!(trouble, Some(Trouble::Overtaken)) {
                    let arn = self.make("ECC_NIST_P256", "SIGN_VERIFY", json!([]));
                    self.aliases.insert(alias.to_owned(), arn);
                }
                if self.aliases.contains_key(alias) {
                    return Err((400, "AlreadyExistsException", "An alias with the name already exists"));
                }
                self.aliases.insert(alias.to_owned(), target.to_owned());
                Ok(Value::Null)
            }
            "DescribeKey" => self.find(body).map(|(arn, _)| self.metadata(&arn)),
            "ScheduleKeyDeletion" => {
                let (arn, _) = self.find(body)?;
                assert!((7..=30).contains(&body["PendingWindowInDays"].as_u64().unwrap()));
                self.keys.get_mut(&arn).unwrap().state = "PendingDeletion";
                Ok(json!({ "KeyId": arn, "KeyState": "PendingDeletion" }))
            }
            "GetPublicKey" => {
                let (arn, key) = self.in_use(body, "SIGN_VERIFY")?;
                let der = [hex::decode(SPKI_HEAD).unwrap(), point(&key.secret)].concat();
                let der = STANDARD.encode(der);
                Ok(json!({ "KeyId": arn, "KeySpec": key.spec, "KeyUsage": key.usage, "PublicKey": der }))
            }
            "Sign" => self.sign(body, trouble),
            "Encrypt" => {
                let (arn, _) = self.in_use(body, "ENCRYPT_DECRYPT")?;
                let mut data = STANDARD.decode(body["Plaintext"].as_str().unwrap()).unwrap();
                let nonce = cipher(&arn).seal_in_place_append_tag(aad(body), &mut data).unwrap();
                let blob = [Digest::of(arn.as_bytes()).as_bytes(), &nonce.as_ref()[..], &data].concat();
                Ok(json!({ "KeyId": arn, "CiphertextBlob": STANDARD.encode(blob) }))
            }
            "Decrypt" => self.decrypt(body),
            _ => Err((400, "UnknownOperationException", "")),
        }
    }

    fn metadata(&self, arn: &str) -> Value {
        let key = &self.keys[arn];
        json!({ "KeyMetadata": {
            "Arn": arn, "KeyId": arn.rsplit('/').next(), "KeySpec": key.spec, "KeyUsage": key.usage, "KeyState": key.state,
            "Enabled": key.state == "Enabled", "Origin": key.origin, "KeyManager": "CUSTOMER",
        } })
    }

    fn sign(&self, body: &Value, trouble: Option<&Trouble>) -> Result<Value, Refusal> {
        let (arn, key) = self.in_use(body, "SIGN_VERIFY")?;
        let mut message = STANDARD.decode(body["Message"].as_str().unwrap()).unwrap();
        if body["MessageType"] != "DIGEST" || body["SigningAlgorithm"] != "ECDSA_SHA_256" || message.len() != 32 {
            return Err((400, "ValidationException", "Digest is invalid length for algorithm ECDSA_SHA_256."));
        }
        let mut secret = key.secret;
        match trouble {
            Some(Trouble::ForeignSignature) => secret = SigningKey::from_slice(&[3; 32]).unwrap(),
            Some(Trouble::OtherDigest) => message[0] ^= 1,
            _ => {}
        }
        let signature: Signature = secret.sign_prehash(&message).unwrap();
        let bytes = match trouble {
            Some(Trouble::NotDer) => signature.to_bytes().to_vec(),
            _ => signature.to_der().as_bytes().to_vec(),
        };
        Ok(json!({ "KeyId": arn, "Signature": STANDARD.encode(bytes), "SigningAlgorithm": "ECDSA_SHA_256" }))
    }

    fn decrypt(&self, body: &Value) -> Result<Value, Refusal> {
        let (arn, _) = self.in_use(body, "ENCRYPT_DECRYPT")?;
        let blob = STANDARD.decode(body["CiphertextBlob"].as_str().unwrap()).unwrap();
        let invalid = (400, "InvalidCiphertextException", "");
        if blob.len() < 44 {
            return Err(invalid);
        }
        if blob[..32] != Digest::of(arn.as_bytes()).0 {
            return Err((400, "IncorrectKeyException", "The key ID in the request does not identify the key"));
        }
        let nonce = Nonce::try_assume_unique_for_key(&blob[32..44]).unwrap();
        let mut data = blob[44..].to_vec();
        let plain = cipher(&arn).open_in_place(nonce, aad(body), &mut data).map_err(|_| invalid)?;
        Ok(json!({ "KeyId": arn, "Plaintext": STANDARD.encode(plain) }))
    }
}

fn point(secret: &SigningKey) -> Vec<u8> {
    secret.verifying_key().to_sec1_point(false).as_bytes().to_vec()
}

fn cipher(arn: &str) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, &Digest::of(&[arn.as_bytes(), b"fake"].concat()).0).unwrap()
}

fn aad(body: &Value) -> Aad<Vec<u8>> {
    Aad::from(body["EncryptionContext"].to_string().into_bytes())
}
