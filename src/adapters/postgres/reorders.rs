//! The list of reorders: kept in the ledger's transaction ([`record`]), read here.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use sqlx::postgres::{PgConnection, PgRow, Postgres};
use sqlx::{QueryBuilder, Row};
use uuid::Uuid;

use super::{PATIENCE, PostgresStore};
use crate::adapters::sql::{Fault, OPEN, SHOWN, in_state, known, page_rows, printable};
use crate::events::ids::VariantId;
use crate::events::record::Partition;
use crate::ports::ledger::{Batch, EffectState, SUPERSEDED};
use crate::ports::reorders::{Change, Opening, Reorder, ReorderFilter, ReorderPage, Reorders, RouteState};
use crate::ports::snapshot_store::StoreError;

const CHUNK_ROWS: usize = 1_000;

impl Reorders for PostgresStore {
    fn reorder(&self, proposal_id: Uuid) -> BoxFuture<'_, Result<Option<Reorder>, StoreError>> {
        Box::pin(self.run("reading a reorder", PATIENCE, async move |c| {
            let mut query = select();
            query.push(" where r.proposal_id = ").push_bind(proposal_id);
            Ok(fetch(c, query).await?.pop())
        }))
    }

    fn reorders(&self, filter: ReorderFilter) -> BoxFuture<'_, Result<ReorderPage, StoreError>> {
        Box::pin(self.run("listing reorders", PATIENCE, async move |c| {
            let limit = filter.limit;
            Ok(ReorderPage::of(fetch(c, list(filter)).await?, limit))
        }))
    }
}

/// What a batch says of proposals, in the caller's transaction, which holds the epoch.
pub(super) async fn record(c: &mut PgConnection, partition: Partition, batch: &Batch) -> Result<(), Fault> {
    for chunk in batch.opened.chunks(CHUNK_ROWS) {
        open(c, partition, chunk).await?;
    }
    for change in &batch.changes {
        take_in(c, change).await?;
    }
    Ok(())
}

async fn open(c: &mut PgConnection, partition: Partition, chunk: &[Opening]) -> Result<(), Fault> {
    fn column<'a, T>(chunk: &'a [Opening], of: impl Fn(&'a Opening) -> T) -> Vec<T> {
        chunk.iter().map(of).collect()
    }
    sqlx::query(
        "insert into reorders (partition, state, proposal_id, organisation, shop, variant_id, caused_by, version, vendor, \
         opened_at, updated_at, decision) select $1, 'proposed', o.id, o.organisation, o.shop, o.variant, o.caused_by, o.caused_by, \
         o.vendor, o.opened_at, o.opened_at, o.decision from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], \
         $7::text[], $8::timestamptz[], $9::text[]) as o (id, organisation, shop, variant, caused_by, vendor, opened_at, decision) \
         on conflict (proposal_id) do nothing",
    )
    .bind(partition)
    .bind(column(chunk, |o| o.proposal_id))
    .bind(column(chunk, |o| o.organisation.as_str()))
    .bind(column(chunk, |o| o.shop.as_str()))
    .bind(column(chunk, |o| o.variant_id.map(|v| v.to_string())))
    .bind(column(chunk, |o| o.caused_by))
    .bind(column(chunk, |o| o.vendor.as_deref()))
    .bind(column(chunk, |o| o.opened_at))
    .bind(column(chunk, |o| o.decision.as_str()))
    .execute(c)
    .await?;
    Ok(())
}

async fn take_in(c: &mut PgConnection, change: &Change) -> Result<(), Fault> {
    let id = change.proposal_id;
    sqlx::query(
        "update reorders set version = $2, state = $3, change = $4, updated_at = $5 where proposal_id = $1 and version < $2",
    )
    .bind(id)
    .bind(change.version)
    .bind(&change.state)
    .bind(&change.change)
    .bind(change.changed_at)
    .execute(&mut *c)
    .await?;
    sqlx::query(
        "update effect set state = 'done', response = $3, updated_at = $4 \
         where decision_id = $1 and updates is not null and state = 'planned' and decision_offset < $2",
    )
    .bind(id)
    .bind(change.offset)
    .bind(SUPERSEDED)
    .bind(change.due_at)
    .execute(&mut *c)
    .await?;
    if change.tell.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into effect (partition, state, updated_at, decision_id, route_id, handler, organisation, shop, order_key, \
         decision_offset, decision, route, due_at, updates, change) \
         select partition, 'planned', $5::timestamptz, decision_id, route_id || '~' || $2::bigint, handler, organisation, shop, order_key, \
         $3::bigint, decision, route, $5::timestamptz, route_id, $4::text from effect where decision_id = $1 and updates is null and state <> 'failed' \
         and handler = any($6::text[]) order by seq on conflict (decision_id, route_id) do nothing",
    )
    .bind(id)
    .bind(change.version)
    .bind(change.offset)
    .bind(&change.change)
    .bind(change.due_at)
    .bind(&change.tell)
    .execute(c)
    .await?;
    Ok(())
}

