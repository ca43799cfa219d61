//! What the server counts, and the text in which it tells.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::registry::Outcome;
use crate::sys::process;

/// The media type of [`encode`]'s text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds for the time to the first byte, in seconds.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// The metrics of the HTTP floor. Clones share the numbers.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<AnswerLabels, Histogram, fn() -> Histogram>,
    bytes: Family<AnswerLabels, Counter>,
    decisions: Family<DecisionLabels, Counter>,
    pub(super) in_flight: Gauge,
    pub(super) connections: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    op: &'static str,
    method: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    op: &'static str,
    cache: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    kind: &'static str,
    result: &'static str,
}

/// What is read from the system at every scrape.
#[derive(Debug)]
struct Process;

impl HttpMetrics {
    /// The metrics, all of them in `registry`. Names carry the prefix `mirror_` already.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            bytes: Family::default(),
            decisions: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
        };
        metrics.register_families(registry);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("mirror_build", "The version that runs", build);
        registry.register_collector(Box::new(Process));
        metrics
    }

    fn register_families(&self, registry: &mut Registry) {
        registry.register(
            "mirror_http_requests",
            "Requests answered; code 499: the client left before the answer began",
            self.requests.clone(),
        );
        registry.register(
            "mirror_http_request_duration_seconds",
            "Time from a request's head to the first byte of its answer",
            self.seconds.clone(),
        );
        registry.register(
            "mirror_http_response_bytes",
            "Bytes of answers' bodies",
            self.bytes.clone(),
        );
        registry.register(
            "mirror_cache_requests",
            "Pulls of manifests and blobs by what was decided",
            self.decisions.clone(),
        );
        registry.register(
            "mirror_http_in_flight_requests",
            "Requests whose answer is not complete",
            self.in_flight.clone(),
        );
        registry.register(
            "mirror_connections",
            "Open client connections",
            self.connections.clone(),
        );
    }

    /// Counts a request, once its answer's status is known.
    pub(super) fn request(&self, op: &'static str, method: &'static str, code: u16) {
        self.requests
            .get_or_create(&RequestLabels { op, method, code })
            .inc();
    }

    /// Counts an answer's decision and the time it took.
    pub(super) fn answer(&self, op: &'static str, outcome: Option<Outcome>, seconds: f64) {
        let cache = cache_label(outcome);
        self.seconds
            .get_or_create(&AnswerLabels { op, cache })
            .observe(seconds);
        if let (Some(outcome), "manifest" | "blob") = (outcome, op) {
            let result = outcome.label();
            self.decisions
                .get_or_create(&DecisionLabels { kind: op, result })
                .inc();
        }
    }

    /// The counter of the bytes of one kind of answer.
    pub(super) fn bytes(&self, op: &'static str, outcome: Option<Outcome>) -> Counter {
        let cache = cache_label(outcome);
        self.bytes.get_or_create_owned(&AnswerLabels { op, cache })
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Resident memory in bytes",
                process::resident_memory(),
            ),
            (
                "process_open_fds",
                "Open file descriptors",
                process::open_files(),
            ),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value.and_then(|value| i64::try_from(value).ok()) else {
                continue;
            };
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

/// The registry's numbers in the text format of `OpenMetrics`.
pub(super) fn encode(registry: &Registry) -> Result<String, fmt::Error> {
    let mut page = String::new();
    text::encode(&mut page, registry)?;
    Ok(page)
}

fn cache_label(outcome: Option<Outcome>) -> &'static str {
    outcome.map_or("none", Outcome::label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_documented_name() {
        let mut registry = Registry::default();
        let metrics = HttpMetrics::register(&mut registry);
        metrics.request("manifest", "GET", 200);
        metrics.answer("manifest", Some(Outcome::Hit), 0.002);
        metrics.bytes("manifest", Some(Outcome::Hit)).inc_by(7);
        let page = encode(&registry).unwrap();
        for line in [
            r#"mirror_http_requests_total{op="manifest",method="GET",code="200"} 1"#,
            r#"mirror_http_request_duration_seconds_bucket{le="0.0025",op="manifest",cache="hit"} 1"#,
            r#"mirror_http_response_bytes_total{op="manifest",cache="hit"} 7"#,
            r#"mirror_cache_requests_total{kind="manifest",result="hit"} 1"#,
            "mirror_http_in_flight_requests 0",
            "mirror_connections 0",
            concat!(
                "mirror_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(page.contains("\nprocess_resident_memory_bytes "), "{page}");
        assert!(page.ends_with("# EOF\n"));
    }
}
