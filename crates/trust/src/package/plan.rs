//! Whom to ask what, in which order: requests out, answers in, a report at the end. Nothing here waits for anybody.
//!
//! ```text
//! loop { let requests = plan.requests(); if requests.is_empty() { break } for each: plan.answer(number, answer) }
//! plan.report(&trust, now)
//! ```
//!
//! The registry is asked first: PyPI's answer has the names and digests of the files whose attestations are asked for next,
//! and crates.io's the spelling under which databases know a crate. Vulnerabilities are asked for even where the registry
//! did not answer. What is never answered counts as unavailable.

use super::attestation::{Attestation, Trust};
use super::list::{Decision, Entry, Lists};
use super::name::{Ecosystem, PackageRef, RefError, encode};
use super::npm::{self, NpmAttestation};
use super::pypi::{self, Provenance};
use super::registry::{File, History, Release, read_history, read_release};
use super::report::{Findings, Report};
use super::source::{
    Answer, BaseUrl, MAX_ANSWER_BYTES, MAX_HISTORY_BYTES, Method, Request, SourceName, Sources, Trouble,
};
use super::version::Version;
use super::vulnerability::{Advisories, GITHUB_PAGE, read_github, read_osv};

/// Most pages of OSV's answer that are asked for.
pub const MAX_PAGES: usize = 8;
/// The longest token by which OSV goes on, in bytes.
const MAX_TOKEN_BYTES: usize = 4096;
const JSON: &str = "application/json";

/// What the workspace's lists said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listed {
    Denied(Entry),
    Allowed(Entry),
    Unlisted,
    /// There are no lists.
    Nothing,
}

/// The state of one verification.
#[derive(Debug, Clone)]
pub struct Plan {
    package: PackageRef,
    sources: Sources,
    listed: Listed,
    stage: Stage,
    /// By the requests' numbers; taken out when answered.
    asked: Vec<Option<Asked>>,
    release: Result<Release, Trouble>,
    history: Result<History, Trouble>,
    provenance: Vec<(File, Result<Provenance, Trouble>)>,
    npm: Result<Vec<NpmAttestation>, Trouble>,
    osv: Vec<Result<Advisories, Trouble>>,
    github: Vec<Result<Advisories, Trouble>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Registry,
    Rest,
    Pages,
}

/// What a request's answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Release,
    History,
    Provenance(usize),
    NpmAttestations,
    Osv(usize),
    Github(usize),
}

fn unasked<T>() -> Result<T, Trouble> {
    Err(Trouble::unavailable("it was not asked, or its answer did not come"))
}

impl Plan {
    /// A plan for one release. What the list denies needs no version, since nobody is asked.
    ///
    /// # Errors
    /// [`RefError::NoVersion`].
    pub fn new(package: PackageRef, lists: &Lists, sources: Sources) -> Result<Self, RefError> {
        let listed = match lists.decide(&package) {
            Decision::Denied(entry) => Listed::Denied(entry.clone()),
            Decision::Allowed(entry) => Listed::Allowed(entry.clone()),
            Decision::Unlisted if lists.is_empty() => Listed::Nothing,
            Decision::Unlisted => Listed::Unlisted,
        };
        if !matches!(listed, Listed::Denied(_)) {
            package.release()?;
        }
        Ok(Self {
            package,
            sources,
            listed,
            stage: Stage::Registry,
            asked: Vec::new(),
            release: unasked(),
            history: unasked(),
            provenance: Vec::new(),
            npm: unasked(),
            osv: Vec::new(),
            github: Vec::new(),
        })
    }

    /// What is to be asked now. None: everything was.
    pub fn requests(&mut self) -> Vec<Request> {
        let Ok(version) = self.package.release().cloned() else { return Vec::new() };
        if matches!(self.listed, Listed::Denied(_)) {
            return Vec::new();
        }
        if self.stage == Stage::Registry {
            self.stage = Stage::Rest;
            let requests = self.registry_requests(&version);
            if !requests.is_empty() {
                return requests;
            }
        }
        if self.stage == Stage::Rest {
            self.stage = Stage::Pages;
            let mut requests = self.attestation_requests(&version);
            requests.extend(self.osv_request(&version, None));
            requests.extend(self.github_requests(&version));
            return requests;
        }
        self.next_page(&version).into_iter().collect()
    }

