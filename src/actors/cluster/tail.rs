//! The log after a partition's checkpoint, read without owning the partition: what an owner would fold next, as far as it is
//! committed. It grows from query to query as long as the checkpoint stays, within bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::shard::{ShardFold, ShardState};
use crate::events::codec::{self, Subject};
use crate::events::decision::Recorded;
use crate::events::fact::{At, Fact};
use crate::events::record::{Offset, Partition, RecordBatch, Topic};
use crate::events::time::Millis;
use crate::ports::event_log::PartitionReader;
use crate::ports::snapshot_store::Checkpoint;
use crate::ports::{EventLog, LogError};

/// Records, and bytes of them as they stand in the log, that a tail holds at most. A longer one is an owner's work.
const MAX_RECORDS: usize = 20_000;
const MAX_BYTES: usize = 16 << 20;
/// One look at the log while it gives nothing.
const STEP: Duration = Duration::from_millis(20);
/// Decisions of a transaction that nobody ends hold back all after them for seconds; queries do not wait for that.
const DECISIONS_WITHIN: Millis = 80;

/// A fact, read.
#[derive(Clone)]
pub struct Entry {
    pub at: At,
    /// None: it is about the whole partition.
    pub shop: Option<Arc<str>>,
    pub fact: Fact,
}

#[derive(Clone)]
pub struct Tail {
    pub partition: Partition,
    /// What the snapshots hold; none if there are none.
    pub checkpoint: Option<Checkpoint>,
    /// The shard's own state at the checkpoint.
    pub shard: ShardState,
    pub entries: Vec<Entry>,
    pub recorded: BTreeMap<Offset, Vec<Arc<Recorded>>>,
    /// Offset after the last fact here.
    pub next: Offset,
    /// Everything appended until then is here, Unix milliseconds; none if that cannot be said.
    pub as_of: Option<Millis>,
    /// It reaches the log's end as that was when it was read last.
    pub whole: bool,
    /// When it was read last.
    pub read_at: Millis,
    fold: ShardFold,
    bytes: usize,
    last_append: Option<Millis>,
    last_decision: Option<Millis>,
}

/// Where a tail is read from.
pub struct Readers {
    facts: Box<dyn PartitionReader>,
    decisions: Box<dyn PartitionReader>,
}

#[derive(Debug, thiserror::Error)]
pub enum TailError {
    #[error(transparent)]
    Log(#[from] LogError),
    /// What an owner would refuse to fold as well (`recovery::check`).
    #[error("the log and the snapshots do not fit together; the partition's owner says more")]
    Misfit,
}

impl Tail {
    /// An empty one at the checkpoint.
    pub fn at(
        log: &dyn EventLog,
        partition: Partition,
        checkpoint: Option<Checkpoint>,
        shard: ShardState,
    ) -> Result<(Tail, Readers), TailError> {
        let (low, high) = log.watermarks(Topic::Facts, partition)?;
        // Less than an owner checks: the committed offset is held back by a transaction that nobody ends, for as long as
        // answers are needed from here.
        let fits = match checkpoint {
            Some(c) => low <= c.facts && c.facts <= high,
            None => low == 0,
        };
        if !fits {
            return Err(TailError::Misfit);
        }
        let from = checkpoint.map_or(low, |c| c.facts);
        let (decisions_low, _) = log.watermarks(Topic::Decisions, partition)?;
        let decisions_from = checkpoint.map_or(0, |c| c.decisions).max(decisions_low);
        let readers = Readers {
            facts: log.reader(Topic::Facts, partition, from)?,
            decisions: log.reader(Topic::Decisions, partition, decisions_from)?,
        };
        let fold = ShardFold::from_state(shard.clone());
        let tail = Tail {
            partition,
            checkpoint,
            shard,
            entries: Vec::new(),
            recorded: BTreeMap::new(),
            next: from,
            as_of: None,
            whole: false,
            read_at: Millis::MIN,
            fold,
            bytes: 0,
            last_append: None,
            last_decision: None,
        };
        Ok((tail, readers))
    }

    /// Reads on towards the log's end until `deadline`. Blocks.
    pub fn read_on(
        &mut self,
        log: &dyn EventLog,
        readers: &mut Readers,
        clock: &dyn Fn() -> Millis,
        deadline: Millis,
    ) -> Result<(), LogError> {
        let asked = clock();
        let (_, end) = log.watermarks(Topic::Facts, self.partition)?;
        // After the facts' end: a fact about a decision then finds it.
        let (_, decisions_end) = log.watermarks(Topic::Decisions, self.partition)?;
        let facts_whole = loop {
            if self.next >= end {
                break true;
            }
            if clock() >= deadline || self.entries.len() >= MAX_RECORDS || self.bytes >= MAX_BYTES {
                break false;
            }
            match readers.facts.next(end, STEP)? {
                Some(batch) => self.take(&batch),
                None => self.next = end,
            }
        };
        let decisions_deadline = deadline.min(clock() + DECISIONS_WITHIN);
        let decisions_whole = loop {
            if readers.decisions.position() >= decisions_end {
                break true;
            }
            match readers.decisions.next(decisions_end, STEP)? {
                Some(batch) => self.take_decisions(&batch)?,
                None => break true,
            }
            if clock() >= decisions_deadline {
                break false;
            }
        };
        let facts_as_of = if facts_whole { Some(asked) } else { self.last_append };
        let decisions_as_of = if decisions_whole { Some(asked) } else { self.last_decision };
        self.as_of = facts_as_of.zip(decisions_as_of).map(|(f, d)| f.min(d));
        self.whole = facts_whole;
        self.read_at = asked;
        Ok(())
    }

    fn take(&mut self, batch: &RecordBatch) {
        self.bytes += batch.bytes();
        for record in batch.iter() {
            self.last_append = Some(record.append_time_ms);
            // What cannot be read is a dead letter and changes nothing.
            let Ok(read) = codec::read(&record) else { continue };
            let mut at = read.at;
            self.fold.advance(&mut at);
            let shop = match read.subject {
                Subject::Shop(shop) => Some(shop.into()),
                Subject::Partition => None,
            };
            self.entries.push(Entry { at, shop, fact: read.fact });
        }
        self.next = self.next.max(batch.next_offset);
    }

    fn take_decisions(&mut self, batch: &RecordBatch) -> Result<(), LogError> {
        for record in batch.iter() {
            self.last_decision = Some(record.append_time_ms);
            let recorded = Recorded::read(&record).map_err(|e| LogError::Damaged(e.to_string()))?;
            if let Some(caused_by) = recorded.caused_by() {
                self.recorded.entry(caused_by).or_default().push(Arc::new(recorded));
            }
        }
        Ok(())
    }

    /// Domain time at its end.
    pub fn now(&self) -> Millis {
        self.fold.now().unwrap_or(0)
    }

    /// Shops that it tells of.
    pub fn shops(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().filter_map(|e| e.shop.as_ref())
    }
}
