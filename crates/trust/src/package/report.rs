//! The verdict on a package, with its reasons and everything that it rests on.
//!
//! The order of verdicts: denied, vulnerable, failed, unknown, ok. The first that holds is given; all that hold are among
//! the reasons. It is `ok` only where the registry knows the release, at least one database of vulnerabilities answered, and
//! nobody who was asked failed to answer.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::attestation::{Attestation, State, Trust};
use super::list::Entry;
use super::name::PackageRef;
use super::npm::PUBLISH;
use super::plan::Listed;
use super::pypi::Provenance;
use super::registry::{File, History, Release};
use super::reputation::Reputation;
use super::source::{SourceName, Status, Trouble};
use super::vulnerability::{Advisories, Counts, MAX_VULNERABILITIES, Vulnerability, merge};
use crate::time::to_rfc3339;

/// The answer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The workspace's list denies it.
    Denied,
    /// A vulnerability or malware is known.
    Vulnerable,
    /// A source said something bad about it: no such release, an attestation that does not hold.
    Failed,
    /// Somebody who was asked did not answer, or nobody was asked who could know.
    Unknown,
    /// Everybody who was asked answered, and nothing is known against it.
    Ok,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// Which.
    pub source: SourceName,
    /// How it ended.
    pub status: Status,
    /// For people.
    pub detail: String,
    /// With their numbers.
    pub facts: Map<String, Value>,
}

/// Something to look at that decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Stable: `lookalike`, `yanked`, `deprecated`, `partly_attested`, `informational`.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

/// The outcome of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// As it is written here.
    pub package: String,
    /// As a package URL.
    pub purl: String,
    /// The answer.
    pub verdict: Verdict,
    /// Why, for people.
    pub reasons: Vec<String>,
    /// To be looked at.
    pub warnings: Vec<Warning>,
    /// Who was asked, and how that ended.
    pub sources: Vec<SourceReport>,
    /// What is known against it, the worst first; at most [`MAX_VULNERABILITIES`].
    pub vulnerabilities: Vec<Vulnerability>,
    /// How many there are. None where no database answered: that is not zero.
    pub vulnerability_counts: Option<Counts>,
    /// Its attestations.
    pub attestations: Vec<Attestation>,
    /// Facts about it.
    pub reputation: Reputation,
    /// What the findings do not show.
    pub not_checked: Vec<String>,
    /// When the answers were looked at.
    pub checked_at: String,
}

/// How a source ended: what was found with its facts, or why there is nothing.
pub(super) type Outcome = Result<(String, Map<String, Value>), Trouble>;

/// Everything that was found.
pub(super) struct Findings {
    pub(super) package: PackageRef,
    pub(super) listed: Listed,
    pub(super) release: Result<Release, Trouble>,
    pub(super) history: Result<History, Trouble>,
    pub(super) attestations: Vec<Attestation>,
    pub(super) attestation_status: Outcome,
    pub(super) osv: Result<Advisories, Trouble>,
    pub(super) github: Result<Advisories, Trouble>,
}

impl Findings {
    pub(super) fn report(self, checked_at_ms: i64) -> Report {
        let (release, history) = (self.release.as_ref().ok(), self.history.as_ref().ok());
        let reputation = Reputation::of(&self.package, release, history, checked_at_ms);
        let sources = self.sources();
        let answered = self.osv.is_ok() || self.github.is_ok();
        let advisories = [self.osv, self.github].into_iter().flatten().flat_map(|answer| answer.list);
        let mut vulnerabilities = merge(advisories.collect());
        let counts = answered.then(|| Counts::of(&vulnerabilities));
        let reasons = Reasons::of(&sources, &vulnerabilities, counts, matches!(self.listed, Listed::Denied(_)));
        let warnings = warnings(&self.package, &reputation, &vulnerabilities, &sources);
        let not_checked = not_checked(&sources, vulnerabilities.len());
        vulnerabilities.truncate(MAX_VULNERABILITIES);
        Report {
            package: self.package.to_string(),
            purl: self.package.purl(),
            verdict: reasons.verdict,
            reasons: reasons.list,
            warnings,
            sources,
            vulnerabilities,
            vulnerability_counts: counts,
            attestations: self.attestations,
            reputation,
            not_checked,
            checked_at: u64::try_from(checked_at_ms / 1000).map(to_rfc3339).unwrap_or_default(),
        }
    }