    /// Takes an answer. False where the number is of no request, or of one that was answered.
    pub fn answer(&mut self, number: usize, answer: &Answer) -> bool {
        let Some(asked) = self.asked.get_mut(number).and_then(Option::take) else { return false };
        let Ok(version) = self.package.release().cloned() else { return false };
        match asked {
            Asked::Release => self.release = read_release(&self.package, &version, answer),
            Asked::History => self.history = read_history(&self.package, &version, answer),
            Asked::Provenance(file) => {
                if let Some((_, provenance)) = self.provenance.get_mut(file) {
                    *provenance = pypi::read_provenance(answer);
                }
            }
            Asked::NpmAttestations => self.npm = npm::read_attestations(answer),
            Asked::Osv(page) => {
                let read = answer.body(MAX_ANSWER_BYTES).and_then(|body| read_osv(&self.package, body));
                put(&mut self.osv, page, read);
            }
            Asked::Github(list) => {
                let read = answer.body(MAX_ANSWER_BYTES).and_then(|body| read_github(&self.package, body));
                put(&mut self.github, list, read);
            }
        }
        true
    }

    /// Verifies what there is to verify, and says what it means, at a time in milliseconds.
    pub fn report(self, trust: &Trust<'_>, checked_at_ms: i64) -> Report {
        let attestations = self.attestations(trust);
        let findings = Findings {
            attestation_status: self.attestation_outcome(trust, &attestations),
            osv: self.database(self.sources.osv.as_ref(), &self.osv),
            github: self.database(self.sources.github_advisory.as_ref(), &self.github),
            release: if self.registry().is_some() { self.release } else { Err(no_registry()) },
            history: if self.sources.registry(self.package.ecosystem()).is_some() {
                self.history
            } else {
                Err(no_registry())
            },
            package: self.package,
            listed: self.listed,
            attestations,
        };
        findings.report(checked_at_ms)
    }

    fn registry(&self) -> Option<&BaseUrl> {
        self.sources.registry(self.package.ecosystem())
    }

    fn ask(&mut self, asked: Asked, url: String) -> Request {
        self.asked.push(Some(asked));
        let (source, max_bytes) = match asked {
            Asked::Release => (SourceName::Registry, MAX_ANSWER_BYTES),
            Asked::History => (SourceName::History, MAX_HISTORY_BYTES),
            Asked::Provenance(_) | Asked::NpmAttestations => (SourceName::Attestations, MAX_ANSWER_BYTES),
            Asked::Osv(_) => (SourceName::Osv, MAX_ANSWER_BYTES),
            Asked::Github(_) => (SourceName::GithubAdvisory, MAX_ANSWER_BYTES),
        };
        let accept = match asked {
            Asked::Provenance(_) => "application/vnd.pypi.integrity.v1+json",
            Asked::Github(_) => "application/vnd.github+json",
            Asked::Release | Asked::History | Asked::NpmAttestations | Asked::Osv(_) => JSON,
        };
        Request { number: self.asked.len() - 1, source, method: Method::Get, url, accept, body: None, max_bytes }
    }

    fn registry_requests(&mut self, version: &Version) -> Vec<Request> {
        let Some(base) = self.registry().map(|base| base.as_str().to_owned()) else { return Vec::new() };
        let (name, version) = (self.package.name(), encode(&version.to_string()));
        let (release, history) = match self.package.ecosystem() {
            Ecosystem::Pypi => (format!("{base}/pypi/{name}/{version}/json"), format!("{base}/pypi/{name}/json")),
            Ecosystem::Npm => {
                let name = npm_path(name);
                (format!("{base}/{name}/{version}"), format!("{base}/{name}"))
            }
            Ecosystem::Cargo => {
                (format!("{base}/api/v1/crates/{name}/{version}"), format!("{base}/api/v1/crates/{name}"))
            }
        };
        vec![self.ask(Asked::Release, release), self.ask(Asked::History, history)]
    }

    fn attestation_requests(&mut self, version: &Version) -> Vec<Request> {
        let Some(base) = self.registry().map(|base| base.as_str().to_owned()) else { return Vec::new() };
        let (name, version) = (self.package.name().to_owned(), encode(&version.to_string()));
        match (self.package.ecosystem(), &self.release) {
            (Ecosystem::Pypi, Ok(release)) => {
                self.provenance = release.files.iter().map(|file| (file.clone(), unasked())).collect();
                let prefix = format!("{base}/integrity/{name}/{version}");
                let urls = release.files.iter().map(|file| format!("{prefix}/{}/provenance", encode(&file.name)));
                let urls: Vec<String> = urls.collect();
                urls.into_iter().enumerate().map(|(i, url)| self.ask(Asked::Provenance(i), url)).collect()
            }
            (Ecosystem::Npm, Ok(_)) => {
                let url = format!("{base}/-/npm/v1/attestations/{}@{version}", npm_path(&name));
                vec![self.ask(Asked::NpmAttestations, url)]
            }
            // crates.io has none; and there is nothing to compare one with where the registry did not answer.
            (Ecosystem::Cargo, _) | (_, Err(_)) => Vec::new(),
        }
    }

    /// The name under which databases know the package.
    fn known_name(&self) -> &str {
        match (self.package.ecosystem(), &self.release) {
            (Ecosystem::Cargo, Ok(release)) => &release.name,
            _ => self.package.name(),
        }
    }

