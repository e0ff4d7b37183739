//! What may be reached, and single requests to it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use countersign_egress::{Egress, EgressError, Origin, Purpose, PurposeClient, Response};
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use crate::auth::Credentials;
use crate::error::{RegistryError, code};
use crate::reference::{Host, Reference, leads_inside};
use crate::repository::Repository;

/// What is read of an error's body.
const MAX_ERROR: usize = 64 << 10;

/// Which registries are asked.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Those that an operator named. Only these may be on this machine, or at an address that is not public.
    pub named: Vec<Named>,
    /// Whether others may be asked too, over `https` and at public addresses.
    pub any_public: bool,
}

/// A registry that an operator named.
#[derive(Debug, Clone)]
pub struct Named {
    /// Its name and port.
    pub host: Host,
    /// Spoken to without TLS. A registry on this machine always is.
    pub plain_http: bool,
}

/// The way to registries.
#[derive(Clone)]
pub struct Registries {
    egress: Egress,
    settings: Arc<Settings>,
}

impl Registries {
    /// Under the rule of [`Purpose::Registry`], which says which networks that are not public may be reached.
    pub fn new(egress: Egress, settings: Settings) -> Self {
        Self { egress, settings: Arc::new(settings) }
    }

    /// The repository that a reference names. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] if its registry may not be asked.
    pub fn open(&self, reference: &Reference, credentials: Option<Credentials>) -> Result<Repository, RegistryError> {
        let host = reference.host();
        let named = self.settings.named.iter().find(|named| named.host == *host);
        if named.is_none() && !self.settings.any_public {
            return Err(RegistryError::Refused(format!("the registry {host} is not one of those that are configured")));
        }
        let plain = named.is_some_and(|named| named.plain_http) || host.is_loopback();
        let scheme = if plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{}/v2/{}/", host.api(), reference.repository()));
        let base = base.map_err(|e| RegistryError::Refused(e.to_string()))?;
        let wire = self.wire(&base, named.is_some())?;
        Ok(Repository::new(self.clone(), reference.clone(), base, wire, credentials))
    }

    /// The way to one URL's origin. What leads inside by its own words is refused, unless an operator named it.
    fn wire(&self, url: &Url, is_named: bool) -> Result<Wire, RegistryError> {
        let refused = |why: String| RegistryError::Refused(why);
        if !is_named && leads_inside(url) {
            let host = url.host_str().unwrap_or_default();
            return Err(refused(format!("{host} is on this machine or in a network that is not public")));
        }
        let origin = Origin::of(url).map_err(|e| refused(e.to_string()))?;
        let client = self.egress.client_for(Purpose::Registry, url).map_err(|e| refused(e.to_string()))?;
        Ok(Wire { origin, client, is_elsewhere: false })
    }

    /// The way to somewhere else that a registry points to: a token endpoint, or where its blobs are. It is on `https`, or the registry
    /// itself.
    pub(crate) fn elsewhere(&self, url: &Url, registry: &Wire) -> Result<Wire, RegistryError> {
        if registry.is_of(url) {
            return Ok(registry.clone());
        }
        let holds_credentials = !url.username().is_empty() || url.password().is_some();
        if url.scheme() != "https" || holds_credentials || leads_inside(url) {
            return Err(not_there());
        }
        Ok(Wire { is_elsewhere: true, ..self.wire(url, false)? })
    }
}

/// Says no name: it is the registry that chose it.
fn not_there() -> RegistryError {
    RegistryError::Refused("the registry points to a place that is not on https or not public".to_owned())
}

/// The way to one origin.
#[derive(Clone)]
pub(crate) struct Wire {
    origin: Origin,
    client: PurposeClient,
    /// The registry chose it.
    is_elsewhere: bool,
}

/// One request.
#[derive(Clone)]
pub(crate) struct Order<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What it is about, for messages.
    pub(crate) what: &'a str,
}

impl<'a> Order<'a> {
    pub(crate) fn new(method: Method, url: &'a Url, what: &'a str) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new(), what }
    }
}

impl Wire {
    /// Whether a URL is of this origin.
    pub(crate) fn is_of(&self, url: &Url) -> bool {
        Origin::of(url).is_ok_and(|origin| origin == self.origin)
    }

    /// Sends it as it is; the head of whatever answer.
    pub(crate) async fn send(&self, order: Order<'_>, deadline: Instant) -> Result<Response, RegistryError> {
        let sent = self.client.send(order.method, order.url, order.headers, order.body, deadline).await;
        sent.map_err(|error| match (self.is_elsewhere, error) {
            (true, EgressError::Refused(_)) => not_there(),
            (true, _) => RegistryError::Unavailable("the place that it points to does not answer".to_owned()),
            (false, error) => RegistryError::of_transfer(order.what, error),
        })
    }
}

/// The answer, if its status is one of those.
pub(crate) async fn expect(
    response: Response,
    statuses: &[StatusCode],
    what: &str,
    deadline: Instant,
) -> Result<Response, RegistryError> {
    let status = response.status();
    if statuses.contains(&status) {
        return Ok(response);
    }
    Err(match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound { what: what.to_owned() },
        StatusCode::UNAUTHORIZED => RegistryError::Unauthorised,
        StatusCode::FORBIDDEN => RegistryError::Denied,
        StatusCode::TOO_MANY_REQUESTS => RegistryError::Unavailable("it has had too many requests".to_owned()),
        status if status.is_server_error() => RegistryError::Unavailable(format!("it answered {}", status.as_u16())),
        status if status.is_redirection() => {
            RegistryError::malformed(format!("it sends elsewhere for {what}, which is not followed"))
        }
        status if status.is_success() => {
            RegistryError::malformed(format!("it answered {} for {what}", status.as_u16()))
        }
        // The rest is for people who can read the registry's log; a body that does not come changes nothing.
        status => {
            let body = response.bytes(MAX_ERROR, deadline).await.unwrap_or_default();
            RegistryError::Rejected { status: status.as_u16(), code: code(&body) }
        }
    })
}
