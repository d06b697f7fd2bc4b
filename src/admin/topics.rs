//! A look into the log.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::command::TailFrom;
use super::{Admin, AdminError, Refusal, blocking, scan};
use crate::events::codec;
use crate::events::decision::RECORD_HEADER;
use crate::events::fact::header;
use crate::events::record::{Offset, Partition, Position, RecordRef, Topic, partition_of};
use crate::events::time;
use crate::ports::EventLog;
use crate::ports::event_log::Group;

/// Records of one answer, at most, so that an answer stays small (DESIGN §7.9).
const MAX_LIMIT: usize = 10_000;
const MAX_WAIT: Duration = Duration::from_secs(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

struct Look {
    topic: Topic,
    partitions: Vec<Partition>,
    shop: Option<String>,
    fact: Option<String>,
    limit: usize,
}

impl Admin {
    pub(super) async fn topics_list(&self) -> Result<Value, AdminError> {
        let log = self.log.clone();
        blocking(move || {
            let topics = Topic::ALL.iter().map(|t| topic_row(log.as_ref(), *t)).collect::<Result<Vec<_>, _>>()?;
            Ok(json!({ "topics": topics }))
        })
        .await
    }

    /// Answers with records and, in `next`, where the following look begins. Order holds within a partition, so within a shop.
    pub(super) async fn topics_tail(
        &self,
        topic: Topic,
        from: TailFrom,
        limit: usize,
        wait_ms: u64,
        shop: Option<String>,
        fact: Option<String>,
    ) -> Result<Value, AdminError> {
        let log = self.log.clone();
        let all = log.partitions();
        let shop = shop.map(|s| if s.starts_with("store:") { s } else { s.to_lowercase() });
        // Dead letters stand where their record stood, wherever its writer put it.
        let partitions = match (&shop, topic) {
            (Some(key), Topic::Facts | Topic::Decisions) => vec![partition_of(key.as_bytes(), all)],
            _ => (0..all).collect(),
        };
        let look = Look { topic, partitions, shop, fact, limit: limit.clamp(1, MAX_LIMIT) };
        let deadline = Instant::now() + Duration::from_millis(wait_ms).min(MAX_WAIT);
        let mut next = match from {
            TailFrom::At(offsets) if offsets.len() != all as usize => {
                return Err(AdminError::refused(
                    Refusal::Invalid,
                    format!("{} offsets were given for {all} partitions", offsets.len()),
                    "",
                ));
            }
            TailFrom::At(offsets) => offsets,
            TailFrom::Beginning => self.starts(topic, |low, _| low).await?,
            TailFrom::Last(n) => {
                let n = n.min(MAX_LIMIT);
                return self.last(look, n).await;
            }
        };
        let look = std::sync::Arc::new(look);
        loop {
            let (log, look) = (self.log.clone(), look.clone());
            let (records, after) = blocking(move || read_from(log.as_ref(), &look, next)).await?;
            if !records.is_empty() || Instant::now() >= deadline {
                return Ok(answer(records, &after));
            }
            next = after;
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    async fn starts(
        &self,
        topic: Topic,
        choose: impl Fn(Offset, Offset) -> Offset + Send + 'static,
    ) -> Result<Vec<Offset>, AdminError> {
        let log = self.log.clone();
        blocking(move || {
            (0..log.partitions()).map(|p| Ok(log.watermarks(topic, p).map(|(low, high)| choose(low, high))?)).collect()
        })
        .await
    }

    /// The last `n` that fit, over all partitions together.
    async fn last(&self, look: Look, n: usize) -> Result<Value, AdminError> {
        let log = self.log.clone();
        blocking(move || {
            let mut next = Vec::new();
            let mut records: Vec<(i64, Position, Value)> = Vec::new();
            for partition in 0..log.partitions() {
                let (low, high) = log.watermarks(look.topic, partition)?;
                next.push(high);
                if n == 0 || !look.partitions.contains(&partition) {
                    continue;
                }
                // With a filter the last n offsets may hold none that fits: look further back, up to a bound.
                let back = if look.filters() { 100_000 } else { n as Offset };
                let mut own = std::collections::VecDeque::with_capacity(n);
                scan::forward(log.as_ref(), look.topic, partition, low.max(high - back), high, |r| {
                    if look.fits(r) {
                        if own.len() == n {
                            own.pop_front();
                        }
                        own.push_back((r.append_time_ms, r.position(), show(look.topic, r)));
                    }
                    true
                })?;
                records.extend(own);
            }
            records.sort_by_key(|(at, position, _)| (*at, *position));
            let skip = records.len().saturating_sub(n);
            Ok(answer(records.into_iter().skip(skip).map(|(_, _, v)| v).collect(), &next))
        })
        .await
    }
}

fn answer(records: Vec<Value>, next: &[Offset]) -> Value {
    json!({ "records": records, "next": next })
}

impl Look {
    fn filters(&self) -> bool {
        self.shop.is_some() || self.fact.is_some()
    }

    fn fits(&self, record: &RecordRef<'_>) -> bool {
        let shop = self.shop.as_deref().is_none_or(|s| record.key == Some(s.as_bytes()));
        shop && self.fact.as_deref().is_none_or(|f| kind_of(self.topic, record).as_deref() == Some(f))
    }
}

fn read_from(log: &dyn EventLog, look: &Look, mut next: Vec<Offset>) -> Result<(Vec<Value>, Vec<Offset>), AdminError> {
    let mut records = Vec::new();
    for &partition in &look.partitions {
        if records.len() >= look.limit {
            break;
        }
        let (low, high) = log.watermarks(look.topic, partition)?;
        let at = &mut next[partition as usize];
        *at = scan::forward(log, look.topic, partition, low.max(*at), high, |r| {
            if look.fits(r) {
                records.push(show(look.topic, r));
            }
            records.len() < look.limit
        })?;
    }
    Ok((records, next))
}

/// The fact's type, or the kind of record in other topics.
fn kind_of(topic: Topic, record: &RecordRef<'_>) -> Option<String> {
    match topic {
        Topic::Facts => match record.headers.text(header::FACT) {
            Some(fact) => Some(fact.to_owned()),
            None => codec::read(record).ok().map(|r| r.fact_type.as_str().to_owned()),
        },
        Topic::Decisions => record.headers.text(RECORD_HEADER).map(str::to_owned),
        Topic::DeadLetters => record.headers.text("reason").map(str::to_owned),
    }
}

fn show(topic: Topic, r: &RecordRef<'_>) -> Value {
    let headers: Map<String, Value> = r.headers.map(|(name, value)| (name.to_owned(), text(value))).collect();
    json!({
        "topic": topic.default_name(),
        "position": r.position().to_string(),
        "append_time": time::format(r.append_time_ms),
        "key": r.key.map(text),
        "type": kind_of(topic, r),
        "headers": headers,
        // What is no JSON is shown as text, what is no text as base64.
        "value": r.value.map(|v| serde_json::from_slice(v).unwrap_or_else(|_| text(v))),
    })
}

fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(t) => t.into(),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

fn topic_row(log: &dyn EventLog, topic: Topic) -> Result<Value, AdminError> {
    let committed = match topic {
        Topic::Facts => Some(("shards", log.committed(Group::Shards, topic)?)),
        Topic::Decisions => Some(("dispatcher", log.committed(Group::Dispatcher, topic)?)),
        Topic::DeadLetters => None,
    };
    let mut partitions = Vec::new();
    let (mut held, mut lag) = (0, 0);
    for partition in 0..log.partitions() {
        let (first, next) = log.watermarks(topic, partition)?;
        let done = committed.as_ref().and_then(|(_, c)| c.get(partition as usize).copied().flatten());
        let behind = committed.as_ref().map(|_| next - done.unwrap_or(first));
        held += next - first;
        lag += behind.unwrap_or(0);
        partitions.push(json!({ "partition": partition, "first": first, "next": next, "committed": done, "lag": behind }));
    }
    let group = committed.as_ref().map(|(name, _)| *name);
    Ok(json!({
        "topic": topic.default_name(), "offsets": held, "group": group, "lag": group.map(|_| lag), "partitions": partitions,
    }))
}
