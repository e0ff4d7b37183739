//! From a person's wish to a connection, and back: start, the provider's answer, the person's word, disconnecting.
//!
//! What is true if the process dies: a `state` that came back is used up before its code is sent anywhere; tokens are stored,
//! sealed, before anyone hears of them; connection and event are one append.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_domain::operation::CONNECT;
use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{
    EventDraft, EventType, Millis, Principal, PrincipalKind, Refusal, RefusalKind, ToolRef, UpstreamName, WorkspaceName,
};
use countersign_ledger::Append;
use countersign_ledger::connections::{ConnectionKey, ConnectionRow, ConnectionStage};
use countersign_ledger::state::{Conflict, Fingerprint, StateOp};
use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::client::Newcomer;
use super::finder::OFFLINE;
use super::{Account, Connections, Known, Provider, Tokens, Way, account, connected};
use crate::broker::Secret;
use crate::broker::oauth::TokenError;
use crate::gate::{AppendFailure, Gate};
use crate::record::{self, Facts};
use crate::stages::{self, Resolved};

/// How long a person has at the provider, and then to say that it was them; each.
const PATIENCE: Millis = 10 * 60_000;
/// How long the provider has to turn a code into tokens, or to withdraw them.
const EXCHANGE: Duration = Duration::from_secs(15);
/// Longest `state`, `code` and `iss` that are looked at.
const MAX_PARAMETER: usize = 4_096;
/// Letters that nobody takes for one another; 32 of them, so that a letter is 5 random bits.
const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// Letters of a code: 60 bits, good for ten minutes, one person and one upstream.
const CODE: usize = 12;

/// Where a person goes to consent.
#[derive(Debug, Clone, Serialize)]
pub struct Started {
    /// The upstream.
    pub upstream: UpstreamName,
    /// The provider's page, to be opened in the person's own browser.
    pub authorization_url: String,
    /// The authorization server's issuer, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// What the person is asked for.
    pub scopes: Vec<String>,
    /// Until when, ms since the epoch.
    pub expires: Millis,
}

/// What a browser brought back (RFC 6749, 4.1.2; RFC 9207).
#[derive(Debug, Clone, Default)]
pub struct Returned {
    /// `state`.
    pub state: Option<String>,
    /// `code`.
    pub code: Option<Secret>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `error`.
    pub error: Option<String>,
}

/// Consent was given; the person has yet to say that it was them.
#[derive(Debug)]
pub struct Consent {
    /// The upstream.
    pub upstream: UpstreamName,
    /// Whose account it is going to be here, as people read it.
    pub person: String,
    /// The authorization server's issuer, where it is known.
    pub issuer: Option<String>,
    /// What the person has to repeat.
    pub code: Secret,
}

/// Why a browser's return connects nothing. The words are for the page that it sees.
#[derive(Debug, thiserror::Error)]
pub enum ReturnError {
    /// No such state, or one that was used or is too old.
    #[error("this link was used before, is too old, or is not one of this node")]
    NotOurs,
    /// The answer came from somebody else than the authorization server.
    #[error("the answer does not come from the provider that was asked")]
    Issuer,
    /// The provider, or the person there, said no.
    #[error("the provider says no ({0})")]
    Declined(String),
    /// The code was good for nothing.
    #[error("{0}")]
    Exchange(#[from] TokenError),
    /// The node can't.
    #[error("{}", .0.detail)]
    Refused(#[from] Refusal),
}

/// A connection, as its person sees it.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionView {
    /// The upstream.
    pub upstream: UpstreamName,
    /// `none`, `started`, `consented`, `connected`, or `broken`.
    pub state: &'static str,
    /// What the provider granted; what would be asked for, where nothing is connected.
    pub scopes: Vec<String>,
    /// The authorization server's issuer, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<Millis>,
    /// When it was last renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewed: Option<Millis>,
    /// When the access token ends. It is renewed by itself if `renewable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
    /// Whether it goes on without the person after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewable: Option<bool>,
    /// Why it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The event that records it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Uuid>,
}

/// What became of a wish to disconnect.
#[derive(Debug, Clone, Serialize)]
pub struct Disconnected {
    /// The event.
    pub event: Uuid,
    /// Whether the provider withdrew the tokens; nothing if it has no way to.
    pub revoked: Option<bool>,
}

/// What is known of a flow that was started.
#[derive(Serialize, Deserialize)]
struct Intent {
    principal: PrincipalRecord,
    /// The issuer whose answer is waited for, and whether it has to name itself (RFC 9207).
    #[serde(default)]
    issuer: Option<String>,
    #[serde(default)]
    names_itself: bool,
    /// Which client it was begun with.
    #[serde(default)]
    client_id: Option<String>,
    /// What the person is asked for.
    #[serde(default)]
    asked: Option<Vec<String>>,
}

impl Intent {
    /// Whether an answer comes from the server that was asked. Names are compared to the letter (MCP, Authorization Response
    /// Validation).
    fn is_answered_by(&self, given: Option<&str>) -> bool {
        match (self.issuer.as_deref(), given) {
            (Some(issuer), Some(given)) => issuer == given,
            (Some(_), None) => !self.names_itself,
            (None, _) => true,
        }
    }
}

/// What a person is about to connect.
struct Plan {
    host: String,
    scopes: Vec<String>,
}

/// On which way a person is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leg {
    Out,
    Back,
}

