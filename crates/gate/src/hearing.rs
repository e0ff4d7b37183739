//! Who hears of which resource: the upstream is told to stop when the last one here has gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_domain::UpstreamName;

use crate::gate::Gate;

/// How many of this node's clients hear of each resource.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<HashMap<(UpstreamName, String), usize>>);

/// One client's interest in one resource, for as long as it is kept. Taken before the upstream is asked to tell of it, so that
/// another's end in between does not have it stopped.
pub struct Hearing {
    gate: Arc<Gate>,
    upstream: UpstreamName,
    uri: String,
}

impl Hearing {
    /// Where the resource lives.
    pub fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// What the upstream calls it.
    pub fn uri(&self) -> &str {
        &self.uri
    }
}

impl std::fmt::Debug for Hearing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hearing").field("upstream", &self.upstream).field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Gate {
    /// Keeps an interest in a resource. Asks nobody: subscribing is a call.
    pub fn hear_of(self: &Arc<Self>, upstream: UpstreamName, uri: String) -> Hearing {
        let mut heard = self.heard.0.lock().unwrap_or_else(PoisonError::into_inner);
        *heard.entry((upstream.clone(), uri.clone())).or_default() += 1;
        Hearing { gate: Arc::clone(self), upstream, uri }
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        let mut heard = self.gate.heard.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.upstream.clone(), std::mem::take(&mut self.uri));
        let Some(count) = heard.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            heard.remove(&key);
            let upstreams = self.gate.registry.upstreams();
            if let Some((_, upstream)) = upstreams.into_iter().find(|(manifest, _)| manifest.upstream == key.0) {
                upstream.unwatch(&key.1);
            }
        }
    }
}
