//! Digests in the ledger: rows that go out as one effect (`ports::ledger::Ledger::claim`).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;

use super::ledger::{columns, read};
use crate::adapters::sql::Fault;
use crate::events::record::Partition;
use crate::ports::ledger::{DIGEST_ROWS, Effect, EffectState};

/// Planned rows of handler $1 and digest $2 in the partitions $3 that are due at $4 and may go out with the leader $5, at most $6: those
/// before which nothing of the same order key is unfinished that does not go out with them.
const JOIN_DUE: &str = "update effect set leader = $5 where seq in (select e.seq from effect e where e.handler = $1 \
     and e.digest is not null and e.digest = $2 and e.leader is null and e.state = 'planned' and e.request is null \
     and e.due_at <= $4 and e.partition = any($3) \
     and not exists (select 1 from effect o where o.handler = e.handler and o.order_key = e.order_key \
     and o.state in ('planned', 'sending', 'ambiguous') and (o.decision_offset, o.seq) < (e.decision_offset, e.seq) \
     and o.seq <> $5 and coalesce(o.leader, 0) <> $5 \
     and not (coalesce(o.digest, '') = e.digest and o.leader is null and o.state = 'planned' and o.request is null \
     and o.due_at <= $4)) \
     order by e.decision_offset, e.seq limit $6)";

/// What members take over from their leader `l`.
macro_rules! followed {
    () => {
        "update effect m set state = l.state, sender_epoch = l.sender_epoch, due_at = l.due_at, attempts = l.attempts, \
         response = l.response, reference = l.reference, possible_duplicate = l.possible_duplicate, updated_at = l.updated_at"
    };
}
pub(super) use followed;

const FOLLOW: &str = concat!(followed!(), " from effect l where l.seq = $1 and m.leader = l.seq");
const MEMBERS: &str = concat!("select ", columns!(), " from effect e where e.leader = $1 order by e.decision_offset, e.seq");

/// Leaves one row of each digest among those just claimed, gathers what goes out with it, and tells it who that is.
pub async fn gather(
    c: &mut PgConnection,
    handler: &str,
    partitions: &[Partition],
    now: DateTime<Utc>,
    claimed: &mut Vec<(i64, Effect)>,
) -> Result<(), Fault> {
    let mut leaders: BTreeMap<String, i64> = BTreeMap::new();
    let mut joined = Vec::new();
    for (seq, effect) in claimed.iter() {
        // What is frozen is sent as it is.
        let Some(digest) = effect.planned.digest.as_ref().filter(|_| effect.request.is_none()) else { continue };
        match leaders.get(digest) {
            None => _ = leaders.insert(digest.clone(), *seq),
            Some(leader) => {
                // With those whom it led, if it did.
                let join = sqlx::query("update effect set leader = $2 where seq = $1 or leader = $1");
                join.bind(seq).bind(leader).execute(&mut *c).await?;
                joined.push(*seq);
            }
        }
    }
    claimed.retain(|(seq, _)| !joined.contains(seq));
    for (digest, leader) in &leaders {
        let there: i64 =
            sqlx::query_scalar("select count(*) from effect where leader = $1").bind(leader).fetch_one(&mut *c).await?;
        sqlx::query(JOIN_DUE)
            .bind(handler)
            .bind(digest)
            .bind(partitions)
            .bind(now)
            .bind(leader)
            .bind((DIGEST_ROWS - 1 - there).max(0))
            .execute(&mut *c)
            .await?;
    }
    for (seq, effect) in claimed.iter_mut().filter(|(_, e)| e.planned.digest.is_some()) {
        follow(c, *seq).await?;
        for row in &sqlx::query(MEMBERS).bind(*seq).fetch_all(&mut *c).await? {
            effect.shared_by.push(read(row, EffectState::Sending)?.planned);
        }
    }
    Ok(())
}

/// The members of a digest share what becomes of its leader; nothing happens to a row that leads none.
pub async fn follow(c: &mut PgConnection, leader: i64) -> Result<(), Fault> {
    sqlx::query(FOLLOW).bind(leader).execute(c).await?;
    Ok(())
}
