use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex};

use super::super::frame::{Draft, Stamp};
use super::*;

/// What a log holds: values of facts and decisions of partition 1, committed offset.
type Content = (Vec<String>, Vec<String>, Option<Offset>);

fn content(log: &EmbeddedLog) -> Content {
    (values(log, Topic::Facts, 1), values(log, Topic::Decisions, 1), committed(log)[1])
}

fn len(file: &Path) -> u64 {
    fs::metadata(file).expect("metadata").len()
}

/// Writes some frames and gives back the content after each, with the length of the file.
fn frames(log: &EmbeddedLog, file: &Path) -> Vec<(u64, Content)> {
    let (member, mut writer) = member(log);
    let mut states = vec![(len(file), content(log))];
    let mut note = || states.push((len(file), content(log)));
    append(log, vec![fact(1, "one")]).expect("appends");
    note();
    append(log, vec![fact(1, "two"), fact(0, "elsewhere"), fact(1, "three")]).expect("appends");
    note();
    writer.commit(&[record(Topic::Decisions, 1, "reorder"), fact(1, "four")], &[(1, 3), (0, 1)]).expect("commits");
    note();
    member.commit(&[(1, 4)]).expect("commits");
    note();
    append(log, vec![fact(1, "five")]).expect("appends");
    note();
    member.leave();
    states
}

#[test]
fn a_log_cut_off_at_any_byte_opens_with_exactly_the_whole_frames_and_goes_on() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("00000000000000000000.segment");
    let states = frames(&open(dir.path()), &file);
    let whole = len(&file);
    assert!(whole > states.last().expect("states").0, "closing leaves a mark");
    let cut_dir = tempfile::tempdir().expect("folder");
    let cut_file = cut_dir.path().join(file.file_name().expect("name"));
    for cut in states[0].0..=whole {
        fs::copy(&file, &cut_file).expect("copies");
        OpenOptions::new().write(true).open(&cut_file).expect("opens").set_len(cut).expect("cuts");
        let (_, expected) = states.iter().rev().find(|(end, _)| *end <= cut).expect("a state");
        {
            let log = open(cut_dir.path());
            assert_eq!(content(&log), *expected, "cut at {cut}");
            let at = append(&log, vec![fact(1, "after")]).expect("goes on");
            assert_eq!(at[0].offset, expected.0.len() as Offset, "cut at {cut}");
        }
        let log = open(cut_dir.path());
        assert_eq!(values(&log, Topic::Facts, 1).last().map(String::as_str), Some("after"), "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_anywhere_before_the_last_write_is_refused_naming_file_and_byte() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("00000000000000000000.segment");
    let states = frames(&open(dir.path()), &file);
    let (data_end, all) = states.last().expect("states").clone();
    let good = fs::read(&file).expect("reads");
    let broken = OpenOptions::new().write(true).open(&file).expect("opens");
    for at in 0..good.len() as u64 {
        let flipped = good[at as usize] ^ (1 << (at % 8));
        broken.write_all_at(&[flipped], at).expect("writes");
        match EmbeddedLog::open(dir.path(), options(2, 1 << 20)) {
            // Only the closing mark is gone.
            Ok(log) if at >= data_end => {
                assert_eq!(content(&log), all);
                drop(log);
            }
            Ok(_) => panic!("byte {at} was changed and nobody noticed"),
            // The header's version; whatever it says, it is not ours.
            Err(LogError::Misconfigured(why)) => assert!((8..12).contains(&at) && why.contains("format"), "{at}: {why}"),
            Err(LogError::Damaged(why)) => {
                let frame = states.iter().rev().map(|s| s.0).find(|start| *start <= at).unwrap_or(0);
                assert!(why.contains(file.to_str().expect("text")) && why.contains("backup"), "{why}");
                assert!(at < states[0].0 || why.contains(&format!("at byte {frame}:")), "{at}: {why}");
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
        fs::write(&file, &good).expect("restores");
    }
}

/// Holds writes up, so that several appends end up in one.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
    held: Condvar,
    holding: Mutex<bool>,
}

impl Disk for Gate {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
        let shut = self.shut.lock().expect("gate");
        if *shut {
            *self.holding.lock().expect("gate") = true;
            self.held.notify_all();
        }
        drop(self.opened.wait_while(shut, |s| *s));
        RealDisk.write(file, bytes, at)
    }
    fn sync(&self, file: &File) -> std::io::Result<()> {
        RealDisk.sync(file)
    }
    fn cut(&self, file: &File, len: u64) -> std::io::Result<()> {
        RealDisk.cut(file, len)
    }
}

#[test]
fn a_write_of_which_a_power_cut_kept_only_the_end_is_cut_off_and_not_taken_for_damage() {
    let dir = tempfile::tempdir().expect("folder");
    let gate = Arc::new(Gate::default());
    let log = open_on(dir.path(), gate.clone());
    append(&log, vec![fact(1, "durable")]).expect("appends");
    *gate.shut.lock().expect("gate") = true;
    let first = log.append(vec![fact(1, "first")]);
    drop(gate.held.wait_while(gate.holding.lock().expect("gate"), |h| !*h));
    // These two queue up behind it and are written in one go.
    let start_of_both = log.append(vec![fact(1, "second")]);
    let rest = log.append(vec![fact(1, "third")]);
    *gate.shut.lock().expect("gate") = false;
    gate.opened.notify_all();
    block_on(async { futures::try_join!(first, start_of_both, rest) }).expect("appends");
    let torn = copy(dir.path());
    let file = segment_files(torn.path()).remove(0);
    let bytes = fs::read(&file).expect("reads");
    let at = bytes.windows(6).position(|w| w == b"second").expect("the second's value");
    OpenOptions::new().write(true).open(&file).expect("opens").write_all_at(&[0; 6], at as u64).expect("writes");
    let log = open(torn.path());
    assert_eq!(values(&log, Topic::Facts, 1), ["durable", "first"]);
}

#[test]
fn a_value_that_holds_a_frame_of_this_very_log_is_not_taken_for_one() {
    let dir = tempfile::tempdir().expect("folder");
    let log = open_on(dir.path(), Arc::new(RealDisk));
    append(&log, vec![fact(1, "one")]).expect("appends");
    let file = segment_files(dir.path()).remove(0);
    let before = len(&file);
    // Right in all, and of a later write, but for the place where it stands.
    let stamp = Stamp { lsn: 1 << 40, group: 1 << 40, time: 0 };
    let mut hostile = Vec::new();
    Draft::empty().finish(&mut hostile, stamp, &[], &super::super::recovery::seed(7));
    append(&log, vec![NewRecord { value: Some(hostile), ..fact(1, "") }]).expect("appends");
    let torn = copy(dir.path());
    let file = segment_files(torn.path()).remove(0);
    OpenOptions::new().write(true).open(&file).expect("opens").set_len(len(&file) - 1).expect("cuts");
    assert_eq!(values(&open(torn.path()), Topic::Facts, 1), ["one"]);
    assert_eq!(len(&file), before);
}
