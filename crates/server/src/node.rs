//! The composition root: the parts of a node put together, in the order in which they depend on one another.
//!
//! Configuration was checked before ([`crate::config`]); the listener is handed in, so that a test starts the same node as
//! the binary does.

pub(crate) mod discovery;
mod issuers;
mod keepers;
mod objects;
mod reporting;
mod shared;
mod storage;
mod tokens;
mod watch;

use std::fs::{File, OpenOptions, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_catalog::Manifest;
use countersign_catalog::manifest::load_dir;
use countersign_catalog::scan::Severity;
use countersign_connect::connect;
use countersign_domain::{Refusal, UpstreamName};
use countersign_egress::{Egress, EgressConfig, Purpose, Rule};
use countersign_gate::broker::Parts;
use countersign_gate::connections::Connections;
use countersign_gate::identity::Authenticator;
use countersign_gate::keyring::Keyring;
use countersign_gate::limits::{Rate, Rates};
use countersign_gate::load::LoadRule;
use countersign_gate::policies::PolicyStore;
use countersign_gate::registry::Registry;
use countersign_gate::upstream::Upstream;
use countersign_gate::{Gate, Settings};
use countersign_keys::SigningKeys as SigningKeeper;
use countersign_ledger::objects::Objects;
use countersign_ledger::{Ledger, OpenError, StoreError};
use countersign_proof::canonical::Limits;
use countersign_trust::artifact::types::{TypeFileError, Types};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::app::{App, VERSION};
use crate::artifacts::keys::SigningKeys;
use crate::artifacts::{Artifacts, Parts as ArtifactParts};
use crate::config::{Config, RateLimit};
use crate::config::{ObjectSettings, TrustSettings};
use crate::http::guard::HostGuard;
use crate::http::resource::Resource;
use crate::http::serve::serve;
use crate::keys::{KeyFileError, create_private_dir};
use crate::mcp::catalog::Listings;
use crate::mcp::changes::Seats;
use crate::mcp::parked::Parking;
use crate::mcp::session::Sessions;
use crate::tls::Tls;
use crate::trust::{Clients, Custody, Forwarding, Images, Names, Outside, Packages, Parts as TrustParts, Teams, Trust};
use crate::witness::{Asking, Witness};

pub(crate) use storage::{backup, export, fsck};

/// How long a finished call's answer can be replayed by its idempotency key.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3600);
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(30);
const SCENARIOS: &str = "SCENARIOS ARE ON ([trust] scenarios): whoever asks this node to verify may be answered something that is made up. \
    Never trust this node with anything real.";
const LOCK: &str = "lock";
const NODE_FILE: &str = "node.json";

/// Why a node did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another node runs on the data directory.
    #[error("another node runs on {}", .0.display())]
    Busy(PathBuf),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        error: std::io::Error,
    },
    /// A file or directory cannot be used.
    #[error("{}: {error}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// A key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The database cannot be used.
    #[error("the database cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The ledger must not be used.
    #[error("the ledger cannot be opened: {0}")]
    Ledger(#[from] OpenError),
    /// Something in the configuration only shows when it is used.
    #[error("{0}")]
    Setup(String),
    /// The gate could not be put together.
    #[error("the gate cannot be opened: {0}")]
    Gate(Refusal),
}

impl StartError {
    /// Whether the reason is another node on the same data directory.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy(_))
    }
}

/// `node.json`: what a running node says of itself, for the command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeFile {
    /// Where it answers.
    pub url: String,
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

impl NodeFile {
    /// What the node that holds the data directory says; `None` if none holds it.
    pub fn read(data_dir: &Path) -> Option<Self> {
        // A file that a killed node left behind does not count: only a living one holds the lock.
        let lock = File::open(data_dir.join(LOCK)).ok()?;
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            Ok(()) | Err(TryLockError::Error(_)) => return None,
        }
        let bytes = std::fs::read(data_dir.join(NODE_FILE)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything under way was finished, or its time was up.
    InOrder,
    /// A second signal cut it short.
    AtOnce,
}

/// A running node.
pub struct Node {
    app: Arc<App>,
    url: String,
    notes: Vec<String>,
    stop: tokio::sync::watch::Sender<bool>,
    serving: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    lock: File,
}

impl Node {
    /// Starts a node on the configured address.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let address = config.listen;
        // First, so that of two nodes on one directory the second one says what is wrong.
        let lock = take_lock(&config.data_dir)?;
        let listener = TcpListener::bind(address).await.map_err(|error| StartError::Listen { address, error })?;
        Self::assemble(config, lock, listener, Vec::new()).await
    }