impl Gate {
    fn hub(&self) -> Result<&Arc<Connections>, Refusal> {
        self.settings.connections.as_ref().ok_or_else(|| no_account(None))
    }

    /// What the node says of itself as an OAuth client; nothing, if nobody can take its URL for an id.
    pub fn client_document(&self) -> Option<serde_json::Value> {
        self.settings.connections.as_ref()?.document()
    }

    /// Sends a person to the provider. What was started before, and not finished, is forgotten.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is a person, signed in as itself; [`RefusalKind::NotFound`]; what the
    /// policies say of `UPSTREAM:account/connect`.
    pub async fn connect(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        upstream: &UpstreamName,
        correlation: &str,
    ) -> Result<Started, Refusal> {
        let (provider, plan, facts) = self.may_connect(principal, upstream, correlation, Leg::Out).await?;
        let hub = self.hub()?;
        let known = match hub.known(&provider, &principal.workspace, None, Newcomer::Registers).await {
            Ok(known) => known,
            Err(refusal) => return Err(self.refuse(&facts, refusal, None).await),
        };
        let state = Zeroizing::new(URL_SAFE_NO_PAD.encode(crate::entropy::<32>()));
        let verifier = Zeroizing::new(URL_SAFE_NO_PAD.encode(crate::entropy::<32>()));
        let key = ConnectionKey { stage: ConnectionStage::Started, ..key_of(principal, upstream)? };
        let expires = hub.now().saturating_add(PATIENCE);
        let settings = known.client.settings();
        let intent = Intent {
            principal: principal.record(),
            issuer: settings.issuer.clone(),
            names_itself: known.names_itself,
            client_id: Some(settings.client_id.clone()),
            asked: Some(plan.scopes.clone()),
        };
        let row = hub.sealed(key, state_version(&state), &intent, verifier.as_bytes(), Some(expires)).await?;
        let op = StateOp::ConnectionPut { row: Box::new(row), from: None };
        self.append(Append { events: vec![], ops: vec![op], ..Append::default() })
            .await
            .map_err(AppendFailure::unexpected)?;
        let prompt = matches!(provider.way, Way::Found(_));
        let authorization_url = authorization_url(&known, &plan.scopes, prompt, &hub.redirect(), &state, &verifier)?;
        let issuer = settings.issuer.clone();
        Ok(Started { upstream: upstream.clone(), authorization_url, issuer, scopes: plan.scopes, expires })
    }

