//! The embedded engine's directory: `format` (one line) and `fjall/` (the log, the base and the meta keyspace).

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::config::FilterPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::codec::{Entry, Position};
use crate::{KeyValue, Revision, StoreError};

/// The newest format that this program reads, and the one it writes.
const FORMAT: u32 = 1;
const FORMAT_PREFIX: &str = "yunfan-store ";

/// Memory for blocks read from disk. Small: current state is in memory anyway.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// A memtable shares its bytes with the state in memory, so what it costs is mostly superseded values.
const LOG_MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
const BASE_MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;
/// What a start after a crash has to replay at most; fjall's smallest.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
/// A compaction goes on in steps of about this size, each atomic, so that writers wait for one step at most.
const COMPACT_STEP_BYTES: usize = 1024 * 1024;
const COMPACT_STEP_ENTRIES: usize = 4096;

const COMPACTED: &str = "compacted";

/// The open directory. Cheap to clone; the lock is let go when the last clone is gone.
#[derive(Clone)]
pub(super) struct Disk {
    dir: PathBuf,
    db: Database,
    log: Keyspace,
    base: Keyspace,
    meta: Keyspace,
}

/// One group of transactions on its way to the disk.
pub(super) type Batch = Vec<(Position, Bytes)>;

impl Disk {
    /// Opens or creates the directory.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let io = |error: std::io::Error| disk_error(dir, &error);
        fs::create_dir_all(dir).map_err(io)?;
        let fresh = !check_format(dir)?;
        let engine = dir.join("fjall");
        if fresh && engine.exists() && !engine.join("version").exists() {
            // A first start that was cut off before anything could be stored.
            fs::remove_dir_all(&engine).map_err(io)?;
        }
        let fail = |error: fjall::Error| fjall_error(dir, &error);
        let db = Database::builder(&engine)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .open()
            .map_err(fail)?;
        let options = |memtable| KeyspaceCreateOptions::default().max_memtable_size(memtable);
        let keyspace = |name, options| db.keyspace(name, || options).map_err(fail);
        // Log keys ascend, so that tables do not overlap and a filter would save nothing.
        let log = options(LOG_MEMTABLE_BYTES).filter_policy(FilterPolicy::disabled());
        let disk = Self {
            dir: dir.to_owned(),
            log: keyspace("log", log)?,
            base: keyspace("base", options(BASE_MEMTABLE_BYTES))?,
            meta: keyspace("meta", options(BASE_MEMTABLE_BYTES))?,
            db: db.clone(),
        };
        if fresh {
            write_format(dir).map_err(io)?;
        }
        Ok(disk)
    }

    /// Writes a group and syncs it. On an error nothing may be acknowledged, and this handle is of no more use.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut out = self.db.batch().durability(Some(PersistMode::SyncData));
        for (position, entry) in batch {
            out.insert(&self.log, position.encode(), entry);
        }
        out.commit().map_err(|e| self.error(&e))
    }

    /// A consistent view.
    pub(super) fn view(&self) -> Result<View, StoreError> {
        let snapshot = self.db.snapshot();
        let compacted = match snapshot.get(&self.meta, COMPACTED).map_err(|e| self.error(&e))? {
            None => 0,
            Some(bytes) => {
                let bytes: [u8; 8] = bytes
                    .as_ref()
                    .try_into()
                    .map_err(|_| self.damaged("the compacted revision is not 8 bytes"))?;
                u64::from_be_bytes(bytes)
            }
        };
        Ok(View { disk: self.clone(), snapshot, compacted })
    }

    /// Moves the base to `target` and drops the log up to there.
    pub(super) fn compact(&self, target: Revision) -> Result<(), StoreError> {
        while self.compact_step(target)? {}
        self.db.persist(PersistMode::SyncData).map_err(|e| self.error(&e))
    }

    /// One atomic step; whether there is more to do.
    fn compact_step(&self, target: Revision) -> Result<bool, StoreError> {
        let view = self.view()?;
        if view.compacted >= target {
            return Ok(false);
        }
        let mut batch = self.db.batch();
        let (mut bytes, mut entries) = (0, 0);
        let mut reached = view.compacted;
        let mut last_of_key = std::collections::HashMap::new();
        let mut more = false;
        for found in view.log(view.compacted + 1, target) {
            let (position, entry) = found?;
            if position.revision > reached && (bytes >= COMPACT_STEP_BYTES || entries >= COMPACT_STEP_ENTRIES)
            {
                more = true;
                break;
            }
            reached = position.revision;
            bytes += entry.len();
            entries += 1;
            batch.remove(&self.log, position.encode());
            let key = Entry::decode(&entry).map_err(|e| self.damaged(&e))?.key;
            last_of_key.insert(key, (position, entry));
        }
        let reached = if more { reached } else { target };
        for (key, (position, entry)) in last_of_key {
            if Entry::decode(&entry).map_err(|e| self.damaged(&e))?.put {
                let mut value = Vec::with_capacity(Position::LEN + entry.len());
                value.extend_from_slice(&position.encode());
                value.extend_from_slice(&entry);
                batch.insert(&self.base, key, value);
            } else {
                batch.remove(&self.base, key);
            }
        }
        batch.insert(&self.meta, COMPACTED, reached.to_be_bytes());
        batch.commit().map_err(|e| self.error(&e))?;
        Ok(more)
    }

    fn error(&self, error: &fjall::Error) -> StoreError {
        fjall_error(&self.dir, error)
    }

    fn damaged(&self, reason: &str) -> StoreError {
        StoreError::Damaged { path: self.dir.display().to_string(), reason: reason.to_owned() }
    }
}

