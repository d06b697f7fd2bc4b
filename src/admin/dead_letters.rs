//! Dead letters: what could not be understood, and beside it the effects that failed for good; looked at, and tried again after the
//! cause is mended.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::command::RetrySelection;
use super::{Admin, AdminError, Refusal, blocking, effects, scan};
use crate::events::dead_letter::DeadLetter;
use crate::events::fact::{self, header};
use crate::events::record::{NewRecord, Position, RecordRef, Topic};
use crate::events::time;
use crate::ports::EventLog;

/// Says of a fact that it is a dead letter tried again, and where that stands.
pub const RETRY_OF: &str = "retry_of";

/// Headers that a record keeps when it is tried again; those that its reading or its deduplication needs.
const KEPT: [&str; 14] = [
    header::FACT,
    header::VERSION,
    header::DEDUPE_ID,
    header::SOURCE,
    header::EVENT_TIME,
    header::TRIGGERED_AT,
    header::PAYLOAD_SHA256,
    header::TRACEPARENT,
    "x-shopify-topic",
    "x-shopify-shop-domain",
    "x-shopify-triggered-at",
    "x-shopify-webhook-id",
    "x-shopify-event-id",
    "x-shopify-api-version",
];

const MAX_LIMIT: usize = 10_000;
/// Records that go back in one append.
const RETRY_BATCH: usize = 500;

/// One as it stands in its topic.
struct Letter {
    position: Position,
    key: Option<Vec<u8>>,
    append_time_ms: i64,
    letter: DeadLetter,
}

impl Admin {
    pub(super) async fn dead_letters_list(
        &self,
        limit: usize,
        shop: Option<String>,
        reason: Option<String>,
    ) -> Result<Value, AdminError> {
        let log = self.log.clone();
        let limit = limit.clamp(1, MAX_LIMIT);
        // Reasons are those of records.
        let failed = match reason {
            None => self.failed_effects(limit, shop.as_deref()).await?,
            Some(_) => Vec::new(),
        };
        blocking(move || {
            let mut newest: VecDeque<Letter> = VecDeque::new();
            let mut total = 0_u64;
            each(log.as_ref(), |letter| {
                let of_shop = shop.as_deref().is_none_or(|s| letter.key.as_deref() == Some(s.as_bytes()));
                if of_shop && reason.as_deref().is_none_or(|r| letter.letter.reason.as_str() == r) {
                    total += 1;
                    newest.push_back(letter);
                    // Kept a little too long, so that the order over partitions is put right rarely.
                    if newest.len() >= limit * 2 + 1_000 {
                        keep_newest(&mut newest, limit);
                    }
                }
                Ok(())
            })?;
            keep_newest(&mut newest, limit);
            let rows: Vec<Value> = newest.iter().map(Letter::row).collect();
            Ok(json!({ "dead_letters": rows, "total": total, "failed_effects": failed }))
        })
        .await
    }

    pub(super) async fn dead_letters_show(&self, position: String) -> Result<Value, AdminError> {
        if let Some(effect) = effects::parse(&position) {
            return self.failed_effect(&effect).await;
        }
        let at = parse_position(&position)?;
        let log = self.log.clone();
        blocking(move || {
            let letter = one(log.as_ref(), at)?;
            let mut shown = letter.row();
            let bytes = letter.letter.bytes.as_deref().and_then(|b| STANDARD.decode(b).ok());
            shown["text"] = bytes.and_then(|b| String::from_utf8(b).ok()).into();
            shown["bytes"] = letter.letter.bytes.into();
            shown["digest"] = letter.letter.digest.into();
            Ok(shown)
        })
        .await
    }

    /// Appends the original bytes to the facts, with the original key. State facts that were tried again already change
    /// nothing; a letter that still cannot be read comes back as a new one.
    pub(super) async fn dead_letters_retry(&self, selection: RetrySelection) -> Result<Value, AdminError> {
        let log = self.log.clone();
        let (mut effects_retried, mut effects_skipped) = (Vec::new(), Vec::new());
        let selection = match selection {
            RetrySelection::Effects { handler } => return self.retry_effects(handler).await,
            RetrySelection::Positions(named) => {
                let (effects, positions): (Vec<_>, Vec<_>) = named.into_iter().partition(|n| effects::parse(n).is_some());
                for id in effects.iter().filter_map(|n| effects::parse(n)) {
                    let effect = effects::name(&id);
                    match self.retry_effect(&id).await? {
                        true => effects_retried.push(json!({ "effect": effect })),
                        false => {
                            effects_skipped
                                .push(json!({ "effect": effect, "reason": "there is no such effect that has failed" }));
                        }
                    }
                }
                RetrySelection::Positions(positions)
            }
            all => all,
        };
        let (records, mut skipped) = blocking(move || {
            let mut records = Vec::new();
            let mut skipped = Vec::new();
            let mut take = |letter: Letter| -> Result<(), AdminError> {
                let position = letter.position.to_string();
                match again(log.as_ref(), letter)? {
                    Ok(record) => records.push((position, record)),
                    Err(why) => skipped.push(json!({ "position": position, "reason": why })),
                }
                Ok(())
            };
            match selection {
                RetrySelection::Positions(positions) => {
                    for position in positions {
                        take(one(log.as_ref(), parse_position(&position)?)?)?;
                    }
                }
                RetrySelection::All { reason } => {
                    each(log.as_ref(), |letter| match reason.as_deref().is_none_or(|r| letter.letter.reason.as_str() == r) {
                        true => take(letter),
                        false => Ok(()),
                    })?
                }
                // Answered above.
                RetrySelection::Effects { .. } => {}
            }
            Ok((records, skipped))
        })
        .await?;
        skipped.extend(effects_skipped);
        let mut retried = effects_retried;
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let (from, batch): (Vec<String>, Vec<NewRecord>) = records.by_ref().take(RETRY_BATCH).unzip();
            let to = self.log.append(batch).await?;
            retried.extend(from.iter().zip(&to).map(|(f, t)| json!({ "position": f, "fact": t.to_string() })));
        }
        Ok(json!({ "retried": retried, "skipped": skipped }))
    }
}

