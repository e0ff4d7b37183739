//! Signed artifacts, good ones and such as are wrong in one thing, each with the reason for which it must be refused.
//!
//! The same cases are verified by our own code, and written out for the verifiers of others. Each bad one stays as
//! well-formed as its fault allows, and is signed anew where the fault is not in the signature.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_proof::jwk::{JwkSet, Mark};
use countersign_trust::artifact::report::KeyState;
use countersign_trust::artifact::sign::{SignedArtifact, Times, sign};
use countersign_trust::artifact::{Artifact, ArtifactId, Draft, Evidence, MAX_BYTES};
use countersign_trust::keys::{Signer, signature_to_der};
use serde_json::{Map, Value, json};

pub const WORKSPACE: &str = "north-clinic";
/// 2026-03-01T12:00:00Z.
pub const NOW: u64 = 1_772_366_400;
/// When the first key was retired.
pub const ROTATED: u64 = NOW - 30 * 24 * 3600;

/// What verifiers of others accept although we refuse it. They verify signatures; what an artifact is they do not know.
/// The first six are other spellings or extensions that they know; the rest is right by the signature alone.
pub const LENIENT: [(&str, &[&str]); 23] = [
    ("b64-false-flattened", BOTH),
    ("duplicate-alg-compact", BOTH),
    ("unprotected-other-flattened", BOTH),
    ("padded-compact", BOTH),
    ("loose-bits-compact", BOTH),
    ("standard-alphabet-compact", &["jwcrypto"]),
    ("typ-jwt-flattened", BOTH),
    ("no-typ-flattened", BOTH),
    ("other-iss-flattened", BOTH),
    ("other-sub-flattened", BOTH),
    ("other-type-flattened", BOTH),
    ("other-version-flattened", BOTH),
    ("version-as-text-flattened", BOTH),
    ("no-sub-flattened", BOTH),
    ("exp-before-iat-flattened", BOTH),
    ("iat-in-future-flattened", BOTH),
    ("payload-other-version-flattened", BOTH),
    ("unknown-member-flattened", BOTH),
    ("other-body-flattened", BOTH),
    ("not-canonical-flattened", BOTH),
    ("other-workspace-flattened", BOTH),
    ("key-retired-flattened", BOTH),
    ("key-revoked-flattened", BOTH),
];
const BOTH: &[&str] = &["jose", "jwcrypto"];

pub struct Case {
    pub name: String,
    pub file: Vec<u8>,
    pub keys: JwkSet,
    pub states: BTreeMap<String, KeyState>,
    /// The artifact's canonical bytes, if the case is good.
    pub payload: Option<Vec<u8>>,
    /// Why it is refused, or for `key_unknown`, not anchored.
    pub refused: &'static [&'static str],
}

impl Case {
    /// The key set as a node publishes it: with what became of each key.
    pub fn published(&self) -> JwkSet {
        let mut set = JwkSet::default();
        for key in self.keys.keys() {
            let key = key.clone();
            set.add(match self.states.get(key.kid()) {
                None => key,
                Some(KeyState::Active) => key.marked(Mark::Active),
                Some(KeyState::Retired { at }) => key.marked(Mark::Retired { at: *at }),
                Some(KeyState::Revoked { at }) => key.marked(Mark::Revoked { at: *at }),
            })
            .unwrap();
        }
        set
    }
}

/// A workspace after its first rotation: two keys in its set. And a key of another.
pub struct Keys {
    pub old: Signer,
    pub new: Signer,
    pub stranger: Signer,
}

impl Keys {
    pub fn new() -> Self {
        let key = |label| Signer::from_seed(&[7; 32], label);
        Self { old: key("first"), new: key("second"), stranger: key("stranger") }
    }

    pub fn set(&self) -> JwkSet {
        let mut set = JwkSet::default();
        set.add(self.old.jwk()).unwrap();
        set.add(self.new.jwk()).unwrap();
        set
    }

    pub fn states(&self) -> BTreeMap<String, KeyState> {
        [
            (self.old.jwk().kid().to_owned(), KeyState::Retired { at: ROTATED }),
            (self.new.jwk().kid().to_owned(), KeyState::Active),
        ]
        .into()
    }
}

pub fn draft(artifact_type: &str, body: Value) -> Draft {
    let Value::Object(json_body) = body else { panic!("an object") };
    Draft {
        id: ArtifactId::from_time_and_entropy(NOW * 1000, [3; 10]),
        artifact_type: artifact_type.to_owned(),
        version: 1,
        workspace_id: WORKSPACE.to_owned(),
        created_at: "2026-03-01T12:00:00Z".to_owned(),
        json_body,
        derived_from: Vec::new(),
        evidence: Vec::new(),
        compliance: Vec::new(),
    }
}

