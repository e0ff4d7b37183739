//! The policy set in force: read from a directory, checked against the accepted tools, swapped as a whole.
//!
//! A set that does not load leaves the old one in force. With no set in force every call is denied.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use countersign_policy::{Policies, PolicyProblem, SetKind, Severity, SourceFile, ToolDescription};

/// The most policy files of one kind.
const MAX_FILES: usize = 1_000;
/// The largest policy file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// Same files, same tools.
    Unchanged,
    /// A new set came into force.
    InForce(String),
    /// The set was refused; the old one, if any, stays.
    Refused(Vec<PolicyProblem>),
}

/// Holds the set in force.
pub struct PolicyStore {
    directory: PathBuf,
    current: ArcSwapOption<Policies>,
    problems: Mutex<Vec<PolicyProblem>>,
    /// What was tried last. Held from reading to putting in force: of two who reload, the one who read first must not
    /// put an older set over a newer one.
    tried: Mutex<Option<[u8; 32]>>,
    catalog: AtomicU64,
    /// The set that was last tried on past calls: a replay asks for the same one page after page.
    trial: Mutex<Option<([u8; 32], Arc<Policies>)>>,
}

/// The accepted tools, and the version of the catalog that they are from.
pub type CatalogState = (u64, Vec<ToolDescription>);

impl PolicyStore {
    /// A store over a directory with `access/*.cedar` and `approval/*.cedar`. Nothing is loaded yet.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            current: ArcSwapOption::empty(),
            problems: Mutex::default(),
            tried: Mutex::default(),
            catalog: AtomicU64::new(0),
            trial: Mutex::default(),
        }
    }

    /// The directory that is read.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The set in force.
    pub fn current(&self) -> Option<Arc<Policies>> {
        self.current.load_full()
    }

    /// What was wrong with the set that was last tried.
    pub fn problems(&self) -> Vec<PolicyProblem> {
        self.problems.lock().map(|p| p.clone()).unwrap_or_default()
    }

    /// The version of the catalog that a set was last tried against.
    pub fn catalog(&self) -> u64 {
        self.catalog.load(Ordering::Acquire)
    }

    /// Reads the directory and tries the set against the tools of this moment. One at a time; blocking file reads.
    pub fn reload(&self, tools: impl FnOnce() -> CatalogState) -> Reloaded {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, tools) = tools();
        let reloaded = self.reload_against(&tools, &mut tried);
        self.catalog.store(version, Ordering::Release);
        reloaded
    }

    fn reload_against(&self, tools: &[ToolDescription], tried: &mut Option<[u8; 32]>) -> Reloaded {
        let files = match read_files(&self.directory) {
            Ok(files) => files,
            Err(problem) => return self.refuse(vec![problem]),
        };
        let identity = identity(&files, tools);
        if tried.replace(identity) == Some(identity) {
            return Reloaded::Unchanged;
        }
        match Policies::load(&files, tools) {
            Ok(policies) => {
                let version = policies.version().to_owned();
                if let Ok(mut problems) = self.problems.lock() {
                    problems.clear();
                }
                self.current.store(Some(Arc::new(policies)));
                Reloaded::InForce(version)
            }
            Err(problems) => self.refuse(problems),
        }
    }

    /// Whether the files would load against other tools, without changing anything.
    ///
    /// # Errors
    /// What would be wrong.
    pub fn would_load(&self, tools: &[ToolDescription]) -> Result<(), Vec<PolicyProblem>> {
        let files = read_files(&self.directory).map_err(|p| vec![p])?;
        Policies::load(&files, tools).map(|_| ())
    }

    /// Loads a set that is not to come into force, against these tools. Also says whether it is another one than the last.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn on_trial(
        &self,
        files: &[SourceFile],
        tools: &[ToolDescription],
    ) -> Result<(Arc<Policies>, bool), Vec<PolicyProblem>> {
        let identity = identity(files, tools);
        let last = self.trial.lock().ok().and_then(|last| last.clone());
        if let Some((_, policies)) = last.filter(|(of, _)| *of == identity) {
            return Ok((policies, false));
        }
        let policies = Arc::new(Policies::load(files, tools)?);
        if let Ok(mut last) = self.trial.lock() {
            *last = Some((identity, Arc::clone(&policies)));
        }
        Ok((policies, true))
    }

    fn refuse(&self, found: Vec<PolicyProblem>) -> Reloaded {
        if let Ok(mut problems) = self.problems.lock() {
            problems.clone_from(&found);
        }
        Reloaded::Refused(found)
    }
}

/// All policy files of a directory, sorted by path.
///
/// # Errors
/// The file or directory that can't be read, as a problem of its own.
pub fn read_files(directory: &Path) -> Result<Vec<SourceFile>, PolicyProblem> {
    let mut files = Vec::new();
    for (sub, kind) in [("access", SetKind::Access), ("approval", SetKind::Approval)] {
        let folder = directory.join(sub);
        let listing = match std::fs::read_dir(&folder) {
            Ok(listing) => listing,
            // No approval policies is a choice; no access policies means that nothing is allowed.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(unreadable(sub, &e)),
        };
        let mut names: Vec<_> = listing.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
        names.retain(|n| n.ends_with(".cedar") && !n.starts_with('.'));
        names.sort();
        if names.len() > MAX_FILES {
            return Err(problem(sub, format!("more than {MAX_FILES} policy files")));
        }
        for name in names {
            let path = format!("{sub}/{name}");
            let file = folder.join(&name);
            let size = std::fs::metadata(&file).map_err(|e| unreadable(&path, &e))?.len();
            if size > MAX_FILE_BYTES {
                return Err(problem(&path, format!("larger than {MAX_FILE_BYTES} bytes")));
            }
            let text = std::fs::read_to_string(&file).map_err(|e| unreadable(&path, &e))?;
            files.push(SourceFile { path, text, kind });
        }
    }
    Ok(files)
}

fn unreadable(path: &str, error: &std::io::Error) -> PolicyProblem {
    problem(path, format!("can't be read: {error}"))
}

fn problem(path: &str, message: String) -> PolicyProblem {
    PolicyProblem {
        file: path.to_owned(),
        line: 0,
        column: 0,
        message,
        help: None,
        severity: Severity::Error,
        excerpt: None,
    }
}

fn identity(files: &[SourceFile], tools: &[ToolDescription]) -> [u8; 32] {
    use countersign_proof::digest::Digest;
    let mut text = String::new();
    for file in files {
        text.push_str(&format!("{}:{}:{}", file.path.len(), file.path, file.text.len()));
        text.push_str(&file.text);
    }
    for tool in tools {
        text.push_str(&format!("|{}|{}|{}", tool.tool, tool.effect.as_str(), tool.input_schema));
    }
    Digest::of(text.as_bytes()).0
}
