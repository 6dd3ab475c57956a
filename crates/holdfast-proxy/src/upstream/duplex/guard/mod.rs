//! The guard: a small process between the gateway and a stdio server, so that nothing outlives the
//! gateway, a `kill -9` of it included.
//!
//! A gateway that is killed cannot clean up, and a server started with `npx` is a tree of
//! processes of which the gateway knows only the root. So the gateway does not start the server
//! itself: it starts this same binary as the guard, in a process group of its own, and the guard
//! starts the server with all three standard streams inherited.
//!
//! - The guard never reads its standard input but keeps it open and polls it. When the last writer
//!   (the gateway) closes it or dies, `POLLHUP` says so.
//! - It is a *child subreaper*: a grandchild whose parent died comes back to the guard instead of to
//!   init, also after `setsid` or a double fork. So the guard finds everything that its server ever
//!   started by walking `/proc` down from itself.
//!
//! ## How it ends
//!
//! | what happens | what the guard does |
//! |---|---|
//! | its stdin is closed | the server sees end of file too: waits `grace` for it to exit by itself, then as the next line |
//! | `SIGTERM`, `SIGINT`, `SIGHUP`, `SIGQUIT` | `SIGTERM` to the group and to descendants outside of it, waits `grace`, then `SIGKILL` to each, again and again until none remain |
//! | the server exits | the same for what it left behind, if anything |
//!
//! It exits with the server's status (128 + n after signal n), or 126 or 127 if the command could
//! not be run.
//!
//! ## What it cannot catch
//!
//! When the guard itself is killed with `SIGKILL`, the gateway sees it exit and kills the process
//! group. A descendant that had left the group with `setsid` then survives, and when the gateway is
//! killed at the same moment, so does a server that ignores the end of its input. A descendant that
//! changed to another user cannot be signalled; the guard names it and gives up after
//! [`KILL_FOR`]. Only a pid namespace or a control group would close these gaps, and both need
//! rights that a gateway should not ask for.

mod descendants;

use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The hidden subcommand under which the binary runs [`run`].
pub const SUBCOMMAND: &str = "guard";
/// The option before `--` that sets the grace, in milliseconds.
pub const GRACE_OPTION: &str = "--grace-ms";
/// How long the guard goes on killing what does not die before it gives up.
pub const KILL_FOR: Duration = Duration::from_secs(10);

/// Lines on stderr that start with this come from the guard and not from the server.
pub(super) const MARK: &str = "\u{1e}holdfast-guard ";

/// What the guard reports on its standard error before any call can be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The command runs.
    Started,
    /// The command cannot be run.
    Failed { kind: Failure, message: String },
}

/// Why a command cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NotFound,
    NotExecutable,
    Other,
}

/// The program and first argument with which a process starts its own binary as a guard.
///
/// `/proc/self/exe` still names the running binary after an upgrade has replaced the file.
pub fn own_binary() -> Vec<OsString> {
    vec!["/proc/self/exe".into(), SUBCOMMAND.into()]
}

/// Runs the guard until its server and everything that the server started is gone.
///
/// `argv` is what follows the subcommand: `--grace-ms N -- COMMAND ARG…`. It must be called from the
/// main thread before any other thread exists, since it blocks signals for the whole process.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    let (grace, command) = match parse(argv) {
        Ok(parsed) => parsed,
        Err(usage) => {
            say(&usage);
            return ExitCode::from(2);
        }
    };
    match guard(grace, &command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            report(&Notice::Failed { kind: Failure::Other, message: error.to_string() });
            ExitCode::from(126)
        }
    }
}

impl Notice {
    /// Reads a line of standard error, without its line end.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let text = line.strip_prefix(MARK)?;
        if text == "started" {
            return Some(Self::Started);
        }
        let (kind, message) = text.strip_prefix("failed ")?.split_once(' ')?;
        let kind = match kind {
            "not-found" => Failure::NotFound,
            "not-executable" => Failure::NotExecutable,
            _ => Failure::Other,
        };
        Some(Self::Failed { kind, message: message.to_owned() })
    }

    fn render(&self) -> String {
        match self {
            Self::Started => format!("{MARK}started"),
            Self::Failed { kind, message } => {
                let kind = match kind {
                    Failure::NotFound => "not-found",
                    Failure::NotExecutable => "not-executable",
                    Failure::Other => "other",
                };
                format!("{MARK}failed {kind} {}", message.replace('\n', " "))
            }
        }
    }
}

/// Where the guard stands. Each phase but the first has a deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The server's input has ended; it may exit by itself until then.
    Closing(Instant),
    /// `SIGTERM` is out; everything may exit until then.
    Terminating(Instant),
    /// Everything is being killed; given up then.
    Killing(Instant),
}

fn parse(argv: Vec<OsString>) -> Result<(Duration, Vec<OsString>), String> {
    let usage =
        || format!("usage: {SUBCOMMAND} {GRACE_OPTION} MILLISECONDS -- COMMAND [ARGUMENT]…");
    let mut words = argv.into_iter();
    let grace = match (words.next(), words.next(), words.next()) {
        (Some(option), Some(grace), Some(end)) if option == GRACE_OPTION && end == "--" => {
            grace.to_str().and_then(|text| text.parse().ok()).ok_or_else(usage)?
        }
        _ => return Err(usage()),
    };
    let command: Vec<OsString> = words.collect();
    if command.is_empty() {
        return Err(usage());
    }
    Ok((Duration::from_millis(grace), command))
}

