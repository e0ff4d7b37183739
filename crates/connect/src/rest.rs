//! A REST API as the gate sees it: each permitted call becomes the one request that the manifest describes.
//!
//! What is known of the effect follows from the response (RFC 9110, 15): an expected status is done, a client error is the
//! API's refusal, and after a server's error, an unexpected redirect or a broken connection nobody knows what a write did.

mod request;
mod response;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use countersign_catalog::manifest::Credential;
use countersign_catalog::manifest::rest::{RestRequest, RestTransport};
use countersign_catalog::{Manifest, Transport};
use countersign_domain::{Effect, Principal, Refusal, UpstreamName};
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient, Response};
use countersign_gate::broker::{Credential as Secretful, CredentialSource};
use countersign_gate::permit::Permit;
use countersign_gate::upstream::{
    DiscoverError, Discovered, DispatchError, Exchange, ToolResult, Upstream, UpstreamStatus,
};
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::watch;
use url::Url;

use crate::http::{authenticate, dispatch_error};
use crate::slots::Slots;
use crate::upstream::{ConnectError, needed};
use request::Prepared;

/// How many redirects of a read are followed.
const MAX_REDIRECTS: usize = 3;

/// A REST API behind a manifest.
pub struct RestUpstream {
    name: UpstreamName,
    client: PurposeClient,
    endpoints: HashMap<String, Endpoint>,
    definitions: Vec<Box<RawValue>>,
    credentials: Option<Arc<dyn CredentialSource>>,
    personal: bool,
    slots: Slots,
    changes: watch::Sender<u64>,
    status: Mutex<UpstreamStatus>,
}

/// One tool's request, ready to be filled in.
pub(crate) struct Endpoint {
    request: RestRequest,
    schemas: BTreeMap<String, Value>,
    base: Url,
    headers: HeaderMap,
    effect: Effect,
    result: Option<jsonschema::Validator>,
}

impl RestUpstream {
    /// Sets an upstream up from a manifest of `type: rest`; nothing is connected before it is needed. Environment variables
    /// that the manifest refers to are read now.
    ///
    /// # Errors
    /// [`ConnectError`], if a variable is missing, a schema cannot be used, or the network client cannot be set up.
    pub fn new(
        manifest: &Manifest,
        egress: &Egress,
        credentials: Option<Arc<dyn CredentialSource>>,
    ) -> Result<Arc<Self>, ConnectError> {
        let problem = |problem: String| ConnectError::Manifest { upstream: manifest.upstream.clone(), problem };
        let (Transport::Rest(transport), Some(tools)) = (&manifest.transport, manifest.rest_definitions()) else {
            return Err(problem("it is not a REST API".to_owned()));
        };
        let stated = transport.credential.as_deref();
        let credentials = needed(manifest, stated, credentials)?;
        let client = egress.client_for(Purpose::Upstream, &transport.url);
        let client = client.map_err(|error| ConnectError::Egress { upstream: manifest.upstream.clone(), error })?;
        let shared = shared_headers(transport).map_err(problem)?;
        let mut endpoints = HashMap::new();
        for (name, entry) in &manifest.tools {
            let Some(request) = entry.request.as_deref() else { continue };
            let at = |why: String| problem(format!("{name}: {why}"));
            let endpoint = Endpoint::new(request, transport, &shared, manifest.tool(name).effect).map_err(at)?;
            endpoints.insert(name.clone(), endpoint);
        }
        let raw = tools.iter().map(|tool| RawValue::from_string(tool.to_string()));
        let definitions = raw.collect::<Result<_, _>>().map_err(|e| problem(e.to_string()))?;
        Ok(Arc::new(Self {
            name: manifest.upstream.clone(),
            client,
            endpoints,
            definitions,
            credentials,
            personal: stated.is_some_and(Credential::is_personal),
            slots: Slots::new(manifest),
            changes: watch::Sender::new(0),
            // Its tools are known without asking anyone.
            status: Mutex::new(UpstreamStatus { state: "ready".into(), protocol: Some("rest".into()), error: None }),
        }))
    }

    /// The call with the caller's credential. A read whose credential is refused is tried once more with another one.
    async fn authenticated(
        &self,
        endpoint: &Endpoint,
        prepared: &Prepared,
        caller: &Principal,
        deadline: Instant,
    ) -> Result<ToolResult, DispatchError> {
        let Some(source) = &self.credentials else {
            let response = self.send(endpoint, prepared, None, deadline).await?;
            return endpoint.result(response, deadline, &self.name).await;
        };
        let caller = Some(caller).filter(|_| self.personal);
        let not_sent = |refusal: Refusal| DispatchError::NotSent(refusal.detail);
        let credential = source.get(caller, deadline).await.map_err(not_sent)?;
        let sent = self.send(endpoint, prepared, Some(&credential), deadline).await;
        if sent.as_ref().is_ok_and(|response| response.status() == StatusCode::UNAUTHORIZED) {
            source.reject(caller, &credential);
            if endpoint.effect == Effect::Read {
                let again = source.get(caller, deadline).await.map_err(not_sent)?;
                // The first one may be echoed by what comes now, too.
                let outcome = match self.send(endpoint, prepared, Some(&again), deadline).await {
                    Ok(response) => endpoint.result(response, deadline, &self.name).await,
                    Err(error) => Err(error),
                };
                return again.redactor().outcome(credential.redactor().outcome(outcome));
            }
        }
        let outcome = match sent {
            Ok(response) => endpoint.result(response, deadline, &self.name).await,
            Err(error) => Err(error),
        };
        credential.redactor().outcome(outcome)
    }

