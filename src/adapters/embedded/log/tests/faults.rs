use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::ports::event_log::CommitError;

/// A disk that can be broken.
#[derive(Default)]
struct Faulty(AtomicU8);

const WELL: u8 = 0;
/// Takes half of what is written.
const FULL: u8 = 1;
const NO_SYNC: u8 = 2;
/// As full, and what was written cannot be cut back.
const STUCK: u8 = 3;

impl Faulty {
    fn set(&self, state: u8) {
        self.0.store(state, Ordering::SeqCst);
    }
    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::SeqCst) == state
    }
}

impl Disk for Faulty {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.is(FULL) {
            RealDisk.write(file, &bytes[..bytes.len() / 2], at)?;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        RealDisk.write(file, bytes, at)?;
        if self.is(STUCK) { Err(io::Error::other("stuck")) } else { Ok(()) }
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        if self.is(NO_SYNC) { Err(io::Error::other("lost pages")) } else { RealDisk.sync(file) }
    }
    fn cut(&self, file: &File, len: u64) -> io::Result<()> {
        if self.is(STUCK) { Err(io::Error::other("stuck")) } else { RealDisk.cut(file, len) }
    }
}

fn refused(log: &EmbeddedLog) {
    let failed = append(log, vec![fact(1, "refused"), fact(1, "refused too")]);
    assert!(matches!(failed, Err(LogError::Unavailable { .. })), "{failed:?}");
    assert!(matches!(log.probe(PATIENCE), Err(LogError::Unavailable { .. })), "readiness says no");
    assert_eq!(values(log, Topic::Facts, 1), ["before"]);
}

fn goes_on(log: Arc<EmbeddedLog>, dir: &Path) {
    log.probe(PATIENCE).expect("readiness says yes, without any write between");
    assert_eq!(append(&log, vec![fact(1, "after")]).expect("appends")[0].offset, 1);
    let crashed = copy(dir);
    assert_eq!(values(&open(crashed.path()), Topic::Facts, 1), ["before", "after"]);
    drop(log);
    let log = open(dir);
    assert_eq!(values(&log, Topic::Facts, 1), ["before", "after"]);
    assert_eq!(committed(&log), [None, None]);
}

#[test]
fn a_full_disk_refuses_appends_and_the_log_goes_on_when_there_is_room() {
    let (dir, disk) = (tempfile::tempdir().expect("folder"), Arc::new(Faulty::default()));
    let log = open_on(dir.path(), disk.clone());
    append(&log, vec![fact(1, "before")]).expect("appends");
    disk.set(FULL);
    refused(&log);
    let (member, mut writer) = member(&log);
    let aborted = writer.commit(&[record(Topic::Decisions, 0, "d")], &[(1, 1)]);
    assert!(matches!(aborted, Err(CommitError::Aborted(_))), "{aborted:?}");
    assert_eq!(committed(&log), [None, None], "reading goes on");
    member.leave();
    drop((member, writer));
    disk.set(WELL);
    goes_on(log, dir.path());
}

#[test]
fn after_a_failed_sync_the_log_goes_on_in_a_new_segment() {
    let (dir, disk) = (tempfile::tempdir().expect("folder"), Arc::new(Faulty::default()));
    let log = open_on(dir.path(), disk.clone());
    append(&log, vec![fact(1, "before")]).expect("appends");
    disk.set(NO_SYNC);
    refused(&log);
    disk.set(WELL);
    let lens: Vec<u64> = segment_files(dir.path()).iter().map(|f| fs::metadata(f).expect("metadata").len()).collect();
    goes_on(log, dir.path());
    let files = segment_files(dir.path());
    assert_eq!((lens.len(), files.len()), (1, 2));
    let frames = fs::read(&files[0]).expect("reads").windows(4).filter(|w| w == b"FRM1").count();
    assert_eq!(frames, 1, "the pages of the failed sync are written to no more");
}

#[test]
fn a_transaction_that_cannot_be_cut_back_is_of_unknown_outcome_until_it_can() {
    let (dir, disk) = (tempfile::tempdir().expect("folder"), Arc::new(Faulty::default()));
    let log = open_on(dir.path(), disk.clone());
    append(&log, vec![fact(1, "before")]).expect("appends");
    let (member, mut writer) = member(&log);
    disk.set(STUCK);
    let unknown = writer.commit(&[record(Topic::Decisions, 0, "d")], &[(1, 1)]);
    assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
    let hidden = log.committed(Group::Shards, Topic::Facts);
    assert!(matches!(hidden, Err(LogError::Unavailable { .. })), "nobody may conclude anything yet: {hidden:?}");
    disk.set(WELL);
    assert_eq!(committed(&log), [None, None], "now it is certain");
    member.leave();
    drop((member, writer));
    goes_on(log, dir.path());
}

#[test]
fn a_killed_process_whose_failed_write_stayed_in_the_file_shows_all_of_it_or_none() {
    let (dir, disk) = (tempfile::tempdir().expect("folder"), Arc::new(Faulty::default()));
    let log = open_on(dir.path(), disk.clone());
    append(&log, vec![fact(1, "before")]).expect("appends");
    let (_member, mut writer) = member(&log);
    disk.set(STUCK);
    let unknown = writer.commit(&[record(Topic::Decisions, 0, "d")], &[(1, 1)]);
    assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
    let crashed = copy(dir.path());
    let after = open(crashed.path());
    assert_eq!((values(&after, Topic::Decisions, 0), committed(&after)[1]), (vec!["d".to_string()], Some(1)));
    disk.set(WELL);
}

#[test]
fn a_full_queue_refuses_appends_but_not_commits() {
    struct Slow(std::sync::Mutex<()>);
    impl Disk for Slow {
        fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
            drop(self.0.lock());
            RealDisk.write(file, bytes, at)
        }
        fn sync(&self, file: &File) -> io::Result<()> {
            RealDisk.sync(file)
        }
        fn cut(&self, file: &File, len: u64) -> io::Result<()> {
            RealDisk.cut(file, len)
        }
    }
    let (dir, disk) = (tempfile::tempdir().expect("folder"), Arc::new(Slow(std::sync::Mutex::new(()))));
    let log = open_on(dir.path(), disk.clone());
    let (member, mut writer) = member(&log);
    let held = disk.0.lock().expect("disk");
    let big = || NewRecord { value: Some(vec![b'x'; 3 << 20]), ..fact(0, "") };
    let mut waiting = Vec::new();
    let refused = loop {
        let mut append = log.append(vec![big()]);
        match futures::FutureExt::now_or_never(&mut append) {
            None => waiting.push(append),
            Some(answer) => break answer,
        }
        assert!(waiting.len() < 40, "the queue is bounded");
    };
    assert!(matches!(refused, Err(LogError::QueueFull)), "{refused:?}");
    let commit = std::thread::spawn(move || writer.commit(&[], &[(0, 5)]));
    drop(held);
    commit.join().expect("thread").expect("commits");
    for append in waiting {
        block_on(append).expect("what was queued is written");
    }
    append(&log, vec![big()]).expect("there is room again");
    assert_eq!(committed(&log)[0], Some(5));
    member.leave();
}
