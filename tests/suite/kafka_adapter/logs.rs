//! Topics, appends, readers.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use stockwarden::adapters::kafka::{KafkaLog, KafkaSettings};
use stockwarden::events::record::{NewRecord, Topic, partition_of};
use stockwarden::ports::event_log::{EventLog, Group, LogError};

use super::node::{Member, Told};
use super::{PATIENCE, block_on, fact, until, values, wire};
use crate::support::kafka::{broker, fresh_log, fresh_settings, open};

/// A producer that is none of ours, for what ours would never do.
pub fn foreign(id: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker()).set("transactional.id", id);
    let producer: BaseProducer = config.create().expect("producer");
    producer.init_transactions(PATIENCE).expect("init");
    producer
}

#[test]
fn an_append_gives_the_position_of_each_record_in_the_order_of_the_call() {
    let log = fresh_log(3);
    let records: Vec<_> = (0..3_000).map(|i| fact(i % 3, i.to_string())).collect();
    let positions = block_on(log.append(records)).expect("appended");
    for p in 0..3 {
        let of_p: Vec<_> = positions.iter().filter(|q| q.partition == p).map(|q| q.offset).collect();
        assert_eq!(of_p, (0..1_000).collect::<Vec<_>>());
        let want: Vec<_> = (0..1_000).map(|i| (i * 3 + p).to_string()).collect();
        assert_eq!(values(&*log, Topic::Facts, p), want);
    }
}

#[test]
fn keys_go_where_murmur2_sends_them_and_not_where_crc32_would() {
    let log = fresh_log(16);
    let keys: Vec<String> = (0..64).map(|i| format!("shop-{i}.example")).collect();
    let keyed = |k: &String| NewRecord {
        topic: Topic::Facts,
        partition: None,
        key: Some(k.clone().into_bytes()),
        headers: vec![],
        value: None,
    };
    let positions = block_on(log.append(keys.iter().map(keyed).collect())).expect("appended");
    let found: Vec<_> = positions.iter().map(|p| p.partition).collect();
    let murmur2: Vec<_> = keys.iter().map(|k| partition_of(k.as_bytes(), 16)).collect();
    let crc32: Vec<_> = keys.iter().map(|k| (crc32fast::hash(k.as_bytes()) % 16) as i32).collect();
    assert_eq!(found, murmur2);
    assert_ne!(found, crc32);
}

#[test]
fn a_record_is_read_back_with_key_headers_value_and_the_brokers_time() {
    let log = fresh_log(1);
    let before = chrono::Utc::now().timestamp_millis();
    let big = vec![b'x'; 3 * 1024 * 1024];
    let mut first = fact(0, big.clone());
    first.headers.push(("event_time", b"2026-01-01T00:00:00.000Z".to_vec()));
    let empty = NewRecord { topic: Topic::Facts, partition: Some(0), key: None, headers: vec![], value: None };
    block_on(log.append(vec![first, empty])).expect("a record of 3 MiB is written");
    let mut reader = log.reader(Topic::Facts, 0, 0).expect("reader");
    let mut found = Vec::new();
    while let Some(batch) = reader.next(2, PATIENCE).expect("read") {
        for r in batch.iter() {
            assert!((before - 1_000..before + 60_000).contains(&r.append_time_ms), "{}", r.append_time_ms);
            let owned = |b: Option<&[u8]>| b.map(<[u8]>::to_vec);
            found.push((owned(r.key), owned(r.value), r.headers.text("event_time").map(str::to_owned)));
        }
    }
    let time = Some("2026-01-01T00:00:00.000Z".to_owned());
    assert_eq!(found, [(Some(b"shop.example".to_vec()), Some(big), time), (None, None, None)]);
}

#[test]
fn a_record_over_the_limit_is_refused_with_its_size_and_nothing_of_its_call_is_written() {
    let mut settings = fresh_settings(1);
    settings.max_record_bytes = 100_000;
    let log = open(&settings);
    for atomically in [false, true] {
        let records = vec![fact(0, "small"), fact(0, vec![0; 100_000])];
        let result = block_on(if atomically { log.append_atomically(records) } else { log.append(records) });
        let Err(LogError::Refused { size, .. }) = result else { panic!("{result:?}") };
        assert!((100_000..101_000).contains(&size), "{size}");
    }
    assert_eq!(log.watermarks(Topic::Facts, 0).expect("watermarks"), (0, 0));
}

