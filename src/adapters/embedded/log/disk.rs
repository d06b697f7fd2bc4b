//! What the writer does to files, so that tests can let it fail.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub trait Disk: Send + Sync {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Cuts the file off, durably.
    fn cut(&self, file: &File, len: u64) -> io::Result<()>;
}

pub struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn cut(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)?;
        // A shorter length is not among what syncing only the data has to keep.
        file.sync_all()
    }
}
