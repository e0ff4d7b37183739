//! The thread that keeps the newest head outside the database, and answers the callers of a group once it is there.
//!
//! It works beside the writer: while the head of one group is synced, the next group commits. Where several groups wait, the
//! newest head stands for all of them. Where the head can't be written, nobody is answered, the writer refuses appends, and
//! the file is tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::handle::{AppendError, Appended, Counters};
use crate::head_file::HeadFileError;
use crate::tree::Snapshot;

/// The most groups that are durable in the database while the head outside is behind them. Beyond it the writer waits.
const MAX_AHEAD: usize = 8;
/// A head that could not be written is tried again after this long, doubling up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(1);

pub(crate) type Answer = oneshot::Sender<Result<Appended, AppendError>>;
pub(crate) type Answers = Vec<(Answer, Result<Appended, AppendError>)>;

/// A group that is durable in the database.
pub(crate) struct Durable {
    pub(crate) snapshot: Snapshot,
    /// Whether the head is a newer one: by the group's leaves, or by those of other nodes that were taken over for it.
    pub(crate) moves: bool,
    /// Its leaves.
    pub(crate) leaves: u64,
    /// Those of them that are events.
    pub(crate) events: u64,
    pub(crate) answers: Answers,
    /// When the group was begun.
    pub(crate) started: Instant,
}

/// The writer's end of the queue to the thread.
pub(crate) struct Outside {
    queue: SyncSender<Durable>,
    thread: JoinHandle<()>,
}

impl Outside {
    /// Starts the thread. `write` makes a shard's signed head durable outside the database.
    pub(crate) fn start(
        write: impl FnMut(u32, &str) -> Result<(), HeadFileError> + Send + 'static,
        published: Arc<ArcSwap<Snapshot>>,
        counters: Arc<Counters>,
        undecided_wait: Duration,
    ) -> std::io::Result<Self> {
        let (queue, groups) = sync_channel(MAX_AHEAD);
        let keeper = Keeper { write, published, counters, undecided_wait };
        let thread = std::thread::Builder::new().name("ledger-head".into()).spawn(move || keeper.run(&groups))?;
        Ok(Self { queue, thread })
    }

    /// Hands a group over; waits where too many are on their way.
    pub(crate) fn hand_over(&self, group: Durable) {
        // COMMIT POINT 2: the group is durable and its head is not yet outside. If the process dies here, the next start
        // finds the database ahead of the head file by a few groups and signs on. Nobody was answered.
        if let Err(lost) = self.queue.send(group) {
            // The thread panicked. What is stored is stored, and nobody may be told so.
            tracing::error!("the thread that writes the head is gone");
            lost.0.answers.into_iter().for_each(|(answer, _)| reply(answer, Err(AppendError::Undecided)));
        }
    }

    /// Waits until every group that was handed over is answered.
    pub(crate) fn finish(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("the thread that writes the head had panicked");
        }
    }
}

struct Keeper<W> {
    write: W,
    published: Arc<ArcSwap<Snapshot>>,
    counters: Arc<Counters>,
    undecided_wait: Duration,
}

impl<W: FnMut(u32, &str) -> Result<(), HeadFileError>> Keeper<W> {
    fn run(mut self, groups: &Receiver<Durable>) {
        let mut waiting: Vec<Durable> = Vec::new();
        let mut backoff = FIRST_RETRY;
        loop {
            if waiting.is_empty() {
                match groups.recv() {
                    Ok(group) => waiting.push(group),
                    Err(_) => return,
                }
            }
            let closed = take_waiting(groups, &mut waiting);
            match self.write_newest(&waiting) {
                Ok(()) => {
                    self.counters.head_stuck.store(false, Ordering::Release);
                    backoff = FIRST_RETRY;
                    self.release(waiting.drain(..));
                }
                Err(error) => {
                    self.counters.head_stuck.store(true, Ordering::Release);
                    self.counters.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%error, "the head outside the database was not written");
                    self.give_up(&mut waiting);
                    if closed && waiting.iter().all(|group| group.answers.is_empty()) {
                        return;
                    }
                    std::thread::sleep(backoff);
                    backoff = (backoff * 2).min(LAST_RETRY);
                }
            }
        }
    }

    /// The newest head stands for those before it: each is an extension of the one before.
    fn write_newest(&mut self, waiting: &[Durable]) -> Result<(), HeadFileError> {
        match waiting.iter().rfind(|group| group.moves) {
            Some(group) => {
                let started = Instant::now();
                let written = (self.write)(group.snapshot.head.shard, &group.snapshot.head.checkpoint);
                self.counters.meters.head_time.observe_duration(started.elapsed());
                written
            }
            None => Ok(()),
        }
    }

    fn release(&self, groups: impl Iterator<Item = Durable>) {
        let mut newest = None;
        let mut answers = Vec::new();
        for group in groups {
            if group.leaves > 0 {
                self.counters.groups.fetch_add(1, Ordering::Relaxed);
            }
            if group.events > 0 {
                self.counters.events.fetch_add(group.events, Ordering::Relaxed);
                self.counters.meters.group_size.observe(group.events);
            }
            let micros = u64::try_from(group.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.counters.meters.group_time.observe(micros);
            self.counters.last_group_us.store(micros, Ordering::Relaxed);
            newest = Some(group.snapshot);
            answers.extend(group.answers);
        }
        self.published.store(Arc::new(match newest {
            Some(newest) => newest,
            None => return,
        }));
        // COMMIT POINT 3: durable inside and outside. If the process dies here, some callers never hear of their events,
        // which the next start has. From here on the head may be shown to anyone.
        for (answer, result) in answers {
            if matches!(result, Err(AppendError::Conflict(_))) {
                self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
            }
            reply(answer, result);
        }
    }

    /// Tells those who waited long enough that nobody knows.
    fn give_up(&self, waiting: &mut [Durable]) {
        for group in waiting.iter_mut().filter(|group| group.started.elapsed() >= self.undecided_wait) {
            group.answers.drain(..).for_each(|(answer, _)| reply(answer, Err(AppendError::Undecided)));
        }
    }
}

