//! An upstream that wants more scopes than a person consented to (MCP, Authorization, Step-Up Authorization Flow).
//!
//! What it wants is remembered beside the account, so that whoever connects next, on whichever node, is asked for all of it at once.
//! What was asked for already is not asked for again, whatever the upstream says: each round asks for something new, and the number
//! of scopes is bounded, so that no upstream keeps people going.

use countersign_domain::{Principal, Refusal};
use countersign_ledger::Append;
use countersign_ledger::connections::{ConnectionKey, ConnectionRow};
use countersign_ledger::state::StateOp;

use super::finder::{OFFLINE, Server};
use super::metadata::MAX_SCOPES;
use super::{Account, Connections, account};

impl Account {
    /// What this account's person is asked for when it is connected anew.
    pub(super) fn asked_anew(&self, server: &Server) -> Vec<String> {
        let mut all = server.scopes.clone();
        if self.issuer.as_ref() == Some(&server.metadata.issuer) {
            // A scope that the server does not know any more would spoil the request.
            let known = |scope: &&String| *scope != OFFLINE || server.metadata.offline;
            for scope in self.asked.iter().chain(&self.wanted).filter(known) {
                if all.len() < MAX_SCOPES && !all.contains(scope) {
                    all.push(scope.clone());
                }
            }
        }
        all
    }

    /// What of this was never asked for.
    fn unasked(&self, scopes: &[String]) -> Vec<String> {
        let known = |scope: &&String| self.asked.contains(scope) || self.scopes.contains(scope);
        let new: Vec<String> = scopes.iter().filter(|scope| !known(scope)).cloned().collect();
        if self.asked.len() + new.len() > MAX_SCOPES { Vec::new() } else { new }
    }
}

impl Connections {
    /// Notes what the upstream wants of this account, and says so, if its person was not asked for it yet.
    pub(super) async fn step_up(&self, key: &ConnectionKey, caller: &Principal, scopes: &[String]) -> Option<Refusal> {
        let row = self.row(key).await.ok()??;
        let mut account = account(&row).ok()?;
        let new = account.unasked(scopes);
        if new.is_empty() {
            tracing::warn!(upstream = %key.upstream, ?scopes, "the upstream refuses what a person granted already");
            return None;
        }
        let before = account.wanted.len();
        for scope in &new {
            // What other operations wanted counts, too.
            if account.asked.len() + account.wanted.len() < MAX_SCOPES && !account.wanted.contains(scope) {
                account.wanted.push(scope.clone());
            }
        }
        if account.wanted.len() > before
            && let Err(refusal) = self.put_account(&row, &account).await
        {
            return Some(refusal);
        }
        let why = format!("for this the upstream wants more than the person consented to: {}", new.join(" "));
        Some(self.needed(&key.upstream, caller, &why).with("scopes", new))
    }

    /// The same tokens with something else known of them. If they were changed meanwhile, they are left as they are.
    async fn put_account(&self, row: &ConnectionRow, account: &Account) -> Result<(), Refusal> {
        let body = serde_json::to_string(account).map_err(|_| super::internal("it could not be written"))?;
        let new = ConnectionRow { version: crate::entropy::<32>(), body, at: self.now(), ..row.clone() };
        let put = StateOp::ConnectionPut { row: Box::new(new), from: Some(row.version) };
        match self.ledger.append(Append { events: vec![], ops: vec![put], ..Append::default() }).await {
            Ok(_) | Err(countersign_ledger::AppendError::Conflict(_)) => Ok(()),
            Err(error) => {
                tracing::error!(%error, "what an upstream wants could not be stored");
                Err(crate::gate::ledger_away())
            }
        }
    }
}
