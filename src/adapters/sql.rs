//! What the stores over SQL share: one mapping of driver errors, the check of the schema's version, a few encodings.
//!
//! To change a schema: a new file in `migrations/postgres` and one in `migrations/sqlite`, each listed in its adapter's
//! `connect.rs`. A released file is never edited.

use std::borrow::Cow;

use sqlx::SqlSafeStr;
use sqlx::migrate::{AppliedMigration, Migration, MigrationType, Migrator};

use crate::domain::proposal::State;
use crate::events::record::Partition;
use crate::ports::snapshot_store::{Entity, Epoch, StoreError};

macro_rules! sent {
    () => {
        "exists (select 1 from effect e where e.decision_id = r.proposal_id and e.state = 'done' and e.updates is null)"
    };
}

/// Why an operation ended, before it is known what the operation was.
#[derive(Debug)]
pub(in crate::adapters) enum Fault {
    Database(sqlx::Error),
    Store(StoreError),
    /// Something that no SQL error describes: a stored value that does not make sense, a caller's mistake.
    Other(String),
}

impl From<sqlx::Error> for Fault {
    fn from(e: sqlx::Error) -> Self {
        Fault::Database(e)
    }
}

impl From<StoreError> for Fault {
    fn from(e: StoreError) -> Self {
        Fault::Store(e)
    }
}

impl Fault {
    pub fn during(self, during: &str) -> StoreError {
        let during = during.to_owned();
        match self {
            Fault::Store(e) => e,
            Fault::Other(reason) => StoreError::Failed { during, reason },
            Fault::Database(e) if is_transient(&e) => StoreError::Unavailable { during, reason: e.to_string() },
            Fault::Database(e) => StoreError::Failed { during, reason: e.to_string() },
        }
    }
}

pub(in crate::adapters) fn fenced(partition: Partition, ours: Epoch, current: Option<Epoch>) -> StoreError {
    StoreError::Fenced { partition, ours, current: current.unwrap_or(0) }
}

/// Whether the same call may succeed later without anybody's doing.
pub(in crate::adapters) fn is_transient(e: &sqlx::Error) -> bool {
    match e {
        // A connection that ends inside its handshake is told as a breach of the protocol.
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(d) => d.code().is_some_and(|code| is_transient_code(&code)),
        _ => false,
    }
}

/// SQLSTATEs have five characters; SQLite's result codes are decimal numbers of at most four.
fn is_transient_code(code: &str) -> bool {
    if code.len() == 5 {
        // Connections, resources, an operator's or a server's stop; then serialization failure, deadlock, lock timeout,
        // idle in a transaction, and a server that has become a standby.
        return ["08", "53", "57"].iter().any(|class| code.starts_with(class))
            || ["40001", "40P01", "55P03", "25P03", "25006"].contains(&code);
    }
    // BUSY, LOCKED, IOERR, FULL; the low byte is the primary result code.
    code.parse::<i32>().is_ok_and(|c| [5, 6, 10, 13].contains(&(c & 0xff)))
}

