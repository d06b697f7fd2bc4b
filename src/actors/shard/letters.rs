//! What a shard writes beside its offsets: decisions, what became of proposals, dead letters, and the quarantines that replay has to
//! know of.

use std::sync::Arc;

use super::Shard;
use crate::actors::shop::Item;
use crate::events::dead_letter::{DeadLetter, Origin, Reason, Unreadable};
use crate::events::decision::{self, CausedBy, Decision, ProposalChange, Quarantine, Recorded};
use crate::events::ids::VariantId;
use crate::events::record::{NewRecord, Offset, Partition, RecordBatch, RecordRef, Topic};

impl Shard {
    /// Puts quarantines before the fact that they are about; gives the shops for which the fact is skipped as a whole.
    pub(super) fn quarantine(&mut self, record: &RecordRef<'_>, recorded: &[Recorded]) -> Vec<Arc<str>> {
        let mut of: Vec<(Arc<str>, Option<VariantId>, String)> = Vec::new();
        if let Some(deaths) = self.quarantines.get(&record.offset) {
            of.extend(deaths.iter().map(|d| (d.shop.clone(), d.variant, d.message.clone())));
        }
        of.extend(recorded.iter().filter_map(|r| match r {
            Recorded::Quarantine(q) => Some((q.shop.as_str().into(), q.variant_id, q.message.clone())),
            _ => None,
        }));
        let mut skipped = Vec::new();
        for (shop, variant, message) in of {
            match variant {
                Some(variant) => self.push(&shop, Item::Quarantine(record.offset, variant, message.into())),
                None => skipped.push(shop),
            }
        }
        skipped
    }

    pub(super) fn dead_letter(&self, batch: &RecordBatch, offset: Offset, why: &Unreadable) -> NewRecord {
        let record = batch.iter().find(|r| r.offset == offset);
        let origin =
            Origin { topic: Topic::Facts.default_name().to_owned(), partition: Some(self.partition), offset: Some(offset) };
        let topic = record.and_then(|r| r.headers.text("fact").or_else(|| r.headers.text("x-shopify-topic")));
        let bytes = record.and_then(|r| r.value).unwrap_or_default();
        let at = record.map_or(0, |r| r.append_time_ms);
        let key = record.and_then(|r| r.key).map(<[u8]>::to_vec);
        DeadLetter::new(origin, topic, bytes, why, at).into_record(key, Some(self.partition))
    }

    /// What replay has to know of facts that are skipped, and their dead letters.
    pub(super) fn quarantine_records(&mut self, batch: &RecordBatch) -> Vec<NewRecord> {
        let mut records = Vec::new();
        let due: Vec<_> = self.quarantines.range(..batch.next_offset).map(|(o, _)| *o).collect();
        for offset in due {
            for death in self.quarantines.remove(&offset).unwrap_or_default() {
                let why = Unreadable::new(Reason::Poison, format!("it kills the actor: {}", death.message));
                records.push(self.dead_letter(batch, offset, &why));
                let quarantine = Quarantine {
                    shop: death.shop.to_string(),
                    variant_id: death.variant,
                    caused_by: CausedBy { topic: Topic::Facts.default_name().into(), partition: self.partition, offset },
                    message: death.message,
                };
                records.push(NewRecord {
                    topic: Topic::Decisions,
                    partition: Some(self.partition),
                    key: Some(death.shop.as_bytes().to_vec()),
                    headers: headers(decision::RECORD_QUARANTINE),
                    value: Some(serde_json::to_vec(&quarantine).expect("plain data")),
                });
                self.deps.stats.quarantines.add(1);
                self.deps.stats.dead_letters.add(1);
            }
        }
        records
    }
}

fn headers(record: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![("version", decision::VERSION.to_string().into_bytes()), (decision::RECORD_HEADER, record.as_bytes().to_vec())]
}

/// Decisions, and what became of proposals, in the order of the facts that caused them; of one fact, decisions first.
pub(super) fn records(partition: Partition, decisions: &[Decision], changes: &[ProposalChange]) -> Vec<NewRecord> {
    let record = |shop: Option<&str>, kind, value| NewRecord {
        topic: Topic::Decisions,
        partition: Some(partition),
        key: shop.map(|s| s.as_bytes().to_vec()),
        headers: headers(kind),
        value: Some(value),
    };
    let decided = decisions.iter().map(|d| {
        let value = serde_json::to_vec(d).expect("a decision is plain data");
        ((d.caused_by.offset, None), record(d.shop.as_deref(), decision::RECORD_DECISION, value))
    });
    let changed = changes.iter().map(|c| {
        let value = serde_json::to_vec(c).expect("a change is plain data");
        ((c.caused_by.offset, Some(c.variant_id)), record(Some(&c.shop), decision::RECORD_PROPOSAL, value))
    });
    let mut records: Vec<_> = decided.chain(changed).collect();
    // Stable: those of one variant and fact stay in their order.
    records.sort_by_key(|(place, _)| *place);
    records.into_iter().map(|(_, record)| record).collect()
}

/// Puts decisions in the order of their facts and numbers those of one fact.
pub(super) fn number(decisions: &mut [Decision]) {
    // Stable: those of one variant stay in the order of its rules.
    decisions.sort_by_key(|d| (d.caused_by.offset, d.variant_id));
    let mut last = (-1, 0);
    for d in decisions {
        last = if d.caused_by.offset == last.0 { (last.0, last.1 + 1) } else { (d.caused_by.offset, 0) };
        d.seq = last.1;
    }
}
