//! A shop has a quota of a batch (DESIGN §10, Fairness).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use stockwarden::events::ids::VariantId;
use stockwarden::events::record::partition_of;

use super::Site;
use super::harness::*;

const HOT: &str = "hot.myshopify.com";
const HOT_VARIANT: u64 = 1;
const COLD_VARIANT: u64 = 2;
/// Facts of the hot shop in one batch.
const CROWD: i64 = 900;

#[test]
fn a_decision_does_not_wait_for_all_that_a_hot_shop_has_in_its_batch() {
    let site = Site::new();
    let log = site.log();
    let home = partition_of(HOT.as_bytes(), log.partitions());
    let shops = (0..).map(|n| format!("cold-{n}.myshopify.com"));
    let cold = shops.into_iter().find(|s| partition_of(s.as_bytes(), log.partitions()) == home).expect("one of the first few");

    // Holds the shard up in the middle of the crowd until the cold shop's decision is in the log.
    let (middle, waited_in_vain) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(AtomicBool::new(false)));
    let (probed, at, in_vain) = (log.clone(), middle.clone(), waited_in_vain.clone());
    let probe = move |variant: VariantId, offset: i64| {
        if variant.0 != HOT_VARIANT || offset != at.load(Ordering::Acquire) {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while decisions(&*probed).is_empty() {
            if Instant::now() > deadline {
                return in_vain.store(true, Ordering::Release);
            }
            std::thread::yield_now();
        }
    };
    let engine = Running::start(log.clone(), site.store(), with_probe(settings("a"), probe));
    append(&*log, rules(1, LOW, log.partitions()));
    append(&*log, vec![foreign(HOT, product(HOT_VARIANT)), foreign(&cold, product(COLD_VARIANT))]);
    append(&*log, vec![foreign(HOT, level(HOT_VARIANT, 20, 0)), foreign(&cold, level(COLD_VARIANT, 20, 0))]);
    engine.catch_up(&*log);

    let crossing = foreign(&cold, level(COLD_VARIANT, 9, 1));
    let crowd = (0..CROWD).map(|i| foreign(HOT, level(HOT_VARIANT, 500 + i, 1)));
    let (_, next) = log.watermarks(stockwarden::events::record::Topic::Facts, home).expect("watermarks");
    middle.store(next + CROWD / 2, Ordering::Release);
    append(&*log, std::iter::once(crossing).chain(crowd).collect());
    engine.catch_up(&*log);
    eventually("the decision is committed", || decisions(&*log).len() == 1);
    assert!(!waited_in_vain.load(Ordering::Acquire), "the decision left only after all facts of the hot shop");
    engine.stop();
}