    /// Starts a node on a listener; the configured address is not looked at.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_on(config: Config, listener: TcpListener) -> Result<Self, StartError> {
        let lock = take_lock(&config.data_dir)?;
        Self::assemble(config, lock, listener, Vec::new()).await
    }

    /// Starts a node with capabilities that live in this process, beside the upstreams of its manifests.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_with(config: Config, listener: TcpListener, built_in: Vec<BuiltIn>) -> Result<Self, StartError> {
        let lock = take_lock(&config.data_dir)?;
        Self::assemble(config, lock, listener, built_in).await
    }

    async fn assemble(
        mut config: Config,
        lock: File,
        listener: TcpListener,
        mut built_in: Vec<BuiltIn>,
    ) -> Result<Self, StartError> {
        let listening = |error| StartError::Listen { address: config.listen, error };
        config.listen = listener.local_addr().map_err(listening)?;
        settled(&config)?;
        let tls =
            config.tls.clone().map(Tls::open).transpose().map_err(|why| StartError::Setup(format!("tls: {why}")))?;
        let keys = config.keys_dir.clone();
        let store = storage::connect(&config).await?;
        let egress = Egress::new(reach(&config));
        let keeper = keepers::open(&config, &egress).await?;
        let (root, seed) = storage::keys(&config, &*store, keeper.as_ref()).await?;
        let witness_seed = storage::witness_key(&config)?;
        let mut notes = Vec::new();

        let (ledger, opened) = storage::open(&config, store, seed).await?;
        notes.extend(storage::note_on(&opened));
        let asking = Asking::new(&config.witnesses, &egress, ledger.clone(), clock()).map_err(StartError::Setup)?;
        let witness = config.witness_for.as_ref().zip(witness_seed);
        let witness = witness.map(|(settings, seed)| Witness::new(settings, seed, ledger.clone(), clock()));
        let witness = witness.transpose().map_err(|error| StartError::Setup(format!("[witness_for]: {error}")))?;
        let manifests = manifests(&config.manifests)?;
        let keyring = Keyring::new(&root, ledger.clone()).map_err(|error| StartError::Setup(error.to_string()))?;
        let keyring = Arc::new(keyring);
        let (objects, note) = objects::open(&config, &egress).await?;
        notes.extend(note);
        let capabilities = config.trust.as_ref().zip(objects).map(|(trust, objects)| {
            let keeper = keeper.as_ref().map(|keeper| Arc::clone(&keeper.signing));
            capabilities(&config, trust, (&ledger, &keyring), &egress, (keeper, objects))
        });
        let capabilities = capabilities.transpose()?;
        let own: Vec<BuiltIn> = capabilities.iter().flat_map(Capabilities::built_in).collect();
        let own_names: Vec<UpstreamName> = own.iter().map(|(manifest, _)| manifest.upstream.clone()).collect();
        built_in.extend(own);
        let here = built_in.iter().map(|(manifest, _)| manifest);
        let names: Vec<UpstreamName> = manifests.iter().chain(here).map(|manifest| manifest.upstream.clone()).collect();
        let connections = Connections::new(ledger.clone(), Arc::clone(&keyring), &config.url(), clock());
        let broker = tokens::parts(&config, &egress, &connections)?;
        let registry = registry(manifests, built_in, &egress, &broker, &ledger, config.quarantine_at).await?;
        let policies = Arc::new(PolicyStore::new(config.policies.clone()));
        if ledger.is_shared() {
            storage::try_root(&ledger, &keyring).await?;
        }
        let authenticator = Authenticator::new(issuers::all(&config, &keys, &egress)?).for_resource(Some(config.url()));
        let telemetry = reporting::telemetry(&config, &egress)?;
        let gate =
            Gate::open(ledger.clone(), registry, policies, keyring, authenticator, settings(&config, connections)?);
        let gate = gate.await.map_err(StartError::Gate)?;
        if let Some(capabilities) = &capabilities {
            capabilities.custody.open().await.map_err(|error| StartError::Setup(error.to_string()))?;
        }
        for name in &own_names {
            // Their definitions are here: nobody has to find the tools missing while they are listed.
            gate.registry().refresh(name).await.map_err(|error| StartError::Setup(error.to_string()))?;
        }
        let trust = capabilities.as_ref().map(|c| Arc::clone(&c.trust.1));
        let forwarding = capabilities.as_ref().and_then(|c| c.forwarding.clone());
        if let Some(forwarding) = &forwarding {
            forwarding.begin_here().await.map_err(StartError::Setup)?;
        }
        let (custody, artifacts) = capabilities.map(|c| (c.custody, c.artifacts.1)).unzip();

        let (stop, stopping) = tokio::sync::watch::channel(false);
        let url = reachable_url(&config);
        let app = Arc::new(App {
            guard: HostGuard::new(&config),
            resource: Resource::new(&config),
            tls,
            gate,
            ledger,
            config,
            upstreams: names.into_iter().collect(),
            assertion: broker.assertion,
            custody,
            trust,
            artifacts,
            forwarding,
            witness,
            asking,
            listings: Listings::default(),
            sessions: Sessions::default(),
            parking: Parking::default(),
            seats: Seats::default(),
            executions: crate::mcp::tasks::Executions::default(),
            started: Instant::now(),
            telemetry,
            stopping: stopping.clone(),
        });
        notes.extend(notes_on(&app));
        let mut background = app.gate.run_background();
        background.extend(watch::policies(Arc::clone(&app.gate), app.config.policies.clone()));
        background.extend(reporting::metrics(&app).await?);
        background.extend(app.artifacts.clone().map(|artifacts| tokio::spawn(artifacts.keep_scrubbing())));
        if let (Some(custody), Some(trust)) = (app.custody.clone(), &app.config.trust) {
            background.push(tokio::spawn(custody.keep_rotating(trust.authority_rotation)));
        }
        background.extend(app.forwarding.clone().map(|forwarding| tokio::spawn(forwarding.run())));
        background.extend(app.asking.clone().map(|asking| tokio::spawn(asking.run())));
        background.extend(app.tls.clone().map(|tls| tokio::spawn(tls.follow())));
        write_node_file(&app.config.data_dir, &url)?;
        let serving = tokio::spawn(serve(Arc::clone(&app), listener, stopping));
        tracing::info!(%url, version = VERSION, "the node is up");
        Ok(Self { app, url, notes, stop, serving, background, lock })
    }

    /// Where the node answers, without a trailing slash.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// What a person should know after this start: one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The gate.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.app.gate
    }

    /// Runs until SIGTERM or SIGINT, then ends in order; a second signal ends it at once.
    ///
    /// # Errors
    /// If signals cannot be received.
    pub async fn run_until_signal(self) -> std::io::Result<Ended> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let seconds = self.app.config.drain.timeout.as_secs();
        tracing::info!("the node stops: running calls have {seconds} s to end; another signal ends it at once");
        tokio::select! {
            () = self.shutdown() => return Ok(Ended::InOrder),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("ended at once: what was under way is unknown, and is looked at by the next start");
        Ok(Ended::AtOnce)
    }

    /// Ends in order: not ready any more, then no new connections, the configured time for running requests and for calls
    /// between intent and outcome, then the upstreams, then the ledger.
    pub async fn shutdown(self) {
        let drain = &self.app.config.drain;
        let until = Instant::now() + drain.delay + drain.timeout + Duration::from_secs(1);
        self.stop.send_replace(true);
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "serving ended early");
        }
        while self.app.gate.in_flight() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.background.iter().for_each(JoinHandle::abort);
        self.app.gate.flush_aggregates().await;
        let upstreams = self.app.gate.registry().upstreams().map(|(_, upstream)| upstream.shutdown());
        futures_util::future::join_all(upstreams).await;
        self.app.ledger.shutdown().await;
        if let Err(error) = std::fs::remove_file(self.app.config.data_dir.join(NODE_FILE)) {
            tracing::debug!(%error, "{NODE_FILE} could not be removed");
        }
        drop(self.lock);
        tracing::info!("the node has stopped");
    }
}

