//! Contract of the port owners.

use std::time::Duration;

use stockwarden::ports::owners::Owner;
use stockwarden::ports::snapshot_store::{Checkpoint, Columns, Entity, Snapshot};

use crate::support::stores::{Site, over_every_store};

over_every_store!(
    any_node_reads_who_owns_a_partition_and_where_it_is_reached,
    a_node_that_moves_is_found_at_its_new_address,
    the_age_of_a_checkpoint_is_told_once_there_is_one,
    the_shops_of_a_partition_are_those_with_a_snapshot_there,
);

async fn any_node_reads_who_owns_a_partition_and_where_it_is_reached(site: &Site) {
    let (a, b) = (site.node().await, site.node().await);
    a.announce("a", Some("http://127.0.0.1:8081")).await.expect("announced");
    b.announce("b", Some("http://127.0.0.1:8082")).await.expect("announced");
    assert_eq!(a.owners().await.expect("read"), []);
    a.acquire_epoch(1, "a").await.expect("epoch");
    a.acquire_epoch(0, "a").await.expect("epoch");
    b.acquire_epoch(1, "b").await.expect("epoch");
    // A node that never said where it is.
    a.acquire_epoch(2, "c").await.expect("epoch");
    let owner = |partition, epoch, node: &str, address: Option<&str>| Owner {
        partition,
        epoch,
        node: node.into(),
        address: address.map(Into::into),
        saved_ago: None,
    };
    let want = [
        owner(0, 1, "a", Some("http://127.0.0.1:8081")),
        owner(1, 2, "b", Some("http://127.0.0.1:8082")),
        owner(2, 1, "c", None),
    ];
    assert_eq!(a.owners().await.expect("read"), want);
    assert_eq!(b.owners().await.expect("read"), want);
}

async fn a_node_that_moves_is_found_at_its_new_address(site: &Site) {
    let store = site.node().await;
    store.acquire_epoch(0, "a").await.expect("epoch");
    for address in [Some("http://127.0.0.1:1"), Some("http://127.0.0.1:2"), None] {
        store.announce("a", address).await.expect("announced");
        assert_eq!(store.owners().await.expect("read")[0].address.as_deref(), address);
    }
}

async fn the_age_of_a_checkpoint_is_told_once_there_is_one(site: &Site) {
    let store = site.node().await;
    let epoch = store.acquire_epoch(0, "a").await.expect("epoch");
    assert_eq!(store.owners().await.expect("read")[0].saved_ago, None);
    let began = std::time::Instant::now();
    store.save(0, epoch, Checkpoint { facts: 4, decisions: 0 }, &[]).await.expect("saved");
    let ago = store.owners().await.expect("read")[0].saved_ago.expect("saved");
    assert!(ago <= began.elapsed() + Duration::from_millis(20), "{ago:?}");
}

async fn the_shops_of_a_partition_are_those_with_a_snapshot_there(site: &Site) {
    let store = site.node().await;
    let epochs = [store.acquire_epoch(0, "a").await.expect("epoch"), store.acquire_epoch(1, "a").await.expect("epoch")];
    let of = |shop: &str, entity, epoch| Snapshot {
        shop: shop.into(),
        entity,
        offset: 1,
        epoch,
        version: 1,
        checksum: 0,
        state: vec![1],
        columns: Columns::default(),
    };
    let checkpoint = Checkpoint { facts: 2, decisions: 0 };
    let first = [
        of("", Entity::Shard, epochs[0]),
        of("b.example", Entity::Shop, epochs[0]),
        of("b.example", Entity::Variant(1), epochs[0]),
        of("B.example", Entity::Shop, epochs[0]),
        of("a-b.example", Entity::Shop, epochs[0]),
    ];
    store.save(0, epochs[0], checkpoint, &first).await.expect("saved");
    store.save(1, epochs[1], checkpoint, &[of("c.example", Entity::Shop, epochs[1])]).await.expect("saved");
    assert_eq!(store.shops_of(0).await.expect("read"), ["B.example", "a-b.example", "b.example"]);
    assert_eq!(store.shops_of(1).await.expect("read"), ["c.example"]);
    assert!(store.shops_of(2).await.expect("read").is_empty());
}
