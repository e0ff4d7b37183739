//! `verify_package`: whether a package of a public registry may be used, by the workspace's own list and by what the configured sources answer.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_domain::{Principal, WorkspaceName};
use countersign_egress::{Egress, Purpose, PurposeClient};
use countersign_trust::package::attestation::{RegistryKey, Trust as Anchors};
use countersign_trust::package::list::Lists;
use countersign_trust::package::name::PackageRef;
use countersign_trust::package::plan::Plan;
use countersign_trust::package::source::{Answer, Method, Request, Sources};
use countersign_trust::root::TrustedRoot;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use url::Url;

use super::{Trust, file, tools};
use crate::app::VERSION;
use crate::capability::Failure;
use crate::config::PackageSettings;

/// How long a source may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whom to ask about packages, and whom to trust for what they answer.
pub(crate) struct Packages {
    lists: Option<PathBuf>,
    sources: Sources,
    /// By what the URL of a request begins with.
    clients: Vec<(String, PurposeClient)>,
    root: Option<Arc<TrustedRoot>>,
    npm_keys: Arc<Vec<RegistryKey>>,
}

impl Packages {
    /// # Errors
    /// In words, if a file cannot be read or a way out not be set up.
    pub fn open(settings: &PackageSettings, egress: &Egress) -> Result<Self, String> {
        let sources = settings.sources.clone();
        let bases = [&sources.pypi, &sources.npm, &sources.crates_io, &sources.osv, &sources.github_advisory];
        let mut clients = Vec::new();
        for base in bases.into_iter().flatten() {
            let url = Url::parse(base.as_str()).map_err(|e| format!("{}: {e}", base.as_str()))?;
            let client = egress.client_for(Purpose::Registry, &url).map_err(|e| format!("{}: {e}", base.as_str()))?;
            clients.push((base.as_str().to_owned(), client));
        }
        let root = settings.trusted_root.as_deref().map(|path| parsed_file(path, TrustedRoot::parse)).transpose()?;
        let npm_keys =
            settings.npm_keys.as_deref().map(|path| parsed_file(path, RegistryKey::parse_all)).transpose()?;
        if let Some(directory) = &settings.lists {
            // A list that is wrong is found when the node starts, not when somebody asks.
            for entry in std::fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))? {
                let path = entry.map_err(|e| format!("{}: {e}", directory.display()))?.path();
                if path.extension().is_some_and(|end| end == "yaml") {
                    parsed_file(&path, parsed)?;
                }
            }
        }
        let (root, npm_keys) = (root.map(Arc::new), Arc::new(npm_keys.unwrap_or_default()));
        Ok(Self { lists: settings.lists.clone(), sources, clients, root, npm_keys })
    }

    /// The workspace's list as it is now. A list that cannot be read allows nothing.
    fn lists(&self, workspace: &WorkspaceName) -> Result<Lists, Failure> {
        let Some(directory) = &self.lists else { return Ok(Lists::default()) };
        let path = directory.join(format!("{workspace}.yaml"));
        let undone = |why: String| Failure::Undone(format!("the list {}: {why}", path.display()));
        match file(&path) {
            Ok(bytes) => parsed(&bytes).map_err(undone),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Lists::default()),
            Err(error) => Err(undone(error.to_string())),
        }
    }

    async fn ask(&self, request: &Request) -> Answer {
        let client = self.clients.iter().find(|(base, _)| request.url.starts_with(base.as_str()));
        let (Some((_, client)), Ok(url)) = (client, Url::parse(&request.url)) else {
            return Answer::Nothing("no way leads there".to_owned());
        };
        let method = match request.method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(request.accept));
        if let Ok(agent) = HeaderValue::from_str(&format!("countersign/{VERSION}")) {
            headers.insert(USER_AGENT, agent);
        }
        if request.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = request.body.clone().map(Bytes::from).unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        match client.send(method, &url, headers, body, deadline).await {
            Err(error) => Answer::Nothing(error.to_string()),
            Ok(response) => {
                let status = response.status().as_u16();
                match response.bytes(request.max_bytes, deadline).await {
                    Ok(body) => Answer::Http { status, body: body.to_vec() },
                    Err(error) => Answer::Nothing(error.to_string()),
                }
            }
        }
    }
}

fn parsed_file<T, E: Display>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, E>) -> Result<T, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    parse(&file(path).map_err(|e| wrong(e.to_string()))?).map_err(|e| wrong(e.to_string()))
}

fn parsed(bytes: &[u8]) -> Result<Lists, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    serde_saphyr::from_str(text).map_err(|e| e.to_string())
}

impl Trust {
    pub(super) async fn package(&self, principal: &Principal, wanted: tools::Package) -> Result<Value, Failure> {
        let package = PackageRef::parse(&wanted.package).map_err(|e| Failure::Input(e.to_string()))?;
        let lists = self.packages.lists(&principal.workspace)?;
        let sources = match wanted.check_external.unwrap_or(true) {
            true => self.packages.sources.clone(),
            false => Sources::default(),
        };
        let mut plan = Plan::new(package, &lists, sources).map_err(|e| Failure::Input(e.to_string()))?;
        loop {
            let requests = plan.requests();
            if requests.is_empty() {
                break;
            }
            let asked = requests.iter().map(|request| async { (request.number, self.packages.ask(request).await) });
            for (number, answer) in futures_util::future::join_all(asked).await {
                plan.answer(number, &answer);
            }
        }
        let (root, keys, now) = (self.packages.root.clone(), Arc::clone(&self.packages.npm_keys), (self.clock)());
        let report = self
            .computing
            .run(move || {
                plan.report(&Anchors { root: root.as_deref(), npm_keys: &keys }, i64::try_from(now).unwrap_or(i64::MAX))
            })
            .await?;
        serde_json::to_value(report).map_err(|e| Failure::Undone(e.to_string()))
    }
}
