//! SPDX 2.2 and 2.3 in JSON: packages, and the advisories that they refer to.
//!
//! SPDX 2 knows no severities and no list of vulnerabilities. An external reference of category `SECURITY` and type
//! `advisory` (annex F) counts as a finding of unknown severity; the document is not held to have looked for any.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::tally::{Tally, at_most, digest_of_hex, list, part};
use super::{Format, MAX_COMPONENTS, MAX_RESULTS, Scan, ScanError, Severity};

const DOCUMENT: &str = "SPDXRef-DOCUMENT";

#[derive(Deserialize)]
struct CreationInfo<'a> {
    created: Option<&'a str>,
    #[serde(borrow)]
    creators: Option<Vec<&'a str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Relationship<'a> {
    spdx_element_id: Option<&'a str>,
    relationship_type: Option<&'a str>,
    related_spdx_element: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Package<'a> {
    #[serde(rename = "SPDXID")]
    id: Option<&'a str>,
    version_info: Option<&'a str>,
    #[serde(borrow)]
    checksums: Option<Vec<Checksum<'a>>>,
    #[serde(borrow)]
    external_refs: Option<Vec<ExternalRef<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checksum<'a> {
    algorithm: &'a str,
    checksum_value: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExternalRef<'a> {
    reference_category: Option<&'a str>,
    reference_type: Option<&'a str>,
    reference_locator: Option<&'a str>,
}

/// Reads a document of which the version was looked at.
pub(super) fn read(document: &Value, version: &str) -> Result<Scan, ScanError> {
    let mut tally = Tally::default();
    if let Some(info) = document.get("creationInfo") {
        let info: CreationInfo<'_> = part(info, || "creationInfo".to_owned())?;
        info.created.into_iter().for_each(|time| tally.made_at(time));
        for tool in info.creators.iter().flatten().filter_map(|creator| creator.strip_prefix("Tool:")) {
            let (name, version) = tool_and_version(tool.trim());
            tally.tool(name, version);
        }
    }
    let described = described(document)?;
    let packages = list(document, "packages", "")?.unwrap_or_default();
    at_most(packages.len(), usize::try_from(MAX_COMPONENTS).unwrap_or(usize::MAX), "packages")?;
    tally.components = packages.len() as u64;
    let mut advisories = 0;
    for (i, value) in packages.iter().enumerate() {
        let package: Package<'_> = part(value, || format!("packages[{i}]"))?;
        advisories += count_advisories(&mut tally, &package);
        at_most(advisories, MAX_RESULTS, "advisories")?;
        if package.id.is_some_and(|id| described.contains(id)) {
            read_subject(&mut tally, &package);
        }
    }
    Ok(tally.finish(Format::Spdx, version))
}

/// Section 6.8: `toolidentifier-version`. Identifiers have hyphens too; a version starts with a digit, perhaps after a
/// `v`.
fn tool_and_version(tool: &str) -> (&str, Option<&str>) {
    let is_version = |text: &str| text.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
    for (at, _) in tool.match_indices('-') {
        let (name, version) = (&tool[..at], &tool[at + 1..]);
        if !name.is_empty() && is_version(version) {
            return (name, Some(version));
        }
    }
    (tool, None)
}

/// The elements that the document is about, by either way of saying so.
fn described(document: &Value) -> Result<BTreeSet<&str>, ScanError> {
    let listed = list(document, "documentDescribes", "")?.unwrap_or_default();
    let mut described: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    for (i, value) in list(document, "relationships", "")?.unwrap_or_default().iter().enumerate() {
        let relationship: Relationship<'_> = part(value, || format!("relationships[{i}]"))?;
        let (from, to) = (relationship.spdx_element_id, relationship.related_spdx_element);
        match relationship.relationship_type {
            Some("DESCRIBES") if from == Some(DOCUMENT) => described.extend(to),
            Some("DESCRIBED_BY") if to == Some(DOCUMENT) => described.extend(from),
            Some(_) | None => {}
        }
    }
    Ok(described)
}

fn read_subject(tally: &mut Tally, package: &Package<'_>) {
    for checksum in package.checksums.iter().flatten().filter(|checksum| checksum.algorithm == "SHA256") {
        digest_of_hex(checksum.checksum_value).into_iter().for_each(|digest| tally.subject(digest));
    }
    let locators = package.external_refs.iter().flatten().filter_map(|reference| reference.reference_locator);
    package.version_info.into_iter().chain(locators).for_each(|text| tally.subjects_in(text));
}

fn count_advisories(tally: &mut Tally, package: &Package<'_>) -> usize {
    let is_advisory = |reference: &&ExternalRef<'_>| {
        reference.reference_category == Some("SECURITY") && reference.reference_type == Some("advisory")
    };
    let mut count = 0;
    for advisory in package.external_refs.iter().flatten().filter(is_advisory) {
        // Where it is a URL, its last part is the advisory's name.
        let locator = advisory.reference_locator.unwrap_or("(no locator)").trim_end_matches('/');
        tally.finding(locator.rsplit('/').next().unwrap_or(locator), Severity::Unknown);
        count += 1;
    }
    count
}
