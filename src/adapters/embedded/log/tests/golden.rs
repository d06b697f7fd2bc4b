//! Format version 1, as a file that is never edited: what it was written from stands below.

use super::*;

const SEGMENT: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/embedded-log/v1/00000000000000000000.segment"));

fn written() -> (Vec<NewRecord>, Vec<NewRecord>) {
    let headers = vec![("fact", b"inventory_levels/update".to_vec()), ("traceparent", Vec::new())];
    let facts = vec![
        NewRecord {
            topic: Topic::Facts,
            partition: Some(1),
            key: Some(b"a.myshopify.com".to_vec()),
            headers,
            value: Some(b"{}".to_vec()),
        },
        NewRecord { topic: Topic::Facts, partition: Some(0), key: None, headers: Vec::new(), value: None },
        NewRecord {
            topic: Topic::DeadLetters,
            partition: Some(1),
            key: Some(Vec::new()),
            headers: Vec::new(),
            value: Some(Vec::new()),
        },
    ];
    (facts, vec![record(Topic::Decisions, 1, "decision")])
}

fn write(dir: &Path) {
    let log = open_on(dir, Arc::new(RealDisk));
    let (facts, decisions) = written();
    append(&log, facts).expect("appends");
    let (member, mut writer) = member(&log);
    writer.commit(&decisions, &[(1, 1)]).expect("commits");
    member.leave();
}

#[test]
fn a_segment_of_format_1_reads_as_it_was_written() {
    let dir = tempfile::tempdir().expect("folder");
    fs::write(dir.path().join("00000000000000000000.segment"), SEGMENT).expect("writes");
    let log = open(dir.path());
    assert_eq!(committed(&log), [None, Some(1)]);
    let (facts, decisions) = written();
    for want in facts.iter().chain(&decisions) {
        let mut reader = log.reader(want.topic, want.partition.expect("named"), 0).expect("reader");
        let batch = reader.next(1, PATIENCE).expect("reads").expect("a batch");
        let got = batch.get(0).expect("a record");
        assert_eq!((got.key, got.value), (want.key.as_deref(), want.value.as_deref()));
        let headers: Vec<_> = got.headers.map(|(n, v)| (n, v.to_vec())).collect();
        assert_eq!(headers, want.headers);
        assert_eq!(got.append_time_ms, 1_700_000_000_000);
        assert_eq!(batch.next_offset, 1);
    }
    assert_eq!(log.watermarks(Topic::DeadLetters, 0).expect("watermarks"), (0, 0));
}

#[test]
fn the_same_records_are_still_written_as_the_same_bytes() {
    let dir = tempfile::tempdir().expect("folder");
    write(dir.path());
    let bytes = fs::read(dir.path().join("00000000000000000000.segment")).expect("reads");
    // The golden file of a new format version is this one, made once.
    let made = std::env::temp_dir().join("stockwarden-golden.segment");
    let differs = "the format has changed: it needs a new version, a reader for the old one and a golden file of its own, as in";
    if bytes != SEGMENT {
        fs::write(&made, bytes).expect("writes");
        panic!("{differs} {}", made.display());
    }
}