type BuiltIn = (Manifest, Arc<dyn Upstream>);

/// The capabilities of a node that signs.
struct Capabilities {
    custody: Arc<Custody>,
    forwarding: Option<Arc<Forwarding>>,
    trust: (Manifest, Arc<Trust>),
    artifacts: (Manifest, Arc<Artifacts>),
}

impl Capabilities {
    fn built_in(&self) -> [BuiltIn; 2] {
        let (manifest, artifacts) = &self.artifacts;
        let artifacts: Arc<dyn Upstream> = Arc::<Artifacts>::clone(artifacts);
        let (described, trust) = &self.trust;
        let trust: Arc<dyn Upstream> = Arc::<Trust>::clone(trust);
        [(described.clone(), trust), (manifest.clone(), artifacts)]
    }
}

/// What this node may reach beyond the origins that its configuration names.
fn reach(config: &Config) -> EgressConfig {
    let mut reach = EgressConfig::default();
    if let Some(ObjectSettings::S3(s3)) = config.trust.as_ref().map(|trust| &trust.objects) {
        reach.rules.insert(Purpose::ObjectStore, Rule { networks: s3.networks.clone(), ..Rule::default() });
    }
    reach
}

/// Signing and verifying with the authorities behind it, and signed artifacts.
fn capabilities(
    config: &Config,
    settings: &TrustSettings,
    (ledger, keyring): (&Ledger, &Arc<Keyring>),
    egress: &Egress,
    (keeper, objects): (Option<Arc<dyn SigningKeeper>>, Arc<dyn Objects>),
) -> Result<Capabilities, StartError> {
    let (domain, public) = (&config.log_domain, config.public_url.as_deref());
    let others = Outside::published(settings).map_err(StartError::Setup)?;
    let serves = settings.clients.is_some();
    let custody = Custody::new(ledger.clone(), Arc::clone(keyring), domain, public, serves, clock()).beside(others);
    let custody = Arc::new(custody);
    let outside = Outside::open(settings, egress, (ledger, &custody), clock()).map_err(StartError::Setup)?;
    let forwarding = outside.forwarding();
    let rotation = u64::try_from(settings.key_rotation.as_millis()).unwrap_or(u64::MAX);
    let keys = Arc::new(SigningKeys::new(ledger.clone(), Arc::clone(keyring), rotation, keeper, clock()));
    let clients = settings.clients.as_ref().map(|settings| {
        let stores = (ledger.clone(), Arc::clone(keyring));
        Clients::new(settings, stores, Arc::clone(&custody), clock())
    });
    let trust = Trust::capability(TrustParts {
        ledger: ledger.clone(),
        keyring: Arc::clone(keyring),
        custody: Arc::clone(&custody),
        base_url: config.url(),
        clock: clock(),
        teams: Teams::open(settings, domain, egress).map_err(StartError::Setup)?,
        packages: Packages::open(&settings.packages, egress).map_err(StartError::Setup)?,
        images: Images::open(&settings.registries, egress).map_err(StartError::Setup)?,
        outside,
        clients,
        names: Names { by_workspace: settings.identities.clone(), others: settings.other_identities },
        expected: settings.expected.clone(),
        objects: Arc::clone(&objects),
        scenarios: settings.scenarios,
    });
    let artifacts = Artifacts::capability(ArtifactParts {
        ledger: ledger.clone(),
        keys,
        objects,
        types: artifact_types(settings)?,
        base_url: config.url(),
        clock: clock(),
    });
    Ok(Capabilities {
        custody,
        forwarding,
        trust: trust.map_err(StartError::Setup)?,
        artifacts: artifacts.map_err(StartError::Setup)?,
    })
}

