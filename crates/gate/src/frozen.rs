//! What is frozen, as the call path sees it.

use std::collections::HashMap;

use countersign_domain::{Principal, Refusal, RefusalKind, ToolRef};
use countersign_ledger::state::{FreezeRow, FreezeTarget};

/// The freezes in force, for one look-up each.
#[derive(Default)]
pub struct FrozenSet {
    rows: HashMap<FreezeTarget, FreezeRow>,
}

impl FrozenSet {
    /// From the stored rows.
    pub fn new(rows: Vec<FreezeRow>) -> Self {
        Self { rows: rows.into_iter().map(|row| (row.target.clone(), row)).collect() }
    }

    /// The freeze that stops this caller from this tool, if any.
    ///
    /// # Errors
    /// [`RefusalKind::Frozen`], naming what is frozen and why.
    pub fn check(&self, principal: &Principal, tool: &ToolRef) -> Result<(), Refusal> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let hit = targets(principal, tool).into_iter().find_map(|target| self.rows.get(&target));
        hit.map_or(Ok(()), |row| Err(refusal(row)))
    }
}

/// The refusal that a freeze means.
pub fn refusal(row: &FreezeRow) -> Refusal {
    let detail = format!("{} is frozen: {}", describe(&row.target), row.reason);
    Refusal::new(RefusalKind::Frozen, detail).with("frozen_since", row.at)
}

/// A freeze target in words.
pub fn describe(target: &FreezeTarget) -> String {
    match target {
        FreezeTarget::Principal(name) => format!("the principal {name:?}"),
        FreezeTarget::Tool(tool) => format!("the tool {tool}"),
        FreezeTarget::Upstream(name) => format!("the upstream {name}"),
        FreezeTarget::Workspace(name) => format!("the workspace {name}"),
    }
}

/// Everything whose freeze stops this call: the agent, the person behind it, tool, upstream and workspace.
pub fn targets(principal: &Principal, tool: &ToolRef) -> Vec<FreezeTarget> {
    let mut targets = vec![
        FreezeTarget::Tool(tool.clone()),
        FreezeTarget::Upstream(tool.upstream.clone()),
        FreezeTarget::Workspace(principal.workspace.clone()),
    ];
    let plain = std::iter::once(principal.id.clone()).chain(principal.on_behalf_of.clone());
    targets.extend(plain.chain(principal.requester_keys()).map(FreezeTarget::Principal));
    targets
}
