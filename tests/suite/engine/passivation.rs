//! Ten times as many variants known as may be in memory: nobody can tell but from the metrics (invariants 3 and 9 of DESIGN §7).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sqlx::{ConnectOptions, Executor, SqlSafeStr};
use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::domain::views::VariantView;
use stockwarden::events::decision::Decision;
use stockwarden::events::ids::VariantId;
use stockwarden::events::record::{NewRecord, Topic};
use stockwarden::events::time;
use stockwarden::ports::queries::{Queries, VariantFilter};
use stockwarden::ports::{EventLog, SnapshotStore};

use super::harness::*;
use super::{StoredState, snapshots};

const PARTITIONS: i32 = 3;
const SHOPS: u64 = 7;
const PRODUCTS: u64 = 120;
/// Variants of a product.
const PER_PRODUCT: u64 = 3;
const KNOWN: usize = (PRODUCTS * PER_PRODUCT) as usize;
const BOUND: usize = KNOWN / 10;
const UNBOUND: usize = usize::MAX;
/// 2026-11-01T01:00:00Z
const START: i64 = 1_793_494_800_000;

const COOLING: &str = r#"
[[rule]]
id = "low"
scope = "location"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "up-to", level = 60, pack = 6, minimum = 12 }
cool_down = "10m"
expire_after = "30m"

[[rule]]
id = "fast"
select = { tag = "core" }
scope = "shop"
trigger = { kind = "gradient", probability = 0.8, horizon = "6h" }
cool_down = "5m"
"#;

const PROPOSING: &str = r#"
[[rule]]
id = "low"
scope = "location"
trigger = { kind = "constant", threshold = 14 }
quantity = { kind = "up-to", level = 60, pack = 6, minimum = 12 }
cool_down = "0s"
initial = "propose"
"#;

/// What happens to a site, the same for each that is compared.
enum Step {
    /// At this time on the clock.
    Append(i64, Vec<NewRecord>),
    Restart,
    /// The store's file is copied aside, for a start from it later.
    Remember,
}

fn shop(product: u64) -> String {
    format!("s{}.myshopify.com", product % SHOPS)
}

/// Ids of variants are `product * 10 + n`, of their items 100,000 more.
fn catalogue(product: u64, variants: u64, title: &str, core: bool, now: i64) -> NewRecord {
    let variants: Vec<String> = (0..variants)
        .map(|n| {
            let id = product * 10 + n;
            format!(
                r#"{{"id":{id},"inventory_item_id":{},"sku":"SKU-{id}","title":"V{n}","inventory_quantity":null}}"#,
                id + 100_000
            )
        })
        .collect();
    let tags = if core { "core, new" } else { "" };
    foreign(
        &shop(product),
        format!(
            r#"{{"id":{product},"title":"{title}","vendor":"Acme{}","tags":"{tags}","updated_at":"{}","variants":[{}]}}"#,
            product % 2,
            time::format(now),
            variants.join(",")
        ),
    )
}

fn level_of(product: u64, n: u64, location: u64, available: i64, now: i64) -> NewRecord {
    let value = format!(
        r#"{{"inventory_item_id":{},"location_id":{location},"available":{available},"updated_at":"{}"}}"#,
        product * 10 + n + 100_000,
        time::format(now)
    );
    foreign(&shop(product), value)
}

fn tick(partition: i32) -> NewRecord {
    NewRecord {
        topic: Topic::Facts,
        partition: Some(partition),
        key: Some(b"~clock".to_vec()),
        headers: vec![("fact", b"clock/tick".to_vec()), ("version", b"1".to_vec()), ("source", b"clock".to_vec())],
        value: Some(b"{}".to_vec()),
    }
}

/// Facts in one append at most, besides rules, which concern everything.
const ROUND: usize = 40;