#[test]
fn a_header_name_that_is_not_text_stops_neither_reader_nor_member() {
    let settings = fresh_settings(1);
    let log = open(&settings);
    wire::produce(&settings.topics.facts, &[(b"gr\xf6\xdfe", b"1"), (b"fact", b"tick")], b"v");
    let mut reader = log.reader(Topic::Facts, 0, 0).expect("reader");
    let batch = reader.next(1, PATIENCE).expect("read").expect("a batch");
    let r = batch.get(0).expect("the record");
    assert_eq!((r.value, r.headers.text("fact"), r.headers.count()), (Some(&b"v"[..]), Some("tick"), 1));
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    member.assigned(1);
    member.handle.start(0, 0);
    assert_eq!(member.offsets(1), (vec![0], 1));
    member.handle.leave();
}

#[test]
fn a_reader_ends_at_until_where_the_last_offsets_are_markers_and_aborted_records() {
    let settings = fresh_settings(1);
    let log = open(&settings);
    block_on(log.append(vec![fact(0, "a"), fact(0, "b")])).expect("appended");
    block_on(log.append_atomically(vec![fact(0, "c")])).expect("appended");
    let producer = foreign(&settings.group_id);
    producer.begin_transaction().expect("begin");
    for _ in 0..5 {
        let aborted = BaseRecord::<[u8], str>::to(&settings.topics.facts).partition(0).payload("never");
        producer.send(aborted).map_err(|(e, _)| e).expect("sent");
    }
    producer.flush(PATIENCE).expect("flush");
    producer.abort_transaction(PATIENCE).expect("abort");
    // a b c + marker, five aborted + marker; the broker writes a marker after it has answered.
    let deadline = std::time::Instant::now() + PATIENCE;
    while log.watermarks(Topic::Facts, 0).expect("watermarks") != (0, 10) {
        assert!(std::time::Instant::now() < deadline, "{:?}", log.watermarks(Topic::Facts, 0));
    }
    assert_eq!(values(&*log, Topic::Facts, 0), ["a", "b", "c"]);

    // In pieces, and from within what is not there to be read.
    let mut reader = log.reader(Topic::Facts, 0, 1).expect("reader");
    let mut got = Vec::new();
    for until in [1, 2, 4, 7, 10] {
        while let Some(batch) = reader.next(until, PATIENCE).expect("read") {
            assert!(batch.iter().all(|r| r.offset < until) && batch.next_offset <= reader.position());
            got.extend(batch.iter().map(|r| r.offset));
        }
        assert!(reader.position() >= until, "{} of {until}", reader.position());
    }
    assert_eq!(got, [1, 2]);
    let mut reader = log.reader(Topic::Facts, 0, 5).expect("reader");
    assert!(reader.next(10, PATIENCE).expect("read").is_none());
}

#[test]
fn a_reader_that_overshot_goes_back_for_what_it_had_to_leave() {
    let log = fresh_log(1);
    block_on(log.append((0..100).map(|i| fact(0, i.to_string())).collect())).expect("appended");
    let mut reader = log.reader(Topic::Facts, 0, 0).expect("reader");
    let mut got = Vec::new();
    for until in [10, 11, 60, 100] {
        while let Some(batch) = reader.next(until, PATIENCE).expect("read") {
            got.extend(batch.iter().map(|r| r.offset));
        }
        assert_eq!((reader.position(), got.len()), (until, until as usize));
    }
    assert_eq!(got, (0..100).collect::<Vec<_>>());
    // Nothing there yet: an empty batch says try again.
    let batch = reader.next(101, Duration::from_millis(50)).expect("read").expect("not at its end");
    assert!(batch.is_empty());
}

#[test]
fn a_reader_of_an_offset_that_the_log_does_not_have_says_so() {
    let log = fresh_log(1);
    block_on(log.append(vec![fact(0, "only")])).expect("appended");
    let mut reader = log.reader(Topic::Facts, 0, 500).expect("reader");
    let error = reader.next(501, PATIENCE).expect_err("beyond the end");
    assert!(matches!(&error, LogError::Damaged(text) if text.contains("500")), "{error}");
}

