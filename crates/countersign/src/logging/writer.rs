//! Log lines by way of a thread: a reader of standard error that is slow, or has stopped, never holds up a call.
//!
//! The queue is bounded. Lines that find it full are counted, and the count is a line of its own once there is room.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The most lines that wait.
const QUEUE: usize = 4096;
/// About as much is written at a time.
const BATCH: usize = 64 << 10;
/// How long a line waits for others: one wake-up and one write serve them all, instead of one each beside every call.
const GATHER: Duration = Duration::from_millis(5);
/// How long the last lines may take to be written when the process ends.
const FLUSH: Duration = Duration::from_secs(2);

enum Job {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Hands lines to the thread.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<Job>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread, which writes to `out`.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        std::thread::Builder::new().name("log".into()).spawn(move || run(out, &jobs, &counter))?;
        Ok(Self { queue, lost })
    }

    /// Waits until what was logged so far is written, or for two seconds.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        let mut job = Job::Flush(done);
        let until = std::time::Instant::now() + FLUSH;
        while let Err(refused) = self.queue.try_send(job) {
            let TrySendError::Full(back) = refused else { return };
            if std::time::Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
            job = back;
        }
        // A thread that can't write has nothing to say either.
        let _ = written.recv_timeout(FLUSH);
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, text: Vec::new() }
    }
}

/// One line, sent when it is whole.
pub(super) struct Line<'a> {
    lines: &'a Lines,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() && self.lines.queue.try_send(Job::Line(std::mem::take(&mut self.text))).is_err() {
            self.lines.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn run(mut out: impl Write, jobs: &Receiver<Job>, lost: &AtomicU64) {
    let mut batch = Vec::new();
    while let Ok(first) = jobs.recv() {
        if matches!(first, Job::Line(_)) {
            std::thread::sleep(GATHER);
        }
        let mut asked = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Line(text) => batch.extend_from_slice(&text),
                Job::Flush(done) => asked.push(done),
            }
            next = if batch.len() < BATCH { jobs.try_recv().ok() } else { None };
        }
        let missing = lost.swap(0, Ordering::Relaxed);
        if missing > 0 {
            batch.extend_from_slice(
                format!("{{\"level\":\"WARN\",\"message\":\"log lines were lost: standard error was not read\",\"lines\":{missing}}}\n")
                    .as_bytes(),
            );
        }
        // Nobody is left to tell that the log can't be written.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
        batch.clear();
        for done in asked {
            // Who gave up waiting needs no word.
            let _ = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Stuck(Receiver<()>, Kept);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn say(lines: &Lines, text: &str) {
        writeln!(lines.make_writer(), "{text}").expect("never fails");
    }

    #[test]
    fn lines_come_whole_and_in_order() {
        let kept = Kept::default();
        let lines = Lines::start(kept.clone()).expect("starts");
        (0..100).for_each(|n| say(&lines, &format!("line {n}")));
        lines.flush();
        let text = String::from_utf8(kept.0.lock().expect("lock").clone()).expect("text");
        assert_eq!(text, (0..100).map(|n| format!("line {n}\n")).collect::<String>());
    }

    #[test]
    fn a_reader_that_stops_holds_nobody_up_and_what_was_lost_is_counted() {
        let kept = Kept::default();
        let (go, wait) = channel();
        let lines = Lines::start(Stuck(wait, kept.clone())).expect("starts");
        let all = 2 * QUEUE;
        (0..all).for_each(|n| say(&lines, &format!("line {n}")));
        // The reader is back.
        let reader = std::thread::spawn(move || while go.send(()).is_ok() {});
        lines.flush();
        let text = String::from_utf8(kept.0.lock().expect("lock").clone()).expect("text");
        let whole = text.lines().filter(|line| line.starts_with("line ")).count();
        let lost: usize = text
            .lines()
            .filter_map(|line| line.split("\"lines\":").nth(1)?.trim_end_matches('}').parse::<usize>().ok())
            .sum();
        assert!(whole >= QUEUE && lost > 0, "{whole} {lost}");
        assert_eq!(whole + lost, all);
        drop(lines);
        reader.join().expect("ends");
    }
}
