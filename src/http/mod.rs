//! The server: listeners, connections, the routes of the registry protocol, health and metrics. The only module
//! that knows HTTP server types.
//!
//! What holds for every connection: a head must arrive whole within a limit, counted from the moment it is waited
//! for, so an idle connection ends by the same limit; a peer that takes no bytes is cut; a connection buffers at
//! most 64 KiB besides the one chunk it is sending. What holds for every answer: it has a request id, a blob that
//! breaks off breaks the connection, and no answer is ever 401, because clients answer a challenge with the
//! credentials of the registry that they believe to talk to.

mod access_log;
mod address;
mod admin;
mod body;
mod conditional;
mod connection;
mod error;
mod exchange;
mod listener;
mod metrics;
mod reply;
mod request_id;
mod server;
mod service;
mod stall;
mod v2;

pub use access_log::AccessSink;
pub use address::{InvalidListenAddress, ListenAddress};
pub use admin::{AdminSocket, StatsPage};
pub use listener::BindError;
pub use metrics::HttpMetrics;
pub use server::{Drained, Listen, Server, Settings, Timeouts};
pub use service::{Service, Telemetry};
