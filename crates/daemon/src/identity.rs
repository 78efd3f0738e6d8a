//! The data directory: who this node is, and that only one process uses it.
//!
//! | name | what |
//! |---|---|
//! | `identity.toml` | the node's id, drawn once, and the format of the directory |
//! | `lock` | held while a process runs |
//! | `state/` | cells and books, see [`crate::disk`] |

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use node::NodeId;
use serde::Deserialize;

use crate::entropy;

/// The format that this version reads and writes.
const FORMAT: u32 = 1;

/// A data directory that cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system refuses.
    #[error("data directory {}: cannot {what}: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// Another process has it.
    #[error("data directory {} is in use by another process: stop that one, or give this node its own (--data DIR)", .0.display())]
    InUse(PathBuf),
    /// It belongs to another version, or is damaged.
    #[error(
        "data directory {}: {reason}. Use the version that wrote it, or start with an empty directory: \
         the node then takes its state from the others, under a new id", dir.display()
    )]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is state, but nobody knows whose.
    #[error(
        "data directory {}: there is state in it but no identity.toml. Restore that file, or start with an empty \
         directory: the node then takes its state from the others, under a new id", .0.display()
    )]
    NoIdentity(PathBuf),
}

/// A locked data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    dir: PathBuf,
    node: NodeId,
    /// Held until the process ends.
    _lock: File,
}

#[derive(Deserialize)]
struct Identity {
    format: u32,
    node: String,
}

impl DataDir {
    /// Opens or makes the directory, locks it, and reads or draws the node's id.
    pub(crate) fn open(dir: &Path) -> Result<Self, DataError> {
        let failed = |what| move |source| DataError::Io { dir: dir.into(), what, source };
        // Who is registered where is nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make it"))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"));
        let lock = lock.map_err(failed("write in it"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataError::InUse(dir.into())),
            Err(TryLockError::Error(source)) => return Err(failed("lock it")(source)),
        }
        let node = match fs::read_to_string(dir.join("identity.toml")) {
            Ok(text) => read_identity(dir, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound && dir.join("state").exists() => {
                return Err(DataError::NoIdentity(dir.into()));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let node = NodeId(entropy::number());
                write_identity(dir, node).map_err(failed("write identity.toml"))?;
                node
            }
            Err(e) => return Err(failed("read identity.toml")(e)),
        };
        Ok(Self { dir: dir.into(), node, _lock: lock })
    }

    /// The node's stable id.
    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    /// Where the state is kept.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }
}

fn read_identity(dir: &Path, text: &str) -> Result<NodeId, DataError> {
    let unreadable = |reason: String| DataError::Unreadable { dir: dir.into(), reason };
    let identity: Identity =
        toml::from_str(text).map_err(|e| unreadable(format!("identity.toml is damaged: {}", e.message())))?;
    if identity.format != FORMAT {
        return Err(unreadable(format!("it has format {}, this version knows format {FORMAT}", identity.format)));
    }
    identity.node.parse().map_err(|_| unreadable(format!("identity.toml is damaged: {:?} is no id", identity.node)))
}

/// Writes the file so that after a crash it is there whole or not at all.
fn write_identity(dir: &Path, node: NodeId) -> io::Result<()> {
    let new = dir.join("identity.toml.new");
    let mut file = File::create(&new)?;
    writeln!(file, "# Who this Starling node is. Two nodes must never share it: do not copy it.")?;
    writeln!(file, "format = {FORMAT}\nnode = \"{node}\"")?;
    file.sync_all()?;
    fs::rename(&new, dir.join("identity.toml"))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_drawn_once_and_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("deep/data");
        let first = DataDir::open(&data).expect("made").node();
        assert_eq!(DataDir::open(&data).expect("opened").node(), first);
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let _held = DataDir::open(dir.path()).expect("first");
        let error = DataDir::open(dir.path()).expect_err("second");
        assert!(matches!(error, DataError::InUse(_)), "{error}");
    }

    #[test]
    fn another_format_is_refused_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("identity.toml");
        fs::write(&file, "format = 9\nnode = \"00000000000000aa\"\n").expect("written");
        let error = DataDir::open(dir.path()).expect_err("format 9").to_string();
        assert!(error.contains("format 9") && error.contains("empty directory"), "{error}");
        assert!(fs::read_to_string(&file).expect("kept").contains("format = 9"));
    }

    #[test]
    fn state_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("state")).expect("made");
        assert!(matches!(DataDir::open(dir.path()), Err(DataError::NoIdentity(_))));
    }
}
