//! The ledger of effects (DESIGN §4).
//!
//! The partition's row in `dispatch_owner` is the fence: what changes effects holds it shared and finds its epoch there;
//! taking ownership updates it. Rows of one (handler, order key) go out one at a time in the order of their decisions: a
//! row is given out only if it is the first one unfinished, which the index `effect_open` answers with one look.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use sqlx::postgres::{PgConnection, PgRow, Postgres};
use sqlx::{Connection, QueryBuilder, Row};
use uuid::Uuid;

use super::digest::{self, followed};
use super::{PATIENCE, PostgresStore, reorders};
use crate::adapters::sql::{Fault, LIST_LIMIT, fenced, known, printable};
use crate::events::record::Partition;
use crate::ports::ledger::{Batch, Count, Effect, EffectFilter, EffectId, EffectState, Ledger, Planned, Settled, UpdateOf};
use crate::ports::snapshot_store::{Epoch, StoreError};

const CHUNK_ROWS: usize = 1_000;

macro_rules! columns {
    () => {
        "e.decision_id, e.route_id, e.handler, e.organisation, e.shop, e.order_key, e.partition, e.decision_offset, \
         e.decision, e.route, e.due_at, e.attempts, e.request, e.response, e.reference, e.possible_duplicate, e.updated_at, \
         e.sender_epoch, e.seq, e.digest, e.updates, e.change, \
         (select f.state from effect f where f.decision_id = e.decision_id and f.route_id = e.updates) as first_state, \
         (select f.reference from effect f where f.decision_id = e.decision_id and f.route_id = e.updates) as first_reference"
    };
}
pub(super) use columns;

/// Takes the rows that `$due` selects. A scalar subquery and not an anti-join, so that no plan ever reads all open rows.
/// `was` is the state a row is claimed from.
macro_rules! claim {
    ($due:literal) => {
        concat!(
            "with due as (select e.seq, e.state as was from effect e where e.handler = $1 and e.leader is null \
             and e.partition = any($2) and ",
            $due,
            " and e.seq = (select o.seq from effect o where o.handler = e.handler and o.order_key = e.order_key \
             and o.state in ('planned', 'sending', 'ambiguous') order by o.decision_offset, o.seq limit 1) \
             order by e.due_at, e.decision_offset, e.seq limit $3 for update of e skip locked) \
             update effect e set state = 'sending', sender_epoch = d.epoch, attempts = e.attempts + 1, updated_at = $4 \
             from due, dispatch_owner d where e.seq = due.seq and d.partition = e.partition returning due.was, ",
            columns!()
        )
    };
}

/// What a dead or deposed sender left behind, whenever it was due: nobody else will see to it.
const CLAIM_LEFT: &str =
    claim!("e.state = 'sending' and e.sender_epoch < (select d.epoch from dispatch_owner d where d.partition = e.partition)");
const CLAIM_DUE: &str = claim!("e.state in ('planned', 'ambiguous') and e.due_at <= $4");

/// Changes the row `($1, $2)` if it is sending under epoch `$3` and that epoch is still the partition's.
macro_rules! while_sending {
    ($update:literal, $set:literal, $returning:literal) => {
        concat!(
            "with owner as (select d.epoch from dispatch_owner d where d.partition = \
             (select partition from effect where decision_id = $1 and route_id = $2) for share)",
            $update,
            " effect e set ",
            $set,
            " from owner where e.decision_id = $1 and e.route_id = $2 and e.state = 'sending' and e.sender_epoch = $3 \
             and owner.epoch = $3 ",
            $returning
        )
    };
}

const FREEZE: &str = while_sending!(" update", "request = coalesce(e.request, $4)", "returning e.request");
/// With the members of the digest, if it leads one.
const SETTLE: &str = concat!(
    while_sending!(
        ", l as (update",
        "state = $4, due_at = coalesce($5, e.due_at), response = $6, reference = coalesce($7, e.reference), \
         possible_duplicate = coalesce($8, e.possible_duplicate), updated_at = $9, sender_epoch = null",
        "returning e.*), "
    ),
    "followed as (",
    followed!(),
    " from l where m.leader = l.seq) select count(*) from l"
);

impl Ledger for PostgresStore {
    fn acquire_dispatch_epoch<'a>(&'a self, partition: Partition, node: &'a str) -> BoxFuture<'a, Result<Epoch, StoreError>> {
        Box::pin(self.run("taking over the dispatch of a partition", PATIENCE, async move |c| acquire(c, partition, node).await))
    }

