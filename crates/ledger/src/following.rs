//! Following the other nodes of a shared log: taking over what they wrote, and refusing a database that is not the newest.
//!
//! A node signs only what extends everything that it knows to be signed. Where the database goes on from there, the node
//! goes on with it; where the database is behind or beside it, an old database stands in the place of the newer one, and the
//! node contests it for all.

use std::sync::Arc;

use countersign_domain::WorkspaceName;
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::note::NoteSigner;

use crate::contract::{CommitError, Group, Head, News, Reader, StoreError, Tail};
use crate::leaf::LogEntry;
use crate::tree::Snapshot;

/// Why what the database has is not taken over.
enum Refused {
    /// It does not have what was signed.
    Behind(String),
    /// It cannot be said.
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What others wrote.
pub(crate) struct Adopted {
    /// The snapshot to go on from.
    pub(crate) snapshot: Snapshot,
    /// The tails of the workspaces that they wrote to, in the order of writing; `None` if they are not at hand.
    pub(crate) tails: Option<Vec<(WorkspaceName, Tail)>>,
}

/// A group on the newest state, with what others wrote since `current`. Whether the database is
/// known to be the newest is part of it: nothing may be written in the group otherwise.
pub(crate) fn newest<'g>(
    mut group: Box<dyn Group + 'g>,
    current: &Snapshot,
    reader: &dyn Reader,
    signer: &NoteSigner,
) -> Result<(Box<dyn Group + 'g>, Option<Adopted>), StoreError> {
    let head = group.head()?;
    let adopted = if head.as_ref() == Some(&*current.head) {
        None
    } else {
        match adopt(current, head, &mut *group, reader, signer) {
            Ok(adopted) => Some(adopted),
            Err(Refused::Store(error)) => return Err(error),
            Err(Refused::Behind(why)) => return Err(contest(group, &current.head, &why)),
        }
    };
    match group.vouch() {
        Ok(()) => Ok((group, adopted)),
        Err(unsettled @ StoreError::Unsettled(_)) => {
            // The word for the database counts, though others have not given theirs.
            group.commit().map_err(CommitError::cause)?;
            Err(unsettled)
        }
        Err(error) => Err(error),
    }
}

/// Tells all nodes that the database does not have this head, and returns the error for this one.
pub(crate) fn contest(mut group: Box<dyn Group + '_>, known: &Head, why: &str) -> StoreError {
    let words =
        format!("{why}; {} is known at {} leaves, and its checkpoint is {}", known.origin, known.size, line(known));
    if let Err(error) = group.contest(&words).and_then(|()| group.commit().map_err(CommitError::cause)) {
        tracing::warn!(%error, "the other nodes were not told that the database is behind");
    }
    StoreError::Stale(words)
}

/// The root as the checkpoint's third line shows it.
fn line(head: &Head) -> &str {
    head.checkpoint.lines().nth(2).unwrap_or_default()
}

/// Takes over what other processes wrote: their leaves are appended to our own tree, which so can only grow.
fn adopt(
    current: &Snapshot,
    head: Option<Head>,
    group: &mut dyn Group,
    reader: &dyn Reader,
    signer: &NoteSigner,
) -> Result<Adopted, Refused> {
    let behind = |why: &str| Err(Refused::Behind(why.to_owned()));
    let ours = &current.head;
    let Some(head) = head else { return behind("it has no log") };
    if head.shard > ours.shard {
        let words = format!("another log, {}, was opened; restart this node", head.origin);
        return Err(Refused::Store(StoreError::Database(words)));
    }
    if head.shard < ours.shard || head.origin != ours.origin {
        return behind("it has another log");
    }
    if head.size < ours.size {
        return behind(&format!("it has {} leaves", head.size));
    }
    match Checkpoint::open(&head.checkpoint, &signer.verifier_key()) {
        Ok(signed) if signed.size == head.size && signed.root == head.root => {}
        Ok(_) | Err(_) => return behind("its head is not signed by the log's key"),
    }
    let mut tree = (*current.tree).clone();
    let mut full = Vec::new();
    let mut tails = None;
    if let Some(news) = group.news(head.shard, tree.size(), head.size)? {
        let moved = tails.insert(Vec::with_capacity(news.len()));
        for news in news {
            let leaf = match news {
                News::Event(workspace, tail) => {
                    moved.push((workspace, tail));
                    LogEntry::Event(tail.commitment)
                }
                News::Public(body) => LogEntry::Public(body),
            };
            tree.append(leaf.leaf_hash(), &mut full);
        }
        full.clear();
    }
    while tree.size() < head.size {
        let page = reader.entries(head.shard, tree.size(), head.size)?;
        if page.is_empty() {
            return Err(StoreError::Corrupt(format!("leaf {} of shard {} is missing", tree.size(), head.shard)).into());
        }
        page.iter().for_each(|leaf| tree.append(leaf.leaf_hash(), &mut full));
        full.clear();
    }
    if tree.root() != head.root || tree.frontier().hashes() != head.frontier {
        return behind("its tree does not go on from the one that was signed");
    }
    Ok(Adopted { snapshot: Snapshot { head: Arc::new(head), tree: Arc::new(tree) }, tails })
}
