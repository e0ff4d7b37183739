//! SARIF 2.1.0 (OASIS Standard).
//!
//! A result's severity is the first of these that says something:
//! 1. `security-severity` among the properties of the result or of its rule, as GitHub documents it for code scanning:
//!    a score in the bands of CVSS. Critical is "over 9.0" there; 9.0 itself is critical here, as in CVSS. 0.0 and what
//!    is no score say nothing.
//! 2. its level (section 3.27.10, with the run's overrides): error is high, warning medium, note low, none none.
//!
//! Results of another kind than `fail` (section 3.27.9) are no findings where all is well, and of unknown severity
//! where somebody has to look. A result is suppressed if it has suppressions and all of them are accepted (section
//! 3.27.23); one of baseline state `absent` is counted apart (section 3.27.24).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::tally::{Tally, at_most, digest_of_hex, list, part};
use super::{Format, MAX_RESULTS, MAX_RUNS, Scan, ScanError, Severity};

/// Most extensions of a tool: a rule may have to be looked for in each.
const MAX_EXTENSIONS: usize = 100;
/// Most levels of a rule's id that are looked at.
const MAX_ID_LEVELS: usize = 4;

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow)]
    driver: Component<'a>,
    extensions: Option<Vec<Component<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Component<'a> {
    name: &'a str,
    version: Option<&'a str>,
    semantic_version: Option<&'a str>,
    rules: Option<Vec<Rule<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule<'a> {
    id: &'a str,
    default_configuration: Option<Configuration>,
    properties: Option<Properties>,
}

#[derive(Deserialize)]
struct Configuration {
    level: Option<Level>,
}

#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "security-severity")]
    security_severity: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    rule_id: Option<&'a str>,
    rule_index: Option<i64>,
    #[serde(borrow)]
    rule: Option<Reference<'a>>,
    kind: Option<Kind>,
    level: Option<Level>,
    suppressions: Option<Vec<Suppression>>,
    baseline_state: Option<BaselineState>,
    provenance: Option<Provenance>,
    properties: Option<Properties>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference<'a> {
    id: Option<&'a str>,
    index: Option<i64>,
    #[serde(borrow)]
    tool_component: Option<ComponentReference<'a>>,
}

#[derive(Deserialize)]
struct ComponentReference<'a> {
    name: Option<&'a str>,
    index: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    NotApplicable,
    Pass,
    Fail,
    Review,
    Open,
    Informational,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Level {
    None,
    Note,
    Warning,
    Error,
}

#[derive(Deserialize)]
struct Suppression {
    status: Option<SuppressionStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum SuppressionStatus {
    Accepted,
    UnderReview,
    Rejected,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum BaselineState {
    New,
    Unchanged,
    Updated,
    Absent,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provenance {
    invocation_index: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation<'a> {
    execution_successful: Option<bool>,
    end_time_utc: Option<&'a str>,
    #[serde(borrow)]
    rule_configuration_overrides: Option<Vec<Override<'a>>>,
}

#[derive(Deserialize)]
struct Override<'a> {
    #[serde(borrow)]
    descriptor: Reference<'a>,
    configuration: Configuration,
}

#[derive(Deserialize)]
struct Artifact<'a> {
    #[serde(borrow)]
    roles: Option<Vec<&'a str>>,
    hashes: Option<BTreeMap<String, Value>>,
}

/// Reads a document of which the version was looked at.
pub(super) fn read(document: &Value, version: &str) -> Result<Scan, ScanError> {
    let runs = list(document, "runs", "")?.unwrap_or_default();
    at_most(runs.len(), MAX_RUNS, "runs")?;
    let mut tally = Tally::default();
    tally.assessed = !runs.is_empty();
    if runs.is_empty() {
        tally.incomplete.push("the document has no runs".to_owned());
    }
    let mut results = 0;
    for (i, run) in runs.iter().enumerate() {
        results += read_run(&mut tally, run, i, MAX_RESULTS - results)?;
    }
    Ok(tally.finish(Format::Sarif, version))
}

/// Reads one run; the number of its results.
fn read_run(tally: &mut Tally, value: &Value, number: usize, results_left: usize) -> Result<usize, ScanError> {
    let path = format!("runs[{number}]");
    let tool: Tool<'_> = part(&value["tool"], || format!("{path}.tool"))?;
    at_most(tool.extensions.as_ref().map_or(0, Vec::len), MAX_EXTENSIONS, "extensions of a tool")?;
    tally.tool(tool.driver.name, tool.driver.version.or(tool.driver.semantic_version));
    let run = Run::new(tool, &read_invocations(tally, value, &path)?);
    read_subjects(tally, value, &path)?;
    if value.get("externalPropertyFileReferences").is_some_and(|files| files.get("results").is_some()) {
        tally.incomplete.push(format!("{path}: results are in files that were not handed over"));
    }
    // Section 3.14.23: without a list the run did not look; an empty one says that it found nothing.
    let Some(results) = list(value, "results", &format!("{path}."))? else {
        tally.incomplete.push(format!("{path}: no results, not even an empty list"));
        return Ok(0);
    };
    at_most(results.len(), results_left, "results")?;
    for (i, result) in results.iter().enumerate() {
        run.count(tally, &part(result, || format!("{path}.results[{i}]"))?);
    }
    Ok(results.len())
}

fn read_invocations<'a>(tally: &mut Tally, run: &'a Value, path: &str) -> Result<Vec<Invocation<'a>>, ScanError> {
    let mut read = Vec::new();
    for (i, value) in list(run, "invocations", &format!("{path}."))?.unwrap_or_default().iter().enumerate() {
        let invocation: Invocation<'_> = part(value, || format!("{path}.invocations[{i}]"))?;
        if invocation.execution_successful == Some(false) {
            tally.incomplete.push(format!("{path}: the tool says that it failed"));
        }
        invocation.end_time_utc.into_iter().for_each(|time| tally.made_at(time));
        read.push(invocation);
    }
    Ok(read)
}

