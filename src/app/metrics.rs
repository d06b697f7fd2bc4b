//! Shows what the engine and the senders count among the node's metrics.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::actors::effects::{BreakerState, SenderState};
use crate::actors::stats::EngineStats;

/// Read at each scrape.
pub struct EngineCollector(pub Arc<EngineStats>);

impl fmt::Debug for EngineCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineCollector")
    }
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let s = &self.0;
        let counters = [
            ("facts", "Facts applied live", s.facts.get()),
            ("facts_replayed", "Facts folded in recovery", s.replayed.get()),
            ("decisions", "Decisions made", s.decisions.get()),
            ("dead_letters", "Records that could not be understood", s.dead_letters.get()),
            ("commits", "Transactions committed", s.commits.get()),
            ("commit_failures", "Transactions that did not commit and were sent again", s.aborts.get()),
            ("snapshots", "Snapshots written", s.snapshots.get()),
            ("snapshots_discarded", "Times that a partition's snapshots were discarded", s.snapshots_discarded.get()),
            ("passivations", "Idle variants that left memory", s.passivations.get()),
            ("reactivations", "Variants that came back into memory from their snapshot", s.reactivations.get()),
            ("rebuilds", "Shards rebuilt after a death", s.rebuilds.get()),
            ("quarantines", "Variants or facts put into quarantine", s.quarantines.get()),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let gauges = [
            ("shops", "Shops that live on this node", s.shops.get()),
            ("variants", "Variants in the memory of this node", s.variants.get()),
            ("variants_away", "Variants known to this node that are not in its memory", s.variants_away.get()),
            (
                "reactivation_failing",
                "1 while the store does not give back variants that facts wait for",
                i64::from(s.reactivation_failing.get()),
            ),
            ("facts_lag", "Offsets from what is applied to the end of the log, over the partitions of this node", s.lag.get()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// Effects by handler and what became of them; read at each scrape. Handlers are named in the configuration and in rules, so they are few.
pub struct EffectsCollector(pub Box<dyn Fn() -> Vec<SenderState> + Send + Sync>);

impl fmt::Debug for EffectsCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EffectsCollector")
    }
}

impl Collector for EffectsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let states = (self.0)();
        // No lines at all would be no metric.
        if states.is_empty() {
            return Ok(());
        }
        let help = "Sends of effects by handler and outcome; failed ones wait for an operator";
        let mut effects = encoder.encode_descriptor("effects", help, None, MetricType::Counter)?;
        for s in &states {
            for (outcome, n) in [("done", s.done), ("retried", s.retried), ("ambiguous", s.ambiguous), ("failed", s.failed)] {
                let labels = [("handler", s.handler.as_str()), ("kind", s.kind), ("outcome", outcome)];
                ConstCounter::new(n).encode(effects.encode_family(&labels)?)?;
            }
        }
        let mut under_way = encoder.encode_descriptor("effects_in_flight", "Sends under way", None, MetricType::Gauge)?;
        for s in &states {
            let n = i64::try_from(s.in_flight).unwrap_or(i64::MAX);
            ConstGauge::new(n).encode(under_way.encode_family(&[("handler", s.handler.as_str())])?)?;
        }
        let help = "1 while a handler sends nothing because its target fails";
        let mut open = encoder.encode_descriptor("effects_breaker_open", help, None, MetricType::Gauge)?;
        for s in &states {
            let n = i64::from(s.breaker != BreakerState::Closed);
            ConstGauge::new(n).encode(open.encode_family(&[("handler", s.handler.as_str())])?)?;
        }
        Ok(())
    }
}
