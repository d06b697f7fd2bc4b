use super::super::stretches::Stretches;
use super::*;

const PARTITIONS: i32 = 4;

/// Facts of 60 kB, each of whose bytes say whose it is; some in frames of their own, some together.
fn filled(dir: &Path, each: usize) -> Arc<EmbeddedLog> {
    let log = EmbeddedLog::open(dir, options(PARTITIONS, 16 << 20)).expect("opens");
    for i in 0..each {
        let facts: Vec<_> = (0..PARTITIONS).map(|p| fact(p, &value(p, i))).collect();
        if i % 3 == 0 {
            facts.into_iter().for_each(|f| drop(append(&log, vec![f]).expect("appends")));
        } else {
            append(&log, facts).expect("appends");
        }
    }
    log
}

fn value(partition: Partition, i: usize) -> String {
    format!("{partition}:{i};").repeat(60_000 / 5)
}

fn bytes(dir: &Path) -> u64 {
    segment_files(dir).iter().map(|f| fs::metadata(f).expect("metadata").len()).sum()
}

fn check(batch: &RecordBatch, partition: Partition, next: &mut usize) {
    for r in batch.iter() {
        assert_eq!(r.offset, *next as Offset);
        assert_eq!((r.key, r.headers.text("source")), (Some(&b"shop"[..]), Some("test")));
        assert!(r.value == Some(value(partition, *next).as_bytes()), "fact {next} of partition {partition}");
        *next += 1;
    }
}

/// What the log's readers share, which is there as long as one of them is.
fn shared(log: &EmbeddedLog) -> Arc<Stretches> {
    log.core.stretches()
}

#[test]
fn partitions_that_are_read_side_by_side_cost_one_reading_of_the_log() {
    let dir = tempfile::tempdir().expect("folder");
    let log = filled(dir.path(), 300);
    let shared = shared(&log);
    let begin = std::sync::Barrier::new(PARTITIONS as usize);
    std::thread::scope(|scope| {
        for partition in 0..PARTITIONS {
            let (log, begin) = (&log, &begin);
            scope.spawn(move || {
                let mut reader = log.reader(Topic::Facts, partition, 0).expect("reader");
                let mut next = 0;
                while let Some(batch) = reader.next(300, PATIENCE).expect("reads") {
                    check(&batch, partition, &mut next);
                    if batch.first_offset() == Some(0) {
                        begin.wait();
                    }
                }
                assert_eq!(next, 300);
            });
        }
    });
    let (read, all) = (shared.bytes_read(), bytes(dir.path()));
    assert!(read < all * 2, "{read} bytes were read of a log of {all}");
}

#[test]
fn a_reader_that_stands_still_holds_the_others_up_for_a_moment_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("folder");
    let log = filled(dir.path(), 300);
    let mut slow = log.reader(Topic::Facts, 0, 0).expect("reader");
    let mut at = 0;
    check(&slow.next(300, PATIENCE).expect("reads").expect("a batch"), 0, &mut at);
    let mut fast = log.reader(Topic::Facts, 1, 0).expect("reader");
    let (mut next, began) = (0, std::time::Instant::now());
    while let Some(batch) = fast.next(300, PATIENCE).expect("reads") {
        check(&batch, 1, &mut next);
    }
    assert!(next == 300 && began.elapsed() < PATIENCE, "it was waited for too long");
    assert!(at < 150, "it is far behind");
    while let Some(batch) = slow.next(300, PATIENCE).expect("reads") {
        check(&batch, 0, &mut at);
    }
    assert_eq!(at, 300);
}

#[test]
fn batches_that_are_kept_keep_their_bytes_however_many_they_are() {
    let dir = tempfile::tempdir().expect("folder");
    let log = filled(dir.path(), 400);
    let mut reader = log.reader(Topic::Facts, 2, 0).expect("reader");
    let mut kept = Vec::new();
    while let Some(batch) = reader.next(400, PATIENCE).expect("reads") {
        kept.push(batch);
    }
    let mut next = 0;
    kept.iter().for_each(|batch| check(batch, 2, &mut next));
    assert_eq!(next, 400);
    let shared = shared(&log);
    assert!(shared.bytes_shared() <= 64 << 20, "what is shared is bounded, the rest is copied");
}

#[test]
fn frames_longer_than_a_chunk_are_shared_too_and_their_buffers_do_not_stay_with_short_ones() {
    let dir = tempfile::tempdir().expect("folder");
    let log = EmbeddedLog::open(dir.path(), options(PARTITIONS, 64 << 20)).expect("opens");
    let facts = |range: std::ops::Range<usize>| range.map(|i| fact(1, &value(1, i))).collect::<Vec<_>>();
    append(&log, facts(0..40)).expect("one frame of 2.3 MB");
    for i in 40..100 {
        append(&log, facts(i..i + 1)).expect("a short frame");
    }
    let (mut reader, shared) = (log.reader(Topic::Facts, 1, 0).expect("reader"), shared(&log));
    let long = reader.next(100, PATIENCE).expect("reads").expect("a batch");
    assert!(shared.bytes_shared() >= 2_000_000, "the batch has a copy");
    let mut next = 0;
    check(&long, 1, &mut next);
    drop(long);
    while let Some(batch) = reader.next(100, PATIENCE).expect("reads") {
        check(&batch, 1, &mut next);
    }
    assert_eq!(next, 100);
    assert!(shared.bytes_shared() < bytes(dir.path()) + (1 << 20), "short stretches hold on to long buffers");
}