    fn sources(&self) -> Vec<SourceReport> {
        let listed = list_outcome(&self.listed);
        let mut sources = vec![source(SourceName::List, listed)];
        let denied = matches!(self.listed, Listed::Denied(_));
        let others = [
            (SourceName::Registry, release_outcome(&self.package, &self.release)),
            (SourceName::History, history_outcome(&self.history)),
            (SourceName::Attestations, self.attestation_status.clone()),
            (SourceName::Osv, database_outcome(&self.osv)),
            (SourceName::GithubAdvisory, database_outcome(&self.github)),
        ];
        for (name, outcome) in others {
            let unasked = || Err(Trouble::not_applicable("it was not asked: the workspace's list denies the package"));
            sources.push(source(name, if denied { unasked() } else { outcome }));
        }
        sources
    }
}

fn source(source: SourceName, outcome: Outcome) -> SourceReport {
    match outcome {
        Ok((detail, facts)) => SourceReport { source, status: Status::Ok, detail, facts },
        Err(Trouble { status, detail }) => SourceReport { source, status, detail, facts: Map::new() },
    }
}

fn facts<const N: usize>(facts: [(&str, Value); N]) -> Map<String, Value> {
    facts.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn list_outcome(listed: &Listed) -> Outcome {
    let since = |entry: &Entry| entry.since().map(|since| format!(" since {since}")).unwrap_or_default();
    match listed {
        Listed::Denied(entry) => Err(Trouble::failed(format!("denied{}: {}", since(entry), entry.reason()))),
        Listed::Allowed(entry) => {
            let facts = facts([("entry", serde_json::to_value(entry).unwrap_or_default())]);
            Ok((format!("allowed{}: {}", since(entry), entry.reason()), facts))
        }
        Listed::Unlisted => Ok(("on neither list".to_owned(), Map::new())),
        Listed::Nothing => Err(Trouble::not_configured("the workspace has no list")),
    }
}

fn release_outcome(package: &PackageRef, release: &Result<Release, Trouble>) -> Outcome {
    let release = release.as_ref().map_err(Clone::clone)?;
    let files: Vec<Value> =
        release.files.iter().map(|file| json!({"name": file.name, "sha256": file.sha256.hex()})).collect();
    let sha512 = release.sha512.map(|digest| digest.iter().map(|b| format!("{b:02x}")).collect::<String>());
    let facts = facts([
        ("name", json!(release.name)),
        ("files", if files.is_empty() { Value::Null } else { json!(files) }),
        ("sha512", json!(sha512)),
        ("sha256", json!(release.checksum)),
    ]);
    Ok((format!("it knows {package}"), facts))
}

fn history_outcome(history: &Result<History, Trouble>) -> Outcome {
    let history = history.as_ref().map_err(Clone::clone)?;
    Ok((format!("{} releases", history.releases), facts([("releases", json!(history.releases))])))
}

fn database_outcome(answer: &Result<Advisories, Trouble>) -> Outcome {
    let answer = answer.as_ref().map_err(Clone::clone)?;
    let facts = facts([
        ("advisories", json!(answer.list.len())),
        ("withdrawn", json!(answer.withdrawn)),
        ("about_other_packages", json!(answer.elsewhere)),
    ]);
    Ok((format!("{} advisories about this release", answer.list.len()), facts))
}

/// What PyPI's attestations come to.
pub(super) fn pypi_attestations(
    release: &Release,
    provenance: &[(File, Result<Provenance, Trouble>)],
    found: &[Attestation],
    trust: &Trust<'_>,
) -> Outcome {
    check_failed(found)?;
    if provenance.is_empty() {
        return Err(Trouble::not_applicable("the release has no files"));
    }
    if let Some(trouble) = provenance.iter().find_map(|(_, answer)| answer.as_ref().err()) {
        return Err(trouble.clone());
    }
    if release.more_files > 0 {
        return Err(Trouble::unavailable(format!("{} files are beyond what is asked for", release.more_files)));
    }
    let has = |(_, answer): &&(File, Result<Provenance, Trouble>)| answer.as_ref().is_ok_and(|list| !list.is_empty());
    let attested = provenance.iter().filter(has).count();
    let of = format!("{attested} of {} files", provenance.len());
    if attested == 0 {
        return Err(Trouble::not_applicable("its publisher has published no attestations"));
    }
    if let Some(unverified) = found.iter().find(|a| a.state == State::Unverified) {
        let why = unverified.problems.first().cloned().unwrap_or_default();
        let status = if trust.root.is_none() { Status::NotConfigured } else { Status::Unavailable };
        return Err(Trouble { status, detail: format!("{of} have attestations; {why}") });
    }
    if attested < provenance.len() {
        return Err(Trouble::not_applicable(format!("{PARTLY}: {of}, which hold; the others have none")));
    }
    let facts = facts([("files", json!(provenance.len())), ("verified", json!(found.len()))]);
    Ok((format!("every file has attestations, and all {} hold", found.len()), facts))
}

/// By which the warning is found.
const PARTLY: &str = "partly attested";

/// What npm's attestations come to.
pub(super) fn npm_attestations(release: &Release, found: &[Attestation], trust: &Trust<'_>) -> Outcome {
    check_failed(found)?;
    if found.is_empty() && release.says_attested {
        return Err(Trouble::unavailable("the registry says that there are attestations, and gives none"));
    }
    if found.is_empty() {
        return Err(Trouble::not_applicable("its publisher has published no attestations"));
    }
    let verified = |publish: bool| {
        let counted = |a: &&Attestation| a.state == State::Verified && (a.predicate_type == PUBLISH) == publish;
        found.iter().filter(counted).count()
    };
    let (provenance, publish) = (verified(false), verified(true));
    let unverified = |publish: bool| {
        let of_kind = |a: &&Attestation| a.state == State::Unverified && (a.predicate_type == PUBLISH) == publish;
        found.iter().find(of_kind).and_then(|a| a.problems.first())
    };
    if let Some(why) = unverified(false) {
        let status = if trust.root.is_none() { Status::NotConfigured } else { Status::Unavailable };
        return Err(Trouble { status, detail: why.clone() });
    }
    match (provenance, publish, unverified(true)) {
        (0, 0, Some(why)) => Err(Trouble::not_configured(why.clone())),
        (0, _, _) => Err(Trouble::not_applicable(
            "its publisher has published no provenance; the registry's own attestation holds",
        )),
        (_, _, unverified) => {
            let rest = unverified.map(|why| format!("; of the registry's own: {why}")).unwrap_or_default();
            let facts = facts([("provenance", json!(provenance)), ("publish", json!(publish))]);
            Ok((format!("{provenance} attestations of provenance hold{rest}"), facts))
        }
    }
}

fn check_failed(found: &[Attestation]) -> Result<(), Trouble> {
    let Some(failed) = found.iter().find(|a| a.state == State::Failed) else { return Ok(()) };
    let why = failed.problems.join("; ");
    Err(Trouble::failed(format!("an attestation of {} does not hold: {why}", failed.subject)))
}

struct Reasons {
    verdict: Verdict,
    list: Vec<String>,
}

impl Reasons {
    fn of(sources: &[SourceReport], known: &[Vulnerability], counts: Option<Counts>, denied: bool) -> Self {
        let mut reasons = Self { verdict: Verdict::Ok, list: Vec::new() };
        let with = |status: Status| sources.iter().filter(move |s| s.status == status);
        if denied {
            let line = with(Status::Failed).find(|s| s.source == SourceName::List).map(|s| s.detail.as_str());
            reasons.say(Verdict::Denied, format!("the workspace's list: {}", line.unwrap_or_default()));
            return reasons;
        }
        if let Some(worst) = known.iter().find(|v| v.informational.is_none()) {
            reasons.say(Verdict::Vulnerable, vulnerable(worst, counts.unwrap_or_default().total()));
        }
        for failed in with(Status::Failed) {
            reasons.say(Verdict::Failed, format!("{}: {}", failed.source, failed.detail));
        }
        for away in with(Status::Unavailable) {
            reasons.say(Verdict::Unknown, format!("{} could not be asked: {}", away.source, away.detail));
        }
        if with(Status::NotConfigured).any(|s| s.source == SourceName::Registry) {
            reasons.say(Verdict::Unknown, "the registry was not asked whether there is such a release".to_owned());
        }
        if counts.is_none() && !with(Status::Unavailable).any(|s| is_database(s.source)) {
            reasons.say(Verdict::Unknown, "no database was asked for vulnerabilities".to_owned());
        }
        if reasons.verdict == Verdict::Ok {
            reasons.list.push("everybody who was asked answered, and nothing is known against it".to_owned());
            reasons.list.extend(with(Status::Ok).map(|s| format!("{}: {}", s.source, s.detail)));
        }
        reasons
    }

    /// The first verdict stands.
    fn say(&mut self, verdict: Verdict, reason: String) {
        if self.verdict == Verdict::Ok {
            self.verdict = verdict;
        }
        self.list.push(reason);
    }
}

fn is_database(source: SourceName) -> bool {
    matches!(source, SourceName::Osv | SourceName::GithubAdvisory)
}

fn vulnerable(worst: &Vulnerability, total: usize) -> String {
    let severity = serde_json::to_value(worst.severity).ok();
    let severity = severity.as_ref().and_then(Value::as_str).unwrap_or_default();
    let fixed = match worst.fixed.as_slice() {
        [] => "no fixed version is named".to_owned(),
        versions => format!("fixed in {}", versions.join(", ")),
    };
    let count = if total == 1 { "1 vulnerability is".to_owned() } else { format!("{total} vulnerabilities are") };
    let what = if worst.malware { "is malware".to_owned() } else { format!("has severity {severity}, {fixed}") };
    format!("{count} known, of which {} {what}", worst.id)
}

fn warnings(
    package: &PackageRef,
    reputation: &Reputation,
    known: &[Vulnerability],
    sources: &[SourceReport],
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code: &'static str, detail: String| warnings.push(Warning { code, detail });
    if let Some(other) = &reputation.resembles {
        warn(
            "lookalike",
            format!("{:?} is one slip away from {other:?}: is it the one that is meant?", package.name()),
        );
    }
    if let Some(reason) = &reputation.yanked {
        warn("yanked", format!("this release was taken back by its publisher: {reason:?}"));
    }
    if let Some(words) = &reputation.deprecated {
        warn("deprecated", format!("its publisher says that it is to be used no more: {words:?}"));
    }
    if let Some(partly) = sources.iter().find(|s| s.detail.starts_with(PARTLY)) {
        warn("partly_attested", partly.detail.clone());
    }
    for (one, kind) in known.iter().filter_map(|v| Some((v, v.informational.as_ref()?))) {
        warn("informational", format!("{} ({kind}): {}", one.id, one.summary));
    }
    warnings
}

fn not_checked(sources: &[SourceReport], known: usize) -> Vec<String> {
    let mut list = vec![
        "what the package's code does".to_owned(),
        "what it depends on: each dependency is a package of its own".to_owned(),
    ];
    for source in sources.iter().filter(|s| s.status == Status::NotConfigured) {
        list.push(format!("{}: {}", source.source, source.detail));
    }
    if known > MAX_VULNERABILITIES {
        list.push(format!("{} vulnerabilities are counted and not listed", known - MAX_VULNERABILITIES));
    }
    list
}
