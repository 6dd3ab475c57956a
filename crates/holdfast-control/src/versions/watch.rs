//! The file, looked at again and again: by its content, so that it does not matter how it came there. A
//! look costs one `stat` while nothing has moved; a link that is swapped, as a mounted ConfigMap's, shows
//! another file behind the same name.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use holdfast_engine::configuration::settle::{Print, Settling};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::keeper::{Cause, Versions};

/// So often the content is looked at although nothing about the file has moved: some file systems tell
/// of changes late or not at all.
const ANYHOW: u32 = 30;

/// Bytes of a file that are looked at.
const LONGEST: u64 = (4 << 20) + 1;

/// What moves when a file is written or replaced.
type Mark = Option<(u64, u64, u64, i64, i64)>;

/// Reads the file whenever it has changed and settled. For ever; never, where that is turned off.
pub(super) async fn watch(versions: &Versions) {
    let Some(interval) = versions.settings.watch else { return std::future::pending().await };
    let path = &versions.settings.path;
    let mut looks = Looks::new(versions.read(), interval);
    loop {
        tokio::time::sleep(interval).await;
        looks.settling.took(versions.read());
        if looks.look(path) {
            tracing::info!(file = %path.display(), "the configuration file has changed");
            versions.persist(Cause::File, interval).await;
        }
    }
}

struct Looks {
    mark: Mark,
    print: Print,
    looks: u32,
    settling: Settling,
}

// === impl Looks ===

impl Looks {
    /// Of a file of which this was read.
    fn new(read: Print, interval: Duration) -> Self {
        // No mark is that of a file: the first look reads it.
        let mark = Some((0, 0, 0, 0, 0));
        Self { mark, print: read, looks: 0, settling: Settling::new(read, interval) }
    }

    /// Whether there is something new that has settled.
    fn look(&mut self, path: &Path) -> bool {
        let mark = mark(path);
        self.looks = self.looks.wrapping_add(1);
        if mark != self.mark || self.looks.is_multiple_of(ANYHOW) {
            self.print = print(path);
            self.mark = mark;
        }
        self.settling.look(self.print, Instant::now().into_std())
    }
}

/// Follows links, so that a swapped one shows.
fn mark(path: &Path) -> Mark {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

/// What the file has; none if it cannot be read.
pub(super) fn print(path: &Path) -> Print {
    let mut text = Vec::new();
    // One byte more than a configuration may have: what is longer is news, and then refused.
    let file = fs::File::open(path).ok()?;
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    Some(Sha256::digest(text).into())
}