#[test]
fn another_number_of_partitions_is_an_error_that_names_topic_and_both_numbers() {
    let mut settings = fresh_settings(2);
    open(&settings).prepare(PATIENCE).expect("twice is as good as once");
    settings.partitions = 5;
    let log = KafkaLog::connect(settings.clone()).expect("settings are in order");
    for error in [log.prepare(PATIENCE), log.probe(PATIENCE)].map(|r| r.expect_err("two are not five")) {
        let LogError::Misconfigured(text) = error else { panic!("{error}") };
        assert!(text.contains(&settings.topics.facts) && text.contains("has 2") && text.contains("says 5"), "{text}");
    }
}

/// Made with a broker's defaults, as `kafka-topics.sh --create` makes them.
#[test]
fn a_topic_made_by_hand_is_refused_with_the_command_that_mends_it_and_a_look_creates_nothing() {
    let settings = fresh_settings(2);
    let log = KafkaLog::connect(settings.clone()).expect("settings are in order");
    assert_eq!(log.inspect(PATIENCE).expect("nothing is wrong"), Topic::ALL);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &settings.bootstrap_servers).create().expect("a client");
    let facts = &settings.topics.facts;
    let plain = NewTopic::new(facts, 2, TopicReplication::Fixed(1)).set("message.timestamp.type", "CreateTime");
    let made = block_on(admin.create_topics(&[plain.set("max.message.bytes", "1048588")], &AdminOptions::new())).expect("asked");
    made.into_iter().for_each(|r| drop(r.expect("made")));
    until("the topic is known", || log.inspect(PATIENCE).is_err());

    for refused in [log.inspect(PATIENCE).map(drop), log.prepare(PATIENCE)] {
        let Err(LogError::Misconfigured(told)) = refused else { panic!("{refused:?}") };
        assert!(told.contains("CreateTime") && told.contains("1048588"), "{told}");
        let command = told.split("mend it with: ").nth(1).expect("a command");
        let begin = format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {facts} --add-config ",
            settings.bootstrap_servers
        );
        assert!(command.starts_with(&begin), "{told}");
    }
    // What the command would do, done.
    let told = log.inspect(PATIENCE).expect_err("refused").to_string();
    let wanted = told.split("--add-config ").nth(1).expect("settings");
    let mut mended = AlterConfig::new(ResourceSpecifier::Topic(facts));
    for (key, value) in wanted.split(',').map(|pair| pair.split_once('=').expect("key=value")) {
        mended = mended.set(key, value);
    }
    let done = block_on(admin.alter_configs([&mended], &AdminOptions::new())).expect("asked");
    done.into_iter().for_each(|r| drop(r.expect("altered")));
    until("the settings are mended", || log.inspect(PATIENCE).is_ok());
    assert_eq!(log.inspect(PATIENCE).expect("well"), [Topic::Decisions, Topic::DeadLetters], "a look has made nothing");
    log.prepare(PATIENCE).expect("ready");
    assert_eq!(log.inspect(PATIENCE).expect("well"), []);
}

#[test]
fn a_broker_that_is_away_gives_a_clear_error_in_bounded_time() {
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let away = format!("127.0.0.1:{port}");
    let log = KafkaLog::connect(KafkaSettings::new(&away, "g", "n")).expect("needs no broker");
    let begun = Instant::now();
    for error in [log.prepare(Duration::from_secs(1)), log.probe(Duration::from_secs(1))].map(|r| r.expect_err("away")) {
        assert!(matches!(&error, LogError::Unavailable { .. }) && error.to_string().contains(&away), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let error = block_on(log.append(vec![fact(0, "x")])).expect_err("away");
    assert!(matches!(error, LogError::Unavailable { .. }), "{error}");
    // Below the 5 s that Shopify waits, with room for a timer's step.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let member = Member::join(&log, Group::Shards, Topic::Facts);
    let told = member.next();
    assert!(matches!(told, Told::Fault(LogError::Unavailable { .. })), "{told:?}");
    member.handle.leave();
}
