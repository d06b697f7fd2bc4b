//! The list of reorders: kept in the ledger's transaction ([`record`]), read here.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row};
use uuid::Uuid;

use super::{SqliteStore, json, micros, time_of};
use crate::adapters::sql::{Fault, OPEN, SHOWN, in_state, known, page_rows};
use crate::events::ids::VariantId;
use crate::events::record::Partition;
use crate::ports::ledger::{Batch, EffectState, SUPERSEDED};
use crate::ports::reorders::{Change, Opening, Reorder, ReorderFilter, ReorderPage, Reorders, RouteState};
use crate::ports::snapshot_store::StoreError;

impl Reorders for SqliteStore {
    fn reorder(&self, proposal_id: Uuid) -> BoxFuture<'_, Result<Option<Reorder>, StoreError>> {
        Box::pin(self.read("reading a reorder", async move |c| {
            let mut query = select();
            query.push(" where r.proposal_id = ").push_bind(proposal_id.to_string());
            Ok(fetch(c, query).await?.pop())
        }))
    }

    fn reorders(&self, filter: ReorderFilter) -> BoxFuture<'_, Result<ReorderPage, StoreError>> {
        Box::pin(self.read("listing reorders", async move |c| {
            let limit = filter.limit;
            Ok(ReorderPage::of(fetch(c, list(filter)).await?, limit))
        }))
    }
}

/// What a batch says of proposals; the caller has checked the epoch.
pub(super) async fn record(c: &mut SqliteConnection, partition: Partition, batch: &Batch) -> Result<(), Fault> {
    for opening in &batch.opened {
        open(c, partition, opening).await?;
    }
    for change in &batch.changes {
        take_in(c, change).await?;
    }
    Ok(())
}

async fn open(c: &mut SqliteConnection, partition: Partition, o: &Opening) -> Result<(), Fault> {
    sqlx::query(
        "insert into reorders (proposal_id, organisation, shop, variant_id, partition, caused_by, version, state, vendor, \
         opened_at, decision, updated_at) values ($1, $2, $3, $4, $5, $6, $6, 'proposed', $7, $8, $9, $8) on conflict (proposal_id) do nothing",
    )
    .bind(o.proposal_id.to_string())
    .bind(&o.organisation)
    .bind(&o.shop)
    .bind(o.variant_id.map(|v| v.to_string()))
    .bind(partition)
    .bind(o.caused_by)
    .bind(&o.vendor)
    .bind(micros(o.opened_at))
    .bind(&o.decision)
    .execute(c)
    .await?;
    Ok(())
}

async fn take_in(c: &mut SqliteConnection, change: &Change) -> Result<(), Fault> {
    let id = change.proposal_id.to_string();
    sqlx::query(
        "update reorders set version = $2, state = $3, change = $4, updated_at = $5 where proposal_id = $1 and version < $2",
    )
    .bind(&id)
    .bind(change.version)
    .bind(&change.state)
    .bind(&change.change)
    .bind(micros(change.changed_at))
    .execute(&mut *c)
    .await?;
    sqlx::query(
        "update effect set state = 'done', response = $3, updated_at = $4 \
         where decision_id = $1 and updates is not null and state = 'planned' and decision_offset < $2",
    )
    .bind(&id)
    .bind(change.offset)
    .bind(SUPERSEDED)
    .bind(micros(change.due_at))
    .execute(&mut *c)
    .await?;
    if change.tell.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into effect (partition, state, updated_at, decision_id, route_id, handler, organisation, shop, order_key, \
         decision_offset, decision, route, due_at, updates, change) \
         select partition, 'planned', $5, decision_id, route_id || '~' || $2, handler, organisation, shop, order_key, $3, \
         decision, route, $5, route_id, $4 from effect where decision_id = $1 and updates is null and state <> 'failed' \
         and handler in (select value from json_each($6)) order by seq on conflict (decision_id, route_id) do nothing",
    )
    .bind(&id)
    .bind(change.version)
    .bind(change.offset)
    .bind(&change.change)
    .bind(micros(change.due_at))
    .bind(json(&change.tell)?)
    .execute(c)
    .await?;
    Ok(())
}

