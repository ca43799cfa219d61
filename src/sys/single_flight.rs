//! One run of a piece of work per key, however many ask for it at once.
//!
//! The work belongs to the process, not to the first caller: a caller that goes away cancels nothing, and the
//! result reaches everyone who asked before it was ready. Nothing is remembered afterwards.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::tasks::Tasks;

/// How many keys may be under way. Beyond that a question is not begun: each may wait long, and anyone may ask.
const RUNNING: usize = 4096;

type Waiting<V> = watch::Receiver<Option<V>>;

/// Whether a caller started the work or joined a run that another had started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Started the work.
    Leader,
    /// Joined a running one.
    Follower,
}

/// Coalesces work by key.
pub struct SingleFlight<K, V> {
    running: Arc<Mutex<HashMap<K, Waiting<V>>>>,
    tasks: Tasks,
}

impl<K, V> SingleFlight<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Runs its work as tasks of `tasks`.
    pub fn new(tasks: Tasks) -> Self {
        Self {
            running: Arc::default(),
            tasks,
        }
    }

    /// Joins the run for `key`, starting it with `work` when there is none.
    ///
    /// Yields `None` when the work was not begun because too much is under way, and when it died: it panicked, or the
    /// process is closing.
    pub async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> (Option<V>, Role)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let Some((mut waiting, role)) = self.join(key, work) else {
            return (None, Role::Follower);
        };
        let value = match waiting.wait_for(Option::is_some).await {
            Ok(value) => value.clone(),
            Err(_) => None,
        };
        (value, role)
    }

    fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Option<(Waiting<V>, Role)>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = running.get(&key) {
            return Some((waiting.clone(), Role::Follower));
        }
        if running.len() >= RUNNING {
            return None;
        }
        let (sender, waiting) = watch::channel(None);
        running.insert(key.clone(), waiting.clone());
        let entry = Entry {
            running: Arc::clone(&self.running),
            key,
        };
        let work = work();
        let closing = self.tasks.closing();
        self.tasks.spawn("single_flight", async move {
            let value = tokio::select! {
                biased;
                value = work => value,
                // The process ends after its last client: nobody waits for this.
                () = closing => return,
            };
            // Removed before it is announced: whoever comes after the announcement starts afresh.
            drop(entry);
            sender.send_replace(Some(value));
        });
        Some((waiting, Role::Leader))
    }
}

impl<K, V> fmt::Debug for SingleFlight<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").finish_non_exhaustive()
    }
}

/// Removes its key when the work ends, however it ends.
struct Entry<K: Eq + Hash, V> {
    running: Arc<Mutex<HashMap<K, Waiting<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_hundred_callers_cost_one_run() {
        let flights = Arc::new(SingleFlight::new(Tasks::new()));
        let runs = Arc::new(AtomicUsize::new(0));
        let callers = (0..100).map(|_| {
            let (flights, runs) = (Arc::clone(&flights), Arc::clone(&runs));
            async move {
                let work = || async move {
                    tokio::task::yield_now().await;
                    runs.fetch_add(1, Ordering::SeqCst)
                };
                flights.run("key", work).await.0
            }
        });
        let values = futures_util::future::join_all(callers).await;
        assert_eq!(values, vec![Some(0); 100]);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_cancels_nothing() {
        let tasks = Tasks::new();
        let flights = SingleFlight::new(tasks.clone());
        let (release, gate) = tokio::sync::oneshot::channel::<()>();
        let first = flights.run(1, || async move { gate.await.is_ok() });
        drop(futures_util::future::select(Box::pin(first), Box::pin(std::future::ready(()))).await);
        let second = flights.run(1, || std::future::ready(false));
        release.send(()).unwrap();
        assert_eq!(second.await, (Some(true), Role::Follower));
    }

    #[tokio::test]
    async fn work_that_waits_for_ever_does_not_outlive_its_tasks() {
        let tasks = Tasks::new();
        let flights: SingleFlight<u8, u8> = SingleFlight::new(tasks.clone());
        let run = flights.run(1, std::future::pending);
        let (left, answer) = tokio::join!(tasks.drain(Duration::from_hours(1)), run);
        assert_eq!((left, answer), (0, (None, Role::Leader)));
    }

    #[tokio::test]
    async fn work_that_panics_frees_its_key() {
        let flights: SingleFlight<u8, u8> = SingleFlight::new(Tasks::new());
        let died = flights.run(1, || async { panic!("on purpose") }).await;
        assert_eq!(died, (None, Role::Leader));
        assert_eq!(
            flights.run(1, || async { 7 }).await,
            (Some(7), Role::Leader)
        );
    }

    #[tokio::test]
    async fn beyond_the_limit_nothing_is_begun_and_what_runs_is_joined() {
        let flights: SingleFlight<usize, ()> = SingleFlight::new(Tasks::new());
        let begin = |key| flights.join(key, std::future::pending::<()>);
        assert!((0..RUNNING).all(|key| begin(key).is_some()));
        assert!(begin(RUNNING).is_none());
        assert!(begin(0).is_some_and(|(_, role)| role == Role::Follower));
        let refused = flights.run(RUNNING, || std::future::ready(())).await;
        assert_eq!(refused, (None, Role::Follower));
    }
}