    fn osv_request(&mut self, version: &Version, token: Option<&str>) -> Option<Request> {
        let url = format!("{}/v1/query", self.sources.osv.as_ref()?.as_str());
        let package = serde_json::json!({"ecosystem": self.package.ecosystem().osv_name(), "name": self.known_name()});
        let mut body = serde_json::json!({"package": package, "version": version.to_string()});
        if let Some(token) = token {
            body["page_token"] = token.into();
        }
        self.osv.push(unasked());
        let request = self.ask(Asked::Osv(self.osv.len() - 1), url);
        Some(Request { method: Method::Post, body: Some(body.to_string().into_bytes()), ..request })
    }

    fn next_page(&mut self, version: &Version) -> Option<Request> {
        let token = self.osv.last()?.as_ref().ok()?.next.clone()?;
        if self.osv.len() >= MAX_PAGES || token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        self.osv_request(version, Some(&token))
    }

    /// Malware has to be asked for by itself: GitHub leaves it out of what it answers otherwise.
    fn github_requests(&mut self, version: &Version) -> Vec<Request> {
        let Some(base) = self.sources.github_advisory.as_ref().map(|base| base.as_str().to_owned()) else {
            return Vec::new();
        };
        let mut names = vec![self.known_name().to_owned()];
        // PyPI's names are spelt in more than one way there.
        names.extend(self.release.as_ref().ok().map(|r| r.name.clone()).filter(|name| *name != names[0]));
        let affects: Vec<String> = names.iter().map(|name| encode(&format!("{name}@{version}"))).collect();
        let ecosystem = self.package.ecosystem().github_name();
        let query = format!("ecosystem={ecosystem}&affects={}&per_page={GITHUB_PAGE}", affects.join(","));
        ["reviewed", "malware"]
            .into_iter()
            .map(|kind| {
                self.github.push(unasked());
                self.ask(Asked::Github(self.github.len() - 1), format!("{base}/advisories?type={kind}&{query}"))
            })
            .collect()
    }

    fn attestations(&self, trust: &Trust<'_>) -> Vec<Attestation> {
        let mut found = Vec::new();
        for (file, provenance) in &self.provenance {
            for (publisher, attestations) in provenance.iter().flatten() {
                let check = |attestation| pypi::check_attestation(file, publisher, attestation, trust);
                found.extend(attestations.iter().map(check));
            }
        }
        if let (Ok(release), Ok(attestations)) = (&self.release, &self.npm) {
            let check = |attestation| npm::check_attestation(&self.package, release, attestation, trust);
            found.extend(attestations.iter().map(check));
        }
        found
    }

    fn attestation_outcome(&self, trust: &Trust<'_>, found: &[Attestation]) -> super::report::Outcome {
        if self.registry().is_none() {
            return Err(no_registry());
        }
        let release = match &self.release {
            Ok(release) => release,
            Err(trouble) if trouble.status == super::source::Status::Failed => {
                return Err(Trouble::not_applicable("the registry does not know the release"));
            }
            Err(_) => return Err(Trouble::unavailable("the registry did not say what the release consists of")),
        };
        match self.package.ecosystem() {
            Ecosystem::Pypi => super::report::pypi_attestations(release, &self.provenance, found, trust),
            Ecosystem::Npm => match &self.npm {
                Ok(_) => super::report::npm_attestations(release, found, trust),
                Err(trouble) => Err(trouble.clone()),
            },
            Ecosystem::Cargo => Err(Trouble::not_applicable("crates.io publishes no attestations")),
        }
    }

    /// All that one database answered.
    fn database(&self, base: Option<&BaseUrl>, answers: &[Result<Advisories, Trouble>]) -> Result<Advisories, Trouble> {
        if base.is_none() {
            return Err(Trouble::not_configured("it has no address"));
        }
        if answers.is_empty() {
            return unasked();
        }
        let mut all = Advisories::default();
        for answer in answers {
            all.extend(answer.clone()?)?;
        }
        if all.next.is_some() {
            return Err(Trouble::unavailable("its answer goes on beyond what was asked for"));
        }
        Ok(all)
    }
}

fn put(answers: &mut [Result<Advisories, Trouble>], at: usize, answer: Result<Advisories, Trouble>) {
    if let Some(place) = answers.get_mut(at) {
        *place = answer;
    }
}

fn no_registry() -> Trouble {
    Trouble::not_configured("the registry has no address")
}

/// The slash of a scope is part of the name, not of the path.
fn npm_path(name: &str) -> String {
    name.replace('/', "%2F")
}

impl Sources {
    fn registry(&self, ecosystem: Ecosystem) -> Option<&BaseUrl> {
        match ecosystem {
            Ecosystem::Pypi => self.pypi.as_ref(),
            Ecosystem::Npm => self.npm.as_ref(),
            Ecosystem::Cargo => self.crates_io.as_ref(),
        }
    }
}
