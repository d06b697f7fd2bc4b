//! Queries in a cluster (issue "the engine holds", 5): three nodes as processes; any of them answers for any variant, also while
//! partitions change hands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use stockwarden::events::record::{NewRecord, Position, partition_of};

use super::node::{Client, Node, PATIENCE, Site};
use crate::engine::harness::{LOW, foreign, level, product};

const PARTITIONS: i32 = 6;
const SHOPS: u64 = 18;
const VARIANTS: u64 = 4;

fn shop(n: u64) -> String {
    format!("shop-{n}.myshopify.com")
}

fn shops() -> Vec<String> {
    (0..SHOPS).map(shop).collect()
}

/// The variants of a shop have the ids `shop * 10 + 1..`.
fn ids(n: u64) -> impl Iterator<Item = u64> {
    (1..=VARIANTS).map(move |v| n * 10 + v)
}

struct Cluster {
    site: Site,
    token: String,
    nodes: BTreeMap<String, Node>,
}

impl Cluster {
    /// Three nodes that share the partitions, each with some; every shop has its products and two levels of each.
    async fn start() -> Cluster {
        let site = Site::new(PARTITIONS, "[shards]\nsnapshot_interval = \"500ms\"\n").await;
        let site = site.with("SHOP_SECRET", "shpss_0123456789abcdef0123456789abcdef");
        site.apply_rules(LOW);
        let token = site.token();
        let of_all = |make: &dyn Fn(u64) -> String| -> Vec<NewRecord> {
            (0..SHOPS).flat_map(|s| ids(s).map(move |id| (s, id))).map(|(s, id)| foreign(&shop(s), make(id))).collect()
        };
        site.append(of_all(&product)).await;
        site.append(of_all(&|id| level(id, 20, 1))).await;
        site.append(of_all(&|id| level(id, 5 + (id % 3) as i64, 2))).await;
        let nodes = ["a", "b", "c"].map(|name| (name.to_owned(), site.start_as(name)));
        let cluster = Cluster { site, token, nodes: nodes.into() };
        cluster.settled().await;
        cluster
    }

    fn client(&self, node: &str) -> Client {
        Client::new(&self.nodes[node], &self.token)
    }

    fn clients(&self) -> Vec<(String, Client)> {
        self.nodes.keys().map(|name| (name.clone(), self.client(name))).collect()
    }

    /// Waits until each shop is answered by its owner, whomever one asks, with all decisions made; gives the owners.
    async fn settled(&self) -> BTreeMap<String, String> {
        let deadline = Instant::now() + PATIENCE;
        'again: loop {
            let mut owners = BTreeMap::new();
            for (asked, client) in self.clients() {
                for shop in shops() {
                    let (status, view) = client.get(&format!("/v1/shops/{shop}")).await;
                    let owner = view["provenance"]["node"].as_str().unwrap_or_default().to_owned();
                    let all = status == 200 && view["variants"] == VARIANTS && view["open_proposals"] == VARIANTS;
                    let known = owners.entry(shop).or_insert(owner.clone());
                    if !all || view["provenance"]["source"] != "owner" || *known != owner || !self.nodes.contains_key(&owner) {
                        assert!(Instant::now() < deadline, "not settled in time; {asked} answers {status} {view}");
                        continue 'again;
                    }
                }
            }
            if owners.values().collect::<BTreeSet<_>>().len() == self.nodes.len() {
                return owners;
            }
            assert!(Instant::now() < deadline, "not each node owns something: {owners:?}");
        }
    }

    async fn end(self) {
        for node in self.nodes.into_values() {
            node.kill();
        }
        self.site.remove().await;
    }
}

fn source(view: &Value) -> &str {
    view["provenance"]["source"].as_str().unwrap_or_default()
}

