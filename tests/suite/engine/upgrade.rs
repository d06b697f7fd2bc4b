//! A node that finds the snapshots of an older version goes on from them.

use std::sync::Arc;

use stockwarden::domain::snapshot::{self, Seal};
use stockwarden::events::record::{Position, Topic};
use stockwarden::ports::EventLog;
use stockwarden::ports::snapshot_store::{Checkpoint, Columns, Entity, Snapshot};

use super::harness::*;
use super::protocol::decided_by_another_version;
use super::{SHOP, Site, snapshots};
use crate::golden;
use crate::reference::ChangeOutcome;
use crate::system::million::records_of;

/// What version 1 stored of the shop (`tests/golden/snapshots/v1`), up to this offset.
const LAST: i64 = 12;
const EPOCH: i64 = 1;

fn stored(entity: Entity, name: &str, shop: &str, state: &[u8], offset: i64) -> Snapshot {
    let seal = Seal { partition: 0, shop, entity: name, offset, epoch: EPOCH, version: 1 };
    Snapshot {
        shop: shop.to_owned(),
        offset,
        epoch: EPOCH,
        version: 1,
        checksum: seal.checksum(state),
        state: state.to_vec(),
        columns: Columns::default(),
        entity,
    }
}

#[test]
fn snapshots_of_version_1_are_gone_on_from_and_written_as_version_2() {
    let site = Site::new();
    let log: Arc<dyn EventLog> = embedded_log(site.dir.path(), 1, &site.clock);
    // Were they folded, they would say something else.
    append(&*log, (0..=LAST).map(|n| foreign(SHOP, level(900, 50, n as u32))).collect());
    decided_by_another_version(&*log, &[]);
    let store = site.store();
    assert_eq!(block(store.acquire_epoch(0, "old")).expect("an epoch"), EPOCH);
    let [variant, shop, shard] = golden::states_of_version("v1");
    let rows = [
        stored(Entity::Variant(71), "71", SHOP, &variant, LAST),
        stored(Entity::Shop, "shop", SHOP, &shop, 9),
        stored(Entity::Shard, "shard", "", &shard, LAST),
    ];
    block(store.save(0, EPOCH, Checkpoint { facts: LAST + 1, decisions: 0 }, &rows)).expect("saved");

    let engine = Running::start(log.clone(), store.clone(), settings("new"));
    engine.wait_live();
    assert_eq!((engine.stats.snapshots_discarded.get(), engine.stats.replayed.get()), (0, 0));
    let view = engine.variant(SHOP, 71, None).expect("known");
    assert_eq!((view.available, view.open_proposals.len()), (Some(9), 1));
    let id = view.open_proposals[0].proposal_id;
    let body = format!(r#"{{"proposal_id":"{id}","variant_id":"71","move":"assign","to":"bob","by":"ann","via":"api"}}"#);
    let mut assign = foreign(SHOP, body);
    assign.headers = vec![("fact", b"proposal/moved".to_vec()), ("version", b"1".to_vec())];
    let offset = append(&*log, vec![assign])[0].offset;
    // By the log's time nobody had acted on it for more than a month.
    let view = engine.variant(SHOP, 71, Some(Position { partition: 0, offset })).expect("known");
    assert_eq!(view.open_proposals, []);
    engine.stop();

    use futures::StreamExt as _;
    let rows: Vec<_> = block(store.load(0).collect::<Vec<_>>()).into_iter().map(|r| r.expect("readable")).collect();
    let version = |entity: &Entity| rows.iter().find(|r| r.entity == *entity).expect("stored").version;
    // The shop's has not changed, so it was not written again.
    assert_eq!(
        [Entity::Variant(71), Entity::Shard, Entity::Shop].map(|e| version(&e)),
        [snapshot::VERSION, snapshot::VERSION, 1]
    );
    let before = snapshots(&*store, 1);
    let engine = Running::start(log.clone(), store.clone(), settings("newer"));
    engine.wait_live();
    assert_eq!(engine.variant(SHOP, 71, None).expect("known").open_proposals, []);
    assert_eq!(engine.stats.snapshots_discarded.get(), 0);
    engine.stop();
    assert_eq!(snapshots(&*store, 1), before);
    let told: Vec<_> = read_all(&*log, Topic::Decisions).iter().flat_map(records_of).collect();
    let changes: Vec<_> =
        told.iter().filter_map(ChangeOutcome::read).map(|((_, at, of), c)| (at, of, c.proposal.state)).collect();
    assert_eq!((told.len(), changes), (1, vec![(offset, id.to_string(), "expired".to_owned())]));
}
