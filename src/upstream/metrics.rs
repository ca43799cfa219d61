//! The upstreams' counts and ledgers as metrics, read when they are scraped.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Counters, Ledger, Upstream};

/// Reports upstreams, each under a label of its own: one collector for all of them, because a metric may be described
/// only once.
pub struct UpstreamCollector(Box<dyn Fn() -> Vec<Upstream> + Send + Sync>);

/// One upstream at the moment of a scrape.
struct Seen {
    upstream: Upstream,
    counters: Counters,
    mirrors: Vec<(String, Counters)>,
    ledgers: Vec<(Arc<str>, Ledger, bool)>,
}

impl UpstreamCollector {
    /// Reports the upstreams that `upstreams` yields at each scrape.
    pub fn new(upstreams: impl Fn() -> Vec<Upstream> + Send + Sync + 'static) -> Self {
        Self(Box::new(upstreams))
    }
}

impl fmt::Debug for UpstreamCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((self.0)()).finish()
    }
}

impl Seen {
    fn new(upstream: Upstream) -> Self {
        Self {
            counters: upstream.counters(),
            mirrors: upstream.mirror_counters(),
            ledgers: upstream.ledgers(),
            upstream,
        }
    }

    fn label(&self) -> (&'static str, &str) {
        ("upstream", self.upstream.name())
    }
}

fn requests(encoder: &mut DescriptorEncoder<'_>, all: &[Seen]) -> fmt::Result {
    let help = "Requests to the upstream, its token endpoint and its CDN";
    let name = "mirror_upstream_requests";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for seen in all {
        for (kind, class, count) in &seen.counters.requests {
            let labels = [
                seen.label(),
                ("kind", kind.label()),
                ("code", class.label()),
            ];
            let metric = family.encode_family(&labels)?;
            ConstCounter::new(*count).encode(metric)?;
        }
    }
    Ok(())
}

/// The same, of its mirrors.
fn mirror_requests(encoder: &mut DescriptorEncoder<'_>, all: &[Seen]) -> fmt::Result {
    if all.iter().all(|seen| seen.mirrors.is_empty()) {
        return Ok(());
    }
    let help = "Requests to the upstream's mirrors, before it is asked itself";
    let name = "mirror_upstream_mirror_requests";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for seen in all {
        for (mirror, counters) in &seen.mirrors {
            for (kind, class, count) in &counters.requests {
                let labels = [
                    seen.label(),
                    ("mirror", mirror.as_str()),
                    ("kind", kind.label()),
                    ("code", class.label()),
                ];
                let metric = family.encode_family(&labels)?;
                ConstCounter::new(*count).encode(metric)?;
            }
        }
    }
    Ok(())
}

fn fetched_bytes(encoder: &mut DescriptorEncoder<'_>, all: &[Seen]) -> fmt::Result {
    let (name, help) = ("mirror_upstream_fetched_bytes", "Bytes of blobs received");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for seen in all {
        let labels = [seen.label()];
        let metric = family.encode_family(&labels)?;
        ConstCounter::new(seen.counters.blob_bytes).encode(metric)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    all: &[Seen],
    value: impl Fn(&Ledger) -> Option<u64>,
) -> fmt::Result {
    let mut told = Vec::new();
    for seen in all {
        for (credential, ledger, _) in &seen.ledgers {
            if let Some(value) = value(ledger).and_then(|value| i64::try_from(value).ok()) {
                told.push((seen, credential, value));
            }
        }
    }
    if told.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (seen, credential, value) in told {
        let labels = [seen.label(), ("credential", &**credential)];
        let metric = family.encode_family(&labels)?;
        ConstGauge::new(value).encode(metric)?;
    }
    Ok(())
}

/// Whether a limit is in force, by credential.
fn limited(encoder: &mut DescriptorEncoder<'_>, all: &[Seen]) -> fmt::Result {
    let name = "mirror_upstream_ratelimit_limited";
    let help = "1 while questions are refused because the upstream limits the rate";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for seen in all {
        for (credential, _, is_limited) in &seen.ledgers {
            let labels = [seen.label(), ("credential", &**credential)];
            let metric = family.encode_family(&labels)?;
            ConstGauge::new(i64::from(*is_limited)).encode(metric)?;
        }
    }
    Ok(())
}

fn suspended(encoder: &mut DescriptorEncoder<'_>, all: &[Seen]) -> fmt::Result {
    let name = "mirror_upstream_suspended";
    let help = "1 while the upstream does not answer and is only probed";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for seen in all {
        let labels = [seen.label()];
        let metric = family.encode_family(&labels)?;
        ConstGauge::new(i64::from(seen.upstream.is_suspended())).encode(metric)?;
    }
    Ok(())
}

fn refused(encoder: &mut DescriptorEncoder<'_>, all: &[Seen]) -> fmt::Result {
    let name = "mirror_upstream_refused";
    let help = "Questions that were not asked, since the upstream would not answer them";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for seen in all {
        let labels = [seen.label()];
        let metric = family.encode_family(&labels)?;
        ConstCounter::new(seen.upstream.refused()).encode(metric)?;
    }
    Ok(())
}

impl Collector for UpstreamCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all: Vec<_> = (self.0)().into_iter().map(Seen::new).collect();
        requests(&mut encoder, &all)?;
        mirror_requests(&mut encoder, &all)?;
        fetched_bytes(&mut encoder, &all)?;
        let limit = (
            "mirror_upstream_ratelimit_limit",
            "Pulls that the upstream allows per window",
        );
        gauge(&mut encoder, limit, &all, |ledger| ledger.limit)?;
        let remaining = (
            "mirror_upstream_ratelimit_remaining",
            "Pulls that are left in the window",
        );
        gauge(&mut encoder, remaining, &all, |ledger| ledger.remaining)?;
        limited(&mut encoder, &all)?;
        suspended(&mut encoder, &all)?;
        refused(&mut encoder, &all)
    }
}
