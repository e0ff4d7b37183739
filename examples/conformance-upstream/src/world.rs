//! What the server's parts share: sessions, what changes, and who listens.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::Era;
use crate::journal::Journal;

/// Something that changed, told to whoever listens.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Tools,
    Prompts,
    Resource(String),
}

/// A session of the handshake era.
#[derive(Default)]
pub(crate) struct Session {
    pub(crate) capabilities: Value,
    /// What the server asked and waits for, by id.
    pub(crate) waiting: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    pub(crate) level: Mutex<Option<String>>,
    pub(crate) subscribed: Mutex<BTreeSet<String>>,
}

pub(crate) struct World {
    pub(crate) era: Era,
    pub(crate) journal: Journal,
    pub(crate) changes: broadcast::Sender<Change>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    next: AtomicU64,
    /// Whether the tool and the prompt that come and go are there.
    pub(crate) dynamic_tool: AtomicBool,
    pub(crate) dynamic_prompt: AtomicBool,
    secret: RandomState,
}

impl World {
    pub(crate) fn new(era: Era, journal: &Path) -> std::io::Result<Self> {
        Ok(Self {
            era,
            journal: Journal::open(journal)?,
            changes: broadcast::channel(256).0,
            sessions: Mutex::default(),
            next: AtomicU64::new(1),
            dynamic_tool: AtomicBool::new(true),
            dynamic_prompt: AtomicBool::new(true),
            secret: RandomState::new(),
        })
    }

    /// A number that was never given before.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn open_session(&self, capabilities: Value) -> String {
        let id = format!("{:016x}{:016x}", self.secret.hash_one(self.number()), self.secret.hash_one(self.number()));
        self.sessions().insert(id.clone(), Arc::new(Session { capabilities, ..Session::default() }));
        id
    }

    pub(crate) fn session(&self, id: &str) -> Option<Arc<Session>> {
        self.sessions().get(id).cloned()
    }

    pub(crate) fn close_session(&self, id: &str) -> bool {
        self.sessions().remove(id).is_some()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seal that only this server can make.
    pub(crate) fn seal(&self, text: &str) -> String {
        format!("{:016x}", self.secret.hash_one(text))
    }

    pub(crate) fn tell(&self, change: Change) {
        // Nobody may be listening.
        let _ = self.changes.send(change);
    }

    /// Adds the tool that comes and goes, or takes it away.
    pub(crate) fn toggle_tool(&self) {
        self.dynamic_tool.fetch_xor(true, Ordering::SeqCst);
        self.tell(Change::Tools);
    }

    /// Adds the prompt that comes and goes, or takes it away.
    pub(crate) fn toggle_prompt(&self) {
        self.dynamic_prompt.fetch_xor(true, Ordering::SeqCst);
        self.tell(Change::Prompts);
    }
}

/// What goes to the client for one request: notifications and requests, then the response.
#[derive(Debug)]
pub(crate) enum Out {
    Message(Value),
    /// The response, and the HTTP status that fits it if nothing else was sent before.
    Last(Value, u16),
}

pub(crate) type Outbox = mpsc::UnboundedSender<Out>;
