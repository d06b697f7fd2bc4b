use super::*;

const SMALL: u64 = 4 << 10;

fn filled(dir: &Path) -> Arc<EmbeddedLog> {
    let log = EmbeddedLog::open(dir, options(2, SMALL)).expect("opens");
    for i in 0..60 {
        let batch =
            (0..10).map(|j| fact(1, &format!("fact {}", i * 10 + j))).chain([record(Topic::Decisions, 0, &format!("d{i}"))]);
        append(&log, batch.collect()).expect("appends");
    }
    log
}

fn expected(from: usize) -> Vec<String> {
    (from..600).map(|i| format!("fact {i}")).collect()
}

fn indexes(dir: &Path) -> Vec<PathBuf> {
    segment_files(dir).into_iter().map(|f| f.with_extension("index")).filter(|f| f.exists()).collect()
}

#[test]
fn reading_from_any_offset_survives_rolls_and_the_loss_of_indexes() {
    let dir = tempfile::tempdir().expect("folder");
    let log = filled(dir.path());
    let made = indexes(dir.path());
    assert!(made.len() >= 4 && made.len() + 1 == segment_files(dir.path()).len(), "each closed segment has its index");
    let contents: Vec<Vec<u8>> = made.iter().map(|f| fs::read(f).expect("reads")).collect();
    let check = |log: &EmbeddedLog| {
        for from in (0..=600).step_by(7) {
            assert_eq!(values_from(log, Topic::Facts, 1, from as Offset), expected(from));
        }
        assert_eq!(values(log, Topic::Decisions, 0).len(), 60);
        assert_eq!(values(log, Topic::Decisions, 1).len(), 0);
    };
    check(&log);
    drop(log);
    fs::remove_file(&made[0]).expect("removes");
    fs::write(&made[1], "not an index").expect("writes");
    fs::copy(&made[3], &made[2]).expect("the index of another segment");
    for at in [8, 40, contents[3].len() - 1] {
        let mut flipped = contents[3].clone();
        flipped[at] ^= 1;
        fs::write(&made[3], flipped).expect("writes");
        check(&EmbeddedLog::open(dir.path(), options(2, SMALL)).expect("opens"));
    }
    let again: Vec<Vec<u8>> = made.iter().map(|f| fs::read(f).expect("reads")).collect();
    assert_eq!(again, contents, "lost indexes are made anew, the same");
}

#[test]
fn damage_in_an_old_segment_is_found_when_it_is_read() {
    let dir = tempfile::tempdir().expect("folder");
    drop(filled(dir.path()));
    let file = segment_files(dir.path()).remove(1);
    let mut bytes = fs::read(&file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, bytes).expect("writes");
    let log = EmbeddedLog::open(dir.path(), options(2, SMALL)).expect("old segments are not scanned");
    let mut reader = log.reader(Topic::Facts, 1, 0).expect("reader");
    let mut read = 0;
    let error = loop {
        match reader.next(600, PATIENCE) {
            Ok(batch) => read = batch.expect("not the end").next_offset,
            Err(e) => break e,
        }
    };
    assert!(matches!(&error, LogError::Damaged(why) if why.contains(file.to_str().expect("text"))), "{error}");
    assert!(read > 0 && read < 600);
}

#[test]
fn a_missing_or_shortened_segment_is_damage() {
    let dir = tempfile::tempdir().expect("folder");
    drop(filled(dir.path()));
    for (victim, cut) in [(0, false), (2, false), (2, true)] {
        let broken = copy(dir.path());
        let file = segment_files(broken.path()).remove(victim);
        let len = fs::metadata(&file).expect("metadata").len();
        match cut {
            true => fs::OpenOptions::new().write(true).open(&file).expect("opens").set_len(len - 1).expect("cuts"),
            false => fs::remove_file(&file).expect("removes"),
        }
        let opened = EmbeddedLog::open(broken.path(), options(2, SMALL));
        assert!(matches!(opened, Err(LogError::Damaged(_))), "segment {victim}, {cut}");
    }
}

