//! Opens a data directory for one process, and finds out whose it is.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use holdfast_engine::replicated::NodeId;
use redb::{Database, ReadableDatabase};
use serde::{Deserialize, Serialize};

use super::log::{Contents, Log};
use super::snapshots::Snapshots;
use super::writer::{self, META};

const IDENTITY: &str = "identity";

/// Who the directory makes this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// This incarnation: drawn at random when the directory was new, never 0.
    pub(crate) node: NodeId,
    /// The configured name that it was drawn for.
    pub(crate) name: String,
    /// The group that it belongs to, once that is known: a random number drawn when the group was
    /// founded. Messages of another group are refused, so two groups never mix their logs.
    pub(crate) group: Option<u64>,
}

/// An open data directory.
pub(crate) struct Directory {
    pub(crate) identity: Identity,
    pub(crate) log: Log,
    pub(crate) snapshots: Snapshots,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be made, read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data directory {} is in use by another process: give each node a directory of its own",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another name.
    #[error(
        "the data directory {} belongs to node {found:?}, and this node is {expected:?}: give it the \
         directory of its own name, or an empty one to join as a new member",
        path.display()
    )]
    OtherName {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asks.
        expected: String,
    },
    /// It cannot be read any more.
    #[error(
        "the data directory {} is damaged ({what}): move it away, and the node joins as a new member",
        path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

// === impl Directory ===

impl Directory {
    /// Opens the directory, or makes it. Blocks for a few disk writes.
    pub(crate) fn open(path: &Path, name: &str) -> Result<Self, DirectoryError> {
        fs::create_dir_all(path).map_err(failed("make", path))?;
        let lock = lock(path)?;
        let file = path.join("raft.redb");
        let database = Database::create(&file).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => in_use(path),
            redb::DatabaseError::Storage(redb::StorageError::Io(source)) => {
                DirectoryError::Io { doing: "open", path: file.clone(), source }
            }
            other => damaged(path, &other),
        })?;
        let identity = match read_identity(&database).map_err(|what| damaged(path, &what))? {
            Some(identity) => identity,
            None => new_identity(&database, name).map_err(failed("write", &file))?,
        };
        if identity.name != name {
            return Err(DirectoryError::OtherName {
                path: path.to_owned(),
                found: identity.name,
                expected: name.to_owned(),
            });
        }
        let contents = Contents::read(&database).map_err(|what| damaged(path, &what))?;
        let snapshots = Snapshots::open(path, identity.node).map_err(failed("read", path))?;
        if contents.purged > snapshots.last_log_id() {
            return Err(damaged(path, &"the log begins after the end of the snapshot"));
        }
        let writer = writer::spawn(database, lock).map_err(failed("start the writer of", path))?;
        Ok(Self { identity, log: Log::new(contents, writer), snapshots })
    }

    /// Remembers the group, durably.
    pub(crate) async fn remember(log: &Log, identity: &Identity) -> io::Result<()> {
        log.write_meta(IDENTITY, postcard::to_stdvec(identity).map_err(io::Error::other)?).await
    }
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let file = path.join("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&file)
        .map_err(failed("open", &file))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(in_use(path)),
        Err(TryLockError::Error(source)) => {
            Err(DirectoryError::Io { doing: "lock", path: file, source })
        }
    }
}

fn read_identity(database: &Database) -> Result<Option<Identity>, String> {
    let read = || -> Result<Option<Vec<u8>>, redb::Error> {
        match database.begin_read()?.open_table(META) {
            Ok(table) => Ok(table.get(IDENTITY)?.map(|it| it.value().to_vec())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let Some(bytes) = read().map_err(|error| error.to_string())? else { return Ok(None) };
    postcard::from_bytes(&bytes).map(Some).map_err(|error| error.to_string())
}

fn new_identity(database: &Database, name: &str) -> io::Result<Identity> {
    let identity = Identity { node: crate::random()?, name: name.to_owned(), group: None };
    let bytes = postcard::to_stdvec(&identity).map_err(io::Error::other)?;
    let write = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert(IDENTITY, bytes.as_slice())?;
        transaction.commit()?;
        Ok(())
    };
    write().map_err(io::Error::other)?;
    Ok(identity)
}

fn failed<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> DirectoryError + use<'a> {
    move |source| DirectoryError::Io { doing, path: path.to_owned(), source }
}

fn in_use(path: &Path) -> DirectoryError {
    DirectoryError::InUse { path: path.to_owned() }
}

fn damaged(path: &Path, what: &dyn ToString) -> DirectoryError {
    DirectoryError::Damaged { path: path.to_owned(), what: what.to_string() }
}