    /// Takes what a browser brought back from the provider. The state is used up before anything else happens with it.
    ///
    /// # Errors
    /// [`ReturnError`]; nothing is connected then.
    pub async fn returned(&self, given: Returned) -> Result<Consent, ReturnError> {
        let sensible = |text: &str| !text.is_empty() && text.len() <= MAX_PARAMETER;
        let state = given.state.filter(|state| sensible(state)).ok_or(ReturnError::NotOurs)?;
        let version = state_version(&state);
        let found = self.read(move |r| r.connection_of(ConnectionStage::Started, &version)).await?;
        let row = found.ok_or(ReturnError::NotOurs)?;
        let take = StateOp::ConnectionTake { key: row.key.clone(), version };
        match self.append(Append { events: vec![], ops: vec![take], ..Append::default() }).await {
            Ok(_) => {}
            Err(AppendFailure::Conflict(_)) => return Err(ReturnError::NotOurs),
            Err(AppendFailure::Refused(refusal)) => return Err(refusal.into()),
        }
        let hub = self.hub()?;
        let provider = hub.provider(&row.key.upstream).ok_or(ReturnError::NotOurs)?;
        let mut intent: Intent = serde_json::from_str(&row.body).map_err(|_| ReturnError::NotOurs)?;
        if let Way::Stated(known) = &provider.way {
            // The manifest's word counts, whatever it was when this began.
            (intent.issuer, intent.names_itself) = (known.issuer().map(str::to_owned), known.names_itself);
        }
        // Before anything else of the answer is looked at, an error included.
        if !intent.is_answered_by(given.issuer.as_deref()) {
            return Err(ReturnError::Issuer);
        }
        if let Some(error) = given.error {
            let known = error.len() <= 40 && error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            return Err(ReturnError::Declined(if known { error } else { "no code".to_owned() }));
        }
        let code = given.code.filter(|code| sensible(code.expose())).ok_or(ReturnError::NotOurs)?;
        let known = hub.known(&provider, &row.key.workspace, intent.issuer.as_deref(), Newcomer::Stays).await?;
        if matches!(provider.way, Way::Found(_))
            && intent.client_id.as_ref() != Some(&known.client.settings().client_id)
        {
            return Err(ReturnError::NotOurs);
        }
        let consent = self.exchange(hub, &known, intent, &row, &code).await;
        if let Err(ReturnError::Exchange(TokenError::Refused { code, .. })) = &consent
            && code == "invalid_client"
        {
            hub.unregister(&provider, &row.key.workspace, &known).await;
        }
        consent
    }

    /// Turns a code into tokens, and puts them aside.
    async fn exchange(
        &self,
        hub: &Arc<Connections>,
        known: &Known,
        intent: Intent,
        row: &ConnectionRow,
        code: &Secret,
    ) -> Result<Consent, ReturnError> {
        let verifier = hub.opened(row).await?;
        let verifier = std::str::from_utf8(&verifier).map_err(|_| ReturnError::NotOurs)?;
        let redirect = hub.redirect();
        let parameters = [
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", redirect.as_str()),
            ("code_verifier", verifier),
        ];
        let token = known.client.ask(&parameters, Instant::now() + EXCHANGE).await.inspect_err(|error| {
            tracing::warn!(upstream = %row.key.upstream, %error, "a code could not be exchanged");
        })?;
        let principal = intent.principal;
        let person = principal.id.clone();
        let asked = intent.asked.unwrap_or_else(|| known.client.settings().scopes.clone());
        let account = Account::of(principal, asked, known, &token, hub.now());
        let tokens = Tokens { access: token.access, refresh: token.refresh };
        let word = new_code();
        let keys = hub.keys(&row.key.workspace).await?;
        let version = code_version(&keys, &row.key.upstream, &row.key.person, &word);
        let key = ConnectionKey { stage: ConnectionStage::Consented, ..row.key.clone() };
        let expires = Some(hub.now().saturating_add(PATIENCE));
        let consented = hub.sealed(key, version, &account, &tokens.bytes(), expires).await?;
        let op = StateOp::ConnectionPut { row: Box::new(consented), from: None };
        self.append(Append { events: vec![], ops: vec![op], ..Append::default() })
            .await
            .map_err(AppendFailure::unexpected)?;
        Ok(Consent { upstream: row.key.upstream.clone(), person, issuer: account.issuer, code: word })
    }