/// What the run is about: files that it names as its targets, and images as Trivy names them among a run's properties.
fn read_subjects(tally: &mut Tally, run: &Value, path: &str) -> Result<(), ScanError> {
    for (i, value) in list(run, "artifacts", &format!("{path}."))?.unwrap_or_default().iter().enumerate() {
        let artifact: Artifact<'_> = part(value, || format!("{path}.artifacts[{i}]"))?;
        if artifact.roles.is_some_and(|roles| roles.contains(&"analysisTarget")) {
            let hex = artifact.hashes.as_ref().and_then(|hashes| hashes.get("sha-256")).and_then(Value::as_str);
            hex.and_then(digest_of_hex).into_iter().for_each(|digest| tally.subject(digest));
        }
    }
    for name in ["imageID", "imageDigest", "repoDigests"] {
        match run.get("properties").and_then(|properties| properties.get(name)) {
            Some(Value::String(text)) => tally.subjects_in(text),
            Some(Value::Array(texts)) => {
                texts.iter().filter_map(Value::as_str).for_each(|text| tally.subjects_in(text))
            }
            _ => {}
        }
    }
    Ok(())
}

/// A run's rules, by place and by id: the driver's first, then those of its extensions.
struct Run<'a> {
    components: Vec<(Component<'a>, BTreeMap<&'a str, usize>)>,
    /// For each invocation, the levels that it was configured to give to rules.
    overrides: Vec<BTreeMap<Place, Level>>,
}

/// A component, and a rule in it.
type Place = (usize, usize);