/// The built-in types of artifacts and those of the configured directory, in the order of their names.
fn artifact_types(settings: &TrustSettings) -> Result<Types, StartError> {
    let wrong = |error: TypeFileError| StartError::Setup(error.to_string());
    let mut types = Types::built_in().map_err(wrong)?;
    let Some(directory) = &settings.artifact_types else { return Ok(types) };
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error| StartError::Io { path, error }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable(directory))? {
        files.push(entry.map_err(unreadable(directory))?.path());
    }
    files.sort();
    let is_type =
        |path: &&PathBuf| path.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
    for path in files.iter().filter(is_type) {
        let text = std::fs::read_to_string(path).map_err(unreadable(path))?;
        types.add_file(&text, &path.display().to_string()).map_err(wrong)?;
    }
    Ok(types)
}

/// Held for the life of the node; the system lets go of it when the process ends, however it ends.
fn take_lock(data_dir: &Path) -> Result<File, StartError> {
    create_private_dir(data_dir)?;
    let path = data_dir.join(LOCK);
    let failed = |error| StartError::Io { path: path.clone(), error };
    let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    // Whoever looks for a running node holds the lock for a moment; a node holds it for as long as it lives.
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    Err(StartError::Busy(data_dir.to_owned()))
}

fn manifests(directory: &Path) -> Result<Vec<Manifest>, StartError> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    load_dir(directory).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        StartError::Setup(lines.join("\n"))
    })
}

