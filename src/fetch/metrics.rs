//! How downloads end, counted; how many run, read when it is scraped.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::{Fetch, FetchError};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    end: &'static str,
}

/// The ends of downloads by name. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends(Family<EndLabels, Counter>);

impl Ends {
    /// Counts a download's end.
    pub(super) fn count(&self, end: Result<(), &FetchError>) {
        let end = end.map_or_else(FetchError::label, |()| "complete");
        self.0.get_or_create(&EndLabels { end }).inc();
    }
}

impl Fetch {
    /// Adds the numbers of the downloads to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let ends = self.shared.ends.0.clone();
        registry.register("mirror_fetch_ends", "Downloads by how they ended", ends);
        registry.register_collector(Box::new(Running(self.clone())));
    }
}

#[derive(Debug)]
struct Running(Fetch);

impl Collector for Running {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = ConstGauge::new(i64::try_from(self.0.running()).unwrap_or(i64::MAX));
        let (name, help) = ("mirror_fetch_in_flight", "Downloads under way");
        let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(metric)
    }
}