/// A body of each built-in type.
pub fn bodies() -> [(&'static str, Value); 5] {
    [
        ("clinical_recommendation", recommendation()),
        (
            "population_analysis",
            json!({ "population_criteria": { "county": "041", "age": { "min": 65 } }, "cohort_size": 1834,
                "minimum_cell_size": 11, "period": { "start": "2025-01-01", "end": "2025-12-31" },
                "findings": [{ "factor": "food insecurity", "count": 212, "value": 0.1156, "confidence_interval": [0.1, 0.13] }] }),
        ),
        (
            "trial_match",
            json!({ "patient_id": "p-1042", "matches": [{ "trial_id": "NCT01234567", "score": 0.91,
                "eligibility": { "met": ["age"], "unmet": [], "unknown": ["creatinine"] } }], "searched_at": "2026-03-01T11:59:00Z" }),
        ),
        (
            "audit_package",
            json!({ "timeframe": "2026-Q1", "framework": "FedRAMP-High", "controls": [{ "id": "AU-2", "status": "satisfied",
                "evidence": [{ "source": "receipts", "receipt": "0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a" }] }] }),
        ),
        (
            "baseline_module",
            json!({ "name": "Audit and accountability", "module_version": "1.2", "frameworks": ["FedRAMP-High", "HIPAA"],
                "controls": [{ "id": "AU-2", "statement": "Every use of a tool is recorded." }] }),
        ),
    ]
}

pub fn recommendation() -> Value {
    json!({ "patient_id": "p-1042", "recommendation": "Start metformin 500 mg twice daily.",
        "evidence_sources": ["ADA Standards of Care 2026", { "source": "doi:10.1000/182", "strength": "A" }],
        "risk_score": 0.25 })
}

/// What canonical JSON goes wrong with.
fn odd() -> Value {
    let mut body = recommendation();
    body["numbers"] = json!([
        -0.0,
        0,
        1,
        -1,
        9_007_199_254_740_991_i64,
        -9_007_199_254_740_991_i64,
        4_503_599_627_370_495.5,
        333_333_333.333_333_3,
        0.1,
        1e-6,
        1e-7,
        1e-27,
        5e-324,
        2.2250738585072014e-308,
        123_456.789,
        1e15,
        10.0
    ]);
    body["texts"] = json!([
        "",
        "\u{0}\u{1}\u{8}\u{9}\u{a}\u{b}\u{c}\u{d}\u{1f}\u{7f}\u{80}",
        "\"\\/",
        "\u{2028}\u{2029}",
        "é e\u{301}",
        "\u{1F602}\u{10FFFF}\u{FFFF}\u{FEFF}",
        "<script>&amp;</script>",
        "\u{202e}"
    ]);
    // RFC 8785 section 3.2.3, and names that trip readers up. Beyond the BMP, bytes and UTF-16 order differently.
    let mut names = Map::new();
    for name in [
        "\u{20ac}",
        "\r",
        "\u{fb33}",
        "1",
        "10",
        "2",
        "\u{1F600}",
        "\u{80}",
        "\u{f6}",
        "",
        "__proto__",
        "constructor",
        "\u{ffff}",
        "a.b",
        "\u{0}",
        "toJSON",
    ] {
        names.insert(name.to_owned(), json!(name));
    }
    body["names"] = Value::Object(names);
    body["empty"] = json!([[], {}, null, true, false, [[[[]]]]]);
    body
}

pub fn signed(keys: &Keys) -> SignedArtifact {
    let artifact = Artifact::new(&draft("clinical_recommendation", recommendation())).unwrap();
    sign(&artifact, &keys.new, Times::from(NOW - 60)).unwrap()
}

pub fn all() -> Vec<Case> {
    let keys = Keys::new();
    let mut cases = good(&keys);
    cases.extend(changed(&keys));
    cases.extend(other_headers(&keys));
    cases.extend(other_spellings(&keys));
    cases.extend(foreign(&keys));
    cases.extend(contradictory(&keys));
    cases
}

fn case(keys: &Keys, name: &str, file: impl Into<Vec<u8>>, refused: &'static [&'static str]) -> Case {
    Case { name: name.to_owned(), file: file.into(), keys: keys.set(), states: keys.states(), payload: None, refused }
}