    /// Sends the request, and a read on to where it is sent below the same base.
    async fn send(
        &self,
        endpoint: &Endpoint,
        prepared: &Prepared,
        credential: Option<&Secretful>,
        deadline: Instant,
    ) -> Result<Response, DispatchError> {
        let mut at = prepared.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let (mut url, mut headers) = (at.clone(), prepared.headers.clone());
            credential.map_or(Ok(()), |credential| authenticate(credential, &mut headers, &mut url))?;
            let sent = self.client.send(prepared.method.clone(), &url, headers, prepared.body.clone(), deadline).await;
            let response = sent.map_err(dispatch_error)?;
            match endpoint.next_hop(&at, &response) {
                Some(next) => at = next,
                None => return Ok(response),
            }
        }
        Err(DispatchError::Protocol("it redirects in circles".into()))
    }

    fn note(&self, outcome: &Result<ToolResult, DispatchError>) {
        let error = match outcome {
            Ok(_) | Err(DispatchError::Rpc { .. } | DispatchError::Cancelled) => None,
            Err(error) => Some(error.to_string()),
        };
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.state = if error.is_some() { "failed" } else { "ready" }.to_owned();
        status.error = error;
    }
}

impl Endpoint {
    pub(crate) fn new(
        request: &RestRequest,
        transport: &RestTransport,
        shared: &HeaderMap,
        effect: Effect,
    ) -> Result<Self, String> {
        let mut headers = shared.clone();
        for (name, value) in &request.headers {
            headers.insert(header_name(name)?, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
        }
        let schema = request.result_schema(&transport.schemas);
        let result = schema.map(|schema| jsonschema::validator_for(&schema)).transpose();
        Ok(Self {
            request: request.clone(),
            schemas: transport.schemas.clone(),
            base: transport.url.clone(),
            headers,
            effect,
            result: result.map_err(|e| format!("the schema of its response cannot be used: {e}"))?,
        })
    }

    /// Where a read is sent on to. Only below the manifest's own base: the request carries its credentials.
    fn next_hop(&self, from: &Url, response: &Response) -> Option<Url> {
        let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        if !moved || self.effect != Effect::Read || !self.request.method.is_safe() || self.succeeds(response.status()) {
            return None;
        }
        let next = from.join(response.headers().get(LOCATION)?.to_str().ok()?).ok()?;
        let below = next.path().starts_with(&format!("{}/", self.base.path().trim_end_matches('/')));
        let plain = next.username().is_empty() && next.password().is_none();
        (next.origin() == self.base.origin() && below && plain).then_some(next)
    }

    fn succeeds(&self, status: StatusCode) -> bool {
        if self.request.expect.is_empty() {
            status.is_success()
        } else {
            self.request.expect.contains(&status.as_u16())
        }
    }
}

#[async_trait]
impl Upstream for RestUpstream {
    fn name(&self) -> &UpstreamName {
        &self.name
    }

    async fn dispatch(&self, permit: Permit, exchange: &dyn Exchange) -> Result<ToolResult, DispatchError> {
        let Some(endpoint) = self.endpoints.get(&permit.tool().tool) else {
            return Err(DispatchError::NotSent("the manifest does not describe this tool".into()));
        };
        // What cannot be said in a request is the caller's mistake, not the upstream's failure.
        let prepared = match endpoint.prepare(permit.arguments(), permit.call()) {
            Ok(prepared) => prepared,
            Err(why) => return response::refused_arguments(&why),
        };
        let deadline = permit.deadline();
        let _slot = tokio::select! {
            slot = self.slots.enter(deadline) => slot?,
            () = exchange.cancelled() => return Err(DispatchError::Busy("the caller cancelled the call".into())),
        };
        // HTTP's way to cancel is to close the connection, which dropping the request does.
        let outcome = tokio::select! {
            outcome = self.authenticated(endpoint, &prepared, permit.principal(), deadline) => outcome,
            () = exchange.cancelled() => Err(DispatchError::Cancelled),
        };
        self.note(&outcome);
        outcome
    }

    async fn discover(&self) -> Result<Discovered, DiscoverError> {
        Ok(Discovered { tools: self.definitions.clone(), ..Discovered::default() })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn status(&self) -> UpstreamStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn shutdown(&self) {
        self.slots.close();
    }
}

fn shared_headers(transport: &RestTransport) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &transport.headers {
        let value = value.resolve(|variable| std::env::var(variable).ok()).map_err(|e| e.to_string())?;
        let value = HeaderValue::from_str(&value);
        let mut value = value.map_err(|_| format!("the value of the header {name} cannot be sent"))?;
        value.set_sensitive(true);
        headers.insert(header_name(name)?, value);
    }
    Ok(headers)
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(name).map_err(|_| format!("{name:?} is not a header name"))
}

/// The failure of a body that began to arrive: the request was certainly sent.
fn body_error(error: EgressError) -> DispatchError {
    match dispatch_error(error) {
        DispatchError::NotSent(why) => DispatchError::Lost(why),
        other => other,
    }
}