fn story(seed: u64) -> Vec<Step> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut now = START;
    let mut steps = vec![Step::Append(now, rules(1, COOLING, PARTITIONS))];
    for products in (0..PRODUCTS).collect::<Vec<_>>().chunks(10) {
        let listed = products.iter().map(|p| catalogue(*p, PER_PRODUCT, "First", p % 3 == 0, now)).collect();
        steps.push(Step::Append(now, listed));
    }
    for round in 0..60u64 {
        now += random.random_range(1_000..90_000);
        let mut records = Vec::new();
        // Most of what happens concerns a few products for a while, then others.
        let era = round / 15 * 23;
        for _ in 0..random.random_range(1..ROUND) {
            let product = match random.random_range(0..4) {
                0 => random.random_range(0..PRODUCTS),
                _ => (era + random.random_range(0..12)) % PRODUCTS,
            };
            match random.random_range(0..40) {
                // Fewer variants, another title, other tags: others match its rules.
                0 => {
                    let variants = random.random_range(1..=PER_PRODUCT);
                    records.push(catalogue(product, variants, &format!("Title {round}"), random.random(), now));
                }
                1 => records.push(foreign(&shop(product), format!(r#"{{"id":{product}}}"#))),
                _ => {
                    let (n, location) = (random.random_range(0..PER_PRODUCT), 1 + u64::from(random.random_range(0..5) == 0));
                    records.push(level_of(product, n, location, random.random_range(-2..30), now));
                }
            }
        }
        steps.push(Step::Append(now, records));
        if round % 4 == 3 {
            now += random.random_range(60_000..900_000);
            steps.push(Step::Append(now, (0..PARTITIONS).map(tick).collect()));
        }
        match round {
            15 => steps.push(Step::Append(now, rules(2, &COOLING.replace("threshold = 10", "threshold = 12"), PARTITIONS))),
            22 => steps.push(Step::Restart),
            24 => steps.push(Step::Remember),
            35 => steps.push(Step::Append(now, rules(3, PROPOSING, PARTITIONS))),
            45 => steps.push(Step::Restart),
            50 => steps.push(Step::Append(now, rules(4, COOLING, PARTITIONS))),
            _ => {}
        }
    }
    steps
}

/// What is to be equal.
#[derive(Debug, PartialEq)]
struct End {
    states: Vec<StoredState>,
    decisions: Vec<Decision>,
    answers: Answers,
}

#[derive(Debug, Default, PartialEq)]
struct Answers {
    lists: BTreeMap<String, Vec<VariantView>>,
    counts: BTreeMap<String, (u64, u64, u64)>,
    single: BTreeMap<u64, Option<VariantView>>,
}

struct World {
    dir: tempfile::TempDir,
    clock: TestClock,
    log: Arc<dyn EventLog>,
    bound: usize,
}

impl World {
    fn new(bound: usize) -> World {
        let (dir, clock) = (tempfile::tempdir().expect("a folder"), TestClock::at(START));
        let log = embedded_log(dir.path(), PARTITIONS, &clock);
        World { dir, clock, log, bound }
    }

    fn store(&self, name: &str) -> Arc<dyn SnapshotStore> {
        open(&self.dir.path().join(name))
    }

    fn start(&self, name: &str) -> Running {
        let settings = stockwarden::actors::settings::EngineSettings { max_resident_variants: self.bound, ..settings("a") };
        let engine = Running::start(self.log.clone(), self.store(name), settings);
        engine.wait_live();
        engine
    }

    /// Lets the story happen. While it does, no more are in memory than the bound and what one append concerns.
    fn live(&self, story: &[Step]) -> End {
        let mut engine = self.start("store.db");
        let mut left = 0;
        for step in story {
            match step {
                Step::Append(at, records) => {
                    self.clock.0.store(*at, Ordering::Relaxed);
                    let is_for_all = records.iter().any(|r| r.key.as_deref() == Some(b"~rules"));
                    let peak = Peak::watch(&engine);
                    append(&*self.log, records.iter().map(copy).collect());
                    engine.catch_up(&*self.log);
                    let most = peak.end();
                    let concerned = records.len() * PER_PRODUCT as usize;
                    let is_within = self.bound == UNBOUND || is_for_all || most <= (self.bound + concerned) as i64;
                    assert!(is_within, "{most} were in memory at once, the bound is {}, {concerned} were concerned", self.bound);
                    eventually("idle ones have left", || engine.stats.variants.get() <= self.bound.min(KNOWN) as i64);
                }
                Step::Restart | Step::Remember => {
                    left += engine.stats.passivations.get();
                    engine.stop();
                    if matches!(step, Step::Remember) {
                        copy_store(self.dir.path(), "store.db", "remembered.db");
                    }
                    engine = self.start("store.db");
                    assert_eq!(engine.stats.replayed.get(), 0, "a clean stop leaves nothing to fold");
                    let (here, away) = (engine.stats.variants.get(), engine.stats.variants_away.get());
                    assert!(here <= self.bound.min(KNOWN) as i64 && here + away >= KNOWN as i64 / 2, "{here} here, {away} away");
                }
            }
        }
        left += engine.stats.passivations.get();
        if self.bound == UNBOUND {
            assert_eq!(left, 0);
        } else {
            assert!(left > 3 * BOUND as u64, "{left} left");
            assert!(engine.stats.reactivations.get() > 0);
        }
        self.end(engine, "store.db")
    }

    /// Starts on another store and lets it fold the rest of the log.
    fn recover(&self, name: &str, at_least: u64) -> End {
        let engine = self.start(name);
        assert!(engine.stats.replayed.get() >= at_least, "{}", engine.stats.replayed.get());
        self.end(engine, name)
    }

    fn end(&self, engine: Running, name: &str) -> End {
        let answers = ask(&engine);
        engine.stop();
        let mut decisions = decisions(&*self.log);
        decisions.sort_by_key(|d| (d.caused_by.partition, d.caused_by.offset, d.seq));
        End { states: snapshots(&*self.store(name), PARTITIONS), decisions, answers }
    }
}

fn open(path: &Path) -> Arc<dyn SnapshotStore> {
    let url = format!("sqlite://{}", path.display());
    Arc::new(block(SqliteStore::connect(&url, Duration::from_secs(20))).expect("the store opens"))
}

/// Nobody has it open: the log of SQLite is merged by then.
fn copy_store(dir: &Path, from: &str, to: &str) {
    run_sql(&dir.join(from), "pragma wal_checkpoint(truncate)");
    std::fs::copy(dir.join(from), dir.join(to)).expect("copied");
}

fn run_sql(path: &Path, sql: impl SqlSafeStr + Send) {
    block(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE);
        options.connect().await.expect("open the file").execute(sql.into_sql_str()).await.expect("statement");
    });
}

