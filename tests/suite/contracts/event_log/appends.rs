//! Appending, and reading a partition.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use stockwarden::events::record::{NewRecord, Partition, Topic, partition_of};
use stockwarden::ports::LogError;

use super::LogUnderTest;
use super::kit::{self, A_WHILE, MAX_RECORD, PATIENCE, append, block_on, fact, facts, read_all, record, texts, values};

type Factory = fn(i32) -> Box<dyn LogUnderTest>;
/// Key, value, headers.
type Shape = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(&'static str, Vec<u8>)>);

pub fn records_come_back_in_order_with_the_positions_that_append_gave(fresh: Factory) {
    let under = fresh(3);
    let log = under.log();
    let mut expected = vec![Vec::new(); 3];
    for call in 0..20 {
        let records: Vec<_> = (0..30).map(|i| (i % 3, format!("{call}/{i}"))).collect();
        let positions = append(&*log, records.iter().map(|(p, v)| fact(*p, v.as_str())).collect());
        assert_eq!(positions.len(), records.len());
        for (at, (partition, value)) in positions.iter().zip(records) {
            assert_eq!(at.partition, partition);
            expected[partition as usize].push((at.offset, value));
        }
    }
    for (partition, expected) in (0..).zip(expected) {
        assert_eq!(read_all(&*log, Topic::Facts, partition), expected);
    }
}

pub fn an_acknowledged_record_is_there_after_a_restart(fresh: Factory) {
    let mut under = fresh(2);
    for round in 0..3 {
        append(&*under.log(), facts(1, round * 100..round * 100 + 100));
        under.reopen();
        assert_eq!(values(&*under.log(), Topic::Facts, 1), texts(0..round * 100 + 100));
    }
}

pub fn records_go_where_their_key_says(fresh: Factory) {
    let under = fresh(5);
    let log = under.log();
    for shop in 0..20 {
        let key = format!("shop-{shop}.myshopify.com").into_bytes();
        let unplaced = NewRecord { partition: None, key: Some(key.clone()), ..fact(0, "x") };
        assert_eq!(append(&*log, vec![unplaced])[0].partition, partition_of(&key, 5));
    }
    let anywhere = NewRecord { partition: None, key: None, ..fact(0, "x") };
    assert!((0..5).contains(&append(&*log, vec![anywhere])[0].partition));
}

pub fn keys_values_and_headers_come_back_as_they_were(fresh: Factory) {
    let under = fresh(1);
    let log = under.log();
    let bytes = |b: &[u8]| Some(b.to_vec());
    let shapes: [Shape; 4] = [
        (None, None, vec![]),
        (bytes(b""), bytes(b""), vec![("empty", vec![])]),
        (None, bytes(b"{}"), vec![("fact", b"tick".to_vec()), ("fact", b"twice".to_vec()), ("\u{e4}", vec![0, 255])]),
        (bytes(&[0, 1, 255]), None, vec![("version", b"1".to_vec())]),
    ];
    let before = kit::now_ms();
    let as_record = |(key, value, headers): &Shape| NewRecord {
        key: key.clone(),
        value: value.clone(),
        headers: headers.clone(),
        ..fact(0, "")
    };
    append(&*log, shapes.iter().map(as_record).collect());
    let (_, end) = log.watermarks(Topic::Facts, 0).expect("watermarks");
    let mut reader = log.reader(Topic::Facts, 0, 0).expect("reader");
    let mut read = Vec::new();
    while let Some(batch) = reader.next(end, A_WHILE).expect("reads") {
        for r in batch.iter() {
            // A broker on this machine uses the same clock, but not at the same instant.
            assert!((before - 1000..=kit::now_ms() + 1000).contains(&r.append_time_ms), "{}", r.append_time_ms);
            let headers: Vec<_> = r.headers.map(|(n, v)| (n.to_string(), v.to_vec())).collect();
            read.push((r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec), headers));
        }
    }
    let owned = |h: &[(&str, Vec<u8>)]| h.iter().map(|(n, v)| (n.to_string(), v.clone())).collect::<Vec<_>>();
    assert_eq!(read, shapes.iter().map(|(k, v, h)| (k.clone(), v.clone(), owned(h))).collect::<Vec<_>>());
}

