//! Digests in the ledger: rows that go out as one effect (`ports::ledger`, "Digests").

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteConnection;

use super::ledger::read;
use super::micros;
use crate::adapters::sql::Fault;
use crate::ports::ledger::{DIGEST_ROWS, Effect};

/// Planned rows of handler $1 and digest $2 in the partitions $3 that are due at $4 and may go out with the leader $5, at most $6: those
/// before which nothing of the same order key is unfinished that does not go out with them.
const CANDIDATES: &str = "select e.seq from effect e where e.handler = $1 and e.digest is not null and e.digest = $2 \
     and e.leader is null and e.state = 'planned' and e.request is null and e.due_at <= $4 \
     and e.partition in (select value from json_each($3)) \
     and not exists (select 1 from effect o where o.handler = e.handler and o.order_key = e.order_key \
     and o.state in ('planned', 'sending', 'ambiguous') \
     and (o.decision_offset < e.decision_offset or (o.decision_offset = e.decision_offset and o.seq < e.seq)) \
     and o.seq <> $5 and ifnull(o.leader, 0) <> $5 \
     and not (ifnull(o.digest, '') = e.digest and o.leader is null and o.state = 'planned' and o.request is null and o.due_at <= $4)) \
     order by e.decision_offset, e.seq limit $6";

/// What the members of leader $1 take over from it.
const FOLLOW: &str = "update effect set (state, sender_epoch, due_at, attempts, response, reference, possible_duplicate, updated_at) = \
     (select l.state, l.sender_epoch, l.due_at, l.attempts, l.response, l.reference, l.possible_duplicate, l.updated_at \
     from effect l where l.seq = $1) where leader = $1";

/// Leaves one row of each digest among those just claimed, gathers what goes out with it, and tells it who that is.
pub async fn gather(
    c: &mut SqliteConnection,
    handler: &str,
    partitions: &str,
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
                join(c, *seq, *leader).await?;
                joined.push(*seq);
            }
        }
    }
    claimed.retain(|(seq, _)| !joined.contains(seq));
    for (digest, leader) in &leaders {
        let there: i64 =
            sqlx::query_scalar("select count(*) from effect where leader = $1").bind(leader).fetch_one(&mut *c).await?;
        let found: Vec<i64> = sqlx::query_scalar(CANDIDATES)
            .bind(handler)
            .bind(digest)
            .bind(partitions)
            .bind(micros(now))
            .bind(leader)
            .bind((DIGEST_ROWS - 1 - there).max(0))
            .fetch_all(&mut *c)
            .await?;
        for seq in found {
            join(c, seq, *leader).await?;
        }
    }
    for (seq, effect) in claimed.iter_mut().filter(|(_, e)| e.planned.digest.is_some()) {
        follow(c, *seq).await?;
        let rows = sqlx::query("select * from effect where leader = $1 order by decision_offset, seq").bind(*seq);
        for row in &rows.fetch_all(&mut *c).await? {
            effect.shared_by.push(read(row)?.planned);
        }
    }
    Ok(())
}

/// With those whom it led, if it did.
async fn join(c: &mut SqliteConnection, seq: i64, leader: i64) -> Result<(), Fault> {
    sqlx::query("update effect set leader = $2 where seq = $1 or leader = $1").bind(seq).bind(leader).execute(c).await?;
    Ok(())
}

/// The members of a digest share what becomes of its leader; nothing happens to a row that leads none.
pub async fn follow(c: &mut SqliteConnection, leader: i64) -> Result<(), Fault> {
    sqlx::query(FOLLOW).bind(leader).execute(c).await?;
    Ok(())
}
