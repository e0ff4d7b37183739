//! The band of a vulnerability's severity, and CVSS base scores (versions 3.0 and 3.1; FIRST's specification, section 7).
//!
//! Vectors of version 2 and 4 are shown as they are and not computed: their band is what the database says, if it does.

use serde::Serialize;

/// How bad, in FIRST's qualitative scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nobody says. That is not the same as low.
    Unknown,
    /// 0.0.
    None,
    /// Up to 3.9.
    Low,
    /// Up to 6.9.
    Medium,
    /// Up to 8.9.
    High,
    /// From 9.0.
    Critical,
}

impl Severity {
    /// A database's word for a band.
    pub fn from_word(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "none" => Self::None,
            "low" => Self::Low,
            "moderate" | "medium" => Self::Medium,
            "high" => Self::High,
            "critical" => Self::Critical,
            _ => Self::Unknown,
        }
    }

    /// The band of a score in tenths.
    fn from_tenths(tenths: u32) -> Self {
        match tenths {
            0 => Self::None,
            1..40 => Self::Low,
            40..70 => Self::Medium,
            70..90 => Self::High,
            _ => Self::Critical,
        }
    }

    /// The band of a CVSS vector of version 3.
    pub fn from_vector(vector: &str) -> Self {
        base_score(vector).map_or(Self::Unknown, Self::from_tenths)
    }
}

/// The base score in tenths. Metrics that are not of the base are passed over.
fn base_score(vector: &str) -> Option<u32> {
    let metrics = vector.strip_prefix("CVSS:3.1/").or_else(|| vector.strip_prefix("CVSS:3.0/"))?;
    let minor = vector.as_bytes().get(7)?;
    let metric = |name: &str| {
        let mut values = metrics.split('/').filter_map(|m| m.split_once(':')).filter(|(n, _)| *n == name);
        let value = values.next()?.1;
        // Said twice, it says nothing.
        values.next().is_none().then_some(value)
    };
    let weight = |name: &str, weights: &[(&str, f64)]| {
        let value = metric(name)?;
        weights.iter().find(|(v, _)| *v == value).map(|(_, weight)| *weight)
    };
    let changed = match metric("S")? {
        "C" => true,
        "U" => false,
        _ => return None,
    };
    let privileges =
        if changed { [("N", 0.85), ("L", 0.68), ("H", 0.5)] } else { [("N", 0.85), ("L", 0.62), ("H", 0.27)] };
    let exploitability = 8.22
        * weight("AV", &[("N", 0.85), ("A", 0.62), ("L", 0.55), ("P", 0.2)])?
        * weight("AC", &[("L", 0.77), ("H", 0.44)])?
        * weight("PR", &privileges)?
        * weight("UI", &[("N", 0.85), ("R", 0.62)])?;
    let losses = [("H", 0.56), ("L", 0.22), ("N", 0.0)];
    let kept = (1.0 - weight("C", &losses)?) * (1.0 - weight("I", &losses)?) * (1.0 - weight("A", &losses)?);
    let lost = 1.0 - kept;
    let impact = if changed { 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02).powi(15) } else { 6.42 * lost };
    if impact <= 0.0 {
        return Some(0);
    }
    let score = if changed { 1.08 * (impact + exploitability) } else { impact + exploitability };
    Some(round_up(score.min(10.0), *minor))
}

/// Version 3.1 rounds in integers (appendix A), so that no binary fraction tips a score over.
fn round_up(score: f64, minor: u8) -> u32 {
    if minor == b'0' {
        return (score * 10.0).ceil() as u32;
    }
    let hundred_thousandths = (score * 100_000.0).round() as u32;
    hundred_thousandths.div_ceil(10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_published_vectors() {
        // Scores as the NVD gives them; the CVEs beside them.
        for (vector, tenths, severity) in [
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 100, Severity::Critical), // CVE-2021-44228
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 98, Severity::Critical),  // CVE-2014-6271
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N", 75, Severity::High),      // CVE-2014-0160
            ("CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:C/C:H/I:N/A:N", 61, Severity::Medium),    // CVE-2023-32681
            ("CVSS:3.0/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N", 64, Severity::Medium),
            ("CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N", 18, Severity::Low),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0, Severity::None),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H/E:P/RL:O", 98, Severity::Critical),
        ] {
            assert_eq!((base_score(vector), Severity::from_vector(vector)), (Some(tenths), severity), "{vector}");
        }
        for vector in [
            "",
            "CVSS:3.1/",
            "CVSS:3.1/AV:N",
            "CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H",
            "CVSS:3.1/AV:N/AV:P/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H",
            "AV:N/AC:L/Au:N/C:P/I:P/A:P",
            "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N",
        ] {
            assert_eq!(Severity::from_vector(vector), Severity::Unknown, "{vector}");
        }
    }
}
