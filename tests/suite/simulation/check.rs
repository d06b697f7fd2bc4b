//! What has to hold when the world has come to rest (DESIGN §7), by a fold that knows of no nodes, and by the independent reference.

use std::collections::{BTreeMap, BTreeSet};

use stockwarden::actors::protocol::{Mode, load};
use stockwarden::events::decision::Recorded;
use stockwarden::events::record::{Offset, Partition, RecordBatch, Topic};
use stockwarden::ports::SnapshotStore as _;

use super::fold::{Bytes, Fold};
use super::log::{Log, PARTITIONS};
use super::store::now;
use super::world::World;
use crate::reference::{DecisionOutcome, ProposalOutcome, Record, Reference, VariantKey, VariantOutcome, first_difference};

/// Partition, offset of the cause, id. The order among the decisions of one fact is no promise across shops.
type Place = (Partition, Offset, String);

impl World {
    /// Whether these states are the fold of everything before `until`, record by record from the first one, merged with the
    /// recorded decisions (invariant 3).
    pub fn is_the_fold(&self, partition: Partition, until: Offset, bytes: &Bytes) -> Result<(), String> {
        let log = self.log.lock().expect("one thread");
        let expected = fold(&log, partition, 0, until, Fold::new(partition))?.bytes();
        same(&expected, bytes)
    }

    pub fn prove(&mut self) -> Result<(), String> {
        let shared = self.log.clone();
        let log = shared.lock().expect("one thread");
        let mut reference = Reference::new(&[]);
        let mut decided: BTreeMap<Place, DecisionOutcome> = BTreeMap::new();
        let mut variants: BTreeMap<VariantKey, VariantOutcome> = BTreeMap::new();
        let mut letters = BTreeSet::new();
        for partition in 0..PARTITIONS {
            let end = log.end((Topic::Facts, partition));
            for record in records_of(&log.read_all((Topic::Facts, partition))) {
                reference.take(&record);
            }
            for record in log.read_all((Topic::Decisions, partition)).iter() {
                let Ok(Recorded::Decision(d)) = Recorded::read(&record) else {
                    return Err(format!("the decision {} cannot be read", record.position()));
                };
                let (key, outcome) = outcome_of(*d);
                self.counts.decisions += 1;
                if decided.insert(key.clone(), outcome).is_some() {
                    return Err(format!("the decision {key:?} is in the log twice (invariant 4)"));
                }
            }
            for record in log.read_all((Topic::DeadLetters, partition)).iter() {
                let letter: serde_json::Value =
                    serde_json::from_slice(record.value.unwrap_or_default()).map_err(|e| e.to_string())?;
                self.counts.dead_letters += 1;
                if !letters.insert((partition, letter["origin"]["offset"].as_i64())) {
                    return Err(format!("the dead letter of {}:{} is there twice", partition, letter["origin"]["offset"]));
                }
            }
            let truth = fold(&log, partition, 0, end, Fold::new(partition))?;
            let whole = truth.bytes();
            self.prove_owner(partition, end, &whole)?;
            self.prove_store(&log, partition, end, &whole)?;
            for (shop, id, state) in truth.variants().filter(|(_, _, s)| !s.deleted) {
                let levels = state.stock.connected().map(|l| (l.location.0, l.available)).collect();
                let open = |p: &stockwarden::domain::proposal::Proposal| {
                    let scope = if p.location.is_none() { "shop" } else { "location" };
                    let key = (p.kind.as_str().to_owned(), scope.to_owned(), p.location.map(|l| l.0));
                    let text = |t: &Option<Box<str>>| t.as_deref().map(str::to_owned);
                    let outcome = ProposalOutcome {
                        id: p.id.to_string(),
                        state: p.state.as_str().to_owned(),
                        quantity: p.quantity,
                        received: p.received,
                        assigned_to: text(&p.assigned_to),
                        snoozed_until: p.snooze.and_then(|s| s.until),
                        snoozed_level: p.snooze.and_then(|s| s.level),
                        eta: p.eta,
                        reference: text(&p.reference),
                    };
                    (key, outcome)
                };
                let outcome = VariantOutcome {
                    item: state.item.map(|i| i.0),
                    sku: state.sku.as_deref().map(str::to_owned),
                    available: state.stock.available(),
                    levels,
                    open: state.open_proposals().map(open).collect(),
                };
                variants.insert((shop.to_owned(), id.0), outcome);
            }
        }
        let expected = reference.outcome();
        if letters.len() as u64 != expected.counts.unreadable {
            return Err(format!("{} dead letters, {} records that cannot be read", letters.len(), expected.counts.unreadable));
        }
        let due = expected.decisions.into_iter().map(|((p, o, _), d)| ((p, o, d.decision_id.clone()), d)).collect();
        let differs = first_difference("decisions (invariant 4)", &due, &decided)
            .or_else(|| first_difference("variants (invariant 2)", &expected.variants, &variants));
        differs.map_or(Ok(()), Err)
    }