fn select() -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("select r.*, ");
    query.push(SHOWN).push(" as shown from reorders r");
    query
}

fn list(filter: ReorderFilter) -> QueryBuilder<Postgres> {
    let mut query = select();
    query.push(" where r.organisation = ").push_bind(filter.organisation);
    if !filter.shops.is_empty() {
        let mut shops = query.push(" and r.shop in (").separated(", ");
        for shop in filter.shops {
            shops.push_bind(printable(&shop).into_owned());
        }
        query.push(")");
    }
    if let Some(state) = filter.state {
        query.push(" and ").push(in_state(state));
    }
    if let Some(open) = filter.open {
        query.push(if open { " and " } else { " and not " }).push(OPEN);
    }
    if let Some(vendor) = filter.vendor {
        query.push(" and r.vendor = ").push_bind(printable(&vendor).into_owned());
    }
    if let Some(handler) = filter.handler {
        query.push(" and exists (select 1 from effect h where h.decision_id = r.proposal_id and h.handler = ");
        query.push_bind(printable(&handler).into_owned()).push(")");
    }
    if let Some(before) = filter.before {
        query.push(" and (r.opened_at, r.proposal_id) < (").push_bind(before.opened_at).push(", ");
        query.push_bind(before.proposal_id).push(")");
    }
    query.push(" order by r.opened_at desc, r.proposal_id desc limit ").push_bind(page_rows(filter.limit));
    query
}

async fn fetch(c: &mut PgConnection, mut query: QueryBuilder<Postgres>) -> Result<Vec<Reorder>, Fault> {
    let rows = query.build().fetch_all(&mut *c).await?;
    let ids = rows.iter().map(|r| r.try_get("proposal_id")).collect::<Result<Vec<Uuid>, _>>()?;
    let mut routes: BTreeMap<Uuid, Vec<RouteState>> = BTreeMap::new();
    let found = sqlx::query(
        "select decision_id, route_id, handler, state, attempts, reference, response, possible_duplicate, updated_at, updates \
         from effect where decision_id = any($1) order by decision_id, seq",
    )
    .bind(&ids)
    .fetch_all(c)
    .await?;
    for row in &found {
        routes.entry(row.try_get("decision_id")?).or_default().push(route(row)?);
    }
    rows.iter().zip(ids).map(|(row, id)| read(row, routes.remove(&id).unwrap_or_default())).collect()
}

fn route(row: &PgRow) -> Result<RouteState, Fault> {
    Ok(RouteState {
        route_id: row.try_get("route_id")?,
        handler: row.try_get("handler")?,
        state: known("state", row.try_get("state")?, EffectState::parse)?,
        attempts: row.try_get("attempts")?,
        reference: row.try_get("reference")?,
        response: row.try_get("response")?,
        possible_duplicate: row.try_get("possible_duplicate")?,
        updated_at: row.try_get("updated_at")?,
        updates: row.try_get("updates")?,
    })
}

fn read(row: &PgRow, routes: Vec<RouteState>) -> Result<Reorder, Fault> {
    let variant: Option<&str> = row.try_get("variant_id")?;
    let opening = Opening {
        proposal_id: row.try_get("proposal_id")?,
        organisation: row.try_get("organisation")?,
        shop: row.try_get("shop")?,
        variant_id: variant.map(|v| known("variant id", v, |v| v.parse().ok().map(VariantId))).transpose()?,
        caused_by: row.try_get("caused_by")?,
        vendor: row.try_get("vendor")?,
        opened_at: row.try_get("opened_at")?,
        decision: row.try_get("decision")?,
    };
    Ok(Reorder {
        opening,
        partition: row.try_get("partition")?,
        version: row.try_get("version")?,
        state: row.try_get("shown")?,
        change: row.try_get("change")?,
        updated_at: row.try_get("updated_at")?,
        routes,
    })
}