/// Without what says how the answer came about, and what moves with time.
fn plain(mut view: Value) -> Value {
    view.as_object_mut().expect("an object").remove("provenance");
    view["risk"] = view["risk"]["level"].clone();
    view
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_answers_for_every_shop_and_all_answer_alike() {
    let cluster = Cluster::start().await;
    let clients = cluster.clients();
    let mut paths = vec!["/v1/shops".to_owned()];
    for s in 0..SHOPS {
        let shop = shop(s);
        paths.extend([
            format!("/v1/shops/{shop}"),
            format!("/v1/shops/{shop}/variants"),
            format!("/v1/shops/{shop}/variants?at_risk=true&vendor=Acme&limit=2&cursor={}", s * 10 + 1),
            format!("/v1/shops/{shop}/variants?sku=SKU-{}", s * 10 + 2),
        ]);
        paths.extend(ids(s).map(|id| format!("/v1/shops/{shop}/variants/{id}")));
    }
    for path in &paths {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut answers = Vec::new();
            for (_, client) in &clients {
                let (status, answer) = client.get(path).await;
                assert_eq!(status, 200, "{path}: {answer}");
                answers.push(answer);
            }
            if answers.windows(2).all(|w| w[0] == w[1]) {
                break;
            }
            // A fact (a decision's outcome, a tick) may come between two questions, but not for ever.
            assert!(Instant::now() < deadline, "{path}: {answers:#?}");
        }
    }
    let (_, all) = clients[0].1.get("/v1/shops").await;
    assert_eq!(all["shops"].as_array().map(Vec::len), Some(SHOPS as usize));
    for (name, client) in &clients {
        for (path, words) in [
            (format!("/v1/shops/{}/variants/999", shop(1)), "no variant 999"),
            ("/v1/shops/nobody.example".to_owned(), "no shop"),
            ("/v1/shops/nobody.example/variants/1".to_owned(), "no shop"),
        ] {
            let (status, told) = client.get(&path).await;
            assert_eq!(status, 404, "{name} {path}: {told}");
            assert!(told["detail"].as_str().expect("a detail").contains(words), "{name} {path}: {told}");
        }
    }
    reads_its_own_writes(&cluster).await;
    finds_a_shop_in_a_foreign_partition(&cluster).await;
    keeps_rights(&cluster).await;
    refuses_to_forward_again(&cluster).await;
    cluster.end().await;
}

