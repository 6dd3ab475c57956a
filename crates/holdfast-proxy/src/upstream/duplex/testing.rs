//! For the tests of this module and of what lies above: a connection without a wire, the guard's
//! binary, and waiting for something without guessing how long it takes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::error::{Closed, SendError};
use super::outbox::{Outbox, outbox};
use super::{Duplex, INBOX};

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The server's end of a connection without a wire.
pub(crate) struct FakeServer {
    outbox: Outbox,
    deliver: mpsc::Sender<Bytes>,
    tell: watch::Sender<Option<Closed>>,
}

/// A connection to a server that the test plays.
pub(crate) fn pair() -> (Duplex, FakeServer) {
    let (tell, closed) = watch::channel(None);
    let (sender, outbox) = outbox(Duration::from_secs(30), closed.clone());
    let (deliver, inbox) = mpsc::channel(INBOX);
    (Duplex { sender, inbox, closed }, FakeServer { outbox, deliver, tell })
}

impl FakeServer {
    /// The next message that was sent to the server; `None` once the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let taken = self.outbox.next().await?;
        let message = taken.message.clone();
        taken.settle(Ok(()));
        Some(message)
    }

    /// Takes the next message and answers for it with `error`.
    pub(crate) async fn refuse(&mut self, error: SendError) {
        self.outbox.next().await.expect("a message").settle(Err(error));
    }

    pub(crate) async fn say(&self, message: impl Into<Bytes>) {
        let _ = self.deliver.send(message.into()).await;
    }

    pub(crate) fn end(self, reason: &str) {
        self.tell.send_replace(Some(Closed::new(reason)));
    }
}

/// The guard as a program of its own. Cargo builds it with the tests, but not when it is told to run
/// only some of them; then it is built here.
pub(crate) fn guard_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let own = std::env::current_exe().expect("the test's own path");
            let target = own.parent().and_then(Path::parent).expect("the target folder");
            let guard = target.join("examples/guard");
            if is_stale(&guard) {
                build_guard(target);
            }
            guard
        })
        .clone()
}

fn is_stale(guard: &Path) -> bool {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/upstream/duplex/guard");
    let newest =
        ["mod.rs", "descendants.rs"].iter().filter_map(|file| changed(&source.join(file))).max();
    changed(guard).is_none_or(|built| Some(built) < newest)
}

/// Where this test was built, and with the same features: else a test that is run by hand would wait for a build of
/// everything, and then not find it. What cargo says of that is shown, such as that it waits for another one.
fn build_guard(target: &Path) {
    let profile = match target.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--workspace", "--example", "guard", "--profile", profile])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .arg("--target-dir")
        .arg(target.parent().expect("the folder of all targets"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the guard cannot be built");
}

/// Whether a process runs. A zombie does not.
pub(crate) fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As [`until`], letting other tasks run.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a future gives, which must not take long.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}
