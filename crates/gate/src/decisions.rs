//! What calls were decided upon: kept beside their events for a while, sealed, so that a decision can be explained and made
//! again by another policy set.
//!
//! Only what the event does not say is kept: roles, scopes, claims, the time, the arguments. It is written in the event's own
//! transaction, and goes with the event's erasure or when it has had its time. An event's salted digest confirms the
//! arguments, so that nobody can put others in their place.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use countersign_domain::{Millis, Refusal};
use countersign_ledger::Append;
use countersign_ledger::state::{DecisionRow, StateOp, first_id_at};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::gate::{AppendFailure, Gate};
use crate::keyring::{KeyError, WorkspaceKeys};
use crate::record::Facts;

/// Longer arguments are not kept: a month of them would fill the disk.
const MAX_INPUT_BYTES: usize = 16 * 1024;
/// Decisions forgotten in one transaction, and how many such transactions make one round of housekeeping (5 s).
const FORGOTTEN_AT_ONCE: u32 = 500;
const ROUNDS: u32 = 40;

/// A decision's facts beside its event.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptFacts<'a> {
    /// The moment that policies saw as now.
    pub at: Millis,
    #[serde(default, skip_serializing_if = "no_names")]
    pub roles: Cow<'a, BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "no_names")]
    pub scopes: Cow<'a, BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "no_claims")]
    pub attributes: Cow<'a, BTreeMap<String, String>>,
    /// The arguments in RFC 8785 form; absent if they were too long to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Cow<'a, RawValue>>,
}

// serde hands over a reference to the field, whatever it is.
#[allow(clippy::ptr_arg)]
fn no_names(names: &Cow<'_, BTreeSet<String>>) -> bool {
    names.is_empty()
}

#[allow(clippy::ptr_arg)]
fn no_claims(claims: &Cow<'_, BTreeMap<String, String>>) -> bool {
    claims.is_empty()
}

fn purpose(call: Uuid) -> Vec<u8> {
    [b"decision|".as_slice(), call.as_bytes()].concat()
}

/// Opens a kept row: the event that it belongs to, and the facts as JSON.
pub(crate) fn open(row: &DecisionRow, keys: &WorkspaceKeys) -> Result<(Uuid, Vec<u8>), KeyError> {
    let mut plain = keys.open(&purpose(row.call), &row.sealed)?;
    let event = plain.get(..16).and_then(|id| Uuid::from_slice(id).ok()).ok_or(KeyError::DoesNotOpen)?;
    Ok((event, plain.split_off(16)))
}

fn seal(facts: &Facts, event: Uuid, keys: &WorkspaceKeys) -> Option<DecisionRow> {
    let decided = facts.decided.as_ref()?;
    let input = facts.canonical_input.as_deref().filter(|input| input.len() <= MAX_INPUT_BYTES);
    let input = input.and_then(|input| serde_json::from_slice::<&RawValue>(input).ok());
    let kept = KeptFacts {
        at: decided.at,
        roles: Cow::Borrowed(&decided.principal.roles),
        scopes: Cow::Borrowed(&decided.principal.scopes),
        attributes: Cow::Borrowed(&decided.principal.attributes),
        input: input.map(Cow::Borrowed),
    };
    let mut plain = event.as_bytes().to_vec();
    serde_json::to_writer(&mut plain, &kept).ok()?;
    let sealed = keys.seal(&purpose(facts.call), &plain).ok()?;
    Some(DecisionRow { call: facts.call, sealed })
}

impl Gate {
    /// Whether decisions are kept at all.
    pub(crate) fn keeps_decisions(&self) -> bool {
        !self.settings.decisions_kept.is_zero()
    }

    /// Calls made before this moment are forgotten, or about to be.
    pub(crate) fn decisions_since(&self) -> Millis {
        let kept = u64::try_from(self.settings.decisions_kept.as_millis()).unwrap_or(u64::MAX);
        self.now().saturating_sub(kept)
    }

    /// What keeps a call's decision with the event that states it, if it is to be kept. That it can't be is no reason to
    /// refuse the call.
    pub(crate) fn keep_decision(facts: &Facts, event: Uuid, keys: &WorkspaceKeys) -> Option<StateOp> {
        facts.decided.as_ref()?;
        match seal(facts, event, keys) {
            Some(row) => Some(StateOp::KeepDecision { row }),
            None => {
                tracing::error!(call = %facts.call, "a decision could not be sealed, so it is not kept");
                None
            }
        }
    }

    /// The same for a refusal, which is recorded whether the workspace's key can be had or not.
    pub(crate) async fn kept_with_refusal(&self, facts: &Facts, event: Uuid) -> Vec<StateOp> {
        if facts.decided.is_none() {
            return Vec::new();
        }
        match self.keys(&facts.workspace).await {
            Ok(keys) => Self::keep_decision(facts, event, &keys).into_iter().collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Forgets decisions that have had their time, in small steps, so that no call waits long for one.
    ///
    /// # Errors
    /// If the ledger is away.
    pub async fn forget_decisions(&self) -> Result<(), Refusal> {
        let before = self.decisions_since();
        for _ in 0..ROUNDS {
            let oldest = self.read(|r| r.oldest_decision()).await?;
            if oldest.is_none_or(|call| call >= first_id_at(before)) {
                return Ok(());
            }
            let op = StateOp::ForgetDecisions { before, limit: FORGOTTEN_AT_ONCE };
            self.append(Append { events: vec![], ops: vec![op], ..Append::default() })
                .await
                .map_err(AppendFailure::unexpected)?;
        }
        Ok(())
    }
}
