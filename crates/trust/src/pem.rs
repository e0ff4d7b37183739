//! PEM (RFC 7468): one block of one kind, and blocks written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The label of a certificate (RFC 7468 section 5).
pub const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a certification request (section 7).
pub const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";
/// The label of a public key (section 13).
pub const PUBLIC_KEY: &str = "PUBLIC KEY";

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
}
