//! Where batches go: an ordered map per [`Tree`], written atomically and fsynced.
//!
//! [`Disk`] is what the shell needs of an engine; [`FjallDisk`] is the one that nodes use. A full or
//! failing disk is an error of one batch, never a panic: the node keeps its state in memory and offers the
//! content again, and the engine is opened anew before that.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use node::{Batch, Restored, Tree};

use crate::inbox::{Event, Inbox};

/// A store of batches.
pub trait Disk: Send + 'static {
    /// Everything that is there.
    fn load(&mut self) -> Result<Restored, DiskError>;

    /// Writes the batch, all of it or nothing, and returns when it is fsynced. After an error the batch
    /// may or may not be there; the next call may try again.
    fn write(&mut self, batch: &Batch) -> Result<(), DiskError>;
}

/// The disk did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The engine cannot be opened. Nothing was changed.
    #[error("cannot open the state in {}: {}", path.display(), in_words(source))]
    Open {
        /// Where.
        path: PathBuf,
        /// The engine's words.
        source: fjall::Error,
    },
    /// Something on disk cannot be read. Nothing was changed.
    #[error("cannot read the state in {}: {}", path.display(), in_words(source))]
    Read {
        /// Where.
        path: PathBuf,
        /// The engine's words.
        source: fjall::Error,
    },
    /// The batch has a key that the engine cannot hold. A bug of ours; nothing was written.
    #[error("a key of {0} bytes cannot be stored: 1 to 65,535 can")]
    Key(usize),
    /// A batch could not be written; memory still has its content.
    #[error("cannot write to {}: {}", path.display(), in_words(source))]
    Write {
        /// Where.
        path: PathBuf,
        /// The engine's words.
        source: fjall::Error,
    },
}

/// An engine's error as an operator can use it.
fn in_words(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(e) => e.to_string(),
        fjall::Error::Locked => "another process has it open".to_owned(),
        fjall::Error::Poisoned => "an earlier write or fsync failed; is the disk full or failing?".to_owned(),
        fjall::Error::InvalidVersion(_) => {
            "it was written by another version of the storage engine; use the Starling that wrote it, or an empty directory"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// Cells and books in a log-structured merge tree.
pub struct FjallDisk {
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    db: Database,
    trees: Vec<(Tree, Keyspace)>,
}

/// The node holds all state in memory and reads the disk only at its start: a small cache is enough.
const CACHE_BYTES: u64 = 8 << 20;

/// The longest key that the engine stores, bytes.
const MAX_KEY: usize = 65_535;

impl FjallDisk {
    /// Opens or makes the store in a directory.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let mut disk = Self { path: path.into(), open: None };
        disk.opened()?;
        Ok(disk)
    }

    fn opened(&mut self) -> Result<&Open, DiskError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => Open::new(&self.path).map_err(|source| DiskError::Open { path: self.path.clone(), source })?,
        };
        Ok(self.open.insert(open))
    }
}

impl Open {
    fn new(path: &Path) -> Result<Self, fjall::Error> {
        let db = Database::builder(path).cache_size(CACHE_BYTES).worker_threads(1).open()?;
        let mut trees = Vec::new();
        for tree in Tree::ALL {
            trees.push((tree, db.keyspace(tree.name(), KeyspaceCreateOptions::default)?));
        }
        Ok(Self { db, trees })
    }

    fn load(&self) -> Result<Restored, fjall::Error> {
        let mut restored = Restored::default();
        for (tree, keyspace) in &self.trees {
            for entry in keyspace.iter() {
                let (key, value) = entry.into_inner()?;
                restored.entries.push((*tree, key.to_vec(), value.to_vec()));
            }
        }
        Ok(restored)
    }

    fn write(&self, batch: &Batch) -> Result<(), fjall::Error> {
        let mut writes = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (tree, key, value) in &batch.puts {
            let Some((_, keyspace)) = self.trees.iter().find(|(known, _)| known == tree) else { continue };
            match value {
                Some(value) => writes.insert(keyspace, key.as_slice(), &value[..]),
                None => writes.remove(keyspace, key.as_slice()),
            }
        }
        writes.commit()
    }
}

impl Disk for FjallDisk {
    fn load(&mut self) -> Result<Restored, DiskError> {
        let path = self.path.clone();
        self.opened()?.load().map_err(|source| DiskError::Read { path, source })
    }

    fn write(&mut self, batch: &Batch) -> Result<(), DiskError> {
        // The engine's own check is a panic.
        if let Some((_, key, _)) = batch.puts.iter().find(|(_, key, _)| !(1..=MAX_KEY).contains(&key.len())) {
            return Err(DiskError::Key(key.len()));
        }
        let path = self.path.clone();
        let written = self.opened()?.write(batch).map_err(|source| DiskError::Write { path, source });
        if written.is_err() {
            // The engine takes no more writes after a failed one; the next batch opens it anew.
            self.open = None;
        }
        written
    }
}

/// Starts the thread that writes one batch at a time and tells the node. It ends when the sender is dropped.
pub(crate) fn spawn(mut disk: impl Disk, inbox: Inbox) -> std::io::Result<mpsc::SyncSender<Batch>> {
    let (sender, batches) = mpsc::sync_channel::<Batch>(1);
    thread::Builder::new().name("disk".to_owned()).spawn(move || {
        for batch in batches {
            let result = disk.write(&batch).map_err(|e| e.to_string());
            inbox.push_urgent(Event::Persisted { batch: batch.number, result });
        }
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(number: u64, puts: &[(Tree, &str, Option<&'static str>)]) -> Batch {
        let puts = puts.iter().map(|(tree, key, value)| (*tree, key.as_bytes().to_vec(), value.map(Bytes::from)));
        Batch { number, puts: puts.collect() }
    }

    fn entries(disk: &mut FjallDisk) -> Vec<(Tree, String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let restored = disk.load().expect("loaded");
        let mut all: Vec<_> = restored.entries.into_iter().map(|(t, k, v)| (t, text(k), text(v))).collect();
        all.sort();
        all
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let mut disk = FjallDisk::open(&path).expect("made");
        disk.write(&put(1, &[(Tree::Cells, "a", Some("1")), (Tree::Meta, "a", Some("2"))])).expect("written");
        disk.write(&put(2, &[(Tree::Cells, "a", None), (Tree::Cells, "b", Some(""))])).expect("written");
        drop(disk);
        let mut disk = FjallDisk::open(&path).expect("opened");
        assert_eq!(
            entries(&mut disk),
            [(Tree::Cells, "b".into(), String::new()), (Tree::Meta, "a".into(), "2".into())]
        );
    }

    #[test]
    fn a_batch_with_a_key_that_cannot_be_stored_is_refused_as_a_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut disk = FjallDisk::open(&dir.path().join("state")).expect("made");
        let long = "x".repeat(MAX_KEY + 1);
        for key in ["", long.as_str()] {
            let batch = put(1, &[(Tree::Cells, "a", Some("1")), (Tree::Cells, key, Some("2"))]);
            assert!(matches!(disk.write(&batch), Err(DiskError::Key(size)) if size == key.len()));
        }
        assert_eq!(entries(&mut disk), []);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        let error = FjallDisk::open(&file.join("state")).err().expect("a file is no directory").to_string();
        assert!(error.contains("file/state"), "{error}");
    }
}