    /// Takes the word of the person that it was them who consented, and connects.
    ///
    /// # Errors
    /// As for [`Gate::connect`]; [`RefusalKind::NotFound`] if the code is not the one that the browser was shown.
    pub async fn confirm_connection(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        upstream: &UpstreamName,
        code: &Secret,
        correlation: &str,
    ) -> Result<ConnectionView, Refusal> {
        let (_, _, facts) = self.may_connect(principal, upstream, correlation, Leg::Back).await?;
        let hub = self.hub()?;
        let key = ConnectionKey { stage: ConnectionStage::Consented, ..key_of(principal, upstream)? };
        let keys = hub.keys(&key.workspace).await?;
        let version = code_version(&keys, upstream, &key.person, code);
        let found = hub.row(&key).await?.filter(|row| row.version == version);
        let Some(row) = found else { return Err(self.refuse(&facts, wrong_code(), None).await) };
        let tokens = hub.opened(&row).await?;
        let account = account(&row)?;
        let mut made = json!({"upstream": upstream, "scopes": account.scopes, "renewable": account.renewable});
        if let Some(issuer) = &account.issuer {
            made["issuer"] = issuer.as_str().into();
        }
        let draft = facts.draft(EventType::ConnectionMade, self.now(), None).with("connection", made);
        let event = draft.id;
        let entry = facts.entry(draft, None)?;
        let own = connected(&key.workspace, upstream, key.person.clone());
        let mut made = hub.sealed(own, crate::entropy::<32>(), &account, &tokens, None).await?;
        made.event = Some(event);
        let view = connection_view(upstream, &made)?;
        let take = StateOp::ConnectionTake { key, version };
        let put = StateOp::ConnectionPut { row: Box::new(made), from: None };
        match self.append(Append { events: vec![entry], ops: vec![take, put], ..Append::default() }).await {
            Ok(_) => Ok(view),
            Err(AppendFailure::Conflict(_)) => Err(self.refuse(&facts, wrong_code(), None).await),
            Err(AppendFailure::Refused(refusal)) => Err(refusal),
        }
    }

    /// Forgets a connection, whatever its stage, and has the provider withdraw its tokens if it can. That it could not does not
    /// bring the connection back.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is a person, signed in as itself; [`RefusalKind::NotFound`].
    pub async fn disconnect(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        upstream: &UpstreamName,
    ) -> Result<Disconnected, Refusal> {
        require_person(principal)?;
        let own = key_of(principal, upstream)?;
        let draft = || {
            EventDraft::new(record::event_id(), own.workspace.clone(), EventType::ConnectionRemoved, self.now())
                .by(principal)
                .with("connection", json!({"upstream": upstream}))
        };
        let none = || Refusal::new(RefusalKind::NotFound, format!("you have no connection to {upstream}"));
        self.forget(&own, draft, principal).await?.ok_or_else(none)
    }

    /// Takes away what is stored of a person's account, of all stages, with an event that says so; nothing if there is nothing.
    /// The provider is told once the event is durable.
    pub(super) async fn forget(
        &self,
        own: &ConnectionKey,
        draft: impl Fn() -> EventDraft,
        by: &Principal,
    ) -> Result<Option<Disconnected>, Refusal> {
        let hub = self.hub()?;
        let mut unfinished = 0;
        for stage in [ConnectionStage::Started, ConnectionStage::Consented] {
            let key = ConnectionKey { stage, ..own.clone() };
            if let Some(row) = hub.row(&key).await? {
                let take = StateOp::ConnectionTake { key, version: row.version };
                let taken = self.append(Append { events: vec![], ops: vec![take], ..Append::default() }).await;
                unfinished += usize::from(taken.is_ok());
            }
        }
        // A renewal may come between reading and taking.
        for _ in 0..3 {
            let row = hub.row(own).await?;
            if row.is_none() && unfinished == 0 {
                break;
            }
            let draft = draft();
            let event = draft.id;
            let entry = record::entry(draft, None, Some(by.id.clone()), None)?;
            let take = row.as_ref().map(|row| StateOp::ConnectionTake { key: own.clone(), version: row.version });
            match self
                .append(Append { events: vec![entry], ops: take.into_iter().collect(), ..Append::default() })
                .await
            {
                Ok(_) => {
                    let revoked = match &row {
                        Some(row) => hub.withdraw(row).await,
                        None => None,
                    };
                    return Ok(Some(Disconnected { event, revoked }));
                }
                Err(AppendFailure::Conflict(Conflict::NotFound)) => continue,
                Err(failure) => return Err(failure.unexpected()),
            }
        }
        Ok(None)
    }