fn good(keys: &Keys) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, signed: &SignedArtifact| {
        for (form, file) in [("flattened", signed.to_flattened()), ("compact", signed.to_compact().into_bytes())] {
            let mut case = case(keys, &format!("good-{name}-{form}"), file, &[]);
            case.payload = Some(signed.jws().payload().to_vec());
            cases.push(case);
        }
    };
    let now = Times::from(NOW - 60);
    for (name, body) in bodies() {
        add(name, &sign(&Artifact::new(&draft(name, body)).unwrap(), &keys.new, now).unwrap());
    }
    let mut full = draft("clinical_recommendation", odd());
    full.version = 9_007_199_254_740_991;
    full.derived_from = (0..64).map(|i| ArtifactId::from_time_and_entropy(i, [i as u8; 10])).collect();
    full.evidence = vec![Evidence {
        source: "urn:example:\u{1F602}".to_owned(),
        title: Some("\u{7}".to_owned()),
        digest: Some(countersign_proof::digest::Digest::of(b"")),
        retrieved_at: Some("2026-02-28T23:59:59.999+05:30".to_owned()),
    }];
    full.compliance = vec!["HIPAA".to_owned(), "FedRAMP-High".to_owned()];
    add("odd", &sign(&Artifact::new(&full).unwrap(), &keys.new, now).unwrap());
    let mut large = recommendation();
    let room = MAX_BYTES - Artifact::new(&draft("clinical_recommendation", large.clone())).unwrap().canonical().len();
    // `,"notes":["…","…"]`, with texts that a type may bound.
    large["notes"] = json!(vec!["\u{e9}".repeat((room - 16) / 4); 2]);
    add("large", &sign(&Artifact::new(&draft("clinical_recommendation", large)).unwrap(), &keys.new, now).unwrap());
    let artifact = Artifact::new(&draft("clinical_recommendation", recommendation())).unwrap();
    add("before-rotation", &sign(&artifact, &keys.old, Times::from(ROTATED - 60)).unwrap());
    add("expired", &sign(&artifact, &keys.new, Times::lasting(NOW - 7200, 3600)).unwrap());
    // ECDSA holds for s and for n - s alike; other signers than ours give either.
    let jws = signed(keys);
    let mut other = parts(&jws);
    other[2] = url(&with_other_s(jws.jws().signature()));
    let mut mirrored = case(keys, "good-other-s-compact", other.join("."), &[]);
    mirrored.payload = Some(jws.jws().payload().to_vec());
    cases.push(mirrored);
    cases
}

/// One byte changed, and nothing else.
fn changed(keys: &Keys) -> Vec<Case> {
    let original = signed(keys);
    let change = |part: usize, from: &str, to: &str| {
        let mut parts = parts(&original);
        let text = String::from_utf8(unurl(&parts[part])).unwrap();
        assert_eq!((text.matches(from).count(), from.len()), (1, to.len()), "{from}");
        parts[part] = url(text.replace(from, to).as_bytes());
        parts
    };
    let mut signature = parts(&original);
    let mut bytes = unurl(&signature[2]);
    bytes[40] ^= 1;
    signature[2] = url(&bytes);
    let kid = |kid: &str| change(0, keys.new.jwk().kid(), kid);
    let mut zero = parts(&original);
    zero[2] = url(&[0; 64]);
    let cases = [
        ("payload-byte", change(1, "0.25", "0.35"), &["signature_wrong"][..]),
        ("header-byte", change(0, "\"iat\":177", "\"iat\":176"), &["signature_wrong"]),
        ("signature-byte", signature, &["signature_wrong"]),
        ("signature-zero", zero, &["signature_wrong"]),
        ("kid-of-another-key", kid(keys.old.jwk().kid()), &["signature_wrong"]),
        ("kid-unknown", kid(&"A".repeat(43)), &["key_unknown"]),
    ];
    let mut out = Vec::new();
    for (name, parts, refused) in cases {
        out.push(case(keys, &format!("{name}-flattened"), flattened(&parts), refused));
        out.push(case(keys, &format!("{name}-compact"), parts.join("."), refused));
    }
    // The key that is named retired before the time that the header claims; the signature is wrong all the same.
    for case in out.iter_mut().filter(|case| case.name.starts_with("kid-of-another-key")) {
        case.refused = &["signature_wrong", "key_retired"];
    }
    out
}

