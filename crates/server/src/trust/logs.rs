//! Logs of Rekor's first version that the operator named: searched by `query_transparency`, and asked by `verify` for the entry of a signature
//! that comes without a bundle. Where they are reached comes from the configuration alone, and nothing that they answer is believed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_domain::Principal;
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient};
use countersign_proof::digest::Digest;
use countersign_trust::entry::LogEntry;
use countersign_trust::rekor1::{
    Described, ENTRIES_PATH, EntryName, Evidence, INDEX_PATH, MAX_ENTRY_BYTES, MAX_INDEX_BYTES, describe, evidence,
    parse_entry, parse_index, search_by, search_for,
};
use countersign_trust::report::Code;
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::Holder;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use url::Url;

use super::{Trust, file, tools};
use crate::capability::{Failure, clipped, moment};
use crate::config::ReadLogSettings;
use crate::time::rfc3339;

/// How long a question may take, with everything that it needs.
const PATIENCE: Duration = Duration::from_secs(15);
/// Entries of one page, which are fetched at the same time.
const PAGE: usize = 10;
/// The most entries that are looked at for one signature's.
const MAX_LOOKED_AT: usize = 50;

/// The logs, by name.
#[derive(Default)]
pub(crate) struct Logs(Vec<Log>);

/// A log that can be read.
pub(super) struct Log {
    name: String,
    url: Url,
    http: PurposeClient,
    /// Whom to trust for what it has: its keys, and the authorities of those who log there.
    pub root: Arc<TrustedRoot>,
}

/// Why a log did not answer.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Network(#[from] EgressError),
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("its answer cannot be used: {0}")]
    Answer(String),
}

impl Logs {
    /// # Errors
    /// In words, if a trusted root cannot be read or a way out not be set up.
    pub fn open(settings: &[ReadLogSettings], egress: &Egress) -> Result<Self, String> {
        let open = |of: &ReadLogSettings| {
            let wrong = |why: &dyn std::fmt::Display| format!("the log {}: {why}", of.name);
            let http = egress.client_for(Purpose::Log, &of.url).map_err(|e| wrong(&e))?;
            let path = of.trusted_root.display();
            let bytes = file(&of.trusted_root).map_err(|e| wrong(&format!("{path}: {e}")))?;
            let root = TrustedRoot::parse(&bytes).map_err(|e| wrong(&format!("{path}: {e}")))?;
            Ok(Log { name: of.name.clone(), url: of.url.clone(), http, root: Arc::new(root) })
        };
        settings.iter().map(open).collect::<Result<_, String>>().map(Self)
    }

    /// The log of a name.
    ///
    /// # Errors
    /// [`Failure::NotFound`], with the names that there are.
    pub(super) fn named(&self, name: &str) -> Result<&Log, Failure> {
        self.0.iter().find(|log| log.name == name).ok_or_else(|| {
            let known = self.0.iter().map(|log| log.name.as_str()).collect::<Vec<_>>().join(", ");
            Failure::NotFound(format!("no log {:?} is configured; there are: {known}", clipped(name)))
        })
    }
}

impl Log {
    fn unavailable(&self, trouble: &Trouble) -> Failure {
        Failure::Outside(format!("the log {}: {trouble}", self.name))
    }

    async fn search(&self, question: Vec<u8>, deadline: Instant) -> Result<Vec<EntryName>, Trouble> {
        let answer = self.ask(Method::POST, INDEX_PATH, question, MAX_INDEX_BYTES, deadline).await?;
        parse_index(&answer).map_err(|e| Trouble::Answer(e.to_string()))
    }