    /// The caller's connections, one for each upstream that takes them; an agent sees those of the person behind it.
    ///
    /// # Errors
    /// If the ledger can't be read.
    pub async fn connections(&self, principal: &Principal) -> Result<Vec<ConnectionView>, Refusal> {
        let (Some(hub), Some(person)) = (&self.settings.connections, principal.person_key()) else {
            return Ok(Vec::new());
        };
        let workspace = principal.workspace.clone();
        let rows = self.read(move |r| r.connections(&workspace, &person)).await?;
        let now = self.now();
        let view = |provider: &Arc<Provider>| {
            let upstream = &provider.manifest.upstream;
            match furthest(rows.iter().filter(|row| row.key.upstream == *upstream), now) {
                Some(row) => connection_view(upstream, row),
                None => Ok(ConnectionView { scopes: provider.scopes(), ..empty_view(upstream, "none") }),
            }
        };
        hub.visible(&principal.workspace).iter().map(view).collect()
    }

    /// Whether this person may connect an account, by rank, freezes and policies; refusals are events. Nothing is asked of anybody
    /// else before rank and freezes allow it, nor is a client registered before policies do.
    async fn may_connect(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        upstream: &UpstreamName,
        correlation: &str,
        leg: Leg,
    ) -> Result<(Arc<Provider>, Plan, Facts), Refusal> {
        let tool = ToolRef { upstream: upstream.clone(), tool: CONNECT.to_owned() };
        let facts = Facts::new(Uuid::now_v7(), principal, &tool, correlation);
        let _place = self.enter_call(principal, &facts).await?;
        let planned = match self.provider_for(principal, &tool) {
            Ok(provider) => self.plan(&provider, principal, leg).await.map(|plan| (provider, plan)),
            Err(refusal) => Err(refusal),
        };
        let (provider, plan) = match planned {
            Ok(planned) => planned,
            Err(refusal) => return Err(self.refuse_denied(Box::new((facts, refusal)), None).await),
        };
        match self.judge_connecting(principal, tool, facts, &plan).await {
            Ok(facts) => Ok((provider, plan, facts)),
            Err(denied) => Err(self.refuse_denied(denied, None).await),
        }
    }

    fn provider_for(&self, principal: &Principal, tool: &ToolRef) -> Result<Arc<Provider>, Refusal> {
        require_person(principal)?;
        self.peers.require_sight()?;
        let provider = self.hub()?.provider(&tool.upstream);
        let provider = provider.filter(|provider| provider.manifest.visible_to(&principal.workspace));
        let provider = provider.ok_or_else(|| no_account(Some(&tool.upstream)))?;
        self.frozen.load().check(principal, tool)?;
        Ok(provider)
    }

    /// What policies are asked about: where the person is sent and what for; on the way back, where they were sent.
    async fn plan(&self, provider: &Provider, principal: &Principal, leg: Leg) -> Result<Plan, Refusal> {
        let finder = match &provider.way {
            Way::Stated(known) => {
                let settings = known.client.settings();
                let host = settings.authorization_url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
                return Ok(Plan { host: host.to_owned(), scopes: settings.scopes.clone() });
            }
            Way::Found(finder) => finder,
        };
        let own = key_of(principal, &provider.manifest.upstream)?;
        let hub = self.hub()?;
        if leg == Leg::Back {
            let row = hub.row(&ConnectionKey { stage: ConnectionStage::Consented, ..own }).await?;
            let account = row.as_ref().map(account).transpose()?.ok_or_else(wrong_code)?;
            return Ok(Plan { host: account.host.unwrap_or_default(), scopes: account.asked });
        }
        let server = finder.find().await?;
        let before = hub.row(&own).await?.as_ref().map(account).transpose()?;
        let host = server.metadata.authorization.host_str().unwrap_or_default().to_owned();
        let scopes = before.map_or_else(|| server.scopes.clone(), |account| account.asked_anew(&server));
        Ok(Plan { host, scopes })
    }

