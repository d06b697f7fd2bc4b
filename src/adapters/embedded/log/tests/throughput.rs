use std::time::Instant;

use super::*;

/// Printed, not judged: `cargo test --release --lib throughput -- --nocapture`.
#[test]
fn throughput_of_durable_appends() {
    for (appenders, each) in [(1, 300), (64, 300)] {
        let dir = tempfile::tempdir().expect("folder");
        let log = open(dir.path());
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..appenders {
                scope.spawn(|| {
                    for _ in 0..each {
                        append(&log, vec![fact(1, &"x".repeat(220))]).expect("appends");
                    }
                });
            }
        });
        let all = appenders * each;
        let rate = f64::from(all) / started.elapsed().as_secs_f64();
        println!("embedded log: {appenders} appenders, one fact a call: {rate:.0} durable facts/s");
        assert_eq!(log.watermarks(Topic::Facts, 1).expect("watermarks").1, i64::from(all));
    }
    let dir = tempfile::tempdir().expect("folder");
    let log = EmbeddedLog::open(dir.path(), options(64, 64 << 20)).expect("opens");
    let started = Instant::now();
    for _ in 0..100 {
        append(&log, (0..2000).map(|i| fact(i % 64, &"x".repeat(220))).collect()).expect("appends");
    }
    println!("embedded log: 1 appender, 2000 facts a call: {:.0} durable facts/s", 200_000.0 / started.elapsed().as_secs_f64());
    let started = Instant::now();
    let read: usize = (0..64).map(|p| values(&log, Topic::Facts, p).len()).sum();
    println!("embedded log: 64 partitions read one by one: {:.0} facts/s", read as f64 / started.elapsed().as_secs_f64());
}