fn guard(grace: Duration, command: &[OsString]) -> io::Result<u8> {
    nix::sys::prctl::set_child_subreaper(true)?;
    // Blocked before there is a child: a signal at any time finds a guard that handles it.
    let mut mask = SigSet::empty();
    for signal in
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]
    {
        mask.add(signal);
    }
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;

    let child = match spawn(command) {
        Ok(child) => child,
        Err(error) => {
            let (kind, status) = match error {
                Errno::ENOENT => (Failure::NotFound, 127),
                Errno::EACCES | Errno::ENOEXEC => (Failure::NotExecutable, 126),
                _ => (Failure::Other, 126),
            };
            report(&Notice::Failed { kind, message: error.desc().to_owned() });
            return Ok(status);
        }
    };
    report(&Notice::Started);
    // The gateway takes the end of the server's output as its end, so the guard must not hold it open.
    nix::unistd::dup2_stdout(std::fs::File::open("/dev/null")?)?;
    watch(grace, child, &signals)
}

/// Starts the command with the guard's streams, environment and process group, and with no signal
/// blocked or ignored: the standard library's `Command` would pass on what the guard blocks.
fn spawn(command: &[OsString]) -> Result<Pid, Errno> {
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let arguments =
        command.iter().map(|word| text(word.as_bytes().to_vec())).collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os()
        .map(|(name, value)| text([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    let actions = PosixSpawnFileActions::init()?;
    posix_spawnp(&arguments[0], &actions, &attributes, &arguments, &environment)
}

/// Waits for the server to end, or for the gateway to go, and ends what is left.
fn watch(grace: Duration, child: Pid, signals: &SignalFd) -> io::Result<u8> {
    let own = Pid::this();
    let stdin = io::stdin();
    let mut phase = Phase::Running;
    let mut status: Option<u8> = None;

    loop {
        reap(child, &mut status)?;
        let now = Instant::now();
        let ending = matches!(phase, Phase::Terminating(_) | Phase::Killing(_));
        if status.is_some() || ending {
            let left = descendants::of(own)?;
            if let (Some(status), true) = (status, left.is_empty()) {
                return Ok(status);
            }
            if !ending {
                terminate(own, &left);
                phase = Phase::Terminating(now + grace);
            }
        }
        match phase {
            Phase::Closing(until) if now >= until => {
                terminate(own, &descendants::of(own)?);
                phase = Phase::Terminating(now + grace);
            }
            Phase::Terminating(until) if now >= until => phase = Phase::Killing(now + KILL_FOR),
            _ => {}
        }
        if let Phase::Killing(until) = phase {
            let left = descendants::of(own)?;
            for process in &left {
                let _ = kill(process.pid, Signal::SIGKILL);
            }
            if now >= until && !left.is_empty() {
                let pids: Vec<String> =
                    left.iter().map(|process| process.pid.to_string()).collect();
                say(&format!("these processes do not die, left behind: {}", pids.join(" ")));
                return Ok(status.unwrap_or(137));
            }
        }

        // While processes are being ended there is a look at /proc every few milliseconds, because a
        // grandchild's death that its own parent reaps raises no signal here.
        let pause = match phase {
            Phase::Running => PollTimeout::NONE,
            Phase::Closing(until) => timeout(until.saturating_duration_since(now)),
            Phase::Terminating(until) => {
                timeout(until.saturating_duration_since(now).min(LOOK_EVERY))
            }
            Phase::Killing(_) => timeout(LOOK_EVERY),
        };
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if phase == Phase::Running {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::empty()));
        }
        match poll(&mut fds, pause) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let gone = fds.get(1).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        if gone {
            phase = Phase::Closing(Instant::now() + grace);
        }
        while let Some(signal) = signals.read_signal()? {
            let asked = signal.ssi_signo != Signal::SIGCHLD as u32;
            if asked && matches!(phase, Phase::Running | Phase::Closing(_)) {
                terminate(own, &descendants::of(own)?);
                phase = Phase::Terminating(Instant::now() + grace);
            }
        }
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(10);

fn timeout(wait: Duration) -> PollTimeout {
    // Rounded up, so that the deadline has passed when poll returns.
    PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}

/// Collects every child that has ended, adopted ones included.
fn reap(child: Pid, status: &mut Option<u8>) -> io::Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                *status = Some(u8::try_from(code).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                *status = Some(128 + signal as u8);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks the group, and every descendant that has left it, to end. Each process is asked once: many
/// take a second `SIGTERM` as an order to drop everything.
fn terminate(own: Pid, left: &[descendants::Process]) {
    let _ = killpg(own, Signal::SIGTERM);
    for process in left.iter().filter(|process| process.group != own) {
        let _ = kill(process.pid, Signal::SIGTERM);
    }
}

/// Reports to the gateway. One write, and a line end in front, so that a half line of the server
/// cannot swallow it.
fn report(notice: &Notice) {
    write_stderr(&format!("\n{}\n", notice.render()));
}

/// Tells the operator something. The gateway may be gone, so nobody may be there to read it.
fn say(text: &str) {
    write_stderr(&format!("holdfast {SUBCOMMAND}: {text}\n"));
}

fn write_stderr(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// What the guard's exit says about the server: an exit status, or the signal that ended it.
pub(super) fn ending(status: ExitStatus) -> (Option<i32>, Option<i32>) {
    match (status.code(), status.signal()) {
        (Some(code), _) if code > 128 && code < 128 + 65 => (None, Some(code - 128)),
        (code, signal) => (code, signal),
    }
}

#[cfg(test)]
mod tests;