    async fn judge_connecting(
        &self,
        principal: &Arc<Principal>,
        tool: ToolRef,
        mut facts: Facts,
        plan: &Plan,
    ) -> Result<Facts, stages::Denied> {
        let view = self.registry.peek();
        let known = match view.tool(&tool) {
            Some(known) => Arc::clone(known),
            None => return Err(Box::new((facts, no_account(Some(&tool.upstream))))),
        };
        facts.effect = Some(known.effect);
        facts.pin = known.pin();
        let raw = json!({"scopes": plan.scopes, "host": plan.host}).to_string().into_bytes();
        let resolved = Resolved { principal: Arc::clone(principal), tool: known, raw, facts };
        let validated = stages::validate(resolved, &self.settings.arguments, &view).await?;
        let authorised = stages::authorise(validated, self.policies.current().as_deref(), self.now())?;
        let facts = authorised.validated.resolved.facts;
        // The person's own word is what connecting consists of; others have no part in it.
        if authorised.owed.approvals > 0 {
            let detail = "the policies want others to approve this, and connecting an account can't wait for them; \
                          let `access` decide who may";
            return Err(Box::new((facts, Refusal::new(RefusalKind::ObligationUnmeetable, detail))));
        }
        Ok(facts)
    }
}

impl Connections {
    /// Has the provider withdraw what a row held. `None` if it has no way to, or there was nothing.
    pub(super) async fn withdraw(&self, row: &ConnectionRow) -> Option<bool> {
        let provider = self.provider(&row.key.upstream)?;
        if row.sealed.is_empty() {
            return None;
        }
        let (account, tokens) = (account(row).ok()?, self.tokens(row).await.ok()?);
        self.withdraw_of(&provider, &row.key.workspace, &account, &tokens).await
    }

    /// The refresh token first: most providers end the access tokens with it (RFC 7009, 2.1).
    pub(super) async fn withdraw_of(
        &self,
        provider: &Provider,
        workspace: &WorkspaceName,
        account: &Account,
        tokens: &Tokens,
    ) -> Option<bool> {
        let known = self.known(provider, workspace, account.issuer.as_deref(), Newcomer::Stays).await.ok()?;
        known.client.settings().revocation_url.as_ref()?;
        let deadline = Instant::now() + EXCHANGE;
        let mut done = true;
        if let Some(refresh) = &tokens.refresh {
            done &= known.client.revoke(refresh, "refresh_token", deadline).await;
        }
        Some(done && known.client.revoke(&tokens.access, "access_token", deadline).await)
    }
}

fn require_person(principal: &Principal) -> Result<(), Refusal> {
    if principal.kind == PrincipalKind::Person && principal.on_behalf_of.is_none() {
        return Ok(());
    }
    let detail = "an account is connected and disconnected by its person, signed in as themselves; agents use it";
    Err(Refusal::new(RefusalKind::Forbidden, detail))
}

fn key_of(principal: &Principal, upstream: &UpstreamName) -> Result<ConnectionKey, Refusal> {
    let person = principal.person_key();
    let person = person.ok_or_else(|| Refusal::new(RefusalKind::Forbidden, "only people have accounts"))?;
    Ok(connected(&principal.workspace, upstream, person))
}

fn no_account(upstream: Option<&UpstreamName>) -> Refusal {
    let detail = match upstream {
        Some(upstream) => format!("there is no upstream {upstream} for which you could connect an account"),
        None => "no upstream of this node is used with accounts of people".to_owned(),
    };
    Refusal::new(RefusalKind::NotFound, detail)
}

