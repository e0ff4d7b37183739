//! Who waits for which request on this node. A wake-up is a hint; the database says how the request stands.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::watch;
use uuid::Uuid;

/// Wake-ups by request. Costs nothing while nobody answers.
#[derive(Default)]
pub struct Waiters {
    requests: Mutex<HashMap<Uuid, watch::Sender<()>>>,
}

impl Waiters {
    /// Starts listening. Subscribe first and read the request afterwards, so that no answer falls between.
    pub fn subscribe(&self, request: Uuid) -> watch::Receiver<()> {
        match self.requests.lock() {
            Ok(mut requests) => requests.entry(request).or_insert_with(|| watch::channel(()).0).subscribe(),
            Err(_) => watch::channel(()).1,
        }
    }

    /// Something happened to the request.
    pub fn notify(&self, request: Uuid) {
        if let Ok(requests) = self.requests.lock()
            && let Some(sender) = requests.get(&request)
        {
            sender.send_replace(());
        }
    }

    /// Something may have happened to any of them.
    pub fn notify_all(&self) {
        if let Ok(requests) = self.requests.lock() {
            requests.values().for_each(|sender| {
                sender.send_replace(());
            });
        }
    }

    /// Stops listening; the last listener's entry goes.
    pub fn leave(&self, request: Uuid, receiver: watch::Receiver<()>) {
        drop(receiver);
        if let Ok(mut requests) = self.requests.lock()
            && requests.get(&request).is_some_and(|sender| sender.receiver_count() == 0)
        {
            requests.remove(&request);
        }
    }
}
