//! What operators do with other people's accounts: see which there are, and drop one whose person has left or can't. They see what
//! the person sees, and nothing of its secrets; no operator connects an account, or uses one.

use countersign_domain::principal::{party_key, party_of};
use countersign_domain::{EventDraft, EventType, Principal, Refusal, RefusalKind, UpstreamName, WorkspaceName};
use countersign_ledger::connections::ConnectionRow;
use serde::Serialize;
use serde_json::json;

use super::connected;
use super::flow::{ConnectionView, Disconnected, connection_view, empty_view};
use crate::gate::Gate;
use crate::members::party;
use crate::record;

/// The most connections of a page.
pub const MAX_PAGE: u32 = 1_000;
/// One person's account at one upstream has at most this many rows: one for each stage.
const STAGES: u32 = 3;
const MAX_REASON: usize = 200;

/// A person, as its issuer names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Person {
    /// Who vouches for it.
    pub issuer: String,
    /// The subject.
    pub id: String,
}

/// Somebody's connection, as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct HeldConnection {
    /// The workspace in which it counts.
    pub workspace: WorkspaceName,
    /// Whose it is.
    pub person: Person,
    /// The rest, as the person sees it.
    #[serde(flatten)]
    pub connection: ConnectionView,
}

/// A page of everybody's connections.
#[derive(Debug)]
pub struct HeldPage {
    /// The connections, by person and upstream.
    pub connections: Vec<HeldConnection>,
    /// Behind which the next page begins, if there is one.
    pub next: Option<(Person, UpstreamName)>,
}

impl Gate {
    /// Everybody's connections in a workspace, from behind a person's at an upstream on.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator, and for the node's own workspace.
    pub async fn held_connections(
        &self,
        principal: &Principal,
        workspace: &WorkspaceName,
        behind: Option<(Person, UpstreamName)>,
        limit: u32,
    ) -> Result<HeldPage, Refusal> {
        self.require_operator(principal)?;
        of_people(workspace)?;
        let limit = limit.clamp(1, MAX_PAGE);
        let behind = behind.map(|(person, upstream)| (party_key(&person.issuer, &person.id), upstream));
        let asked = workspace.clone();
        // So many rows hold one connection more than the page, whatever stages they are of.
        let rows = self.read(move |r| {
            let behind = behind.as_ref().map(|(person, upstream)| (person.as_str(), upstream));
            r.connections_in(&asked, behind, limit * STAGES + 1)
        });
        let rows = rows.await?;
        let now = self.now();
        let mut all = rows.chunk_by(|a, b| (&a.key.person, &a.key.upstream) == (&b.key.person, &b.key.upstream));
        let page: Vec<&[ConnectionRow]> = all.by_ref().take(limit as usize).collect();
        let last = page.last().and_then(|rows| rows.first()).filter(|_| all.next().is_some());
        let next = last.and_then(|row| Some((person_of(&row.key.person)?, row.key.upstream.clone())));
        Ok(HeldPage { connections: page.into_iter().filter_map(|rows| held(rows, now)).collect(), next })
    }

    /// Drops a person's connection, whatever its stage, and has the provider withdraw its tokens if it can. The person may connect
    /// again as far as policies let them.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator, and for the node's own workspace;
    /// [`RefusalKind::MalformedRequest`]; [`RefusalKind::NotFound`].
    pub async fn drop_connection(
        &self,
        principal: &Principal,
        workspace: &WorkspaceName,
        upstream: &UpstreamName,
        person: &Person,
        reason: &str,
    ) -> Result<Disconnected, Refusal> {
        self.require_operator(principal)?;
        of_people(workspace)?;
        party(&person.issuer, &person.id)?;
        let own = connected(workspace, upstream, party_key(&person.issuer, &person.id));
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        let draft = || {
            EventDraft::new(record::event_id(), workspace.clone(), EventType::ConnectionRemoved, self.now())
                .by(principal)
                .with("connection", json!({"upstream": upstream, "person": person}))
                .with("reason_given", reason.as_str())
        };
        self.forget(&own, draft, principal).await?.ok_or_else(|| {
            let detail = "that person has no connection to this upstream in this workspace; \
                          `countersign connections list --all` shows them";
            Refusal::new(RefusalKind::NotFound, detail)
        })
    }
}

fn of_people(workspace: &WorkspaceName) -> Result<(), Refusal> {
    match *workspace == WorkspaceName::node() {
        true => Err(Refusal::new(RefusalKind::Forbidden, "_node is the node's own, and no person acts there")),
        false => Ok(()),
    }
}

fn person_of(key: &str) -> Option<Person> {
    party_of(key).map(|(issuer, id)| Person { issuer: issuer.to_owned(), id: id.to_owned() })
}

/// What these rows of one person at one upstream are together, if they are more than what expired.
fn held(rows: &[ConnectionRow], now: countersign_domain::Millis) -> Option<HeldConnection> {
    let row = super::flow::furthest(rows.iter(), now)?;
    let upstream = &row.key.upstream;
    // One that cannot be read is one to drop, and must not hide the others.
    let connection = connection_view(upstream, row).unwrap_or_else(|refusal| ConnectionView {
        problem: Some(refusal.detail),
        event: row.event,
        ..empty_view(upstream, "broken")
    });
    Some(HeldConnection { workspace: row.key.workspace.clone(), person: person_of(&row.key.person)?, connection })
}