/// The directory at one moment; what is committed or compacted later does not show.
pub(super) struct View {
    disk: Disk,
    snapshot: Snapshot,
    /// The compacted revision of this view.
    pub(super) compacted: Revision,
}

impl View {
    /// The log entries of the revisions `from..=to`, in order.
    pub(super) fn log(
        &self,
        from: Revision,
        to: Revision,
    ) -> impl Iterator<Item = Result<(Position, Bytes), StoreError>> + use<'_> {
        let first = Position { revision: from, sub: 0 }.encode();
        let last = Position { revision: to, sub: u16::MAX }.encode();
        let range = (from <= to).then(|| self.snapshot.range(&self.disk.log, first..=last));
        range.into_iter().flatten().map(|guard| {
            let (key, value) = guard.into_inner().map_err(|e| self.disk.error(&e))?;
            let position = Position::decode(&key).map_err(|e| self.disk.damaged(&e))?;
            // A copy: what fjall returns may be a slice of a whole block.
            Ok((position, Bytes::copy_from_slice(&value)))
        })
    }

    /// The state at the compacted revision.
    pub(super) fn base(&self) -> impl Iterator<Item = Result<(Position, Entry), StoreError>> + use<'_> {
        self.snapshot.iter(&self.disk.base).map(|guard| {
            let (_, value) = guard.into_inner().map_err(|e| self.disk.error(&e))?;
            self.base_entry(&value)
        })
    }

    /// The put at `position` of `key`, which is the key's state just before some kept revision.
    pub(super) fn put_at(&self, position: Position, key: &Bytes) -> Result<KeyValue, StoreError> {
        let missing = || {
            let key = String::from_utf8_lossy(key);
            self.disk
                .damaged(&format!("the value of key {key:?} at revision {} is missing", position.revision))
        };
        let (found, entry) = if position.revision > self.compacted {
            let bytes =
                self.snapshot.get(&self.disk.log, position.encode()).map_err(|e| self.disk.error(&e))?;
            let bytes = Bytes::copy_from_slice(&bytes.ok_or_else(missing)?);
            (position, self.entry(&bytes)?)
        } else {
            let bytes = self.snapshot.get(&self.disk.base, key).map_err(|e| self.disk.error(&e))?;
            self.base_entry(&bytes.ok_or_else(missing)?)?
        };
        if found != position || !entry.put || entry.key != key {
            return Err(missing());
        }
        Ok(entry.into_kv(position.revision))
    }

    /// Takes a log entry apart.
    pub(super) fn entry(&self, bytes: &Bytes) -> Result<Entry, StoreError> {
        Entry::decode(bytes).map_err(|e| self.disk.damaged(&e))
    }

    fn base_entry(&self, value: &[u8]) -> Result<(Position, Entry), StoreError> {
        let damaged = |e: String| self.disk.damaged(&e);
        let (position, entry) = value
            .split_at_checked(Position::LEN)
            .ok_or_else(|| damaged("a base entry is cut short".into()))?;
        let position = Position::decode(position).map_err(damaged)?;
        Ok((position, self.entry(&Bytes::copy_from_slice(entry))?))
    }
}