/// `?after=` holds whichever node is asked, and ends in a 503 at its deadline.
async fn reads_its_own_writes(cluster: &Cluster) {
    for s in 0..3 {
        let (shop, id) = (shop(s), s * 10 + 1);
        for (round, (name, client)) in cluster.clients().iter().enumerate() {
            let stock = 3 - round as i64;
            let written = cluster.site.append(vec![foreign(&shop, level(id, stock, 10 + round as u32))]).await;
            let (status, view) = client.get(&format!("/v1/shops/{shop}/variants/{id}?after={}", written[0])).await;
            assert_eq!((status, &view["available"]), (200, &stock.into()), "{name}: {view}");
            // A position of another partition than the shop's own.
            let other = cluster.site.append(vec![foreign(&self::shop(s + 3), level(s * 10 + 31, 4, 20 + round as u32))]).await;
            let (status, view) = client.get(&format!("/v1/shops/{shop}?after={}", other[0])).await;
            assert_eq!((status, source(&view)), (200, "owner"), "{name}: {view}");
        }
    }
    let beyond = Position { partition: partition_of(shop(1).as_bytes(), PARTITIONS), offset: 1_000_000 };
    let waits = cluster.clients().into_iter().map(|(name, client)| async move {
        let began = Instant::now();
        let (status, told) = client.get(&format!("/v1/shops/{}?after={beyond}", shop(1))).await;
        assert_eq!(status, 503, "{name}: {told}");
        assert!(began.elapsed() > Duration::from_secs(3) && began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    });
    futures::future::join_all(waits).await;
    let (status, _) = cluster.client("a").get(&format!("/v1/shops/{}?after=6:1", shop(1))).await;
    assert_eq!(status, 400, "there is no partition 6");
}

async fn finds_a_shop_in_a_foreign_partition(cluster: &Cluster) {
    for step in 1..PARTITIONS {
        let shop = format!("{step}.misplaced.myshopify.com");
        let partition = Some((partition_of(shop.as_bytes(), PARTITIONS) + step) % PARTITIONS);
        let of = |value: String| NewRecord { partition, ..foreign(&shop, value) };
        let written = cluster.site.append(vec![of(product(7)), of(level(7, 4, 1))]).await;
        for (name, client) in cluster.clients() {
            let (status, view) = client.get(&format!("/v1/shops/{shop}/variants/7?after={}", written[1])).await;
            assert_eq!((status, &view["available"]), (200, &4.into()), "{name}: {view}");
        }
    }
}

/// A token of one shop sees that one and no other, whichever node it asks (invariant 10).
async fn keeps_rights(cluster: &Cluster) {
    cluster.site.json(&["shop", "add", &shop(2), "--webhook-secret-env", "SHOP_SECRET"]);
    let token = cluster.site.token_for(&shop(2));
    for node in cluster.nodes.values() {
        let client = Client::new(node, &token);
        for n in 0..SHOPS {
            let mut told = Vec::new();
            for path in ["", "/variants", &format!("/variants/{}", n * 10 + 1)] {
                let (status, answer) = client.get(&format!("/v1/shops/{}{path}", shop(n))).await;
                assert_eq!(status, if n == 2 { 200 } else { 404 }, "{n}{path}: {answer}");
                told.push(answer["detail"].clone());
            }
            if n != 2 {
                assert!(told.iter().all(|t| t == &format!("there is no shop \"{}\"", shop(n))), "{told:?}");
            }
        }
        let (_, all) = client.get("/v1/shops").await;
        let seen: Vec<_> = all["shops"].as_array().expect("a list").iter().map(|s| s["shop"].clone()).collect();
        assert_eq!(seen, [shop(2)]);
        let nobody = Client::new(node, "made-up");
        assert_eq!(nobody.get(&format!("/v1/shops/{}", shop(2))).await.0, 401);
    }
}

/// What comes forwarded is answered from here or refused, so no query goes round.
async fn refuses_to_forward_again(cluster: &Cluster) {
    let owners = cluster.settled().await;
    for (shop, owner) in owners.iter().take(6) {
        let partition = partition_of(shop.as_bytes(), PARTITIONS);
        for (name, client) in cluster.clients() {
            let path = format!("/v1/shops/{shop}");
            let forwarded = |header: String| client.get_with(&path, "x-stockwarden-forwarded", header);
            let (status, told) = forwarded(partition.to_string()).await;
            assert_eq!(status, if name == *owner { 200 } else { 421 }, "{name} of {owner}: {told}");
            assert_eq!(forwarded("x".into()).await.0, 400);
            // All partitions: no node owns them.
            assert_eq!(forwarded("0,1,2,3,4,5".into()).await.0, 421);
        }
        let (status, _) =
            cluster.client(owner).get_with(&format!("/v1/shops/{shop}"), "x-stockwarden-forwarded", "77".into()).await;
        assert_eq!(status, 421);
    }
}

/// One query in a loop of them.
struct Asked {
    shop: u64,
    began: Instant,
    ended: Instant,
    status: u16,
    view: Value,
}

/// Asks for a variant of each shop, again and again, until told to stop.
fn ask_on(client: Client, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Vec<Asked>> {
    tokio::spawn(async move {
        let mut asked = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            for shop in 0..SHOPS {
                let began = Instant::now();
                let (status, view) = client.get(&format!("/v1/shops/{}/variants/{}", self::shop(shop), shop * 10 + 1)).await;
                asked.push(Asked { shop, began, ended: Instant::now(), status, view });
            }
        }
        asked
    })
}

/// The longest time that a shop was without an answer, from a question that failed to the next answer; and the slowest answer.
fn darkest(asked: &[Asked]) -> (Duration, Duration) {
    let (mut dark, mut slow) = (Duration::ZERO, Duration::ZERO);
    for shop in 0..SHOPS {
        let mut since = None;
        for a in asked.iter().filter(|a| a.shop == shop) {
            slow = slow.max(a.ended - a.began);
            if a.status != 200 {
                since.get_or_insert(a.began);
            } else if let Some(since) = since.take() {
                dark = dark.max(a.ended - since);
            }
        }
        assert!(since.is_none(), "shop {shop} stayed dark");
    }
    (dark, slow)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_is_dark_for_half_a_second_through_a_planned_handover() {
    let mut cluster = Cluster::start().await;
    let before = cluster.settled().await;
    let stop = Arc::new(AtomicBool::new(false));
    let leaving = cluster.nodes.remove("c").expect("started");
    let asking: Vec<_> = ["a", "b"].map(|n| ask_on(cluster.client(n), stop.clone())).into();
    let told = tokio::task::spawn_blocking(move || leaving.stop()).await.expect("stopped well");
    let after = cluster.settled().await;
    assert!(before.values().any(|o| o == "c") && after.values().all(|o| o != "c"));
    // And the way back: a node that joins takes partitions over.
    let joined = tokio::task::block_in_place(|| cluster.site.start_as("c"));
    cluster.nodes.insert("c".into(), joined);
    let deadline = Instant::now() + PATIENCE;
    while cluster.settled().await.values().all(|o| o != "c") {
        assert!(Instant::now() < deadline, "the new node gets nothing");
    }
    stop.store(true, Ordering::Relaxed);
    for asking in asking {
        let asked = asking.await.expect("asked");
        let (dark, slow) = darkest(&asked);
        let stored = asked.iter().filter(|a| source(&a.view).starts_with("snapshot")).count();
        println!("{} queries, {stored} of them from what is stored; dark for {dark:?} at most, slowest {slow:?}", asked.len());
        let failed: Vec<_> = asked.iter().filter(|a| a.status != 200).map(|a| (a.status, &a.view)).take(5).collect();
        assert!(dark <= Duration::from_millis(500), "dark for {dark:?}: {failed:?}; the node that left told:\n{told}");
        assert!(slow <= Duration::from_secs(2), "one took {slow:?}");
        for a in asked.iter().filter(|a| a.status == 200) {
            // Nothing was sold meanwhile, so whoever answers says the same.
            assert_eq!(a.view["available"], 5 + (a.shop * 10 + 1) as i64 % 3, "{}", a.view);
        }
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_darkens_nothing() {
    let mut cluster = Cluster::start().await;
    let before = cluster.settled().await;
    let mut views = BTreeMap::new();
    for s in 0..SHOPS {
        for id in ids(s) {
            let path = format!("/v1/shops/{}/variants/{id}", shop(s));
            let (_, view) = cluster.client("a").get(&path).await;
            views.insert(path, view);
        }
    }
    cluster.nodes.remove("c").expect("started").kill();
    let (mut stored, mut slowest) = (0, Duration::ZERO);
    for (name, client) in cluster.clients() {
        for (path, was) in &views {
            let began = Instant::now();
            let (status, view) = client.get(path).await;
            slowest = slowest.max(began.elapsed());
            assert_eq!(status, 200, "{name} {path}: {view}");
            assert_eq!(plain(view.clone()), plain(was.clone()), "{name}: {}", view["provenance"]);
            if was["provenance"]["node"] == "c" && source(&view) != "owner" {
                stored += 1;
                assert!(["snapshot", "snapshot+tail"].contains(&source(&view)), "{view}");
                let staleness = view["provenance"]["staleness_ms"].as_i64().expect("a number");
                assert!((0..60_000).contains(&staleness), "{view}");
                assert_eq!(view["provenance"]["node"], *name, "who answered");
            } else {
                assert_eq!(source(&view), "owner", "{view}");
            }
        }
        let (status, all) = client.get("/v1/shops").await;
        assert_eq!((status, all["shops"].as_array().map(Vec::len)), (200, Some(SHOPS as usize)), "{all}");
    }
    assert!(stored > 0, "the group noticed too early for this test to say anything");
    println!("{stored} answers from what is stored, slowest of all {slowest:?}");
    // What is written while nobody owns the partition is in the answers, too.
    let orphan = before.iter().find(|(_, owner)| *owner == "c").map(|(shop, _)| shop.clone()).expect("it had some");
    let id = views.keys().find(|p| p.contains(&format!("/{orphan}/"))).and_then(|p| p.rsplit('/').next()).expect("a variant");
    let written = cluster.site.append(vec![foreign(&orphan, level(id.parse().expect("a number"), 1, 50))]).await;
    let (status, view) = cluster.client("a").get(&format!("/v1/shops/{orphan}/variants/{id}?after={}", written[0])).await;
    assert_eq!((status, &view["available"]), (200, &1.into()), "{view}");
    assert!(view["provenance"]["offset"].as_i64() >= Some(written[0].offset), "{view}");
    // And then it has an owner again.
    let after = cluster.settled().await;
    assert!(after.values().all(|o| o != "c"));
    let (_, view) = cluster.client("b").get(&format!("/v1/shops/{orphan}/variants/{id}?after={}", written[0])).await;
    assert_eq!((source(&view), &view["available"]), ("owner", &1.into()));
    cluster.end().await;
}

/// A frozen node holds its connections open and says nothing; thawed, it no longer answers as the owner that it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_is_answered_for_and_knows_that_it_lost_when_it_thaws() {
    let mut cluster = Cluster::start().await;
    let before = cluster.settled().await;
    let frozen = cluster.nodes.remove("c").expect("started");
    frozen.signal("-STOP");
    let mut stored = 0;
    let lost: Vec<_> = before.iter().filter(|(_, o)| *o == "c").map(|(shop, _)| shop.clone()).collect();
    for (name, client) in cluster.clients() {
        for shop in &lost {
            let began = Instant::now();
            let (status, view) = client.get(&format!("/v1/shops/{shop}")).await;
            assert_eq!((status, &view["open_proposals"]), (200, &VARIANTS.into()), "{name}: {view}");
            // Until the group gives the partition to somebody else.
            assert!(source(&view).starts_with("snapshot") || view["provenance"]["node"] != "c", "{view}");
            stored += usize::from(source(&view).starts_with("snapshot"));
            assert!(began.elapsed() < Duration::from_secs(2), "{name} took {:?}", began.elapsed());
        }
    }
    assert!(stored > 0, "the group noticed too early for this test to say anything");
    let after = cluster.settled().await;
    let thawed = Client::new(&frozen, &cluster.token);
    frozen.signal("-CONT");
    for shop in &lost {
        let (status, view) = thawed.get(&format!("/v1/shops/{shop}")).await;
        assert_eq!(status, 200, "{view}");
        let says = (source(&view), view["provenance"]["node"].as_str().unwrap_or_default());
        assert!(says == ("owner", &*after[shop]) || says.0.starts_with("snapshot"), "{view}");
    }
    frozen.kill();
    cluster.end().await;
}