#[test]
fn a_folder_has_one_owner_and_keeps_its_number_of_partitions() {
    let dir = tempfile::tempdir().expect("folder");
    let log = open(dir.path());
    let second = EmbeddedLog::open(dir.path(), options(2, SMALL)).err().expect("refused");
    assert!(matches!(&second, LogError::Misconfigured(why) if why.contains("another process owns")), "{second}");
    // A reader keeps the log open.
    let reader = log.reader(Topic::Facts, 0, 0).expect("reader");
    drop(log);
    assert!(EmbeddedLog::open(dir.path(), options(2, SMALL)).is_err());
    drop(reader);
    let other = EmbeddedLog::open(dir.path(), options(12, SMALL)).err().expect("refused");
    assert!(matches!(&other, LogError::Misconfigured(why) if why.contains("has 2") && why.contains("12 are")), "{other}");
    open(dir.path());
}

#[test]
fn append_time_never_goes_back_not_even_after_a_restart() {
    let dir = tempfile::tempdir().expect("folder");
    let mut times = Vec::new();
    for now in [5_000, 9_000, 2_000] {
        let options = Options { clock: Arc::new(move || now), ..options(2, SMALL) };
        let log = EmbeddedLog::open(dir.path(), options).expect("opens");
        append(&log, vec![fact(0, "x")]).expect("appends");
        let end = log.watermarks(Topic::Facts, 0).expect("watermarks").1;
        let batch = log.reader(Topic::Facts, 0, end - 1).expect("reader").next(end, PATIENCE).expect("reads").expect("a batch");
        times.push(batch.get(0).expect("a record").append_time_ms);
    }
    assert_eq!(times, [5_000, 9_000, 9_000]);
}

#[test]
fn a_group_has_one_member_at_a_time() {
    let dir = tempfile::tempdir().expect("folder");
    let log = open(dir.path());
    let (first, _) = member(&log);
    let second = log.join(Group::Shards, Topic::Facts, Box::new(Idle)).err().expect("refused");
    assert!(matches!(&second, LogError::Misconfigured(why) if why.contains("has a member already")), "{second}");
    log.join(Group::Dispatcher, Topic::Decisions, Box::new(Idle)).expect("another group is free").leave();
    first.leave();
    member(&log);
}

#[test]
fn a_member_that_meets_damage_says_so_and_can_leave() {
    struct Tell(std::sync::mpsc::Sender<String>);
    impl GroupSink for Tell {
        fn assigned(&mut self, _: Vec<crate::ports::event_log::Assigned>) {}
        fn revoked(&mut self, _: Vec<Partition>, _: bool) {}
        fn deliver(&mut self, batch: RecordBatch) -> Result<(), RecordBatch> {
            self.0.send(format!("up to {}", batch.next_offset)).map_err(|_| batch)
        }
        fn fault(&mut self, error: LogError) {
            let _gone = self.0.send(error.to_string());
        }
    }
    let dir = tempfile::tempdir().expect("folder");
    drop(filled(dir.path()));
    let file = segment_files(dir.path()).remove(1);
    let mut bytes = fs::read(&file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, bytes).expect("writes");
    let log = EmbeddedLog::open(dir.path(), options(2, SMALL)).expect("opens");
    let (tell, told) = std::sync::mpsc::channel();
    let member = log.join(Group::Shards, Topic::Facts, Box::new(Tell(tell))).expect("joins");
    member.start(1, 0);
    let mut before = Vec::new();
    let fault = loop {
        let said = told.recv_timeout(PATIENCE).expect("a fault");
        if said.contains("damaged") {
            break said;
        }
        before.push(said);
    };
    assert!(fault.contains(file.to_str().expect("text")), "{fault}");
    assert!(!before.is_empty(), "what is good was delivered");
    member.leave();
}