fn select() -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("select r.*, ");
    query.push(SHOWN).push(" as shown from reorders r");
    query
}

fn list(filter: ReorderFilter) -> QueryBuilder<Sqlite> {
    let mut query = select();
    query.push(" where r.organisation = ").push_bind(filter.organisation);
    if !filter.shops.is_empty() {
        let mut shops = query.push(" and r.shop in (").separated(", ");
        for shop in filter.shops {
            shops.push_bind(shop);
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
        query.push(" and r.vendor = ").push_bind(vendor);
    }
    if let Some(handler) = filter.handler {
        query.push(" and exists (select 1 from effect h where h.decision_id = r.proposal_id and h.handler = ");
        query.push_bind(handler).push(")");
    }
    if let Some(before) = filter.before {
        query.push(" and (r.opened_at, r.proposal_id) < (").push_bind(micros(before.opened_at)).push(", ");
        query.push_bind(before.proposal_id.to_string()).push(")");
    }
    query.push(" order by r.opened_at desc, r.proposal_id desc limit ").push_bind(page_rows(filter.limit));
    query
}

async fn fetch(c: &mut SqliteConnection, mut query: QueryBuilder<Sqlite>) -> Result<Vec<Reorder>, Fault> {
    let rows = query.build().persistent(false).fetch_all(&mut *c).await?;
    let ids = rows.iter().map(|r| r.try_get("proposal_id")).collect::<Result<Vec<String>, _>>()?;
    let mut routes: BTreeMap<String, Vec<RouteState>> = BTreeMap::new();
    let found = sqlx::query(
        "select decision_id, route_id, handler, state, attempts, reference, response, possible_duplicate, updated_at, updates \
         from effect where decision_id in (select value from json_each($1)) order by decision_id, seq",
    )
    .bind(json(&ids)?)
    .fetch_all(c)
    .await?;
    for row in &found {
        routes.entry(row.try_get("decision_id")?).or_default().push(route(row)?);
    }
    rows.iter().zip(ids).map(|(row, id)| read(row, routes.remove(&id).unwrap_or_default())).collect()
}

fn route(row: &SqliteRow) -> Result<RouteState, Fault> {
    Ok(RouteState {
        route_id: row.try_get("route_id")?,
        handler: row.try_get("handler")?,
        state: known("state", row.try_get("state")?, EffectState::parse)?,
        attempts: row.try_get("attempts")?,
        reference: row.try_get("reference")?,
        response: row.try_get("response")?,
        possible_duplicate: row.try_get("possible_duplicate")?,
        updated_at: time_of(row.try_get("updated_at")?)?,
        updates: row.try_get("updates")?,
    })
}

fn read(row: &SqliteRow, routes: Vec<RouteState>) -> Result<Reorder, Fault> {
    let id: &str = row.try_get("proposal_id")?;
    let variant: Option<&str> = row.try_get("variant_id")?;
    let opening = Opening {
        proposal_id: id.parse().map_err(|_| Fault::Other(format!("the stored proposal id {id:?} is not a UUID")))?,
        organisation: row.try_get("organisation")?,
        shop: row.try_get("shop")?,
        variant_id: variant.map(|v| known("variant id", v, |v| v.parse().ok().map(VariantId))).transpose()?,
        caused_by: row.try_get("caused_by")?,
        vendor: row.try_get("vendor")?,
        opened_at: time_of(row.try_get("opened_at")?)?,
        decision: row.try_get("decision")?,
    };
    Ok(Reorder {
        opening,
        partition: row.try_get("partition")?,
        version: row.try_get("version")?,
        state: row.try_get("shown")?,
        change: row.try_get("change")?,
        updated_at: time_of(row.try_get("updated_at")?)?,
        routes,
    })
}