    fn plan<'a>(&'a self, partition: Partition, epoch: Epoch, batch: &'a Batch) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(self.run("planning effects", PATIENCE, async move |c| plan(c, partition, epoch, batch).await))
    }

    fn claim<'a>(
        &'a self,
        handler: &'a str,
        partitions: &'a [(Partition, Epoch)],
        now: DateTime<Utc>,
        limit: i64,
    ) -> BoxFuture<'a, Result<Vec<Effect>, StoreError>> {
        Box::pin(self.run("claiming effects", PATIENCE, async move |c| claim(c, handler, partitions, now, limit).await))
    }

    fn release<'a>(
        &'a self,
        handler: &'a str,
        partitions: &'a [(Partition, Epoch)],
        under_way: &'a [EffectId],
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(self.run("giving effects back", PATIENCE, async move |c| release(c, handler, partitions, under_way, now).await))
    }

    fn freeze<'a>(&'a self, id: &'a EffectId, epoch: Epoch, request: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, StoreError>> {
        Box::pin(self.run("freezing a request", PATIENCE, async move |c| freeze(c, id, epoch, request).await))
    }

    fn settle<'a>(
        &'a self,
        id: &'a EffectId,
        epoch: Epoch,
        how: Settled,
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.run("settling an effect", PATIENCE, async move |c| settle(c, id, epoch, how, now).await))
    }

    fn retry<'a>(&'a self, id: &'a EffectId, now: DateTime<Utc>) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.run("retrying an effect", PATIENCE, async move |c| retry(c, id, now).await))
    }

    fn by_reference<'a>(&'a self, handler: &'a str, reference: &'a str) -> BoxFuture<'a, Result<Option<EffectId>, StoreError>> {
        Box::pin(self.run("looking up an effect by its reference", PATIENCE, async move |c| {
            let found: Option<(Uuid, String)> = sqlx::query_as(
                "select decision_id, route_id from effect where handler = $1 and reference = $2 order by seq desc limit 1",
            )
            .bind(printable(handler))
            .bind(printable(reference))
            .fetch_optional(c)
            .await?;
            Ok(found.map(|(decision_id, route_id)| EffectId { decision_id, route_id }))
        }))
    }

    fn list(&self, filter: EffectFilter) -> BoxFuture<'_, Result<Vec<Effect>, StoreError>> {
        Box::pin(self.run("listing effects", PATIENCE, async move |c| list(c, filter).await))
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<Count>, StoreError>> {
        Box::pin(self.run("counting effects", PATIENCE, async |c| counts(c).await))
    }
}

async fn acquire(c: &mut PgConnection, partition: Partition, node: &str) -> Result<Epoch, Fault> {
    let epoch = sqlx::query_scalar(
        "insert into dispatch_owner as o (partition, epoch, node) values ($1, 1, $2) \
         on conflict (partition) do update set epoch = o.epoch + 1, node = excluded.node, acquired_at = now() returning epoch",
    )
    .bind(partition)
    .bind(printable(node))
    .fetch_one(c)
    .await?;
    Ok(epoch)
}

/// Holds the partitions' epochs until the transaction ends; fails if one is not the epoch given.
async fn hold(c: &mut PgConnection, partitions: &[(Partition, Epoch)]) -> Result<(), Fault> {
    let numbers: Vec<Partition> = partitions.iter().map(|p| p.0).collect();
    let current: Vec<(Partition, Epoch)> =
        sqlx::query_as("select partition, epoch from dispatch_owner where partition = any($1) order by partition for share")
            .bind(numbers)
            .fetch_all(c)
            .await?;
    for &(partition, ours) in partitions {
        let found = current.iter().find(|(p, _)| *p == partition).map(|(_, epoch)| *epoch);
        if found != Some(ours) {
            return Err(fenced(partition, ours, found).into());
        }
    }
    Ok(())
}

async fn plan(c: &mut PgConnection, partition: Partition, epoch: Epoch, batch: &Batch) -> Result<u64, Fault> {
    if let Some(stray) = batch.rows.iter().find(|r| r.partition != partition) {
        return Err(Fault::Other(format!("an effect of partition {} was planned with partition {partition}", stray.partition)));
    }
    let mut tx = c.begin().await?;
    hold(&mut tx, &[(partition, epoch)]).await?;
    let mut new = 0;
    for chunk in batch.rows.chunks(CHUNK_ROWS) {
        new += insert(&mut tx, partition, chunk).await?;
    }
    reorders::record(&mut tx, partition, batch).await?;
    tx.commit().await?;
    Ok(new)
}