    async fn entry(&self, name: &EntryName, deadline: Instant) -> Result<LogEntry, Trouble> {
        let path = format!("{ENTRIES_PATH}{name}");
        let answer = self.ask(Method::GET, &path, Vec::new(), MAX_ENTRY_BYTES, deadline).await?;
        let name = name.clone();
        let read = tokio::task::spawn_blocking(move || parse_entry(&answer, &name)).await;
        read.map_err(|e| Trouble::Answer(e.to_string()))?.map_err(|e| Trouble::Answer(e.to_string()))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Bytes, Trouble> {
        let url = self.url.join(path).map_err(|e| Trouble::Answer(e.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let response = self.http.send(method, &url, headers, Bytes::from(body), deadline).await?;
        match response.status().as_u16() {
            200 => Ok(response.bytes(limit, deadline).await?),
            status => Err(Trouble::Status(status)),
        }
    }

    async fn page(&self, names: &[EntryName], deadline: Instant) -> Vec<Result<LogEntry, Trouble>> {
        futures_util::future::join_all(names.iter().map(|name| self.entry(name, deadline))).await
    }

    /// The log's entry for a signature; nothing, if it has none among the first that are about the artifact.
    ///
    /// # Errors
    /// [`Failure::Outside`], if it does not answer.
    pub(super) async fn find(
        &self,
        artifact: &Digest,
        signature: &[u8],
        holder: &Holder,
    ) -> Result<Option<LogEntry>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let names = self.search(search_for(artifact), deadline).await.map_err(|e| self.unavailable(&e))?;
        for page in names.chunks(PAGE).take(MAX_LOOKED_AT / PAGE) {
            for entry in self.page(page, deadline).await {
                let entry = entry.map_err(|e| self.unavailable(&e))?;
                let said = describe(&entry);
                if said.signature.as_deref() == Some(signature) && said.verifier.as_deref() == Some(holder.der()) {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }
}

impl Trust {
    /// Entries of somebody else's log, a page of them.
    pub(super) async fn query_elsewhere(&self, _: &Principal, wanted: tools::Query) -> Result<Value, Failure> {
        let log = self.outside.logs.named(wanted.log.as_deref().unwrap_or_default())?;
        if wanted.artifact_type.is_some() {
            return Err(Failure::Input("other logs know no types of artifacts".to_owned()));
        }
        if wanted.verifications.is_some() {
            return Err(Failure::Input("other logs know nothing of who verified what".to_owned()));
        }
        let question = match (&wanted.artifact, &wanted.signer) {
            (Some(artifact), _) => search_for(&tools::digest(artifact)?),
            (None, Some(signer)) => search_by(signer).ok_or_else(|| {
                let shown = clipped(signer);
                Failure::Input(format!("signer: {shown:?} is no mail address, by which alone other logs are searched"))
            })?,
            (None, None) => {
                return Err(Failure::Input("another log is searched by an artifact, or by a signer's mail".to_owned()));
            }
        };
        let since = wanted.start_date.as_deref().map(|text| moment(text, "start_date", false)).transpose()?;
        let until = wanted.end_date.as_deref().map(|text| moment(text, "end_date", true)).transpose()?;
        let from = match &wanted.cursor {
            None => 0,
            Some(text) => text
                .parse::<usize>()
                .map_err(|_| Failure::Input(format!("cursor: {:?} is not one of this log's pages", clipped(text))))?,
        };
        let deadline = Instant::now() + PATIENCE;
        let names = log.search(question, deadline).await.map_err(|e| log.unavailable(&e))?;
        let limit = wanted.limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(PAGE)).clamp(1, PAGE);
        let rest = names.get(from..).unwrap_or_default();
        let page = &rest[..rest.len().min(limit)];
        let answers = log.page(page, deadline).await;
        let root = Arc::clone(&log.root);
        let read = move || answers.into_iter().map(|answer| answer.map(|e| looked_at(e, &root))).collect::<Vec<_>>();
        let read = self.computing.run(read).await?;
        let within = |entry: &LogEntry| {
            let at = entry.integrated_time.map(|seconds| seconds.saturating_mul(1000));
            since.is_none_or(|since| at.is_some_and(|at| at >= since))
                && until.is_none_or(|until| at.is_some_and(|at| at < until))
        };
        let by = |said: &Described| match (&wanted.artifact, &wanted.signer) {
            (Some(_), Some(signer)) => said.signer.as_ref() == Some(signer),
            _ => true,
        };
        let mut entries = Vec::new();
        for (name, answer) in page.iter().zip(read) {
            match answer {
                Err(trouble) => entries.push(json!({
                    "entry_id": name.as_str(), "log": log.name, "verified": false, "problem": trouble.to_string(),
                })),
                Ok((entry, said, shown)) if within(&entry) && by(&said) => {
                    entries.push(log.listed(name, &entry, &said, &shown));
                }
                Ok(_) => {}
            }
        }
        let next = (rest.len() > page.len()).then(|| (from + page.len()).to_string());
        Ok(json!({ "entries": entries, "next": next, "found": names.len() }))
    }
}

fn looked_at(entry: LogEntry, root: &TrustedRoot) -> (LogEntry, Described, Evidence) {
    let (said, shown) = (describe(&entry), evidence(&entry, root));
    (entry, said, shown)
}

impl Log {
    /// An entry in the shape of this node's own. What it says is its signer's word; what was verified is said beside.
    fn listed(&self, name: &EntryName, entry: &LogEntry, said: &Described, shown: &Evidence) -> Value {
        let held = |problem: Option<Option<&(Code, String)>>| problem.is_some_and(|problem| problem.is_none());
        let inclusion = shown.inclusion.as_ref().map(|result| result.as_ref().err());
        let promise = shown.promise.as_ref().map(|result| result.as_ref().err());
        let problems: Vec<Value> = [inclusion, promise]
            .into_iter()
            .flatten()
            .flatten()
            .map(|(code, detail)| json!({ "code": code.name(), "detail": detail }))
            .collect();
        let url = self.url.join(&format!("{ENTRIES_PATH}{name}")).map(String::from).ok();
        json!({
            "entry_id": name.as_str(),
            "log": self.name,
            "index": entry.log_index,
            "kind": format!("{} {}", entry.kind, entry.version),
            "artifact": said.artifact,
            "artifact_type": null,
            "subject": null,
            "payload": said.payload,
            "timestamp": entry.integrated_time.map(|seconds| rfc3339(seconds.saturating_mul(1000))),
            "signer": said.signer,
            "issuer": said.issuer,
            "signature": said.signature.as_ref().map(|bytes| STANDARD.encode(bytes)),
            "rekor_url": url,
            "verified": problems.is_empty() && (held(inclusion) || held(promise)),
            "inclusion_verified": held(inclusion),
            "promise_verified": held(promise),
            "problems": problems,
        })
    }
}