fn copy(r: &NewRecord) -> NewRecord {
    NewRecord { topic: r.topic, partition: r.partition, key: r.key.clone(), headers: r.headers.clone(), value: r.value.clone() }
}

/// The most variants that were in memory at once, as often as a thread can look.
struct Peak {
    over: Arc<AtomicBool>,
    most: Arc<AtomicI64>,
    thread: std::thread::JoinHandle<()>,
}

impl Peak {
    fn watch(engine: &Running) -> Peak {
        let (over, most) = (Arc::<AtomicBool>::default(), Arc::<AtomicI64>::default());
        let (stats, end, seen) = (engine.stats.clone(), over.clone(), most.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                seen.fetch_max(stats.variants.get(), Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        Peak { over, most, thread }
    }

    fn end(self) -> i64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only looks");
        self.most.load(Ordering::Relaxed)
    }
}

/// Epochs differ with the number of starts.
fn anonymous(mut view: VariantView) -> VariantView {
    view.provenance.epoch = 0;
    view
}

fn ask(engine: &Running) -> Answers {
    let mut answers = Answers::default();
    for name in (0..SHOPS).map(shop) {
        let view = engine.block(engine.queries.shop(&name, None, PATIENCE)).expect("known");
        answers.counts.insert(name.clone(), (view.variants, view.at_risk, view.open_proposals));
        let vendor = Some("Acme1".to_owned());
        for (what, filter) in [
            ("all", VariantFilter::default()),
            ("at risk", VariantFilter { at_risk: Some(true), ..VariantFilter::default() }),
            ("not at risk", VariantFilter { at_risk: Some(false), vendor, ..VariantFilter::default() }),
            ("one", VariantFilter { sku: Some("SKU-152".into()), ..VariantFilter::default() }),
        ] {
            let mut filter = VariantFilter { limit: 7, ..filter };
            let mut all = Vec::new();
            loop {
                let page = engine.block(engine.queries.variants(&name, filter.clone(), None, PATIENCE)).expect("a page");
                all.extend(page.variants.into_iter().map(anonymous));
                filter.cursor = page.next;
                if page.next.is_none() {
                    break;
                }
            }
            answers.lists.insert(format!("{name} {what}"), all);
        }
    }
    for product in 0..PRODUCTS {
        for id in (0..PER_PRODUCT).map(|n| product * 10 + n) {
            let view = engine.variant(&shop(product), id, None).ok().map(anonymous);
            answers.single.insert(id, view);
        }
    }
    // Now that all have been asked for by name, some are back.
    for (name, counts) in &answers.counts {
        let again = engine.block(engine.queries.shop(name, None, PATIENCE)).expect("known");
        assert_eq!((again.variants, again.at_risk, again.open_proposals), *counts, "{name}, asked again");
    }
    answers
}

fn assert_same(what: &str, got: &End, want: &End) {
    for (g, w) in got.decisions.iter().zip(&want.decisions) {
        assert_eq!(g, w, "{what}");
    }
    assert_eq!(got.decisions.len(), want.decisions.len(), "{what}");
    for (g, w) in got.states.iter().zip(&want.states) {
        assert_eq!(g, w, "{what}");
    }
    assert_eq!(got.states.len(), want.states.len(), "{what}");
    assert_eq!(got.answers, want.answers, "{what}");
}

#[test]
fn with_a_tenth_in_memory_decisions_states_and_answers_are_those_of_a_node_that_holds_all() {
    for seed in [1, 2] {
        let story = story(seed);
        let (all, tenth) = (World::new(UNBOUND), World::new(BOUND));
        let want = all.live(&story);
        assert!(want.decisions.len() > 100, "{}", want.decisions.len());
        let by_ticks = {
            let ticks: Vec<_> = read_all(&*all.log, Topic::Facts)
                .iter()
                .flat_map(|b| b.iter().filter(|r| r.key == Some(b"~clock")).map(|r| (b.partition, r.offset)).collect::<Vec<_>>())
                .collect();
            want.decisions.iter().filter(|d| ticks.contains(&(d.caused_by.partition, d.caused_by.offset))).count()
        };
        assert!(by_ticks > 0, "no tick woke anybody");
        assert_same("live", &tenth.live(&story), &want);
        assert_same("the tail after an early snapshot", &tenth.recover("remembered.db", 200), &want);
        assert_same("replay from zero", &tenth.recover("empty.db", 400), &want);
    }
}

#[test]
fn a_query_brings_back_the_variant_that_it_names_and_a_list_brings_back_none() {
    let world = World::new(60);
    let listed: Vec<_> = (0..60).map(|p| catalogue(p * SHOPS, 1, "First", false, START)).collect();
    append(&*world.log, listed);
    let engine = world.start("store.db");
    engine.catch_up(&*world.log);
    // A share is 20: that many may be there, and a quarter fewer when room was made.
    eventually("most have left", || engine.stats.variants.get() <= 18);
    let (name, before) = (shop(0), engine.stats.reactivations.get());
    let filter = VariantFilter { limit: 100, ..VariantFilter::default() };
    let page = engine.block(engine.queries.variants(&name, filter, None, PATIENCE)).expect("a page");
    assert_eq!((page.variants.len(), engine.stats.reactivations.get()), (60, before));
    for id in (0..60).map(|p| p * SHOPS * 10) {
        assert_eq!(engine.variant(&name, id, None).expect("known").variant_id, VariantId(id));
    }
    let back = engine.stats.reactivations.get() - before;
    assert!((1..=20).contains(&back), "{back} came back");
    assert!(engine.stats.variants.get() <= 20, "queries respect the bound");
    let again = engine.stats.reactivations.get();
    for id in (0..60).map(|p| p * SHOPS * 10) {
        assert_eq!(engine.variant(&name, id, None).expect("known").variant_id, VariantId(id));
    }
    assert!(engine.stats.reactivations.get() - again < 60, "those that are back stay");
    engine.stop();
}

#[test]
fn a_variant_whose_snapshot_was_damaged_while_it_was_away_is_rebuilt_from_the_log() {
    for damage in [
        "update snapshot set state = zeroblob(length(state)) where entity = 2",
        "update snapshot set fact_offset = fact_offset - 1 where entity = 2",
        "delete from snapshot where entity = 2",
    ] {
        let world = World::new(15);
        append(&*world.log, rules(1, LOW, PARTITIONS));
        append(&*world.log, (0..20).map(|p| catalogue(p * SHOPS, 1, "First", false, START)).collect());
        append(&*world.log, (0..20).map(|p| level_of(p * SHOPS, 0, 1, 20, START)).collect());
        let engine = world.start("store.db");
        engine.catch_up(&*world.log);
        eventually("most have left", || engine.stats.variants.get() <= 5);
        run_sql(&world.dir.path().join("store.db"), damage);
        append(&*world.log, (0..20).map(|p| level_of(p * SHOPS, 0, 1, 9, START + 1_000)).collect());
        eventually("it is rebuilt", || engine.stats.snapshots_discarded.get() >= 1);
        engine.wait_live();
        engine.catch_up(&*world.log);
        for p in 0..20 {
            let view = engine.variant(&shop(0), p * SHOPS * 10, None).expect("known");
            assert_eq!((view.available, view.open_proposals.len()), (Some(9), 1), "{damage}");
        }
        engine.stop();
        assert_eq!(decisions(&*world.log).len(), 20, "{damage}");
    }
}