fn wrong_code() -> Refusal {
    let detail = "this is not the code that your browser was shown, or it is too old; start again to get a new one";
    Refusal::new(RefusalKind::NotFound, detail)
}

/// A digest, so that whoever reads the database cannot come back with a state.
fn state_version(state: &str) -> Fingerprint {
    Digest::of(format!("countersign/oauth-state/v1|{state}").as_bytes()).0
}

fn code_version(
    keys: &crate::keyring::WorkspaceKeys,
    upstream: &UpstreamName,
    person: &str,
    code: &Secret,
) -> Fingerprint {
    let plain = code.expose().chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_uppercase());
    let plain = Zeroizing::new(plain.take(CODE + 1).collect::<String>());
    keys.fingerprint("connection-code", &[upstream.as_str().as_bytes(), person.as_bytes(), plain.as_bytes()])
}

fn new_code() -> Secret {
    let letters: Vec<char> =
        crate::entropy::<CODE>().iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    Secret::new(letters.chunks(4).map(|part| part.iter().collect::<String>()).collect::<Vec<_>>().join("-"))
}

/// RFC 6749, 4.1.1; RFC 7636, 4.3; RFC 8707. What the page's URL has in its query stays.
fn authorization_url(
    known: &Known,
    scopes: &[String],
    prompt: bool,
    redirect: &str,
    state: &str,
    verifier: &str,
) -> Result<String, Refusal> {
    let settings = known.client.settings();
    let url = settings.authorization_url.clone();
    let mut url = url.ok_or_else(|| Refusal::new(RefusalKind::Internal, "the provider has no page for consent"))?;
    let challenge = URL_SAFE_NO_PAD.encode(Digest::of(verifier.as_bytes()).0);
    // OpenID Connect Core 1.0, 11: without it, the server may ignore the scope.
    let prompt = prompt && scopes.iter().any(|scope| scope == OFFLINE);
    let scopes = scopes.join(" ");
    let mut query = url.query_pairs_mut();
    query.append_pair("response_type", "code").append_pair("client_id", &settings.client_id);
    query.append_pair("redirect_uri", redirect).append_pair("state", state);
    query.append_pair("code_challenge", &challenge).append_pair("code_challenge_method", "S256");
    let stated = [("resource", &settings.resource), ("audience", &settings.audience)];
    for (name, value) in stated {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    if !scopes.is_empty() {
        query.append_pair("scope", &scopes);
    }
    if prompt {
        query.append_pair("prompt", "consent");
    }
    drop(query);
    Ok(url.into())
}

/// The row that counts: a connection in use hides what is under way, and what expired is nothing.
pub(super) fn furthest<'a>(rows: impl Iterator<Item = &'a ConnectionRow>, now: Millis) -> Option<&'a ConnectionRow> {
    rows.filter(|row| row.expires.is_none_or(|at| at > now)).max_by_key(|row| row.key.stage)
}

pub(super) fn empty_view(upstream: &UpstreamName, state: &'static str) -> ConnectionView {
    ConnectionView {
        upstream: upstream.clone(),
        state,
        scopes: Vec::new(),
        issuer: None,
        connected: None,
        renewed: None,
        expires: None,
        renewable: None,
        problem: None,
        event: None,
    }
}

pub(super) fn connection_view(upstream: &UpstreamName, row: &ConnectionRow) -> Result<ConnectionView, Refusal> {
    let state = match row.key.stage {
        ConnectionStage::Started => {
            return Ok(ConnectionView { expires: row.expires, ..empty_view(upstream, "started") });
        }
        ConnectionStage::Consented => {
            return Ok(ConnectionView { expires: row.expires, ..empty_view(upstream, "consented") });
        }
        ConnectionStage::Connected => "connected",
    };
    let account = account(row)?;
    Ok(ConnectionView {
        upstream: upstream.clone(),
        state: if account.broken.is_some() { "broken" } else { state },
        scopes: account.scopes,
        issuer: account.issuer,
        connected: Some(account.connected),
        renewed: account.renewed,
        expires: Some(account.ends),
        renewable: Some(account.renewable),
        problem: account.broken,
        event: row.event,
    })
}