impl<'a> Run<'a> {
    fn new(tool: Tool<'a>, invocations: &[Invocation<'_>]) -> Self {
        let components = std::iter::once(tool.driver).chain(tool.extensions.into_iter().flatten());
        let with_ids = |component: Component<'a>| {
            let rules = component.rules.iter().flatten().enumerate();
            let ids = rules.map(|(i, rule)| (rule.id, i)).collect();
            (component, ids)
        };
        let mut run = Self { components: components.map(with_ids).collect(), overrides: Vec::new() };
        run.overrides = invocations.iter().map(|invocation| run.overrides_of(invocation)).collect();
        run
    }

    fn overrides_of(&self, invocation: &Invocation<'_>) -> BTreeMap<Place, Level> {
        let mut levels = BTreeMap::new();
        for o in invocation.rule_configuration_overrides.iter().flatten() {
            let place = self.place_of(o.descriptor.index, o.descriptor.id, Some(&o.descriptor));
            if let (Some(place), Some(level)) = (place, o.configuration.level) {
                levels.entry(place).or_insert(level);
            }
        }
        levels
    }

    fn count(&self, tally: &mut Tally, result: &Outcome<'_>) {
        let rule = self.rule_of(result);
        let Some(severity) = self.severity(result, rule) else { return };
        if result.baseline_state == Some(BaselineState::Absent) {
            tally.absent += 1;
        } else if is_suppressed(result) {
            tally.suppressed(severity);
        } else {
            let stated = result.rule_id.or(result.rule.as_ref().and_then(|rule| rule.id));
            tally.finding(stated.or(rule.map(|(_, rule)| rule.id)).unwrap_or("(no rule)"), severity);
        }
    }

    /// A result's rule and its place (sections 3.27.5 to 3.27.7).
    fn rule_of(&self, result: &Outcome<'_>) -> Option<(Place, &Rule<'a>)> {
        let reference = result.rule.as_ref();
        let index = result.rule_index.or(reference.and_then(|r| r.index));
        let id = result.rule_id.or(reference.and_then(|r| r.id));
        let (component, place) = self.place_of(index, id, reference)?;
        let rule = self.components.get(component)?.0.rules.as_ref()?.get(place)?;
        Some(((component, place), rule))
    }

    /// Section 3.52: by the index, where there is one, or else by the id.
    fn place_of(&self, index: Option<i64>, id: Option<&str>, reference: Option<&Reference<'_>>) -> Option<Place> {
        let component = self.component_of(reference);
        match index.and_then(|i| usize::try_from(i).ok()) {
            Some(index) => Some((component, index)),
            None => self.find(component, id?),
        }
    }

    fn component_of(&self, reference: Option<&Reference<'_>>) -> usize {
        let Some(component) = reference.and_then(|r| r.tool_component.as_ref()) else { return 0 };
        match component.index.and_then(|i| usize::try_from(i).ok()) {
            Some(index) => index.saturating_add(1),
            None => {
                let named = self.components.iter().position(|(c, _)| Some(c.name) == component.name);
                named.unwrap_or_default()
            }
        }
    }

    /// A rule by its id, in this component or else in any. `CA1001/part` is a rule of its own or a part of `CA1001`.
    fn find(&self, component: usize, id: &str) -> Option<Place> {
        let places = std::iter::once(component).chain(0..self.components.len());
        let ids = std::iter::successors(Some(id), |id| id.rsplit_once('/').map(|(parent, _)| parent));
        let ids = ids.take(MAX_ID_LEVELS);
        for (place, id) in places.flat_map(|place| ids.clone().map(move |id| (place, id))) {
            if let Some(rule) = self.components.get(place).and_then(|(_, by_id)| by_id.get(id)) {
                return Some((place, *rule));
            }
        }
        None
    }

    /// Nothing where the result is no finding.
    fn severity(&self, result: &Outcome<'_>, rule: Option<(Place, &Rule<'a>)>) -> Option<Severity> {
        match result.kind {
            Some(Kind::Pass | Kind::NotApplicable | Kind::Informational) => return None,
            Some(Kind::Review | Kind::Open) => return Some(Severity::Unknown),
            Some(Kind::Fail) | None => {}
        }
        let own = result.properties.as_ref().and_then(scored);
        let stated = own.or_else(|| rule.and_then(|(_, rule)| rule.properties.as_ref()).and_then(scored));
        Some(stated.unwrap_or_else(|| match self.level(result, rule) {
            Level::None => Severity::None,
            Level::Note => Severity::Low,
            Level::Warning => Severity::Medium,
            Level::Error => Severity::High,
        }))
    }

    fn level(&self, result: &Outcome<'_>, rule: Option<(Place, &Rule<'a>)>) -> Level {
        if let Some(level) = result.level {
            return level;
        }
        let Some((place, rule)) = rule else { return Level::Warning };
        let overridden = self.overridden(result, place);
        overridden.or(rule.default_configuration.as_ref().and_then(|c| c.level)).unwrap_or(Level::Warning)
    }

    /// The level that the invocation which found it was configured to give to this rule.
    fn overridden(&self, result: &Outcome<'_>, place: Place) -> Option<Level> {
        let index = result.provenance.as_ref().and_then(|p| p.invocation_index)?;
        self.overrides.get(usize::try_from(index).ok()?)?.get(&place).copied()
    }
}

/// The band of a score, if these properties have one that says something.
fn scored(properties: &Properties) -> Option<Severity> {
    let score = match properties.security_severity.as_ref()? {
        Value::String(text) => text.trim().parse().ok()?,
        other => other.as_f64()?,
    };
    Some(Severity::of_score(score)).filter(|severity| !matches!(severity, Severity::None | Severity::Unknown))
}

/// One that is still under review, or was rejected, suppresses nothing.
fn is_suppressed(result: &Outcome<'_>) -> bool {
    let accepted = |s: &Suppression| match s.status {
        Some(SuppressionStatus::Accepted) | None => true,
        Some(SuppressionStatus::UnderReview | SuppressionStatus::Rejected) => false,
    };
    result.suppressions.as_ref().is_some_and(|all| !all.is_empty() && all.iter().all(accepted))
}