impl Letter {
    fn read(record: &RecordRef<'_>) -> Option<Letter> {
        let letter = serde_json::from_slice(record.value?).ok()?;
        Some(Letter {
            position: record.position(),
            key: record.key.map(<[u8]>::to_vec),
            append_time_ms: record.append_time_ms,
            letter,
        })
    }

    fn row(&self) -> Value {
        json!({
            "position": self.position.to_string(),
            "key": self.key.as_deref().map(|k| String::from_utf8_lossy(k).into_owned()),
            "reason": self.letter.reason,
            "message": self.letter.message,
            "origin": self.letter.origin,
            "size": self.letter.size,
            "at": time::format(self.letter.at),
        })
    }
}

fn keep_newest(letters: &mut VecDeque<Letter>, limit: usize) {
    letters.make_contiguous().sort_by_key(|l| (l.append_time_ms, l.position));
    let surplus = letters.len().saturating_sub(limit);
    letters.drain(..surplus);
}

fn parse_position(text: &str) -> Result<Position, AdminError> {
    text.parse().map_err(|e| AdminError::refused(Refusal::Invalid, format!("{e}"), "stockwarden dead-letters list names all"))
}

fn each(log: &dyn EventLog, mut visit: impl FnMut(Letter) -> Result<(), AdminError>) -> Result<(), AdminError> {
    for partition in 0..log.partitions() {
        let (low, high) = log.watermarks(Topic::DeadLetters, partition)?;
        let mut failed = None;
        scan::forward(log, Topic::DeadLetters, partition, low, high, |record| {
            // Somebody else's record in our topic is no dead letter.
            failed = Letter::read(record).and_then(|letter| visit(letter).err());
            failed.is_none()
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
    }
    Ok(())
}

fn one(log: &dyn EventLog, at: Position) -> Result<Letter, AdminError> {
    let found = record_at(log, Topic::DeadLetters, at, Letter::read)?;
    found.flatten().ok_or_else(|| {
        AdminError::refused(
            Refusal::NotFound,
            format!("there is no dead letter at {at}"),
            "stockwarden dead-letters list names the positions of all",
        )
    })
}

fn record_at<T>(
    log: &dyn EventLog,
    topic: Topic,
    at: Position,
    read: impl Fn(&RecordRef<'_>) -> T,
) -> Result<Option<T>, AdminError> {
    if at.partition >= log.partitions() {
        return Ok(None);
    }
    let (low, high) = log.watermarks(topic, at.partition)?;
    if !(low..high).contains(&at.offset) {
        return Ok(None);
    }
    let mut found = None;
    scan::forward(log, topic, at.partition, at.offset, at.offset + 1, |record| {
        if record.offset == at.offset {
            found = Some(read(record));
        }
        false
    })?;
    Ok(found)
}

/// The record to be written, or why there is none. The original one is taken from where it stands, with its headers; where
/// it never stood in the log, or is gone from there, the kept bytes are all there is.
fn again(log: &dyn EventLog, letter: Letter) -> Result<Result<NewRecord, &'static str>, AdminError> {
    let origin = &letter.letter.origin;
    let stood = match (origin.partition, origin.offset) {
        (Some(partition), Some(offset)) if origin.topic == Topic::Facts.default_name() => {
            record_at(log, Topic::Facts, Position { partition, offset }, original)?
        }
        _ => None,
    };
    let kept = letter.letter.bytes.as_deref().and_then(|b| STANDARD.decode(b).ok());
    let (key, mut headers, value) = match (stood, kept) {
        (Some(original), _) => original,
        (None, Some(bytes)) => {
            let fact = letter.letter.fact.map(|fact| (header::FACT, fact.into_bytes()));
            let version = fact.as_ref().map(|_| (header::VERSION, fact::VERSION.to_string().into_bytes()));
            (letter.key, fact.into_iter().chain(version).collect(), Some(bytes))
        }
        (None, None) => {
            return Ok(Err("its bytes were not kept, because they may hold buyers' data; the sender has to repeat it"));
        }
    };
    if value.as_deref().is_none_or(<[u8]>::is_empty) {
        return Ok(Err("it is empty; there is nothing to try again"));
    }
    headers.push((RETRY_OF, letter.position.to_string().into_bytes()));
    Ok(Ok(NewRecord { topic: Topic::Facts, partition: None, key, headers, value }))
}

type Original = (Option<Vec<u8>>, Vec<(&'static str, Vec<u8>)>, Option<Vec<u8>>);

fn original(record: &RecordRef<'_>) -> Original {
    let headers = KEPT.iter().filter_map(|name| record.headers.get(name).map(|v| (*name, v.to_vec()))).collect();
    (record.key.map(<[u8]>::to_vec), headers, record.value.map(<[u8]>::to_vec))
}
