//! Processes that tests start: stopped by their id, never left behind, with their output kept.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use super::DEADLINE;

/// A running process and what it has printed.
pub(crate) struct Process {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), &output);
        collect(child.stderr.take().expect("piped"), &output);
        Self { child, output }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything printed so far.
    pub(crate) fn output(&self) -> String {
        self.output.lock().expect("no panic while printing").clone()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// SIGTERM; returns at once.
    pub(crate) fn terminate(&self) {
        signal(self.pid(), "TERM");
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.terminate();
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            if Instant::now() > deadline {
                let output = self.output();
                self.kill();
                panic!("the process does not end on SIGTERM; it said:\n{output}");
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal by name to one process.
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(sent.is_ok(), "send SIG{name} to {pid}");
}

/// Whether a process with this id runs (a zombie does not).
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state is the first field after the name, which stands in parentheses.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Ids of all processes whose environment holds `NAME=VALUE`: grandchildren included, whatever
/// group or parent they have by now.
pub(crate) fn with_environment(entry: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("read /proc").flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(environment) = fs::read(process.path().join("environ")) else { continue };
        let marked = environment.split(|byte| *byte == 0).any(|it| it == entry.as_bytes());
        if marked && is_alive(pid) {
            found.push(pid);
        }
    }
    found
}

/// An address that was free a moment ago. Whoever starts a process on it tries another if it has
/// been taken since.
pub(crate) fn free_address() -> SocketAddr {
    holdfast_tests::ports::free_address().expect("a free port")
}

/// The gateway's binary: `HOLDFAST_BIN`, or the one beside this test in the target folder.
///
/// # Panics
/// When there is none, or when it is older than the sources it should have been built from.
pub(crate) fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("HOLDFAST_BIN") {
        let path = PathBuf::from(named);
        assert!(path.is_file(), "HOLDFAST_BIN names {}, which is no file", path.display());
        return path;
    }
    // target/debug/deps/it-… → target/debug/holdfast
    let own = std::env::current_exe().expect("the path of this test");
    let profile = own.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps");
    let path = profile.join("holdfast");
    assert!(
        path.is_file(),
        "there is no {}: run `cargo build -p holdfast` first, or set HOLDFAST_BIN",
        path.display()
    );
    let built = modified(&path);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    if let Some(newer) = newer_source(&sources.join("crates"), built) {
        panic!(
            "{} is older than {}: run `cargo build -p holdfast` first, or set HOLDFAST_BIN",
            path.display(),
            newer.display()
        );
    }
    path
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|it| it.modified()).expect("a file has a time")
}

fn newer_source(folder: &Path, than: SystemTime) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).expect("read a source folder").flatten() {
        let path = entry.path();
        // Fuzz targets, tests and benches are not part of the binary.
        let part = !["fuzz", "tests", "benches", "target"]
            .iter()
            .any(|other| path.file_name().is_some_and(|name| name == *other));
        if path.is_dir() && part {
            if let Some(newer) = newer_source(&path, than) {
                return Some(newer);
            }
        } else if path.extension().is_some_and(|it| it == "rs") && modified(&path) > than {
            return Some(path);
        }
    }
    None
}

fn collect(pipe: impl Read + Send + 'static, output: &Arc<Mutex<String>>) {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut output = output.lock().expect("no panic while printing");
            output.push_str(&line);
            output.push('\n');
        }
    });
}
