//! PEM (RFC 7468): one block of one kind, files of several as operators publish them, and blocks written.
//!
//! In files, text before, between and after blocks is explanatory (section 2) and left aside; a block itself is read strictly.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The label of a certificate (RFC 7468 section 5).
pub const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a certification request (section 7).
pub const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";
/// The label of a public key (section 13).
pub const PUBLIC_KEY: &str = "PUBLIC KEY";

/// The largest file that is read, in bytes.
pub const MAX_PEM_BYTES: usize = 256 * 1024;
/// Most blocks of one file.
pub const MAX_BLOCKS: usize = 32;

/// The bytes of the only block, if it has this label. White space around it and in it is passed over.
pub fn decode(text: &str, label: &str) -> Option<Vec<u8>> {
    let rest = text.trim().strip_prefix("-----BEGIN ")?.strip_prefix(label)?.strip_prefix("-----")?;
    let inner = rest.strip_suffix(&format!("-----END {label}-----"))?;
    STANDARD.decode(inner.split_ascii_whitespace().collect::<String>()).ok()
}

/// The block of these bytes, in lines of 64 characters.
pub fn encode(der: &[u8], label: &str) -> String {
    let encoded = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).unwrap_or_default());
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// Why a text holds not what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// More than [`MAX_PEM_BYTES`] bytes or [`MAX_BLOCKS`] blocks, or not text.
    #[error("not PEM: too large, or not text")]
    Bound,
    /// A block without an end, or with the end of another.
    #[error("a PEM block {0:?} does not end as it began")]
    Unclosed(String),
    /// A block whose content is not base64.
    #[error("the PEM block {0:?} is not base64")]
    Base64(String),
    /// Not exactly one block, or none at all.
    #[error("expected {expected}, and the text has {found} such blocks")]
    Count {
        /// In words.
        expected: &'static str,
        /// How many there are.
        found: usize,
    },
}

/// What stands between a begin and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Such as `CERTIFICATE`.
    pub label: String,
    /// The content.
    pub der: Vec<u8>,
}

/// All blocks of a text, in order.
///
/// # Errors
/// [`PemError`].
pub fn blocks(pem: &[u8]) -> Result<Vec<Block>, PemError> {
    let text = std::str::from_utf8(pem).ok().filter(|text| text.len() <= MAX_PEM_BYTES).ok_or(PemError::Bound)?;
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let shown = || label.chars().take(64).collect::<String>();
        let end = format!("-----END {label}-----");
        let mut content = String::new();
        loop {
            match lines.next() {
                Some(line) if line == end => break,
                Some(line) if !line.starts_with("-----") => content.push_str(line),
                Some(_) | None => return Err(PemError::Unclosed(shown())),
            }
        }
        let der = STANDARD.decode(&content).map_err(|_| PemError::Base64(shown()))?;
        if blocks.len() == MAX_BLOCKS {
            return Err(PemError::Bound);
        }
        blocks.push(Block { label: label.to_owned(), der });
    }
    Ok(blocks)
}

/// DER of every certificate of a text; at least one.
///
/// # Errors
/// [`PemError`].
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, PemError> {
    let found: Vec<_> = blocks(pem)?.into_iter().filter(|b| b.label == CERTIFICATE).map(|b| b.der).collect();
    if found.is_empty() { Err(PemError::Count { expected: "a certificate", found: 0 }) } else { Ok(found) }
}

/// DER of the only public key (`SubjectPublicKeyInfo`) of a text.
///
/// # Errors
/// [`PemError`].
pub fn public_key(pem: &[u8]) -> Result<Vec<u8>, PemError> {
    let found: Vec<_> = blocks(pem)?.into_iter().filter(|b| b.label == PUBLIC_KEY).collect();
    match <[Block; 1]>::try_from(found) {
        Ok([block]) => Ok(block.der),
        Err(found) => Err(PemError::Count { expected: "one public key", found: found.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_back_and_nothing_else_is_one() {
        for length in [0, 1, 47, 48, 49, 500] {
            let bytes = vec![0xab; length];
            let text = encode(&bytes, CERTIFICATE);
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            assert_eq!(decode(&text, CERTIFICATE), Some(bytes.clone()));
            assert_eq!(decode(&format!("\n{}\n", text.replace('\n', "\r\n")), CERTIFICATE), Some(bytes));
            assert_eq!(decode(&text, PUBLIC_KEY), None);
            assert_eq!(decode(&text.repeat(2), CERTIFICATE), None);
        }
        for wrong in ["", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"] {
            assert_eq!(decode(wrong, CERTIFICATE), None, "{wrong}");
        }
    }

    #[test]
    fn blocks_are_read_with_what_people_write_around_them() {
        let one = encode(&[7; 100], CERTIFICATE);
        let two = encode(b"key", PUBLIC_KEY);
        let text = format!("subject=Somebody\n{one}\n  issued by\r\n{}", two.replace('\n', "\r\n"));
        let found = blocks(text.as_bytes()).unwrap();
        assert_eq!(found[0], Block { label: "CERTIFICATE".into(), der: vec![7; 100] });
        assert_eq!(certificates(text.as_bytes()).unwrap(), [vec![7; 100]]);
        assert_eq!(public_key(text.as_bytes()).unwrap(), b"key");
    }

    #[test]
    fn what_is_broken_is_refused() {
        let good = encode(b"content", CERTIFICATE);
        for (text, expected) in [
            (good.replace("-----END CERTIFICATE-----\n", ""), PemError::Unclosed("CERTIFICATE".into())),
            (good.replace("END CERTIFICATE", "END PUBLIC KEY"), PemError::Unclosed("CERTIFICATE".into())),
            (good.replace("Y29", "Y!9"), PemError::Base64("CERTIFICATE".into())),
            (good.repeat(MAX_BLOCKS + 1), PemError::Bound),
            ("x".repeat(MAX_PEM_BYTES + 1), PemError::Bound),
        ] {
            assert_eq!(blocks(text.as_bytes()), Err(expected));
        }
        assert_eq!(blocks(&[0xff]), Err(PemError::Bound));
        assert_eq!(certificates(b"nothing"), Err(PemError::Count { expected: "a certificate", found: 0 }));
        let twice = encode(b"a", PUBLIC_KEY).repeat(2);
        assert_eq!(public_key(twice.as_bytes()), Err(PemError::Count { expected: "one public key", found: 2 }));
    }
}
