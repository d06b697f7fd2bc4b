//! The ledger of effects (DESIGN §4). Every change is made in a transaction that no other writer can enter, after a look at
//! the partition's dispatch epoch; so, unlike on Postgres, rows need no locks of their own.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row};
use uuid::Uuid;

use super::{SqliteStore, digest, json, micros, reorders, time_of};
use crate::adapters::sql::{Fault, LIST_LIMIT, fenced, known, printable};
use crate::events::record::Partition;
use crate::ports::ledger::{Batch, Count, Effect, EffectFilter, EffectId, EffectState, Ledger, Planned, Settled, UpdateOf};
use crate::ports::snapshot_store::{Epoch, StoreError};

/// Of an update, what became of the row that it brings up to date.
macro_rules! first {
    () => {
        "(select f.state from effect f where f.decision_id = e.decision_id and f.route_id = e.updates) as first_state, \
         (select f.reference from effect f where f.decision_id = e.decision_id and f.route_id = e.updates) as first_reference"
    };
}

/// Rows of `handler` ($1) in the partitions of the JSON array $2 that are the first unfinished of their order key, at most
/// $3. The words of the state's condition are those of the partial indexes, which SQLite uses only then.
macro_rules! claim {
    ($due:literal) => {
        concat!(
            "select e.*, ",
            first!(),
            " from effect e where e.handler = $1 and e.leader is null and e.partition in (select value from json_each($2)) and ",
            $due,
            " and e.seq = (select o.seq from effect o where o.handler = e.handler and o.order_key = e.order_key \
             and o.state in ('planned', 'sending', 'ambiguous') order by o.decision_offset, o.seq limit 1) \
             order by e.due_at, e.decision_offset, e.seq limit $3"
        )
    };
}

/// What a dead or deposed sender left behind, whenever it was due: nobody else will see to it. ($4 is not used.)
const CLAIM_LEFT: &str = claim!(
    "e.state = 'sending' and $4 is not null \
     and e.sender_epoch < (select d.epoch from dispatch_owner d where d.partition = e.partition)"
);
const CLAIM_DUE: &str = claim!("e.state in ('planned', 'ambiguous') and e.due_at <= $4");

impl Ledger for SqliteStore {
    fn acquire_dispatch_epoch<'a>(&'a self, partition: Partition, node: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>> {
        Box::pin(self.write("taking over the dispatch of a partition", async move |c| {
            Ok(sqlx::query_scalar(
                "insert into dispatch_owner (partition, epoch, node, acquired_at) \
                 values ($1, 1, $2, cast(unixepoch('subsec') * 1000000 as integer)) on conflict (partition) do update \
                 set epoch = epoch + 1, node = excluded.node, acquired_at = excluded.acquired_at returning epoch",
            )
            .bind(partition)
            .bind(node)
            .fetch_one(c)
            .await?)
        }))
    }

