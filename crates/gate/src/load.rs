//! How many calls are under way at a time, on this node and for each workspace: beyond it, calls are refused rather than
//! queued without bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_domain::{Refusal, RefusalKind, WorkspaceName};

/// The most calls under way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadRule {
    /// On this node.
    pub node: usize,
    /// Of one workspace, on this node.
    pub per_workspace: usize,
}

/// Calls under way.
#[derive(Debug)]
pub(crate) struct Load {
    rule: LoadRule,
    now: Mutex<Under>,
}

#[derive(Debug, Default)]
struct Under {
    total: usize,
    workspaces: HashMap<WorkspaceName, usize>,
}

/// A call's place; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    load: Arc<Load>,
    workspace: WorkspaceName,
}

impl Load {
    pub fn new(rule: LoadRule) -> Arc<Self> {
        Arc::new(Self { rule, now: Mutex::default() })
    }

    /// A place for a call.
    ///
    /// # Errors
    /// [`RefusalKind::Overloaded`].
    pub fn enter(self: &Arc<Self>, workspace: &WorkspaceName) -> Result<Place, Refusal> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let own = now.workspaces.get(workspace).copied().unwrap_or(0);
        if now.total >= self.rule.node {
            return Err(refusal("node", self.rule.node));
        }
        if own >= self.rule.per_workspace {
            return Err(refusal("workspace", self.rule.per_workspace));
        }
        now.total += 1;
        match now.workspaces.get_mut(workspace) {
            Some(count) => *count += 1,
            None => drop(now.workspaces.insert(workspace.clone(), 1)),
        }
        Ok(Place { load: Arc::clone(self), workspace: workspace.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut now = self.load.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.total = now.total.saturating_sub(1);
        if let Some(count) = now.workspaces.get_mut(&self.workspace) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                now.workspaces.remove(&self.workspace);
            }
        }
    }
}

fn refusal(whose: &str, most: usize) -> Refusal {
    let detail =
        format!("{most} calls are under way, which is as many as this {whose} takes at a time; try again shortly");
    let mut refusal = Refusal::new(RefusalKind::Overloaded, detail).with("limit", whose);
    refusal.retry_after = Some(1);
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let load = Load::new(LoadRule { node: 3, per_workspace: 2 });
        let (a, b): (WorkspaceName, WorkspaceName) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
        let first = load.enter(&a).expect("free");
        let _second = load.enter(&a).expect("free");
        assert_eq!(load.enter(&a).expect_err("two of a workspace").extra["limit"], "workspace");
        let _third = load.enter(&b).expect("free");
        assert_eq!(load.enter(&b).expect_err("three of the node").extra["limit"], "node");
        drop(first);
        let _again = load.enter(&a).expect("free again");
    }
}