pub fn a_value_of_one_megabyte_passes_and_one_beyond_the_bound_is_refused(fresh: Factory) {
    let mut under = fresh(1);
    let big: String = (0..1 << 20).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
    append(&*under.log(), vec![fact(0, "before"), fact(0, big.as_str()), fact(0, "after")]);
    let refused = block_on(under.log().append(vec![fact(0, vec![b'x'; MAX_RECORD + 1])]));
    assert!(matches!(refused, Err(LogError::Refused { size, .. }) if size > MAX_RECORD), "{refused:?}");
    append(&*under.log(), vec![fact(0, "later")]);
    under.reopen();
    assert_eq!(values(&*under.log(), Topic::Facts, 0), ["before", big.as_str(), "after", "later"]);
}

pub fn an_atomic_append_is_seen_whole_or_not_at_all(fresh: Factory) {
    const ROUNDS: u32 = 40;
    let under = fresh(2);
    let log = under.log();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let both = (0..20).map(|i| fact(i % 2, round.to_string())).collect();
                let positions = block_on(log.append_atomically(both)).expect("appends");
                assert_eq!(positions.len(), 20);
            }
            done.store(true, Ordering::SeqCst);
        });
        let started = Instant::now();
        loop {
            let last = done.load(Ordering::SeqCst);
            // Whoever sees a part of a round in one partition finds all of it in the other, which is read later.
            let (seen, other) = (values(&*log, Topic::Facts, 0), values(&*log, Topic::Facts, 1));
            assert_eq!(seen.len() % 10, 0, "a part of an append was seen");
            assert!(other.len() >= seen.len(), "{} but {}", seen.len(), other.len());
            if last {
                assert_eq!(seen.len(), ROUNDS as usize * 10);
                break;
            }
            assert!(started.elapsed() < PATIENCE);
        }
    });
    let partly_wrong = vec![fact(0, "good"), fact(0, vec![b'x'; MAX_RECORD + 1])];
    assert!(block_on(log.append_atomically(partly_wrong)).is_err());
    assert_eq!(values(&*log, Topic::Facts, 0).len(), ROUNDS as usize * 10, "all or none");
}

pub fn appends_of_eight_threads_keep_each_threads_order(fresh: Factory) {
    let under = fresh(2);
    let log = under.log();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = log.clone();
            scope.spawn(move || {
                block_on(async {
                    // Not awaited one by one: the order is that of the calls.
                    let calls: Vec<_> = (0..200).map(|i| log.append(vec![fact(i % 2, format!("{thread} {i}"))])).collect();
                    futures::future::try_join_all(calls).await.expect("appends")
                });
            });
        }
    });
    let mut all = 0;
    for partition in 0..2 {
        let values = values(&*log, Topic::Facts, partition);
        all += values.len();
        for thread in 0..8 {
            let prefix = format!("{thread} ");
            let own: Vec<u32> = values.iter().filter_map(|v| v.strip_prefix(&prefix)?.parse().ok()).collect();
            assert_eq!(own, (0..200).filter(|i| i % 2 == partition as u32).collect::<Vec<_>>());
        }
    }
    assert_eq!(all, 1600);
}