    fn plan<'a>(&'a self, partition: Partition, epoch: Epoch, batch: &'a Batch) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(self.write("planning effects", async move |c| plan(c, partition, epoch, batch).await))
    }

    fn claim<'a>(
        &'a self,
        handler: &'a str,
        partitions: &'a [(Partition, Epoch)],
        now: DateTime<Utc>,
        limit: i64,
    ) -> BoxFuture<'a, Result<Vec<Effect>, StoreError>> {
        Box::pin(self.write("claiming effects", async move |c| claim(c, handler, partitions, now, limit).await))
    }

    fn release<'a>(
        &'a self,
        handler: &'a str,
        partitions: &'a [(Partition, Epoch)],
        under_way: &'a [EffectId],
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(self.write("giving effects back", async move |c| release(c, handler, partitions, under_way, now).await))
    }

    fn freeze<'a>(&'a self, id: &'a EffectId, epoch: Epoch, request: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, StoreError>> {
        Box::pin(self.write("freezing a request", async move |c| {
            let seq = sending(c, id, epoch).await?;
            Ok(sqlx::query_scalar("update effect set request = ifnull(request, $2) where seq = $1 returning request")
                .bind(seq)
                .bind(request)
                .fetch_one(c)
                .await?)
        }))
    }

    fn settle<'a>(
        &'a self,
        id: &'a EffectId,
        epoch: Epoch,
        how: Settled,
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write("settling an effect", async move |c| settle(c, id, epoch, how, now).await))
    }

    fn retry<'a>(&'a self, id: &'a EffectId, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.write("retrying an effect", async move |c| {
            let retried: Option<i64> = sqlx::query_scalar(
                "update effect set state = 'planned', due_at = $3, updated_at = $3 where state = 'failed' \
                 and seq = (select ifnull(leader, seq) from effect where decision_id = $1 and route_id = $2) returning seq",
            )
            .bind(id.decision_id.to_string())
            .bind(&id.route_id)
            .bind(micros(now))
            .fetch_optional(&mut *c)
            .await?;
            if let Some(seq) = retried {
                digest::follow(c, seq).await?;
            }
            Ok(retried.is_some())
        }))
    }

    fn by_reference<'a>(&'a self, handler: &'a str, reference: &'a str) -> BoxFuture<'a, Result<Option<EffectId>, StoreError>> {
        Box::pin(self.read("looking up an effect by its reference", async move |c| {
            let found: Option<(String, String)> = sqlx::query_as(
                "select decision_id, route_id from effect where handler = $1 and reference = $2 order by seq desc limit 1",
            )
            .bind(handler)
            .bind(reference)
            .fetch_optional(c)
            .await?;
            found.map(|(decision, route_id)| Ok(EffectId { decision_id: id_of(&decision)?, route_id })).transpose()
        }))
    }

    fn list(&self, filter: EffectFilter) -> BoxFuture<'_, Result<Vec<Effect>, StoreError>> {
        Box::pin(self.read("listing effects", async move |c| list(c, filter).await))
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<Count>, StoreError>> {
        Box::pin(self.read("counting effects", async |c| {
            let rows: Vec<(String, String, i64)> =
                sqlx::query_as("select handler, state, count(*) from effect group by handler, state order by handler, state")
                    .fetch_all(c)
                    .await?;
            rows.into_iter().map(|(handler, state, n)| Ok((handler, known("state", &state, EffectState::parse)?, n))).collect()
        }))
    }
}

async fn dispatch_epoch(c: &mut SqliteConnection, partition: Partition) -> Result<Option<Epoch>, Fault> {
    let epoch = sqlx::query_scalar("select epoch from dispatch_owner where partition = $1").bind(partition);
    Ok(epoch.fetch_optional(c).await?)
}

async fn check(c: &mut SqliteConnection, partition: Partition, ours: Epoch) -> Result<(), Fault> {
    let current = dispatch_epoch(c, partition).await?;
    if current == Some(ours) { Ok(()) } else { Err(fenced(partition, ours, current).into()) }
}

async fn plan(c: &mut SqliteConnection, partition: Partition, epoch: Epoch, batch: &Batch) -> Result<u64, Fault> {
    if let Some(stray) = batch.rows.iter().find(|r| r.partition != partition) {
        return Err(Fault::Other(format!("an effect of partition {} was planned with partition {partition}", stray.partition)));
    }
    check(c, partition, epoch).await?;
    let mut new = 0;
    for r in &batch.rows {
        let done = sqlx::query(
            "insert into effect (partition, state, updated_at, decision_id, route_id, handler, organisation, shop, order_key, \
             decision_offset, decision, route, due_at, digest) \
             values ($1, 'planned', cast(unixepoch('subsec') * 1000000 as integer), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             on conflict (decision_id, route_id) do nothing",
        )
        .bind(partition)
        .bind(r.id.decision_id.to_string())
        .bind(&r.id.route_id)
        .bind(&r.handler)
        .bind(&r.organisation)
        .bind(&r.shop)
        .bind(&r.order_key)
        .bind(r.offset)
        .bind(&r.decision)
        .bind(&r.route)
        .bind(micros(r.due_at))
        .bind(&r.digest)
        .execute(&mut *c)
        .await?;
        new += done.rows_affected();
    }
    reorders::record(c, partition, batch).await?;
    Ok(new)
}

