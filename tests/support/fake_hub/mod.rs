//! A scripted Docker Hub on the loopback address, in this process.
//!
//! [`FakeHub`] has five origins, each with a port of its own: the registry, the token endpoint,
//! the CDN that blobs are redirected to, and two hosts that are none of the hub's
//! ([`Origin::Foreign`], [`Origin::Plain`]). It records every request with its headers, and
//! [`Fault`]s change answers down to single bytes. Everything ends when it is dropped.

mod answer;
mod cdn;
mod connection;
mod content;
mod faults;
mod gate;
mod origin;
mod outage;
mod plan;
mod record;
mod registry;
mod request;
mod state;
mod token;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

pub use faults::{Armed, At, Fault, Rule};
pub use gate::Gate;
pub use outage::{Outage, UnknownOutage};
pub use record::{Names, Origin, Outcome, Recorded};
pub use request::Target;

use super::tls::Identity;
use gate::DEADLINE;
use origin::Slot;
use plan::Plan;
use request::Request;
use state::State;

/// What all connections share.
struct Shared {
    state: Mutex<State>,
    /// Changes with every record that is made or brought up to date.
    changes: watch::Sender<u64>,
    log: Option<Log>,
    /// Whether new connections are accepted and then left alone.
    deaf: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics with the lock")
    }

    /// Records a request and decides how it is answered.
    fn arrive(&self, origin: Origin, connection: u64, request: &Request) -> (u64, Plan) {
        let mut state = self.state();
        let recorded = Recorded::new(origin, connection, request);
        let plan = Plan::new(&mut state, origin, request);
        if let Some(log) = &self.log {
            let line = recorded.describe(&state.names);
            log(&format!("{line} -> {}", plan.answer.status));
        }
        let number = state.record(recorded);
        drop(state);
        self.announce();
        (number, plan)
    }

    fn announce(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Takes the line of a request when it arrives.
type Log = Box<dyn Fn(&str) + Send + Sync>;

/// How a hub is to be.
pub struct Builder {
    tls: bool,
    host: String,
    token_ttl: Duration,
    users: Vec<(String, String)>,
    port: u16,
    log: Option<Log>,
}

impl Builder {
    /// https on every origin but [`Origin::Plain`]; the CA is [`FakeHub::ca_pem`].
    #[must_use]
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// The name that every address of the hub has, and its certificate too; `127.0.0.1` unless said.
    #[must_use]
    pub fn host(mut self, name: &str) -> Self {
        name.clone_into(&mut self.host);
        self
    }

    /// How long tokens are good; 300 s unless said. `expires_in` shows whole seconds.
    #[must_use]
    pub fn token_ttl(mut self, ttl: Duration) -> Self {
        self.token_ttl = ttl;
        self
    }

    /// A user who may ask for tokens with Basic.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Fixed ports: this one for the registry, the next for token, CDN, foreign and plain, in
    /// the order of [`Origin::ALL`]. Free ports unless said.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Calls `log` with the line of each request when it arrives, as in
    /// [`FakeHub::summary_with_status`].
    #[must_use]
    pub fn log(mut self, log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.log = Some(Box::new(log));
        self
    }

    /// Binds and serves. The hub lives on the runtime that calls this.
    pub async fn start(self) -> FakeHub {
        let identity = self.tls.then(|| Identity::of(&self.host));
        let mut state = State::new(self.token_ttl);
        state.users = self.users.into_iter().collect();
        let mut slots = BTreeMap::new();
        for (number, origin) in (0..).zip(Origin::ALL) {
            let slot = Slot::bind(if self.port == 0 {
                0
            } else {
                self.port + number
            });
            let secure = self.tls && origin != Origin::Plain;
            let scheme = if secure { "https" } else { "http" };
            let url = format!("{scheme}://{}:{}", self.host, slot.port());
            state.urls.insert(origin, url);
            slots.insert(origin, slot);
        }
        let hub = FakeHub {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changes: watch::Sender::new(0),
                log: self.log,
                deaf: AtomicBool::new(false),
            }),
            slots: tokio::sync::Mutex::new(slots),
            identity,
            started: Instant::now(),
        };
        hub.restart().await;
        hub
    }
}

