//! A wall clock that jumps by an hour, forth and back: time comes to the engine through the log only (DESIGN §10), so the plain
//! fold explains every decision and a replay under another clock ends the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stockwarden::adapters::embedded::sqlite::SqliteStore;
use stockwarden::domain::views::{LevelView, ProposalView};
use stockwarden::events::fact::{FactType, header};
use stockwarden::events::record::Topic;
use stockwarden::ports::{EventLog, SnapshotStore};

use crate::engine::harness::*;
use crate::reference::Reference;
use crate::system::million::records_of;

const SHOP: &str = "a.myshopify.com";
const VARIANTS: u64 = 10;
const HOUR: i64 = 3_600_000;

/// The second crossing comes within the cool-down and waits for a tick.
const COOL: &str = r#"
[[rule]]
id = "low"
scope = "location"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "up-to", level = 60 }
cool_down = "30m"
"#;

fn ticks(log: &dyn EventLog) -> usize {
    let is_tick = |name: Option<&str>| name == Some(FactType::Tick.as_str());
    read_all(log, Topic::Facts).iter().flat_map(|b| b.iter()).filter(|r| is_tick(r.headers.text(header::FACT))).count()
}

fn views(engine: &Running) -> Vec<(Option<i64>, Vec<LevelView>, Vec<ProposalView>)> {
    let view = |id| engine.variant(SHOP, id, None).expect("known");
    (1..=VARIANTS).map(view).map(|v| (v.available, v.levels, v.open_proposals)).collect()
}

#[test]
fn a_clock_that_jumps_by_an_hour_decides_nothing_that_the_log_does_not_explain() {
    let dir = tempfile::tempdir().expect("a folder");
    // 2026-11-01T01:00:00Z, when the levels of the harness begin.
    let clock = TestClock::at(1_793_494_800_000);
    let log: Arc<dyn EventLog> = embedded_log(dir.path(), 2, &clock);
    let store = |name: &str| -> Arc<dyn SnapshotStore> {
        let url = format!("sqlite://{}", dir.path().join(name).display());
        Arc::new(block(SqliteStore::connect(&url, Duration::from_secs(20))).expect("the store opens"))
    };
    let mut ticking = settings("a");
    ticking.clock = clock.reader();
    ticking.tick_interval = Duration::from_millis(20);
    let engine = Running::start(log.clone(), store("first.db"), ticking);
    append(&*log, rules(1, COOL, log.partitions()));
    append(&*log, (1..=VARIANTS).map(|id| foreign(SHOP, product(id))).collect());
    let steps = [(20, 0), (9, 0), (30, 0), (8, HOUR), (30, -HOUR), (7, -HOUR), (30, HOUR), (6, 2 * HOUR), (5, 0)];
    for (second, (available, jump)) in steps.into_iter().enumerate() {
        append(&*log, (1..=VARIANTS).map(|id| foreign(SHOP, level(id, available, second as u32))).collect());
        clock.0.fetch_add(jump, Ordering::Relaxed);
        let before = ticks(&*log);
        eventually("the clock ticks in every partition", || ticks(&*log) > before + 2);
    }
    engine.catch_up(&*log);
    let live = views(&engine);
    engine.stop();

    let mut reference = Reference::new(&[]);
    read_all(&*log, Topic::Facts).iter().flat_map(records_of).for_each(|r| reference.take(&r));
    let expected: BTreeSet<String> = reference.outcome().decisions.into_values().map(|d| d.decision_id).collect();
    let decided = decisions(&*log);
    let ids: BTreeSet<String> = decided.iter().map(|d| d.decision_id.to_string()).collect();
    assert_eq!((ids.len(), &ids), (decided.len(), &expected), "each once, and those of the fold");
    assert!(decided.len() as u64 > VARIANTS, "a crossing that waited has fired as well");

    let elsewhere = TestClock::at(1_600_000_000_000);
    let mut replaying = settings("b");
    replaying.clock = elsewhere.reader();
    let engine = Running::start(log.clone(), store("second.db"), replaying);
    engine.wait_live();
    engine.catch_up(&*log);
    assert_eq!(views(&engine), live);
    engine.stop();
    assert_eq!(decisions(&*log).len(), decided.len(), "replay decides nothing");
}
