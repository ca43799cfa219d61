//! Lines on their way to a descriptor that may block.
//!
//! Callers append to a buffer of bounded size; one thread writes what has gathered, a batch at a time. Whoever
//! finds the buffer full drops its line and goes on.

use std::fmt;
use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Takes lines without ever blocking on their target. Clones share the target.
#[derive(Clone)]
pub struct LineWriter {
    handle: Arc<Handle>,
}

/// Closes the queue when the last writer is gone.
struct Handle {
    queue: Arc<Queue>,
}

struct Queue {
    name: &'static str,
    limit: usize,
    state: Mutex<State>,
    /// Signalled when lines arrive, when the queue closes and when a batch is done.
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Lines in `pending`.
    lines: u64,
    writing: bool,
    closed: bool,
}

impl LineWriter {
    /// Starts a writer to `target`; at most `limit` bytes wait to be written at a time, and as many are being
    /// written. `name` is what reports of lost lines call it.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start(
        name: &'static str,
        target: impl Write + Send + 'static,
        limit: usize,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            name,
            limit,
            state: Mutex::default(),
            changed: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let reader = Arc::clone(&queue);
        // Outside the runtime: the log has to work before it, after it, and while all of its threads are busy.
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || reader.write_batches(target))?;
        let handle = Arc::new(Handle { queue });
        Ok(Self { handle })
    }

    /// Takes one line, without its newline.
    pub fn line(&self, line: &str) {
        self.handle.queue.push(&[line.as_bytes(), b"\n"]);
    }

    /// Lines that were lost: the target was too slow, or refused them.
    pub fn dropped(&self) -> u64 {
        self.handle.queue.dropped.load(Ordering::Relaxed)
    }

    /// Waits until every line is written, for at most `limit`; returns whether they are.
    pub fn flush(&self, limit: Duration) -> bool {
        let queue = &self.handle.queue;
        let unwritten = |state: &mut State| state.writing || !state.pending.is_empty();
        let (state, waited) = queue
            .changed
            .wait_timeout_while(queue.lock(), limit, unwritten)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        !waited.timed_out()
    }
}

/// One call is one line with its newline, which is how `tracing-subscriber` writes.
impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.handle.queue.push(&[line]);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineWriter")
            .field("name", &self.handle.queue.name)
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[&[u8]]) {
        let length: usize = line.iter().map(|part| part.len()).sum();
        let mut state = self.lock();
        if state.pending.len().saturating_add(length) > self.limit {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        for part in line {
            state.pending.extend_from_slice(part);
        }
        state.lines += 1;
        drop(state);
        self.changed.notify_all();
    }

    fn write_batches(&self, mut target: impl Write) {
        let mut batch = Vec::new();
        let mut losses = Losses::default();
        while let Some(lines) = self.next_batch(&mut batch) {
            let written = target.write_all(&batch).and_then(|()| target.flush());
            if written.is_err() {
                self.dropped.fetch_add(lines, Ordering::Relaxed);
            }
            batch.clear();
            self.lock().writing = false;
            self.changed.notify_all();
            losses.report(self, written);
        }
    }

    /// Waits for lines and moves them to `batch`; `None` once the queue is closed and empty.
    fn next_batch(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let idle = |state: &mut State| state.pending.is_empty() && !state.closed;
        let mut state = self
            .changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        if state.pending.is_empty() {
            return None;
        }
        mem::swap(&mut state.pending, batch);
        state.writing = true;
        Some(mem::take(&mut state.lines))
    }
}

/// What was said about lost lines. A report is itself a log line, so it is made only when something changed.
#[derive(Default)]
struct Losses {
    reported: u64,
    failing: bool,
}

impl Losses {
    fn report(&mut self, queue: &Queue, written: io::Result<()>) {
        if let Err(error) = written {
            if !self.failing {
                tracing::warn!(log = queue.name, %error, "lines cannot be written and are lost");
            }
            self.failing = true;
            return;
        }
        self.failing = false;
        let dropped = queue.dropped.load(Ordering::Relaxed);
        if dropped > self.reported {
            let lost = dropped - self.reported;
            tracing::warn!(
                log = queue.name,
                lost,
                "lines were lost: nobody took them in time"
            );
            self.reported = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    const LONG: Duration = Duration::from_secs(30);

    /// A target that reports when a write begins, and ends it when it is told to.
    struct Gate {
        begin: SyncSender<Vec<u8>>,
        proceed: Receiver<io::Result<()>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.begin.send(bytes.to_vec()).map_err(io::Error::other)?;
            self.proceed.recv().map_err(io::Error::other)??;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated(limit: usize) -> (LineWriter, Receiver<Vec<u8>>, SyncSender<io::Result<()>>) {
        let (begin, writes) = sync_channel(16);
        let (gate, proceed) = sync_channel(16);
        let log = LineWriter::start("test", Gate { begin, proceed }, limit).unwrap();
        (log, writes, gate)
    }

    #[test]
    fn lines_that_gather_during_a_write_go_out_together() {
        let (log, writes, gate) = gated(100);
        log.line("a");
        assert_eq!(writes.recv_timeout(LONG).unwrap(), b"a\n");
        log.line("b");
        log.line("c");
        gate.send(Ok(())).unwrap();
        assert_eq!(writes.recv_timeout(LONG).unwrap(), b"b\nc\n");
        gate.send(Ok(())).unwrap();
        assert!(log.flush(LONG));
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_blocked_target_costs_the_lines_beyond_the_limit_and_nothing_else() {
        let (log, writes, gate) = gated(6);
        log.line("0");
        assert_eq!(writes.recv_timeout(LONG).unwrap(), b"0\n");
        for line in ["1", "2", "3", "4", "5"] {
            log.line(line);
        }
        assert_eq!(log.dropped(), 2);
        assert!(!log.flush(Duration::from_millis(1)));
        gate.send(Ok(())).unwrap();
        assert_eq!(writes.recv_timeout(LONG).unwrap(), b"1\n2\n3\n");
        gate.send(Ok(())).unwrap();
        assert!(log.flush(LONG));
    }

    #[test]
    fn a_line_longer_than_the_limit_is_dropped_alone() {
        let (log, writes, gate) = gated(4);
        log.line("long");
        log.line("ok");
        assert_eq!(writes.recv_timeout(LONG).unwrap(), b"ok\n");
        gate.send(Ok(())).unwrap();
        assert!(log.flush(LONG));
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn a_target_that_refuses_lines_counts_as_loss_and_may_recover() {
        let (log, writes, gate) = gated(100);
        log.line("lost");
        assert_eq!(writes.recv_timeout(LONG).unwrap(), b"lost\n");
        gate.send(Err(io::Error::from(io::ErrorKind::BrokenPipe)))
            .unwrap();
        assert!(log.flush(LONG));
        assert_eq!(log.dropped(), 1);
        log.line("kept");
        assert_eq!(writes.recv_timeout(LONG).unwrap(), b"kept\n");
        gate.send(Ok(())).unwrap();
        assert!(log.flush(LONG));
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn the_last_lines_are_written_after_the_last_writer_is_gone() {
        let (log, writes, gate) = gated(100);
        log.line("a");
        assert_eq!(writes.recv_timeout(LONG).unwrap(), b"a\n");
        log.line("b");
        drop(log);
        gate.send(Ok(())).unwrap();
        assert_eq!(writes.recv_timeout(LONG).unwrap(), b"b\n");
        gate.send(Ok(())).unwrap();
        // The thread ends, and its target with it.
        assert!(writes.recv_timeout(LONG).is_err());
    }
}