/// Migrations as `(version, name, SQL)`. Listed by hand because sqlx's macro wants its compile-time half, which
/// nothing else here needs.
pub(in crate::adapters) fn migrator(files: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

/// Compares the migrations a store has with those this program knows; true if some are still to be made.
pub(in crate::adapters) fn schema_is_behind(
    place: &str,
    applied: &[AppliedMigration],
    known: &Migrator,
) -> Result<bool, StoreError> {
    let newest = known.iter().map(|m| m.version).max().unwrap_or(0);
    for a in applied {
        match known.iter().find(|k| k.version == a.version) {
            Some(k) if k.checksum == a.checksum => {}
            Some(k) => {
                return Err(StoreError::Misconfigured(format!(
                    "schema version {} of {place} is not the one this program makes: it comes from another build; use the \
                     program that made the store, or another store",
                    k.version
                )));
            }
            None => {
                return Err(StoreError::Misconfigured(format!(
                    "{place} has schema version {}, this program knows versions up to {newest}: start the newer Stockwarden \
                     that has upgraded the store, or point [store] url at another store or at a backup from before the upgrade",
                    a.version
                )));
            }
        }
    }
    Ok(applied.len() < known.iter().count())
}

/// An entity as its two columns; a variant's id keeps its bits.
pub(in crate::adapters) fn entity_columns(entity: &Entity) -> (i16, i64) {
    match entity {
        Entity::Shard => (0, 0),
        Entity::Shop => (1, 0),
        Entity::Variant(id) => (2, id.cast_signed()),
    }
}

pub(in crate::adapters) fn entity_of(kind: i16, variant: i64) -> Result<Entity, Fault> {
    match kind {
        0 => Ok(Entity::Shard),
        1 => Ok(Entity::Shop),
        2 => Ok(Entity::Variant(variant.cast_unsigned())),
        other => Err(Fault::Other(format!("a snapshot is of an unknown kind of entity ({other})"))),
    }
}

/// Free text from outside without NUL, which Postgres cannot hold: no input may stop a shard (DESIGN §7.8).
pub(in crate::adapters) fn printable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

pub(in crate::adapters) fn digest(bytes: Vec<u8>) -> Result<[u8; 32], Fault> {
    bytes.try_into().map_err(|b: Vec<u8>| Fault::Other(format!("a stored digest has {} bytes, not 32", b.len())))
}

/// A stored name of a closed set.
pub(in crate::adapters) fn known<T>(what: &str, text: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, Fault> {
    parse(text).ok_or_else(|| Fault::Other(format!("the stored {what} {text:?} is not known")))
}

/// A proposal of the table `reorders` (as `r`) as it shows: whether a route is done stands in the ledger alone.
pub(in crate::adapters) const SHOWN: &str =
    concat!("case when r.state = 'proposed' and ", sent!(), " then 'sent' else r.state end");
/// The words are those of the partial index `reorders_open`.
pub(in crate::adapters) const OPEN: &str = "r.state in ('proposed', 'sent', 'acknowledged', 'ordered', 'in_transit')";

/// Whether a proposal shows as `state`.
pub(in crate::adapters) fn in_state(state: State) -> String {
    match state {
        State::Proposed => concat!("(r.state = 'proposed' and not ", sent!(), ")").to_owned(),
        State::Sent => concat!("(r.state = 'sent' or r.state = 'proposed' and ", sent!(), ")").to_owned(),
        // One of our own words; not bound, so that the planner sees that the partial index fits.
        other => format!("r.state = '{}'", other.as_str()),
    }
}

/// Rows to ask for, so that it is known whether there is a next page.
pub(in crate::adapters) fn page_rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)
}

/// Rows that a list gives when the caller names no limit.
pub(in crate::adapters) const LIST_LIMIT: i64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_worth_a_retry_and_a_broken_constraint_is_not() {
        for code in ["08006", "40001", "40P01", "53300", "57P01", "57P03", "55P03", "5", "517", "6", "13", "778"] {
            assert!(is_transient_code(code), "{code}");
        }
        for code in ["23505", "42P01", "22021", "28P01", "3D000", "1", "19", "2067", "26"] {
            assert!(!is_transient_code(code), "{code}");
        }
        // What the driver says when the server dies while they greet each other.
        assert!(is_transient(&sqlx::Error::Protocol("unexpected response from SSLRequest: 0x00".into())));
        assert!(!is_transient(&sqlx::Error::RowNotFound));
    }

    #[test]
    fn an_entity_reads_what_it_writes() {
        for e in [Entity::Shard, Entity::Shop, Entity::Variant(0), Entity::Variant((1 << 53) + 1), Entity::Variant(u64::MAX)] {
            let (kind, id) = entity_columns(&e);
            assert_eq!(entity_of(kind, id).expect("known kind"), e);
        }
        assert!(entity_of(3, 0).is_err());
    }

    #[test]
    fn every_migration_in_the_folder_is_listed() {
        for (folder, known) in
            [("postgres", crate::adapters::postgres::schema()), ("sqlite", crate::adapters::embedded::sqlite::schema())]
        {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let mut files: Vec<String> = std::fs::read_dir(dir)
                .expect("the folder of migrations")
                .map(|f| f.expect("file").file_name().into_string().expect("name"))
                .collect();
            files.sort();
            let listed: Vec<String> = known.iter().map(|m| format!("{:04}_{}.sql", m.version, m.description)).collect();
            assert_eq!(files, listed, "{folder}");
        }
    }
}
