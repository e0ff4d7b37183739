//! Access tokens. What begins with `{` is a header and a line of claims, which the issuer signs here, so that the checks behind
//! the signature are reached; everything else is a token as it comes, which nobody signed and nobody may believe.
#![no_main]

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_domain::{Principal, Refusal};
use countersign_gate::identity::{Authenticator, IssuerConfig, KeySource, Presented};
use ed25519_dalek::{Signer as _, SigningKey};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

const ISSUER: &str = "https://idp.example";
const NOW: u64 = 1_800_000_000_000;

struct Keys;

#[async_trait]
impl KeySource for Keys {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        let x = URL_SAFE_NO_PAD.encode(key().verifying_key().as_bytes());
        Ok(format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}}]}}"#).into_bytes())
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

static NODE: LazyLock<(Runtime, Authenticator)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let issuer = IssuerConfig::new(ISSUER, "countersign", Box::new(Keys));
    (runtime, Authenticator::new(vec![issuer]))
});

fn believe(token: &str) -> Result<Arc<Principal>, Refusal> {
    let presented = Presented { bearer: token, resource: "/mcp", ..Presented::default() };
    NODE.0.block_on(NODE.1.authenticate(&presented, NOW))
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if !text.starts_with('{') {
        assert!(believe(text).is_err(), "nobody signed this");
        return;
    }
    let (header, claims) = text.split_once('\n').unwrap_or((text, "{}"));
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key().sign(signed.as_bytes()).to_bytes());
    let Ok(principal) = believe(&format!("{signed}.{signature}")) else { return };
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("it was read");
    let (header, claims) = (read(header), read(claims));
    assert!(header["alg"] == "EdDSA" || header["alg"] == "Ed25519");
    assert!(header["kid"] == "k" && header.get("crit").is_none());
    assert!(claims["iss"] == ISSUER && claims["exp"].as_f64().is_some_and(|exp| exp + 31.0 > NOW as f64 / 1000.0));
    assert!(claims["aud"] == "countersign" || claims["aud"].as_array().is_some_and(|all| all.contains(&"countersign".into())));
    assert!(claims.get("cnf").is_none(), "nothing was proved");
    assert!((1..=256).contains(&principal.id.len()) && !principal.id.chars().any(char::is_control));
    assert_eq!(principal.workspace.as_str(), "default");
    assert!(!principal.roles.contains("operator") && !principal.roles.contains("auditor") && !principal.development);
});