/// Headers that ask for something else, or that other readers may understand differently.
fn other_headers(keys: &Keys) -> Vec<Case> {
    let original = signed(keys);
    let [_, payload, signature] = &parts(&original);
    let header = |name: &str, value: Value| {
        let mut header = original.jws().header().clone();
        header.insert(name.to_owned(), value);
        json_bytes(&header)
    };
    let resigned = |header: &[u8]| resigned(&keys.new, header, original.jws().payload()).join(".");
    let none = format!("{}.{payload}.", url(&header("alg", json!("none"))));
    let hs256 = format!("{}.{payload}.{signature}", url(&header("alg", json!("HS256"))));
    let twice = String::from_utf8(json_bytes(original.jws().header())).unwrap();
    let twice = twice.replacen('{', "{\"alg\":\"none\",", 1);
    let unencoded = {
        let mut header = original.jws().header().clone();
        header.insert("b64".to_owned(), json!(false));
        header.insert("crit".to_owned(), json!(["b64"]));
        let protected = url(&json_bytes(&header));
        let text = String::from_utf8(original.jws().payload().to_vec()).unwrap();
        let signature = keys.new.sign_raw(format!("{protected}.{text}").as_bytes());
        json!({ "protected": protected, "payload": text, "signature": url(&signature) }).to_string()
    };
    let unprotected = |header: Value| {
        let mut flattened: Value = serde_json::from_slice(&original.to_flattened()).unwrap();
        flattened["header"] = header;
        flattened.to_string()
    };
    let (same, more) = (json!({ "alg": "ES256" }), json!({ "reviewed_by": "Dr. Who" }));
    vec![
        case(keys, "alg-none-compact", none, &["algorithm"]),
        case(keys, "alg-hs256-compact", hs256, &["algorithm"]),
        case(keys, "crit-compact", resigned(&header("crit", json!(["exp"]))), &["header_critical"]),
        case(keys, "b64-false-flattened", unencoded, &["header_critical"]),
        case(keys, "duplicate-alg-compact", resigned(twice.as_bytes()), &["header_malformed"]),
        case(keys, "unprotected-alg-flattened", unprotected(same), &["header_unprotected"]),
        case(keys, "unprotected-other-flattened", unprotected(more), &["header_unprotected"]),
    ]
}

/// The same signature in other spellings, and none of its shape.
fn other_spellings(keys: &Keys) -> Vec<Case> {
    let original = signed(keys);
    let [protected, payload, signature] = &parts(&original);
    let der = url(&signature_to_der(original.jws().signature()).unwrap());
    let der_flattened = flattened(&[protected.clone(), payload.clone(), der.clone()]);
    let general = json!({ "payload": payload, "signatures": [{ "protected": protected, "signature": signature }] });
    let mut loose = signature.clone();
    // 64 bytes leave four bits of the last character unused.
    let last = loose.pop().unwrap();
    loose.push(char::from(last as u8 + 1));
    let standard = standard(original.jws().signature());
    let with = |signature: &str| format!("{protected}.{payload}.{signature}");
    vec![
        case(keys, "der-signature-flattened", der_flattened, &["signature_length"]),
        case(keys, "der-signature-compact", with(&der), &["signature_length"]),
        case(keys, "general-flattened", general.to_string(), &["shape"]),
        case(keys, "padded-compact", with(&format!("{signature}==")), &["base64url"]),
        case(keys, "loose-bits-compact", with(&loose), &["base64url"]),
        case(keys, "standard-alphabet-compact", with(&standard), &["base64url"]),
    ]
}

/// Signatures by others.
fn foreign(keys: &Keys) -> Vec<Case> {
    let original = signed(keys);
    let stranger = &keys.stranger;
    let as_ours = resigned(stranger, &json_bytes(original.jws().header()), original.jws().payload());
    let mut header = original.jws().header().clone();
    header.insert("kid".to_owned(), json!(stranger.jwk().kid()));
    let own = resigned(stranger, &json_bytes(&header), original.jws().payload());
    header.insert("jwk".to_owned(), stranger.jwk().to_value());
    let embedded = resigned(stranger, &json_bytes(&header), original.jws().payload());
    vec![
        case(keys, "stranger-with-our-kid-flattened", flattened(&as_ours), &["signature_wrong"]),
        case(keys, "stranger-with-own-kid-flattened", flattened(&own), &["key_unknown"]),
        case(keys, "stranger-with-own-key-compact", embedded.join("."), &["key_unknown"]),
    ]
}