/// Whether there is a format file; an error if it tells of something that this program does not understand.
fn check_format(dir: &Path) -> Result<bool, StoreError> {
    let text = match fs::read_to_string(dir.join("format")) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(disk_error(dir, &error)),
    };
    let version = text.trim().strip_prefix(FORMAT_PREFIX).and_then(|v| v.parse::<u32>().ok());
    match version {
        Some(1..=FORMAT) => Ok(true),
        _ => Err(StoreError::Format {
            path: dir.display().to_string(),
            found: text.trim().chars().take(80).collect(),
            supported: FORMAT,
        }),
    }
}

/// Written last at creation, whole or not at all.
fn write_format(dir: &Path) -> std::io::Result<()> {
    let temporary = dir.join("format.new");
    let mut file = fs::File::create(&temporary)?;
    writeln!(file, "{FORMAT_PREFIX}{FORMAT}")?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join("format"))?;
    fs::File::open(dir)?.sync_all()
}

fn disk_error(dir: &Path, error: &std::io::Error) -> StoreError {
    let reason = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!("{error}; free some space"),
        ErrorKind::PermissionDenied => format!("{error}; check owner and mode of the directory"),
        _ => error.to_string(),
    };
    StoreError::Disk { path: dir.display().to_string(), reason }
}

fn fjall_error(dir: &Path, error: &fjall::Error) -> StoreError {
    let path = || dir.display().to_string();
    match error {
        fjall::Error::Locked => StoreError::InUse { path: path() },
        fjall::Error::Io(io) => disk_error(dir, io),
        fjall::Error::Storage(fjall::LsmError::Io(io)) => disk_error(dir, io),
        fjall::Error::Poisoned => {
            let reason = "an earlier write to the disk failed; see whether it is full or broken".to_owned();
            StoreError::Disk { path: path(), reason }
        }
        fjall::Error::InvalidVersion(_) => {
            StoreError::Format { path: path(), found: error.to_string(), supported: FORMAT }
        }
        _ => StoreError::Damaged { path: path(), reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format"), "yunfan-store 2\n").unwrap();
        let error = Disk::open(dir.path()).err().unwrap();
        assert!(matches!(&error, StoreError::Format { found, .. } if found == "yunfan-store 2"), "{error}");
        assert!(!dir.path().join("fjall").exists());
    }

    #[test]
    fn a_first_start_that_was_cut_off_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("fjall")).unwrap();
        fs::write(dir.path().join("fjall/0.jnl"), "").unwrap();
        drop(Disk::open(dir.path()).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("format")).unwrap(), "yunfan-store 1\n");
        drop(Disk::open(dir.path()).unwrap());
    }

    #[test]
    fn one_opener() {
        let dir = tempfile::tempdir().unwrap();
        let first = Disk::open(dir.path()).unwrap();
        let error = Disk::open(dir.path()).err().unwrap();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        drop(first);
        Disk::open(dir.path()).unwrap();
    }
}
