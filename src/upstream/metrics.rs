//! The upstream's counts and ledger as metrics, read when they are scraped.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Counters, Upstream};

/// Reports one upstream.
#[derive(Debug)]
pub struct UpstreamCollector(Upstream);

impl UpstreamCollector {
    /// Reports `upstream`.
    pub const fn new(upstream: Upstream) -> Self {
        Self(upstream)
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>, counters: &Counters) -> fmt::Result {
        let help = "Requests to the upstream, its token endpoint and its CDN";
        let name = "mirror_upstream_requests";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, class, count) in &counters.requests {
            let labels = [
                ("upstream", &**self.0.name()),
                ("kind", kind.label()),
                ("code", class.label()),
            ];
            let metric = family.encode_family(&labels)?;
            ConstCounter::new(*count).encode(metric)?;
        }
        Ok(())
    }

    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        value: Option<u64>,
    ) -> fmt::Result {
        let Some(value) = value.and_then(|value| i64::try_from(value).ok()) else {
            return Ok(());
        };
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let labels = [("upstream", &**self.0.name())];
        let metric = family.encode_family(&labels)?;
        ConstGauge::new(value).encode(metric)
    }
}

impl Collector for UpstreamCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (counters, ledger) = (self.0.counters(), self.0.ledger());
        self.requests(&mut encoder, &counters)?;
        let (name, help) = ("mirror_upstream_fetched_bytes", "Bytes of blobs received");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        let labels = [("upstream", &**self.0.name())];
        let metric = family.encode_family(&labels)?;
        ConstCounter::new(counters.blob_bytes).encode(metric)?;
        let limit = (
            "mirror_upstream_ratelimit_limit",
            "Pulls that the upstream allows per window",
        );
        self.gauge(&mut encoder, limit, ledger.limit)?;
        let remaining = (
            "mirror_upstream_ratelimit_remaining",
            "Pulls that are left in the window",
        );
        self.gauge(&mut encoder, remaining, ledger.remaining)
    }
}
