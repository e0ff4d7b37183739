//! How many calls an upstream is given at once, and how many may wait for their turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use countersign_catalog::Manifest;
use countersign_gate::upstream::DispatchError;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Places at an upstream, and a queue before them that has an end.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Semaphore,
    waiting: AtomicUsize,
    most: usize,
}

impl Slots {
    /// As many as the manifest says.
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let (at_once, queue) = (manifest.max_concurrency as usize, manifest.max_queue as usize);
        Self { free: Semaphore::new(at_once), waiting: AtomicUsize::new(0), most: queue }
    }

    /// A place, at the latest by the deadline.
    ///
    /// # Errors
    /// [`DispatchError::Busy`] if too many wait already, or the time is up; nothing was sent.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, DispatchError> {
        if let Ok(place) = self.free.try_acquire() {
            return Ok(place);
        }
        let waiting = Waiting::start(self)?;
        let place = tokio::time::timeout_at(deadline.into(), self.free.acquire()).await;
        drop(waiting);
        match place {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(DispatchError::NotSent("the upstream is shut down".into())),
            Err(_) => Err(DispatchError::Busy("the upstream was busy with other calls until the deadline".into())),
        }
    }

    /// No places any more; whoever waits is sent away.
    pub(crate) fn close(&self) {
        self.free.close();
    }
}

/// Counted while it lives, also if the wait is given up.
struct Waiting<'a>(&'a Slots);

impl<'a> Waiting<'a> {
    fn start(slots: &'a Slots) -> Result<Self, DispatchError> {
        let waiting = Self(slots);
        if slots.waiting.fetch_add(1, Ordering::AcqRel) >= slots.most {
            let most = slots.most;
            return Err(DispatchError::Busy(format!("{most} calls wait for the upstream already; try again shortly")));
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_queue_has_an_end_and_a_deadline() {
        let yaml =
            "version: 1\nupstream: u\ntransport: { type: stdio, command: u }\nmax_concurrency: 1\nmax_queue: 1\n";
        let slots = Slots::new(&Manifest::parse(yaml, "u.yaml").expect("valid"));
        let soon = || Instant::now() + Duration::from_secs(5);
        let held = slots.enter(soon()).await.expect("free");
        let (second, third) = tokio::join!(slots.enter(soon()), slots.enter(soon()));
        assert!(matches!(second, Err(DispatchError::Busy(why)) if why.contains("deadline")));
        assert!(matches!(third, Err(DispatchError::Busy(why)) if why.contains("1 calls wait")));
        drop(held);
        drop(slots.enter(soon()).await.expect("nobody waits any more"));
        slots.close();
        assert!(matches!(slots.enter(soon()).await, Err(DispatchError::NotSent(_))));
    }
}
