//! Measurements; run with `--ignored --nocapture`.

use std::time::Instant;

use stockwarden::events::record::Topic;
use stockwarden::ports::event_log::{EventLog, Group};

use super::node::{Member, Told};
use super::{block_on, fact, record};
use crate::support::kafka::fresh_log;

#[test]
#[ignore = "a measurement"]
fn latency_of_a_transaction_of_20_records_and_8_offsets() {
    let log = fresh_log(8);
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    member.assigned(8);
    let mut writer = log.writer(member.handle.clone()).expect("writer");
    let records: Vec<_> = (0..20).map(|i| record(Topic::Decisions, i % 8, vec![b'x'; 400])).collect();
    let mut took: Vec<_> = (1..=500)
        .map(|n| {
            let begun = Instant::now();
            let offsets: Vec<_> = (0..8).map(|p| (p, n)).collect();
            assert_eq!(writer.commit(&records, &offsets).expect("commits").len(), 20);
            begun.elapsed()
        })
        .collect();
    took.sort();
    println!("transaction: p50 {:?} p90 {:?} p99 {:?} max {:?}", took[250], took[450], took[495], took[499]);
    member.handle.leave();
}

#[test]
#[ignore = "a measurement"]
fn records_a_second_from_the_broker_into_batches() {
    let log = fresh_log(8);
    let all = 1_000_000;
    let begun = Instant::now();
    block_on(async {
        for _ in 0..all / 10_000 {
            let records = (0..10_000).map(|i| fact(i % 8, vec![b'x'; 180])).collect();
            log.append(records).await.expect("appended");
        }
    });
    println!("append: {:.0} records/s", f64::from(all) / begun.elapsed().as_secs_f64());
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    for a in member.assigned(8) {
        member.handle.start(a.partition, 0);
    }
    let (begun, mut got, mut batches) = (Instant::now(), 0, 0);
    while got < all as usize {
        if let Told::Batch(batch) = member.next() {
            got += batch.len();
            batches += 1;
        }
    }
    println!("drain: {:.0} records/s in {batches} batches", f64::from(all) / begun.elapsed().as_secs_f64());
    assert_eq!(got, all as usize);
    member.handle.leave();
}
