//! The key that seals secrets in the store: `STOCKWARDEN_MASTER_KEY`, or for a store in `data_dir` a file beside it.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::source::Env;
use super::{Config, StoreUrl};
use crate::vault::{Vault, VaultError};

pub const MASTER_KEY: &str = "STOCKWARDEN_MASTER_KEY";
const FILE: &str = "master.key";

#[derive(Debug)]
pub struct MasterKey {
    pub vault: Vault,
    /// The file, if the key was generated just now; to be told to the user, who has to keep it.
    pub generated: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MasterKeyError {
    #[error(
        "the environment variable {MASTER_KEY} is not set; the store {store} keeps secrets sealed under it. Make a key with: \
         head -c 32 /dev/urandom | base64, and give every node and command the same one"
    )]
    Missing { store: String },
    #[error("{MASTER_KEY}: {0}")]
    Bad(VaultError),
    #[error("{}: {reason}", path.display())]
    BadFile { path: PathBuf, reason: String },
    #[error("cannot keep a new master key in {}: {reason}", path.display())]
    NotWritten { path: PathBuf, reason: String },
}

/// Finds the master key. With a store in `data_dir` and no key anywhere, one is made and kept there, readable by its owner only.
pub fn master_key(config: &Config, env: &Env) -> Result<MasterKey, MasterKeyError> {
    if let Some(text) = env.get(MASTER_KEY).filter(|t| !t.trim().is_empty()) {
        let vault = Vault::from_base64(text).map_err(MasterKeyError::Bad)?;
        return Ok(MasterKey { vault, generated: None });
    }
    match &config.store.url {
        StoreUrl::Sqlite(path) if path.starts_with(&config.data_dir) => from_file(&config.data_dir.join(FILE)),
        other => Err(MasterKeyError::Missing { store: other.to_string() }),
    }
}

/// Where [`master_key`] would make a key, if it were asked now.
pub fn would_make_master_key(config: &Config, env: &Env) -> Option<PathBuf> {
    let given = env.get(MASTER_KEY).is_some_and(|t| !t.trim().is_empty());
    match &config.store.url {
        StoreUrl::Sqlite(path) if !given && path.starts_with(&config.data_dir) => {
            Some(config.data_dir.join(FILE)).filter(|file| !file.exists())
        }
        _ => None,
    }
}

fn from_file(path: &Path) -> Result<MasterKey, MasterKeyError> {
    let bad = |reason: String| MasterKeyError::BadFile { path: path.to_owned(), reason };
    let made = match read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = Vault::new_key().map_err(|e| bad(e.to_string()))?;
            make(path, &key).map_err(|e| MasterKeyError::NotWritten { path: path.to_owned(), reason: e.to_string() })?
        }
        _ => false,
    };
    // Read back in any case: of two processes that start at once, one made the key and both use it.
    let text = read(path).map_err(|e| bad(format!("cannot read the master key: {e}")))?;
    let vault = Vault::from_base64(&text).map_err(|e| bad(e.to_string()))?;
    Ok(MasterKey { vault, generated: made.then(|| path.to_owned()) })
}

fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// Writes a file aside and links it into place, so that nobody ever reads half a key; false if there was one already.
fn make(path: &Path, key: &str) -> io::Result<bool> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let aside = dir.join(format!("{FILE}.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    let linked = match std::fs::hard_link(&aside, path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    };
    std::fs::remove_file(&aside)?;
    std::fs::File::open(dir)?.sync_all()?;
    linked
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn local(dir: &Path) -> Config {
        Config::load(None, &Env::of([("STOCKWARDEN__DATA_DIR", dir.display().to_string())])).expect("config")
    }

    #[test]
    fn a_key_is_made_once_for_a_local_store_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().expect("folder");
        let data = dir.path().join("new");
        let config = local(&data);
        let first = master_key(&config, &Env::default()).expect("made");
        let path = data.join("master.key");
        assert_eq!(first.generated.as_deref(), Some(path.as_path()));
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        let sealed = first.vault.seal("s", b"x").expect("sealed");
        let second = master_key(&config, &Env::default()).expect("read");
        assert_eq!(second.generated, None);
        assert_eq!(second.vault.open("s", &sealed).expect("same key"), b"x");
        assert_eq!(std::fs::read_dir(&data).expect("folder").count(), 1, "nothing is left aside");
    }

    #[test]
    fn the_environments_key_wins_over_the_file() {
        let dir = tempfile::tempdir().expect("folder");
        let config = local(dir.path());
        master_key(&config, &Env::default()).expect("made");
        let key = Vault::new_key().expect("key");
        let env = Env::of([(MASTER_KEY, key.clone())]);
        let sealed = master_key(&config, &env).expect("given").vault.seal("s", b"x").expect("sealed");
        assert!(Vault::from_base64(&key).expect("key").open("s", &sealed).is_ok());
    }

    #[test]
    fn a_shared_store_asks_for_a_key_and_says_how_to_make_one() {
        let env = Env::of([("STOCKWARDEN__STORE__URL", "postgres://me:hunter2@db/x")]);
        let config = Config::load(None, &env).expect("config");
        let told = master_key(&config, &Env::default()).expect_err("missing").to_string();
        assert!(
            told.contains("STOCKWARDEN_MASTER_KEY is not set") && told.contains("head -c 32 /dev/urandom | base64"),
            "{told}"
        );
        assert!(!told.contains("hunter2"), "{told}");
        let told = master_key(&config, &Env::of([(MASTER_KEY, "c2hvcnQ=")])).expect_err("short").to_string();
        assert!(told.starts_with("STOCKWARDEN_MASTER_KEY: the master key is not base64 of 32 bytes"), "{told}");
    }

    #[test]
    fn a_damaged_key_file_is_not_replaced() {
        let dir = tempfile::tempdir().expect("folder");
        std::fs::write(dir.path().join("master.key"), "half a k").expect("written");
        let told = master_key(&local(dir.path()), &Env::default()).expect_err("bad").to_string();
        assert!(told.contains("master.key: the master key is not base64 of 32 bytes"), "{told}");
        assert_eq!(std::fs::read_to_string(dir.path().join("master.key")).expect("file"), "half a k");
    }
}
