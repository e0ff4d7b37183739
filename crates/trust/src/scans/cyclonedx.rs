//! CycloneDX in JSON, versions 1.4 to 1.7: components, and vulnerabilities where the document has a list of them.
//!
//! A vulnerability counts once, whatever it affects. Its severity is the worst of its ratings: sources disagree, and
//! nobody here can say who is right. A rating's own word counts before its score; `info` is none. Scores are read for
//! the methods of CVSS alone, where version 2 knows no critical (NVD's bands), and where no method is named. A
//! vulnerability is set aside by the analysis states `resolved`, `resolved_with_pedigree`, `false_positive` and
//! `not_affected`.

use serde::Deserialize;
use serde_json::Value;

use super::tally::{Tally, at_most, digest_of_hex, list, part};
use super::{Format, MAX_COMPONENTS, MAX_RESULTS, Scan, ScanError, Severity};

#[derive(Deserialize)]
struct Metadata<'a> {
    timestamp: Option<&'a str>,
    #[serde(borrow)]
    component: Option<Component<'a>>,
}

#[derive(Deserialize)]
struct Component<'a> {
    version: Option<&'a str>,
    purl: Option<&'a str>,
    #[serde(borrow)]
    hashes: Option<Vec<Hash<'a>>>,
    #[serde(borrow)]
    properties: Option<Vec<Property<'a>>>,
}

#[derive(Deserialize)]
struct Hash<'a> {
    alg: &'a str,
    content: &'a str,
}

#[derive(Deserialize)]
struct Property<'a> {
    value: Option<&'a str>,
}

#[derive(Deserialize)]
struct Named<'a> {
    name: Option<&'a str>,
    version: Option<&'a str>,
}

#[derive(Deserialize)]
struct Vulnerability<'a> {
    id: Option<&'a str>,
    #[serde(borrow)]
    ratings: Option<Vec<Rating<'a>>>,
    #[serde(borrow)]
    analysis: Option<Analysis<'a>>,
}

#[derive(Deserialize)]
struct Rating<'a> {
    severity: Option<&'a str>,
    score: Option<f64>,
    method: Option<&'a str>,
}

#[derive(Deserialize)]
struct Analysis<'a> {
    state: Option<&'a str>,
}

/// Reads a document of which the version was looked at.
pub(super) fn read(document: &Value, version: &str) -> Result<Scan, ScanError> {
    let mut tally = Tally::default();
    if let Some(metadata) = document.get("metadata").filter(|m| !m.is_null()) {
        read_metadata(&mut tally, metadata)?;
    }
    tally.components = count_components(document, "", 0)?;
    if let Some(vulnerabilities) = list(document, "vulnerabilities", "")? {
        tally.assessed = true;
        at_most(vulnerabilities.len(), MAX_RESULTS, "vulnerabilities")?;
        for (i, value) in vulnerabilities.iter().enumerate() {
            count(&mut tally, &part(value, || format!("vulnerabilities[{i}]"))?);
        }
    }
    Ok(tally.finish(Format::CycloneDx, version))
}

fn read_metadata(tally: &mut Tally, value: &Value) -> Result<(), ScanError> {
    let metadata: Metadata<'_> = part(value, || "metadata".to_owned())?;
    metadata.timestamp.into_iter().for_each(|time| tally.made_at(time));
    if let Some(component) = &metadata.component {
        read_subject(tally, component);
    }
    // A list until 1.4, an object with components and services since.
    let tools = match value.get("tools") {
        Some(tools @ Value::Object(_)) => {
            let components = list(tools, "components", "metadata.tools.")?.unwrap_or_default();
            components.iter().chain(list(tools, "services", "metadata.tools.")?.unwrap_or_default()).collect()
        }
        _ => list(value, "tools", "metadata.")?.unwrap_or_default().iter().collect::<Vec<_>>(),
    };
    for (i, tool) in tools.into_iter().enumerate() {
        let tool: Named<'_> = part(tool, || format!("metadata.tools[{i}]"))?;
        tool.name.into_iter().for_each(|name| tally.tool(name, tool.version));
    }
    Ok(())
}

/// What the bill is of: its hashes, and the digests that its version, its package URL and its properties name.
fn read_subject(tally: &mut Tally, component: &Component<'_>) {
    for hash in component.hashes.iter().flatten().filter(|hash| hash.alg == "SHA-256") {
        digest_of_hex(hash.content).into_iter().for_each(|digest| tally.subject(digest));
    }
    let properties = component.properties.iter().flatten().filter_map(|property| property.value);
    component.version.into_iter().chain(component.purl).chain(properties).for_each(|text| tally.subjects_in(text));
}

/// Components may be made of components, as deep as the text may be nested.
fn count_components(value: &Value, path: &str, so_far: u64) -> Result<u64, ScanError> {
    let mut count = so_far;
    for component in list(value, "components", path)?.unwrap_or_default() {
        if !component.is_object() {
            let problem = "expected an object".to_owned();
            return Err(ScanError::Malformed { path: format!("{path}components"), problem });
        }
        count = count_components(component, "components[].", count + 1)?;
        if count > MAX_COMPONENTS {
            return Err(ScanError::TooMany { what: "components", limit: MAX_COMPONENTS });
        }
    }
    Ok(count)
}

fn count(tally: &mut Tally, vulnerability: &Vulnerability<'_>) {
    let severity = worst(vulnerability.ratings.as_deref().unwrap_or_default());
    let state = vulnerability.analysis.as_ref().and_then(|analysis| analysis.state);
    // A state that is not known here sets nothing aside.
    if matches!(state, Some("resolved" | "resolved_with_pedigree" | "false_positive" | "not_affected")) {
        tally.suppressed(severity);
    } else {
        tally.finding(vulnerability.id.unwrap_or("(no id)"), severity);
    }
}

/// The worst of the ratings that say something.
fn worst(ratings: &[Rating<'_>]) -> Severity {
    let known = ratings.iter().map(severity).filter(|severity| *severity != Severity::Unknown);
    known.max().unwrap_or(Severity::Unknown)
}

fn severity(rating: &Rating<'_>) -> Severity {
    match rating.severity {
        Some("critical") => return Severity::Critical,
        Some("high") => return Severity::High,
        Some("medium") => return Severity::Medium,
        Some("low") => return Severity::Low,
        Some("info" | "none") => return Severity::None,
        Some(_) | None => {}
    }
    match (rating.score, rating.method) {
        (Some(score), Some("CVSSv3" | "CVSSv31" | "CVSSv4") | None) => Severity::of_score(score),
        (Some(score), Some("CVSSv2")) => Severity::of_score(score).min(Severity::High),
        (Some(_), Some(_)) | (None, _) => Severity::Unknown,
    }
}