/// A scripted Docker Hub. See the module.
pub struct FakeHub {
    shared: Arc<Shared>,
    slots: tokio::sync::Mutex<BTreeMap<Origin, Slot>>,
    identity: Option<Identity>,
    started: Instant,
}

/// Life: start, stop, addresses.
impl FakeHub {
    /// A hub over plain http, with free ports and no users.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A hub to be configured.
    pub fn builder() -> Builder {
        Builder {
            tls: false,
            host: "127.0.0.1".to_owned(),
            token_ttl: Duration::from_mins(5),
            users: Vec::new(),
            port: 0,
            log: None,
        }
    }

    /// Scheme, host and port of an origin, without a slash at the end.
    pub fn url(&self, origin: Origin) -> String {
        self.shared.state().url(origin).to_owned()
    }

    /// The registry: `http://127.0.0.1:<port>`.
    pub fn registry_url(&self) -> String {
        self.url(Origin::Registry)
    }

    /// The token endpoint, with its path: `http://127.0.0.1:<port>/token`.
    pub fn token_url(&self) -> String {
        format!("{}/token", self.url(Origin::Token))
    }

    /// The CDN: `http://127.0.0.1:<port>`.
    pub fn cdn_url(&self) -> String {
        self.url(Origin::Cdn)
    }

    /// Whether it serves https.
    pub fn is_secure(&self) -> bool {
        self.identity.is_some()
    }

    /// The certificate to trust, in a hub with TLS.
    pub fn ca_pem(&self) -> &str {
        self.identity
            .as_ref()
            .expect("this hub has no TLS")
            .ca_pem()
    }

    /// Refuses connections at that origin and ends those that are open. Returns when done.
    pub async fn stop_origin(&self, origin: Origin) {
        let mut slots = self.slots.lock().await;
        let slot = slots.remove(&origin).expect("every origin has a slot");
        slots.insert(origin, slot.stop().await);
    }

    /// Serves that origin again, on the same port.
    pub async fn restart_origin(&self, origin: Origin) {
        let mut slots = self.slots.lock().await;
        let slot = slots.remove(&origin).expect("every origin has a slot");
        slots.insert(origin, slot.start(origin, self.tls(origin), &self.shared));
    }

    /// Stops every origin: there is no network.
    pub async fn stop(&self) {
        for origin in Origin::ALL {
            self.stop_origin(origin).await;
        }
    }

    /// Starts every origin that is stopped.
    pub async fn restart(&self) {
        for origin in Origin::ALL {
            self.restart_origin(origin).await;
        }
    }

    /// Ends the hub and gives the ports back. Dropping it does the same, without waiting.
    pub async fn shutdown(self) {
        self.stop().await;
    }

    fn tls(&self, origin: Origin) -> Option<Arc<ServerConfig>> {
        let identity = self.identity.as_ref().filter(|_| origin != Origin::Plain);
        identity.map(Identity::shown)
    }
}

/// Behaviour.
impl FakeHub {
    /// Sets the pull limit and starts the count again: manifest GETs beyond it are answered 429.
    /// `None` sends no rate-limit headers, as for paid accounts. Before the first call the
    /// headers show 100 and count down, and nothing is refused.
    pub fn set_rate_limit(&self, limit: Option<u64>) {
        let mut state = self.shared.state();
        state.limit.limit = limit;
        state.limit.used = 0;
        state.limit.enforced = true;
    }

    /// Answers every manifest GET with 429, or no longer; HEAD is never refused.
    pub fn rate_limited(&self, limited: bool, retry_after: Option<Duration>) {
        let mut state = self.shared.state();
        state.limit.exhausted = limited;
        state.limit.retry_after = retry_after;
    }

    /// Makes every token issued so far invalid.
    pub fn revoke_tokens(&self) {
        self.shared.state().tokens.clear();
    }

    /// Makes every signed address issued so far invalid: the CDN answers 403.
    pub fn expire_signatures(&self) {
        self.shared.state().signatures.clear();
    }

    /// Answers the referrers API (the default), or 404 as registries without it do.
    pub fn serve_referrers(&self, served: bool) {
        self.shared.state().referrers = served;
    }