    /// The owner's live state is the replay from zero.
    fn prove_owner(&self, partition: Partition, end: Offset, whole: &Bytes) -> Result<(), String> {
        let owner = self.group.owner.get(&partition).and_then(|n| self.nodes.get(*n)).ok_or("nobody owns a partition")?;
        let life = owner.table.get(&partition).and_then(|a| owner.lives.get(a));
        let life = life.ok_or_else(|| format!("partition {partition} has no shard"))?;
        if (life.progress.applied(), life.progress.is_committed()) != (end, true) {
            return Err(format!("partition {partition} ends at {end}; the shard stands at {:?}", life.progress));
        }
        same(whole, &life.fold.bytes()).map_err(|e| format!("live state (invariant 3): {e}"))
    }

    /// So is what the store holds, with the tail.
    fn prove_store(&self, log: &Log, partition: Partition, end: Offset, whole: &Bytes) -> Result<(), String> {
        let Some(checkpoint) = now(self.store.checkpoint(partition)).expect("it is there") else { return Ok(()) };
        // Damaged after the last save: found by whoever loads it next.
        let Ok(loaded) = now(load(&self.store, partition, usize::MAX)).expect("it is there") else { return Ok(()) };
        let start = Fold::from_loaded(partition, loaded);
        let now = fold(log, partition, checkpoint.facts, end, start)?;
        same(whole, &now.bytes()).map_err(|e| format!("snapshot and tail from {} (invariant 3): {e}", checkpoint.facts))
    }
}

fn fold(log: &Log, partition: Partition, from: Offset, until: Offset, mut fold: Fold) -> Result<Fold, String> {
    let mut recorded: BTreeMap<Offset, Vec<Recorded>> = BTreeMap::new();
    // A transaction under way concerns later facts.
    for record in log.read_all((Topic::Decisions, partition)).iter() {
        let r = Recorded::read(&record).map_err(|e| e.to_string())?;
        recorded.entry(r.caused_by().unwrap_or(-1)).or_default().push(r);
    }
    let mut at = from;
    while at < until {
        let batch = log.read((Topic::Facts, partition), at, until, 1).map_err(|e| e.to_string())?;
        let Some(batch) = batch else { break };
        let due = recorded.remove(&at).map(|r| (at, r)).into_iter().collect();
        let mut made = fold.apply(&batch, due, Mode::Replay);
        fold.settle(&mut made);
        at = batch.next_offset;
    }
    Ok(fold)
}

fn same(expected: &Bytes, actual: &Bytes) -> Result<(), String> {
    let differs = expected.keys().chain(actual.keys()).find(|k| {
        // The shard's own offset is that of the last batch.
        let of = |b: &Bytes| b.get(*k).map(|(offset, bytes)| (if k.0.is_empty() { 0 } else { *offset }, bytes.clone()));
        of(expected) != of(actual)
    });
    let Some(key) = differs else { return Ok(()) };
    let side = |b: &Bytes| b.get(key).map(|(offset, bytes)| format!("offset {offset}, {}", hex::encode(bytes)));
    Err(format!("{key:?} is {:?} instead of {:?}", side(actual), side(expected)))
}

fn records_of(batch: &RecordBatch) -> impl Iterator<Item = Record> + '_ {
    batch.iter().map(|r| Record {
        partition: r.partition,
        offset: r.offset,
        append_time_ms: r.append_time_ms,
        key: r.key.map(|k| String::from_utf8_lossy(k).into_owned()),
        headers: r.headers.map(|(n, v)| (n.to_lowercase(), String::from_utf8_lossy(v).into_owned())).collect(),
        value: r.value.unwrap_or_default().to_vec(),
    })
}

fn outcome_of(d: stockwarden::events::decision::Decision) -> (Place, DecisionOutcome) {
    let key = (d.caused_by.partition, d.caused_by.offset, d.decision_id.to_string());
    let outcome = DecisionOutcome {
        decision_id: d.decision_id.to_string(),
        organisation: d.organisation,
        shop: d.shop.unwrap_or_default(),
        variant: d.variant_id.map_or(0, |v| v.0),
        location: d.location_id.map(|l| l.0),
        rule: d.rule_id,
        kind: d.kind.as_str().to_owned(),
        quantity: d.quantity,
        available: d.available,
        previous: d.inputs.previous,
        decided_at: d.decided_at,
    };
    (key, outcome)
}