async fn insert(c: &mut PgConnection, partition: Partition, chunk: &[Planned]) -> Result<u64, Fault> {
    fn column<'a, T>(chunk: &'a [Planned], of: impl Fn(&'a Planned) -> T) -> Vec<T> {
        chunk.iter().map(of).collect()
    }
    let done = sqlx::query(
        "insert into effect (partition, state, updated_at, decision_id, route_id, handler, organisation, shop, order_key, \
         decision_offset, decision, route, due_at, digest) \
         select $1, 'planned', now(), * from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
         $8::bigint[], $9::text[], $10::text[], $11::timestamptz[], $12::text[]) on conflict (decision_id, route_id) do nothing",
    )
    .bind(partition)
    .bind(column(chunk, |r| r.id.decision_id))
    .bind(column(chunk, |r| r.id.route_id.as_str()))
    .bind(column(chunk, |r| r.handler.as_str()))
    .bind(column(chunk, |r| r.organisation.as_str()))
    .bind(column(chunk, |r| r.shop.as_str()))
    .bind(column(chunk, |r| r.order_key.as_str()))
    .bind(column(chunk, |r| r.offset))
    .bind(column(chunk, |r| r.decision.as_str()))
    .bind(column(chunk, |r| r.route.as_str()))
    .bind(column(chunk, |r| r.due_at))
    .bind(column(chunk, |r| r.digest.as_deref()))
    .execute(c)
    .await?;
    Ok(done.rows_affected())
}