async fn registry(
    manifests: Vec<Manifest>,
    built_in: Vec<(Manifest, Arc<dyn Upstream>)>,
    egress: &Egress,
    broker: &Parts,
    ledger: &Ledger,
    quarantine_at: Option<Severity>,
) -> Result<Arc<Registry>, StartError> {
    let mut upstreams = built_in;
    for manifest in manifests {
        let wrong = |error: String| StartError::Setup(format!("upstream {}: {error}", manifest.upstream));
        let credentials = broker.source(&manifest).map_err(wrong)?;
        let upstream = connect(&manifest, egress, credentials).map_err(|error| wrong(error.to_string()))?;
        upstreams.push((manifest, upstream));
    }
    let registry = Registry::open(upstreams, ledger.clone(), clock()).await;
    registry
        .map(|r| Arc::new(r.with_quarantine_at(quarantine_at)))
        .map_err(|error| StartError::Setup(error.to_string()))
}

fn settings(config: &Config, connections: Arc<Connections>) -> Result<Settings, StartError> {
    let limits = &config.limits;
    let rate = |limit: RateLimit| Rate { calls: limit.calls, per: limit.per };
    Ok(Settings {
        connections: Some(connections),
        rates: Rates {
            per_principal: rate(limits.per_principal),
            per_tool: rate(limits.per_tool),
            per_principal_and_tool: limits.per_principal_and_tool.map(rate),
            per_workspace: limits.per_workspace.map(rate),
            global: limits.global.map(rate),
        },
        sharing: shared::rates(limits.redis.as_ref())?,
        load: LoadRule { node: limits.in_flight, per_workspace: limits.in_flight_per_workspace },
        breakers: limits.breakers.clone(),
        open_requests: config.limits.open_requests,
        budgets: config.limits.budgets.clone(),
        arguments: Limits { max_bytes: config.limits.body_bytes, max_depth: config.limits.depth },
        idempotency_ttl: IDEMPOTENCY_TTL,
        decisions_kept: config.decisions_kept,
        workspaces: config.workspaces,
        clock: clock(),
    })
}

fn clock() -> fn() -> countersign_domain::Millis {
    countersign_ledger::handle::system_clock
}

/// An address under which this machine reaches the node: `0.0.0.0` is none.
fn reachable_url(config: &Config) -> String {
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    match (&config.tls, &config.public_url) {
        // The certificate is for the public name.
        (Some(_), Some(url)) => url.clone(),
        (Some(_), None) => format!("https://{address}"),
        (None, _) => format!("http://{address}"),
    }
}

/// What others will rely on is settled before the first leaf is written: the log would carry it for ever.
fn settled(config: &Config) -> Result<(), StartError> {
    let open = crate::config::unsettled(config);
    let is_first = !config.data_dir.join(storage::DATABASE).exists() && !config.head_file.exists();
    if open.is_empty() || !is_first {
        open.iter().for_each(|what| tracing::warn!("{what}"));
        return Ok(());
    }
    let listen = config.listen;
    Err(StartError::Setup(format!("no log is opened for {listen} before this is settled: {}", open.join("; "))))
}

fn write_node_file(data_dir: &Path, url: &str) -> Result<(), StartError> {
    let node = NodeFile { url: url.to_owned(), pid: std::process::id(), version: VERSION.to_owned() };
    let path = data_dir.join(NODE_FILE);
    let temporary = data_dir.join("node.json.new");
    let write = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        std::io::Write::write_all(&mut file, &serde_json::to_vec(&node)?)?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|error: std::io::Error| StartError::Io { path: path.clone(), error })
}

fn notes_on(app: &App) -> Vec<String> {
    let mut notes = Vec::new();
    if !countersign_ledger::handle::COMMITS {
        notes.push("THIS BUILD FORGETS INSTEAD OF RECORDING. It measures what recording costs; never use it for anything else.".to_owned());
    }
    if app.config.development_issuer {
        notes.push("The development issuer is on: whoever can read the data directory can be anybody.".to_owned());
    }
    if app.config.trust.as_ref().is_some_and(|trust| trust.scenarios) {
        notes.push(SCENARIOS.to_owned());
        tracing::warn!("{SCENARIOS}");
    }
    if let Some(witness) = &app.witness {
        notes.push(format!("This node is a witness of {} logs. Its key: {}", witness.logs().len(), witness.key()));
    }
    if app.upstreams.is_empty() {
        notes.push(format!("There are no manifests in {}: no tools can be used.", app.config.manifests.display()));
    }
    let policies = app.gate.policies();
    match (policies.problems().as_slice(), policies.current()) {
        ([], _) => {}
        ([first, more @ ..], None) => notes.push(format!(
            "No policies are in force, so every call is denied: {first} (and {} more). Policies that name tools come into \
             force once the tools are accepted; `countersign policy check` lists what is wrong.",
            more.len()
        )),
        (problems, Some(_)) => notes.extend(problems.iter().take(5).map(|p| format!("A policy was refused: {p}"))),
    }
    notes
}