async fn claim(
    c: &mut SqliteConnection,
    handler: &str,
    partitions: &[(Partition, Epoch)],
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Effect>, Fault> {
    for &(partition, ours) in partitions {
        check(c, partition, ours).await?;
    }
    let numbers: Vec<Partition> = partitions.iter().map(|p| p.0).collect();
    let numbers = json(&numbers)?;
    let mut rows: Vec<SqliteRow> = Vec::new();
    for statement in [CLAIM_LEFT, CLAIM_DUE] {
        let left = limit - i64::try_from(rows.len()).unwrap_or(i64::MAX);
        if left <= 0 {
            break;
        }
        rows.extend(sqlx::query(statement).bind(handler).bind(&numbers).bind(left).bind(micros(now)).fetch_all(&mut *c).await?);
    }
    let mut effects = Vec::with_capacity(rows.len());
    for row in &rows {
        let seq: i64 = row.try_get("seq")?;
        let mut effect = read(row)?;
        let held = partitions.iter().find(|p| p.0 == effect.planned.partition).map(|p| p.1);
        sqlx::query(
            "update effect set state = 'sending', sender_epoch = $2, attempts = attempts + 1, updated_at = $3 where seq = $1",
        )
        .bind(seq)
        .bind(held)
        .bind(micros(now))
        .execute(&mut *c)
        .await?;
        if effect.state == EffectState::Sending {
            // It may have been performed: it is ambiguous to whoever takes it up.
            effect.state = EffectState::Ambiguous;
        }
        effect.attempts += 1;
        effect.sender_epoch = held;
        effect.updated_at = time_of(micros(now))?;
        effects.push((seq, effect));
    }
    effects.sort_by_key(|(seq, e)| (e.planned.due_at, e.planned.offset, *seq));
    digest::gather(c, handler, &numbers, now, &mut effects).await?;
    Ok(effects.into_iter().map(|(_, e)| e).collect())
}

async fn release(
    c: &mut SqliteConnection,
    handler: &str,
    partitions: &[(Partition, Epoch)],
    under_way: &[EffectId],
    now: DateTime<Utc>,
) -> Result<u64, Fault> {
    let known: Vec<String> = under_way.iter().map(|id| format!("{}/{}", id.decision_id, id.route_id)).collect();
    let known = json(&known)?;
    let mut released = 0;
    for &(partition, ours) in partitions {
        check(c, partition, ours).await?;
        let given_back: Vec<i64> = sqlx::query_scalar(
            "update effect set state = case when request is null then 'planned' else 'ambiguous' end, sender_epoch = null, \
             updated_at = $5 where handler = $1 and leader is null and state = 'sending' and partition = $2 and sender_epoch = $3 \
             and decision_id || '/' || route_id not in (select value from json_each($4)) returning seq",
        )
        .bind(handler)
        .bind(partition)
        .bind(ours)
        .bind(&known)
        .bind(micros(now))
        .fetch_all(&mut *c)
        .await?;
        for seq in &given_back {
            digest::follow(c, *seq).await?;
        }
        released += given_back.len() as u64;
    }
    Ok(released)
}

/// The row's number, if it is sending under `epoch` and that is still its partition's.
async fn sending(c: &mut SqliteConnection, id: &EffectId, epoch: Epoch) -> Result<i64, Fault> {
    let row: Option<(i64, Partition, String, Option<Epoch>)> =
        sqlx::query_as("select seq, partition, state, sender_epoch from effect where decision_id = $1 and route_id = $2")
            .bind(id.decision_id.to_string())
            .bind(&id.route_id)
            .fetch_optional(&mut *c)
            .await?;
    let Some((seq, partition, state, sender)) = row else {
        return Err(Fault::Other(format!("there is no effect of decision {} and route {:?}", id.decision_id, id.route_id)));
    };
    let current = dispatch_epoch(c, partition).await?;
    if state == EffectState::Sending.as_str() && sender == Some(epoch) && current == Some(epoch) {
        Ok(seq)
    } else {
        Err(fenced(partition, epoch, current).into())
    }
}

async fn settle(c: &mut SqliteConnection, id: &EffectId, epoch: Epoch, how: Settled, now: DateTime<Utc>) -> Result<(), Fault> {
    let seq = sending(c, id, epoch).await?;
    let (state, due_at, response, reference, duplicate) = match how {
        Settled::Done { response, reference, possible_duplicate } => {
            (EffectState::Done, None, response, reference, Some(possible_duplicate))
        }
        Settled::Retry { reason, due_at } => (EffectState::Planned, Some(due_at), Some(reason), None, None),
        Settled::Ambiguous { reason, due_at } => (EffectState::Ambiguous, Some(due_at), Some(reason), None, None),
        Settled::Failed { reason } => (EffectState::Failed, None, Some(reason), None, None),
    };
    sqlx::query(
        "update effect set state = $2, due_at = ifnull($3, due_at), response = $4, reference = ifnull($5, reference), \
         possible_duplicate = ifnull($6, possible_duplicate), updated_at = $7, sender_epoch = null where seq = $1",
    )
    .bind(seq)
    .bind(state.as_str())
    .bind(due_at.map(micros))
    .bind(response.as_deref().map(printable))
    .bind(reference.as_deref().map(printable))
    .bind(duplicate)
    .bind(micros(now))
    .execute(&mut *c)
    .await?;
    digest::follow(c, seq).await
}

async fn list(c: &mut SqliteConnection, filter: EffectFilter) -> Result<Vec<Effect>, Fault> {
    let mut query = QueryBuilder::<Sqlite>::new(concat!("select e.*, ", first!(), " from effect e where true"));
    if let Some(id) = filter.decision_id {
        query.push(" and e.decision_id = ").push_bind(id.to_string());
    }
    if let Some(handler) = filter.handler {
        query.push(" and e.handler = ").push_bind(handler);
    }
    if let Some(state) = filter.state {
        // Not bound, so that the planner sees that a partial index fits.
        query.push(" and e.state = '").push(state.as_str()).push("'");
    }
    if let Some(key) = filter.told_about {
        query.push(" and e.reference is not null and e.order_key = ").push_bind(key);
    }
    let limit = if filter.limit > 0 { filter.limit } else { LIST_LIMIT };
    query.push(" order by e.seq desc limit ").push_bind(limit);
    let rows = query.build().persistent(false).fetch_all(c).await?;
    rows.iter().map(read).collect()
}

fn id_of(stored: &str) -> Result<Uuid, Fault> {
    stored.parse().map_err(|_| Fault::Other(format!("the stored decision id {stored:?} is not a UUID")))
}

pub(super) fn read(row: &SqliteRow) -> Result<Effect, Fault> {
    let decision: &str = row.try_get("decision_id")?;
    Ok(Effect {
        planned: Planned {
            id: EffectId { decision_id: id_of(decision)?, route_id: row.try_get("route_id")? },
            handler: row.try_get("handler")?,
            organisation: row.try_get("organisation")?,
            shop: row.try_get("shop")?,
            order_key: row.try_get("order_key")?,
            partition: row.try_get("partition")?,
            offset: row.try_get("decision_offset")?,
            decision: row.try_get("decision")?,
            route: row.try_get("route")?,
            due_at: time_of(row.try_get("due_at")?)?,
            digest: row.try_get("digest")?,
        },
        state: known("state", row.try_get("state")?, EffectState::parse)?,
        attempts: row.try_get("attempts")?,
        request: row.try_get("request")?,
        response: row.try_get("response")?,
        reference: row.try_get("reference")?,
        possible_duplicate: row.try_get("possible_duplicate")?,
        updated_at: time_of(row.try_get("updated_at")?)?,
        sender_epoch: row.try_get("sender_epoch")?,
        shared_by: Vec::new(),
        update: update_of(row)?,
    })
}

fn update_of(row: &SqliteRow) -> Result<Option<UpdateOf>, Fault> {
    let Some(route_id) = row.try_get("updates")? else { return Ok(None) };
    Ok(Some(UpdateOf {
        route_id,
        change: row.try_get("change")?,
        first: known("state", row.try_get("first_state")?, EffectState::parse)?,
        reference: row.try_get("first_reference")?,
    }))
}