    /// Serves blobs from the registry itself, without a redirect (not the default).
    pub fn serve_blobs_directly(&self, direct: bool) {
        self.shared.state().direct_blobs = direct;
    }

    /// Shows at most that many tags in one answer, and a `Link` to the rest.
    pub fn limit_tags_page(&self, tags: Option<usize>) {
        self.shared.state().tags_page = tags;
    }

    /// Begins a rule for requests to that origin.
    pub fn on(&self, origin: Origin) -> Rule<'_> {
        Rule::new(self, origin)
    }

    /// Ends every rule; answers that are held go on.
    pub fn clear_faults(&self) {
        self.shared.state().rules.clear();
    }
}

/// The record.
impl FakeHub {
    /// Every request since the start or the last [`Self::take_requests`], by arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().records()
    }

    /// As [`Self::requests`], and empties the record.
    pub fn take_requests(&self) -> Vec<Recorded> {
        self.shared.state().take_records()
    }

    /// One line for each request, by arrival:
    ///
    /// ```text
    /// token GET library/nginx:pull
    /// token GET library/nginx:pull (alice)
    /// registry HEAD library/nginx/manifests/latest
    /// registry GET library/nginx/blobs/amd64.layer0
    /// cdn GET amd64.layer0 bytes=100-
    /// ```
    ///
    /// Digests are shown by their name, or by their first 12 hex digits.
    pub fn summary(&self) -> Vec<String> {
        let state = self.shared.state();
        let records = state.records();
        records.iter().map(|it| it.describe(&state.names)).collect()
    }

    /// As [`Self::summary`], in byte order: for what arrives concurrently.
    pub fn sorted_summary(&self) -> Vec<String> {
        let mut lines = self.summary();
        lines.sort();
        lines
    }

    /// As [`Self::summary`], with ` -> <status>` at the end of each line (`0`: never answered).
    pub fn summary_with_status(&self) -> Vec<String> {
        let state = self.shared.state();
        let line = |it: &Recorded| format!("{} -> {}", it.describe(&state.names), it.status);
        state.records().iter().map(line).collect()
    }

    /// As [`Self::summary`], and empties the record.
    pub fn take_summary(&self) -> Vec<String> {
        let mut state = self.shared.state();
        let records = state.take_records();
        records.iter().map(|it| it.describe(&state.names)).collect()
    }

    /// How a digest is shown in [`Self::summary`].
    pub fn short(&self, digest: &str) -> String {
        self.shared.state().names.short(digest)
    }

    /// The record as JSON, for the control port of the example.
    pub fn requests_as_json(&self) -> Value {
        let state = self.shared.state();
        let records = state.records();
        let shown = records
            .iter()
            .map(|it| it.to_json(&state.names, self.started));
        Value::Array(shown.collect())
    }

    /// Waits until the record satisfies `met`; fails the test after 30 s, showing the record.
    pub async fn wait_until(&self, what: &str, met: impl Fn(&[Recorded]) -> bool) {
        let mut changes = self.shared.changes.subscribe();
        let wait = async {
            while !met(&self.requests()) {
                // The sender lives in `self`, so there is always another change to wait for.
                drop(changes.changed().await);
            }
        };
        let in_time = timeout(DEADLINE, wait).await.is_ok();
        let seen = self.summary_with_status();
        assert!(in_time, "waited in vain for {what}; saw {seen:#?}");
    }

    /// Waits until `count` requests satisfy `matching`; returns those seen then.
    pub async fn wait_for_requests(
        &self,
        count: usize,
        matching: impl Fn(&Recorded) -> bool,
    ) -> Vec<Recorded> {
        let enough = |all: &[Recorded]| all.iter().filter(|it| matching(it)).count() >= count;
        self.wait_until(&format!("{count} requests"), enough).await;
        self.requests().into_iter().filter(matching).collect()
    }

    /// Waits until no answer is being written or held.
    pub async fn wait_until_idle(&self) {
        let pending = |it: &Recorded| it.outcome == Outcome::Pending;
        self.wait_until("the answers to end", |all| !all.iter().any(pending))
            .await;
    }

    /// A number that grows with every change of the record, and a way to wait for the next.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}