/// Takes what waits, up to the queue's bound. Returns whether the writer is gone.
fn take_waiting(groups: &Receiver<Durable>, waiting: &mut Vec<Durable>) -> bool {
    while waiting.len() < 2 * MAX_AHEAD {
        match groups.try_recv() {
            Ok(group) => waiting.push(group),
            Err(TryRecvError::Empty) => return false,
            Err(TryRecvError::Disconnected) => return true,
        }
    }
    false
}

/// A caller that went away does not want the answer.
pub(crate) fn reply(answer: Answer, result: Result<Appended, AppendError>) {
    let _ = answer.send(result);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Head;
    use crate::tree::Tree;
    use std::sync::Mutex;

    fn snapshot(size: u64) -> Snapshot {
        let head = Head {
            shard: 0,
            origin: "log.example".into(),
            size,
            root: [0; 32],
            frontier: Vec::new(),
            checkpoint: format!("head {size}"),
        };
        Snapshot { head: Arc::new(head), tree: Arc::new(Tree::default()) }
    }

    fn group(size: u64, events: u64) -> (Durable, oneshot::Receiver<Result<Appended, AppendError>>) {
        let (answer, answered) = oneshot::channel();
        let answers = vec![(answer, Ok(Appended::default()))];
        let (snapshot, moves, leaves) = (snapshot(size), events > 0, events);
        (Durable { snapshot, moves, leaves, events, answers, started: Instant::now() }, answered)
    }

    fn broken() -> HeadFileError {
        HeadFileError::Io { path: "head".into(), error: std::io::Error::other("no such luck") }
    }

    fn start(
        patience: Duration,
        write: impl FnMut(u32, &str) -> Result<(), HeadFileError> + Send + 'static,
    ) -> (Outside, Arc<ArcSwap<Snapshot>>, Arc<Counters>) {
        let published = Arc::new(ArcSwap::from_pointee(snapshot(0)));
        let counters = Arc::new(Counters::default());
        let outside = Outside::start(write, Arc::clone(&published), Arc::clone(&counters), patience).expect("starts");
        (outside, published, counters)
    }

    #[test]
    fn a_head_that_fails_is_tried_again_and_nobody_is_answered_before_it_is_there() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&written);
        let mut failures = 3;
        let (outside, published, counters) = start(Duration::from_secs(60), move |_, note| {
            if failures > 0 {
                failures -= 1;
                return Err(broken());
            }
            log.lock().expect("lock").push(note.to_owned());
            Ok(())
        });
        let (one, answered) = group(1, 1);
        outside.hand_over(one);
        assert_eq!(answered.blocking_recv().expect("an answer"), Ok(Appended::default()));
        assert_eq!(*written.lock().expect("lock"), ["head 1"]);
        assert_eq!(published.load().head.size, 1);
        assert_eq!(counters.failures.load(Ordering::Relaxed), 3);
        assert!(!counters.head_stuck.load(Ordering::Relaxed));
        // A group without events moves no head.
        let (none, answered) = group(1, 0);
        outside.hand_over(none);
        assert_eq!(answered.blocking_recv().expect("an answer"), Ok(Appended::default()));
        assert_eq!(written.lock().expect("lock").len(), 1);
        outside.finish();
    }

    #[test]
    fn callers_learn_that_nobody_knows_and_the_writer_that_it_must_stop() {
        let (outside, published, counters) = start(Duration::ZERO, |_, _| Err(broken()));
        let (one, answered) = group(1, 1);
        outside.hand_over(one);
        assert_eq!(answered.blocking_recv().expect("an answer"), Err(AppendError::Undecided));
        assert!(counters.head_stuck.load(Ordering::Relaxed));
        assert_eq!(published.load().head.size, 0, "a head that is not outside is shown to nobody");
        outside.finish();
    }

    #[test]
    fn the_newest_head_stands_for_all_that_wait() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&written);
        let (outside, _, _) = start(Duration::from_secs(60), move |_, note| {
            wait.recv().expect("a signal");
            log.lock().expect("lock").push(note.to_owned());
            Ok(())
        });
        let answers: Vec<_> = (1..=5)
            .map(|size| {
                let (durable, answered) = group(size, 1);
                outside.hand_over(durable);
                answered
            })
            .collect();
        // One for what was taken first, one for all that came meanwhile; fewer if all came at once.
        for _ in 0..2 {
            go.send(()).expect("the thread listens");
        }
        for answered in answers {
            assert_eq!(answered.blocking_recv().expect("an answer"), Ok(Appended::default()));
        }
        let written = written.lock().expect("lock");
        assert!(written.len() <= 2 && written.last().is_some_and(|note| note == "head 5"), "{written:?}");
        drop(written);
        outside.finish();
    }
}