/// The signature is right, and what is signed contradicts itself, or what is known of the key.
fn contradictory(keys: &Keys) -> Vec<Case> {
    let original = signed(keys);
    let artifact: Value = serde_json::from_slice(original.jws().payload()).unwrap();
    let header = |name: &str, value: Value| {
        let mut header = original.jws().header().clone();
        if value.is_null() {
            header.shift_remove(name)
        } else {
            header.insert(name.to_owned(), value)
        };
        flattened(&resigned(&keys.new, &json_bytes(&header), original.jws().payload()))
    };
    let payload = |payload: &[u8]| flattened(&resigned(&keys.new, &json_bytes(original.jws().header()), payload));
    let with = |name: &str, value: Value| {
        let mut artifact = artifact.clone();
        artifact[name] = value;
        payload(&countersign_proof::canonical::to_canonical(&artifact).unwrap())
    };
    let elsewhere = {
        let mut draft = draft("clinical_recommendation", recommendation());
        draft.workspace_id = "south-clinic".to_owned();
        sign(&Artifact::new(&draft).unwrap(), &keys.new, Times::from(NOW - 60)).unwrap().to_flattened()
    };
    let late = sign(&Artifact::from_value(&artifact).unwrap(), &keys.old, Times::from(ROTATED + 60)).unwrap();
    let mut revoked = case(keys, "key-revoked-flattened", original.to_flattened(), &["key_revoked"]);
    revoked.states.insert(keys.new.jwk().kid().to_owned(), KeyState::Revoked { at: NOW });
    vec![
        case(keys, "typ-jwt-flattened", header("typ", json!("JWT")), &["typ_mismatch"]),
        case(keys, "no-typ-flattened", header("typ", Value::Null), &["typ_mismatch"]),
        case(keys, "other-iss-flattened", header("iss", json!("south-clinic")), &["issuer_mismatch"]),
        case(
            keys,
            "other-sub-flattened",
            header("sub", json!("0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a")),
            &["subject_mismatch"],
        ),
        case(keys, "other-type-flattened", header("artifact_type", json!("trial_match")), &["type_mismatch"]),
        case(keys, "other-version-flattened", header("artifact_version", json!(2)), &["version_mismatch"]),
        case(keys, "version-as-text-flattened", header("artifact_version", json!("1")), &["claim_missing"]),
        case(keys, "no-sub-flattened", header("sub", Value::Null), &["claim_missing"]),
        case(keys, "exp-before-iat-flattened", header("exp", json!(1)), &["times_mismatch"]),
        case(keys, "iat-in-future-flattened", header("iat", json!(NOW + 3600)), &["issued_in_future"]),
        case(keys, "payload-other-version-flattened", with("version", json!(2)), &["version_mismatch"]),
        case(keys, "unknown-member-flattened", with("approvedBy", json!("x")), &["artifact_malformed"]),
        case(keys, "other-body-flattened", with("jsonBody", json!({ "patient_id": "p-1" })), &["body_mismatch"]),
        case(keys, "not-canonical-flattened", payload(format!(" {artifact}").as_bytes()), &["payload_not_canonical"]),
        case(keys, "other-workspace-flattened", elsewhere, &["workspace_mismatch"]),
        case(keys, "key-retired-flattened", late.to_flattened(), &["key_retired"]),
        revoked,
    ]
}

pub fn parts(signed: &SignedArtifact) -> [String; 3] {
    let compact = signed.to_compact();
    let parts: Vec<String> = compact.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

pub fn flattened([protected, payload, signature]: &[String; 3]) -> String {
    json!({ "payload": payload, "protected": protected, "signature": signature }).to_string()
}

pub fn resigned(key: &Signer, header: &[u8], payload: &[u8]) -> [String; 3] {
    let (protected, payload) = (url(header), url(payload));
    let signature = key.sign_raw(format!("{protected}.{payload}").as_bytes());
    [protected, payload, url(&signature)]
}

fn with_other_s(signature: &[u8; 64]) -> Vec<u8> {
    // The order of P-256 (SEC 2 section 2.4.2).
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut out = signature.to_vec();
    let mut borrow = 0;
    for i in (0..32).rev() {
        let digit = i16::from(ORDER[i]) - i16::from(signature[32 + i]) - borrow;
        borrow = i16::from(digit < 0);
        out[32 + i] = digit.rem_euclid(256) as u8;
    }
    out
}

fn json_bytes(header: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(header).unwrap()
}

fn url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn unurl(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// The bytes in the other alphabet, which differs where a signature has the digits 62 and 63.
fn standard(bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let text = text.trim_end_matches('=');
    assert!(text.contains(['+', '/']), "choose another key: {text}");
    text.to_owned()
}
