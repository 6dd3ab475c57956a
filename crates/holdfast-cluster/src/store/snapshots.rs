//! The snapshot file: written beside its predecessor, synced, and renamed over it.
//!
//! Its first line names the node that wrote it. Without the log that it belongs to, a snapshot is
//! another node's past and is not read.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use holdfast_engine::replicated::NodeId;

use crate::types::{LogId, Snapshot, SnapshotMeta};

/// The beginning of the file: a mark, the node, the length of what follows.
const HEAD: usize = 24;
const MARK: [u8; 8] = *b"HOLDSNP1";

/// The last snapshot of this node. Clones are the same.
#[derive(Clone)]
pub(crate) struct Snapshots {
    directory: Arc<PathBuf>,
    node: NodeId,
    /// What the file holds. Locked while it is written, so that an older one never replaces a newer.
    current: Arc<Mutex<Option<SnapshotMeta>>>,
}

// === impl Snapshots ===

impl Snapshots {
    /// Finds out what there is. Blocks for one read of the file.
    pub(super) fn open(directory: &Path, node: NodeId) -> io::Result<Self> {
        let snapshots =
            Self { directory: Arc::new(directory.to_owned()), node, current: Arc::default() };
        let meta = snapshots.load()?.map(|it| it.meta);
        *snapshots.current.lock().unwrap_or_else(PoisonError::into_inner) = meta;
        Ok(snapshots)
    }

    pub(super) fn last_log_id(&self) -> Option<LogId> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.last_log_id
    }

    /// Reads the snapshot. Blocks.
    pub(crate) fn load(&self) -> io::Result<Option<Snapshot>> {
        let file = match fs::read(self.file()) {
            Ok(file) => Bytes::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Whatever else is there is no snapshot of this node; it is replaced by the next one.
        if file.len() < HEAD || file[..HEAD] != self.head(file.len() - HEAD) {
            return Ok(None);
        }
        let body = file.slice(HEAD..);
        let (meta, rest) = postcard::take_from_bytes::<SnapshotMeta>(&body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let snapshot = body.slice_ref(rest);
        Ok(Some(Snapshot { meta, snapshot }))
    }

    /// Keeps a snapshot, unless a newer one is there already. Blocks until it is on disk.
    pub(crate) fn keep(&self, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|it| it.last_log_id >= meta.last_log_id) {
            return Ok(());
        }
        let meta_bytes = postcard::to_stdvec(meta).map_err(io::Error::other)?;
        let new = self.directory.join("snapshot.new");
        let mut file = File::create(&new)?;
        file.write_all(&self.head(meta_bytes.len() + data.len()))?;
        file.write_all(&meta_bytes)?;
        file.write_all(data)?;
        file.sync_all()?;
        fs::rename(&new, self.file())?;
        File::open(&*self.directory)?.sync_all()?;
        *current = Some(meta.clone());
        Ok(())
    }

    fn file(&self) -> PathBuf {
        self.directory.join("snapshot")
    }

    fn head(&self, length: usize) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&MARK);
        head[8..16].copy_from_slice(&self.node.to_le_bytes());
        head[16..].copy_from_slice(&(length as u64).to_le_bytes());
        head
    }
}
