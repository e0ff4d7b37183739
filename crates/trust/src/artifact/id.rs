//! Names of artifacts: UUIDs (RFC 9562) in their one spelling.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An artifact's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArtifactId([u8; 16]);

/// The text is no UUID as it is written here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a UUID in lower case, such as 0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a")]
pub struct InvalidId;

impl ArtifactId {
    /// A new name: a UUID of version 7, from milliseconds since 1970 and 10 random bytes.
    pub fn from_time_and_entropy(time_ms: u64, entropy: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        // 48 bits of milliseconds last until the year 10889.
        bytes[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&entropy);
        bytes[6] = 0x70 | bytes[6] & 0x0f;
        bytes[8] = 0x80 | bytes[8] & 0x3f;
        Self(bytes)
    }

    /// The 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ArtifactId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let text = text.as_bytes();
        if text.len() != 36 {
            return Err(InvalidId);
        }
        let mut digits = Vec::with_capacity(32);
        for (i, &c) in text.iter().enumerate() {
            match (i, c) {
                (8 | 13 | 18 | 23, b'-') => {}
                (8 | 13 | 18 | 23, _) => return Err(InvalidId),
                // One spelling: what is signed is compared byte for byte.
                (_, b'0'..=b'9') => digits.push(c - b'0'),
                (_, b'a'..=b'f') => digits.push(c - b'a' + 10),
                _ => return Err(InvalidId),
            }
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

impl Serialize for ArtifactId {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ArtifactId {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let text = "0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a";
        assert_eq!(text.parse::<ArtifactId>().unwrap().to_string(), text);
        for wrong in [
            "",
            "0197F3A2-5c1e-7d40-9a6b-3f2e1d0c9b8a",
            "0197f3a25c1e7d409a6b3f2e1d0c9b8a",
            "{0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a}",
            "0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8",
            "0197f3a2-5c1e-7d40-9a6b3-f2e1d0c9b8a",
            "0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8g",
            "0197f3a2-5c1e-7d40-9a6b-3f2e1d0cé9b8",
        ] {
            assert_eq!(wrong.parse::<ArtifactId>(), Err(InvalidId), "{wrong}");
        }
    }

    #[test]
    fn new_names_are_of_version_7_and_sort_by_time() {
        let id = |ms| ArtifactId::from_time_and_entropy(ms, [0xff; 10]);
        // RFC 9562 appendix A.6: 0x017F22E279B0 is 2022-02-22T19:22:22Z.
        assert_eq!(id(0x017F_22E2_79B0).to_string(), "017f22e2-79b0-7fff-bfff-ffffffffffff");
        assert!(id(1) < id(2));
    }
}
