//! Policies are read again when their files change, or on SIGHUP.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_gate::Gate;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// Polled rather than watched: it also works on network file systems and through symbolic links (as in a Kubernetes
/// ConfigMap), and costs a few `stat` calls.
const POLL: Duration = Duration::from_secs(1);

/// Watches the directory and the signal.
pub(super) fn policies(gate: Arc<Gate>, directory: PathBuf) -> [JoinHandle<()>; 2] {
    let on_change = tokio::spawn(on_change(Arc::clone(&gate), directory));
    let on_signal = tokio::spawn(async move {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => return tracing::warn!(%error, "SIGHUP will not reload the policies"),
        };
        while hangup.recv().await.is_some() {
            gate.reload_policies().await;
        }
    });
    [on_change, on_signal]
}

async fn on_change(gate: Arc<Gate>, directory: PathBuf) {
    let look = |directory: PathBuf| async move {
        tokio::task::spawn_blocking(move || fingerprint(&directory)).await.unwrap_or_default()
    };
    let mut known = look(directory.clone()).await;
    // A change between the gate's first reading and this first look must not be missed.
    gate.reload_policies().await;
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = look(directory.clone()).await;
        if now != known {
            known = now;
            gate.reload_policies().await;
        }
    }
}

/// Names, sizes and times of the policy files. What it misses, SIGHUP catches.
fn fingerprint(directory: &Path) -> u64 {
    let mut files = Vec::new();
    for part in ["access", "approval"] {
        let entries = std::fs::read_dir(directory.join(part)).into_iter().flatten().flatten().take(10_000);
        for entry in entries {
            let facts = std::fs::metadata(entry.path()).ok().map(|facts| (facts.len(), facts.modified().ok()));
            files.push((part, entry.file_name(), facts));
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_added_or_removed_file_shows() {
        let dir = tempfile::tempdir().expect("a directory");
        let access = dir.path().join("access");
        std::fs::create_dir(&access).expect("made");
        let empty = fingerprint(dir.path());
        std::fs::write(access.join("a.cedar"), "permit(principal, action, resource);").expect("written");
        let one = fingerprint(dir.path());
        std::fs::write(access.join("a.cedar"), "forbid(principal, action, resource) ;").expect("written");
        let changed = fingerprint(dir.path());
        std::fs::remove_file(access.join("a.cedar")).expect("removed");
        assert!(empty != one && one != changed && fingerprint(dir.path()) == empty);
    }
}