pub fn a_reader_stops_at_until_and_waits_no_longer_than_told(fresh: Factory) {
    let under = fresh(1);
    let log = under.log();
    append(&*log, facts(0, 0..5000));
    let (first, end) = log.watermarks(Topic::Facts, 0).expect("watermarks");
    assert_eq!((first, end), (0, 5000));
    let mut reader = log.reader(Topic::Facts, 0, 10).expect("reader");
    assert_eq!(reader.position(), 10);
    let mut read = Vec::new();
    while let Some(batch) = reader.next(4321, PATIENCE).expect("reads") {
        read.extend(batch.iter().map(|r| r.offset));
    }
    assert_eq!(read, (10..4321).collect::<Vec<_>>());
    assert_eq!(reader.position(), 4321);
    assert!(reader.next(4321, PATIENCE).expect("reads").is_none(), "no wait at the end");
    assert!(reader.next(100, PATIENCE).expect("reads").is_none(), "nor past it");
    let mut reader = log.reader(Topic::Facts, 0, 5000).expect("reader");
    let started = Instant::now();
    let nothing = reader.next(5001, A_WHILE).expect("reads").expect("the end is not reached");
    assert!(nothing.is_empty() && nothing.next_offset == 5000);
    assert!(started.elapsed() >= A_WHILE && started.elapsed() < PATIENCE);
}

pub fn a_reader_goes_on_where_it_stopped(fresh: Factory) {
    let under = fresh(1);
    let log = under.log();
    for round in 0..20 {
        block_on(log.append_atomically(facts(0, round * 5..round * 5 + 5))).expect("appends");
    }
    let (_, end) = log.watermarks(Topic::Facts, 0).expect("watermarks");
    let mut reader = log.reader(Topic::Facts, 0, 0).expect("reader");
    let mut read = Vec::new();
    for until in (0..=end).step_by(7).chain([end]) {
        while let Some(batch) = reader.next(until, PATIENCE).expect("reads") {
            read.extend(batch.iter().map(|r| kit::text(r.value)));
        }
        assert!(reader.position() >= until, "{} but {until}", reader.position());
    }
    assert_eq!(read, kit::texts(0..100));
}

pub fn a_reader_waits_for_what_is_not_there_yet(fresh: Factory) {
    let under = fresh(1);
    let log = under.log();
    let (waits, waiting) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut reader = log.reader(Topic::Facts, 0, 0).expect("reader");
            waits.send(()).expect("told");
            let deadline = Instant::now() + PATIENCE;
            loop {
                assert!(Instant::now() < deadline);
                let batch = reader.next(1, PATIENCE).expect("reads").expect("not the end");
                if let Some(r) = batch.get(0) {
                    return kit::text(r.value);
                }
            }
        });
        waiting.recv().expect("reader");
        append(&*log, vec![fact(0, "late")]);
        assert_eq!(reading.join().expect("reader"), "late");
    });
}

pub fn topics_and_partitions_keep_apart(fresh: Factory) {
    let under = fresh(2);
    let log = under.log();
    let places: Vec<(Topic, Partition)> = Topic::ALL.into_iter().flat_map(|t| [(t, 0), (t, 1)]).collect();
    append(&*log, places.iter().map(|(t, p)| record(*t, *p, format!("{t:?} {p}"))).collect());
    for (t, p) in places {
        assert_eq!(values(&*log, t, p), [format!("{t:?} {p}")]);
    }
    if let Some(second) = under.second() {
        append(&*second, vec![fact(0, "from the other handle")]);
        assert_eq!(values(&*log, Topic::Facts, 0)[1], "from the other handle");
    }
}

pub fn what_does_not_exist_is_refused(fresh: Factory) {
    let under = fresh(2);
    let log = under.log();
    for partition in [-1, 2] {
        assert!(block_on(log.append(vec![fact(partition, "x")])).is_err(), "partition {partition}");
        assert!(log.watermarks(Topic::Facts, partition).is_err(), "partition {partition}");
    }
    assert_eq!(append(&*log, Vec::new()), []);
}

pub fn it_is_ready_once_prepared(fresh: Factory) {
    let under = fresh(4);
    let log = under.log();
    log.prepare(PATIENCE).expect("a second time changes nothing");
    log.probe(PATIENCE).expect("answers");
    assert_eq!(log.partitions(), 4);
}
