//! Contract of the port registry.

use chrono::{DateTime, TimeDelta, Utc};
use stockwarden::ports::registry::{Role, ShopEntry, ShopKind, TokenEntry};

use crate::support::stores::{Site, over_every_store};

over_every_store!(
    the_organisation_default_always_exists_and_names_are_sorted,
    a_shop_reads_back_as_put_and_is_replaced_as_a_whole,
    a_removed_shop_is_gone,
    a_live_token_is_found_by_its_hash_and_a_revoked_one_is_not,
    a_token_id_or_hash_is_given_once,
    rule_versions_count_changes_of_the_digest,
    rule_versions_have_no_gap_and_no_double_when_two_nodes_apply,
);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 123_456_000).expect("time") + TimeDelta::seconds(seconds)
}

async fn the_organisation_default_always_exists_and_names_are_sorted(site: &Site) {
    let store = site.node().await;
    assert_eq!(store.organisations().await.expect("list"), ["default"]);
    assert!(store.add_organisation("zeta", at(0)).await.expect("add"));
    assert!(store.add_organisation("Acme", at(0)).await.expect("add"));
    assert!(!store.add_organisation("zeta", at(1)).await.expect("add again"));
    assert!(!store.add_organisation("default", at(1)).await.expect("add again"));
    assert_eq!(store.organisations().await.expect("list"), ["Acme", "default", "zeta"]);
}

fn shop(name: &str) -> ShopEntry {
    ShopEntry {
        shop: name.into(),
        organisation: "acme".into(),
        kind: ShopKind::Shopify,
        webhook_secrets: vec![vec![0, 255, 7], vec![]],
        access_token: Some(vec![1, 0, 2]),
        added_at: at(0),
    }
}

async fn a_shop_reads_back_as_put_and_is_replaced_as_a_whole(site: &Site) {
    let store = site.node().await;
    store.put_shop(shop("b.example")).await.expect("put");
    store.put_shop(shop("a.example")).await.expect("put");
    assert_eq!(store.shop("b.example").await.expect("read"), Some(shop("b.example")));
    let bare = ShopEntry {
        kind: ShopKind::Store,
        organisation: "default".into(),
        webhook_secrets: vec![],
        access_token: None,
        added_at: at(5),
        ..shop("b.example")
    };
    store.put_shop(bare.clone()).await.expect("replace");
    assert_eq!(site.node().await.shops().await.expect("list"), [shop("a.example"), bare]);
}

async fn a_removed_shop_is_gone(site: &Site) {
    let store = site.node().await;
    store.put_shop(shop("a.example")).await.expect("put");
    assert!(store.remove_shop("a.example").await.expect("remove"));
    assert!(!store.remove_shop("a.example").await.expect("remove again"));
    assert_eq!(store.shop("a.example").await.expect("read"), None);
    assert!(store.shops().await.expect("list").is_empty());
}

fn token(id: &str, hash: u8) -> TokenEntry {
    TokenEntry {
        id: id.into(),
        hash: [hash; 32],
        organisation: "acme".into(),
        role: Role::Auditor,
        shops: vec!["a.example".into(), "store:acme/mitte, \"1\"".into()],
        created_at: at(i64::from(hash)),
        revoked_at: None,
    }
}

async fn a_live_token_is_found_by_its_hash_and_a_revoked_one_is_not(site: &Site) {
    let store = site.node().await;
    store.add_token(token("later", 2)).await.expect("add");
    store.add_token(TokenEntry { shops: vec![], ..token("first", 1) }).await.expect("add");
    assert_eq!(store.token_by_hash(&[2; 32]).await.expect("look up"), Some(token("later", 2)));
    assert_eq!(store.token_by_hash(&[3; 32]).await.expect("look up"), None);

    assert!(store.revoke_token("later", at(9)).await.expect("revoke"));
    assert!(!store.revoke_token("later", at(10)).await.expect("revoke again"));
    assert!(!store.revoke_token("unknown", at(10)).await.expect("revoke"));
    assert_eq!(store.token_by_hash(&[2; 32]).await.expect("look up"), None);
    let all = store.tokens().await.expect("list");
    assert_eq!(all.iter().map(|t| (t.id.as_str(), t.revoked_at)).collect::<Vec<_>>(), [("first", None), ("later", Some(at(9)))]);
}

async fn a_token_id_or_hash_is_given_once(site: &Site) {
    let store = site.node().await;
    store.add_token(token("one", 1)).await.expect("add");
    assert!(store.add_token(token("one", 2)).await.is_err(), "same id");
    assert!(store.add_token(token("two", 1)).await.is_err(), "same hash");
    assert_eq!(store.tokens().await.expect("list"), [token("one", 1)]);
}

async fn rule_versions_count_changes_of_the_digest(site: &Site) {
    let store = site.node().await;
    for (digest, want) in [(1, (1, true)), (1, (1, false)), (2, (2, true)), (2, (2, false)), (1, (3, true))] {
        assert_eq!(store.next_rule_version("acme", &[digest; 32]).await.expect("version"), want);
    }
    assert_eq!(store.next_rule_version("other", &[1; 32]).await.expect("version"), (1, true));
}

async fn rule_versions_have_no_gap_and_no_double_when_two_nodes_apply(site: &Site) {
    let nodes = [site.node().await, site.node().await];
    let calls = (0..20u8).map(|i| {
        let node = nodes[usize::from(i) % 2].clone();
        tokio::spawn(async move { node.next_rule_version("acme", &[i; 32]).await.expect("version") })
    });
    let mut got: Vec<i64> = Vec::new();
    for call in futures::future::join_all(calls).await {
        let (version, new) = call.expect("task");
        assert!(new);
        got.push(version);
    }
    got.sort_unstable();
    assert_eq!(got, (1..=20).collect::<Vec<i64>>());
}