async fn claim(
    c: &mut PgConnection,
    handler: &str,
    partitions: &[(Partition, Epoch)],
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Effect>, Fault> {
    let mut tx = c.begin().await?;
    hold(&mut tx, partitions).await?;
    let numbers: Vec<Partition> = partitions.iter().map(|p| p.0).collect();
    let mut rows: Vec<PgRow> = Vec::new();
    for statement in [CLAIM_LEFT, CLAIM_DUE] {
        let left = limit - i64::try_from(rows.len()).unwrap_or(i64::MAX);
        if left <= 0 {
            break;
        }
        rows.extend(sqlx::query(statement).bind(handler).bind(&numbers).bind(left).bind(now).fetch_all(&mut *tx).await?);
    }
    let mut effects = Vec::with_capacity(rows.len());
    for row in &rows {
        // What was left `sending` may have been performed: it is ambiguous to whoever takes it up.
        let was = match row.try_get::<&str, _>("was")? {
            "planned" => EffectState::Planned,
            _ => EffectState::Ambiguous,
        };
        effects.push((row.try_get::<i64, _>("seq")?, read(row, was)?));
    }
    effects.sort_by_key(|(seq, e)| (e.planned.due_at, e.planned.offset, *seq));
    digest::gather(&mut tx, handler, &numbers, now, &mut effects).await?;
    tx.commit().await?;
    Ok(effects.into_iter().map(|(_, e)| e).collect())
}

async fn release(
    c: &mut PgConnection,
    handler: &str,
    partitions: &[(Partition, Epoch)],
    under_way: &[EffectId],
    now: DateTime<Utc>,
) -> Result<u64, Fault> {
    let mut tx = c.begin().await?;
    hold(&mut tx, partitions).await?;
    let released: Vec<i64> = sqlx::query_scalar(
        "update effect e set state = case when e.request is null then 'planned' else 'ambiguous' end, sender_epoch = null, \
         updated_at = $6 from unnest($2::integer[], $3::bigint[]) as o (partition, epoch) \
         where e.handler = $1 and e.leader is null and e.state = 'sending' and e.partition = o.partition and e.sender_epoch = o.epoch \
         and not exists (select from unnest($4::uuid[], $5::text[]) as u (decision_id, route_id) \
         where u.decision_id = e.decision_id and u.route_id = e.route_id) returning e.seq",
    )
    .bind(handler)
    .bind(partitions.iter().map(|p| p.0).collect::<Vec<_>>())
    .bind(partitions.iter().map(|p| p.1).collect::<Vec<_>>())
    .bind(under_way.iter().map(|id| id.decision_id).collect::<Vec<_>>())
    .bind(under_way.iter().map(|id| id.route_id.as_str()).collect::<Vec<_>>())
    .bind(now)
    .fetch_all(&mut *tx)
    .await?;
    for seq in &released {
        digest::follow(&mut tx, *seq).await?;
    }
    tx.commit().await?;
    Ok(released.len() as u64)
}

async fn freeze(c: &mut PgConnection, id: &EffectId, epoch: Epoch, request: &[u8]) -> Result<Vec<u8>, Fault> {
    let frozen: Option<Vec<u8>> = sqlx::query_scalar(FREEZE)
        .bind(id.decision_id)
        .bind(&id.route_id)
        .bind(epoch)
        .bind(request)
        .fetch_optional(&mut *c)
        .await?;
    match frozen {
        Some(bytes) => Ok(bytes),
        None => Err(not_ours(c, id, epoch).await),
    }
}

async fn settle(c: &mut PgConnection, id: &EffectId, epoch: Epoch, how: Settled, now: DateTime<Utc>) -> Result<(), Fault> {
    let (state, due_at, response, reference, duplicate) = match how {
        Settled::Done { response, reference, possible_duplicate } => {
            (EffectState::Done, None, response, reference, Some(possible_duplicate))
        }
        Settled::Retry { reason, due_at } => (EffectState::Planned, Some(due_at), Some(reason), None, None),
        Settled::Ambiguous { reason, due_at } => (EffectState::Ambiguous, Some(due_at), Some(reason), None, None),
        Settled::Failed { reason } => (EffectState::Failed, None, Some(reason), None, None),
    };
    let settled: i64 = sqlx::query_scalar(SETTLE)
        .bind(id.decision_id)
        .bind(&id.route_id)
        .bind(epoch)
        .bind(state.as_str())
        .bind(due_at)
        .bind(response.as_deref().map(printable))
        .bind(reference.as_deref().map(printable))
        .bind(duplicate)
        .bind(now)
        .fetch_one(&mut *c)
        .await?;
    if settled == 1 { Ok(()) } else { Err(not_ours(c, id, epoch).await) }
}

/// Why a row could not be changed under `epoch`.
async fn not_ours(c: &mut PgConnection, id: &EffectId, epoch: Epoch) -> Fault {
    let found: Result<Option<(Partition, Option<Epoch>)>, sqlx::Error> = sqlx::query_as(
        "select e.partition, d.epoch from effect e left join dispatch_owner d using (partition) \
         where e.decision_id = $1 and e.route_id = $2",
    )
    .bind(id.decision_id)
    .bind(&id.route_id)
    .fetch_optional(c)
    .await;
    match found {
        Ok(Some((partition, current))) => fenced(partition, epoch, current).into(),
        Ok(None) => Fault::Other(format!("there is no effect of decision {} and route {:?}", id.decision_id, id.route_id)),
        Err(e) => e.into(),
    }
}

async fn retry(c: &mut PgConnection, id: &EffectId, now: DateTime<Utc>) -> Result<bool, Fault> {
    let mut tx = c.begin().await?;
    let retried: Option<i64> = sqlx::query_scalar(
        "update effect set state = 'planned', due_at = $3, updated_at = $3 where state = 'failed' \
         and seq = (select coalesce(leader, seq) from effect where decision_id = $1 and route_id = $2) returning seq",
    )
    .bind(id.decision_id)
    .bind(&id.route_id)
    .bind(now)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(seq) = retried {
        digest::follow(&mut tx, seq).await?;
    }
    tx.commit().await?;
    Ok(retried.is_some())
}

async fn list(c: &mut PgConnection, filter: EffectFilter) -> Result<Vec<Effect>, Fault> {
    let mut query = QueryBuilder::<Postgres>::new(concat!("select e.state, ", columns!(), " from effect e where true"));
    if let Some(id) = filter.decision_id {
        query.push(" and e.decision_id = ").push_bind(id);
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
    let rows = query.build().fetch_all(c).await?;
    rows.iter().map(|row| read(row, known("state", row.try_get("state")?, EffectState::parse)?)).collect()
}

async fn counts(c: &mut PgConnection) -> Result<Vec<Count>, Fault> {
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("select handler, state, count(*) from effect group by handler, state order by handler, state")
            .fetch_all(c)
            .await?;
    rows.into_iter().map(|(handler, state, n)| Ok((handler, known("state", &state, EffectState::parse)?, n))).collect()
}

pub(super) fn read(row: &PgRow, state: EffectState) -> Result<Effect, Fault> {
    Ok(Effect {
        planned: Planned {
            id: EffectId { decision_id: row.try_get("decision_id")?, route_id: row.try_get("route_id")? },
            handler: row.try_get("handler")?,
            organisation: row.try_get("organisation")?,
            shop: row.try_get("shop")?,
            order_key: row.try_get("order_key")?,
            partition: row.try_get("partition")?,
            offset: row.try_get("decision_offset")?,
            decision: row.try_get("decision")?,
            route: row.try_get("route")?,
            due_at: row.try_get("due_at")?,
            digest: row.try_get("digest")?,
        },
        state,
        attempts: row.try_get("attempts")?,
        request: row.try_get("request")?,
        response: row.try_get("response")?,
        reference: row.try_get("reference")?,
        possible_duplicate: row.try_get("possible_duplicate")?,
        updated_at: row.try_get("updated_at")?,
        sender_epoch: row.try_get("sender_epoch")?,
        shared_by: Vec::new(),
        update: update_of(row)?,
    })
}

fn update_of(row: &PgRow) -> Result<Option<UpdateOf>, Fault> {
    let Some(route_id) = row.try_get("updates")? else { return Ok(None) };
    Ok(Some(UpdateOf {
        route_id,
        change: row.try_get("change")?,
        first: known("state", row.try_get("first_state")?, EffectState::parse)?,
        reference: row.try_get("first_reference")?,
    }))
}
