//! A server that is a process of this machine and speaks line by line on its standard streams.
//!
//! The process is started through the [guard](super::guard), which ends it and everything below it
//! when this side closes or dies. One task reads its output and waits for its end, one writes its
//! input, one turns its standard error into log lines.
//!
//! A line is a message. A message with line ends between its tokens is legal JSON but would be two
//! lines, so on the way out they become spaces: nothing else is touched.

mod lines;
mod oversize;
mod stderr;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio as Io};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use holdfast_config::Stdio;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::lines::{Line, Lines};
use self::stderr::{LastWords, Start};
use super::error::{Closed, Exit, OpenError, SendError};
use super::guard::{self, Failure, GRACE_OPTION, KILL_FOR};
use super::outbox::{End, Outbox, outbox};
use super::{Duplex, INBOX, Limits};

/// What a server inherits from the gateway's environment: what the official SDKs let through, and what
/// programs need to find their language, their temporary files, a proxy and the machine's
/// certificates. The gateway's own settings and secrets are not a server's business; what a server
/// needs beyond this its configuration names.
const INHERITED: [&str; 20] = [
    "HOME",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "USER",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
];

/// The cause of an end that the server chose.
const ENDED: &str = "the server's process ended";

/// How long the last lines of an ended process may take to be read. Its pipe can be held open by a
/// process that got away from a killed guard.
const LAST_LINES: Duration = Duration::from_secs(1);

pub(super) async fn open(
    server: &Arc<str>,
    guard: &[OsString],
    process: &Stdio,
    limits: Limits,
) -> Result<Duplex, OpenError> {
    let mut child = start(guard, process)?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(not_started(process, "its standard streams are missing"));
    };
    let group = child.id().map(|id| Pid::from_raw(id.cast_signed()));

    let (log, started) = stderr::follow(server.clone(), stderr);
    // If this future ends here, the drop of `stdin` tells the guard to end the process.
    match timeout(limits.open, started).await {
        Ok(Ok(Start::Running)) => {}
        Ok(Ok(Start::Failed(kind, reason))) => return Err(cannot_run(process, kind, reason)),
        Ok(Err(_)) => {
            let words = log.words().join(" | ");
            return Err(not_started(process, &format!("its guard ended at once: {words}")));
        }
        Err(_) => {
            return Err(OpenError::TimedOut {
                subject: format!("the guard of `{}`", process.command),
                after: limits.open,
            });
        }
    }

    let (tell, closed) = watch::channel(None);
    let (sender, outbox) = outbox(limits.send, closed.clone());
    let (deliver, inbox) = mpsc::channel(INBOX);
    let minder = Minder {
        server: server.clone(),
        child,
        group,
        end: outbox.end(),
        log,
        // The guard waits twice for this long, and then kills.
        stop_within: process.stop_grace * 2 + KILL_FOR + Duration::from_secs(2),
    };
    tokio::spawn(write(outbox, stdin));
    tokio::spawn(minder.run(Lines::new(stdout, limits.message), deliver, tell));
    Ok(Duplex { sender, inbox, closed })
}

fn start(guard: &[OsString], process: &Stdio) -> Result<Child, OpenError> {
    let Some((program, first)) = guard.split_first() else {
        return Err(not_started(process, "no guard program is set"));
    };
    let mut command = Command::new(program);
    command
        .arg0("holdfast-guard")
        .args(first)
        .arg(GRACE_OPTION)
        .arg(process.stop_grace.as_millis().to_string())
        .arg("--")
        .arg(&process.command)
        .args(&process.args)
        .env_clear()
        .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .envs(process.env.iter().map(|(name, value)| (name, value.expose_secret())))
        .stdin(Io::piped())
        .stdout(Io::piped())
        .stderr(Io::piped())
        .process_group(0);
    if let Some(folder) = &process.cwd {
        command.current_dir(folder);
    }
    command.spawn().map_err(|error| match &process.cwd {
        Some(folder) if !Path::is_dir(folder) => OpenError::NoSuchFolder {
            command: process.command.clone(),
            path: folder.display().to_string(),
        },
        _ => not_started(process, &format!("its guard cannot be started: {error}")),
    })
}

fn cannot_run(process: &Stdio, kind: Failure, reason: String) -> OpenError {
    let command = process.command.clone();
    match kind {
        Failure::NotFound => OpenError::CommandNotFound { command },
        Failure::NotExecutable => OpenError::CommandNotExecutable { command, reason },
        Failure::Other => OpenError::Start { command, reason },
    }
}

fn not_started(process: &Stdio, reason: &str) -> OpenError {
    OpenError::Start { command: process.command.clone(), reason: reason.to_owned() }
}

// === the way out ===

/// Writes until the connection is to end. Dropping the pipe is what tells server and guard.
async fn write(mut outbox: Outbox, mut stdin: ChildStdin) {
    let end = outbox.end();
    while let Some(taken) = outbox.next().await {
        let outcome = match one_line(&taken.message) {
            Ok(line) => write_line(&mut stdin, line, &end, Instant::now() + outbox.deadline).await,
            Err(reason) => Err(SendError::NotSent(reason.to_owned())),
        };
        taken.settle(outcome);
    }
}

/// The whole line goes out, or the connection ends: after a part of a line there is no next message.
async fn write_line(
    stdin: &mut ChildStdin,
    line: Bytes,
    end: &End,
    until: Instant,
) -> Result<(), SendError> {
    let mut rest = line.chain(&b"\n"[..]);
    let whole = rest.remaining();
    while rest.has_remaining() {
        let cause = tokio::select! {
            biased;
            written = timeout_at(until, stdin.write_buf(&mut rest)) => match written {
                Ok(Ok(0)) => "the process takes no more input".to_owned(),
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => format!("the process takes no more input: {error}"),
                Err(_) if rest.remaining() == whole => {
                    return Err(SendError::NotSent("the process does not read its input".to_owned()));
                }
                Err(_) => "the process does not read its input".to_owned(),
            },
            () = end.begun() => end.cause(),
        };
        end.begin(cause.clone());
        return Err(if rest.remaining() == whole {
            SendError::NotSent(cause)
        } else {
            SendError::Closed(Closed::new(cause))
        });
    }
    Ok(())
}

/// The message as one line.
fn one_line(message: &Bytes) -> Result<Bytes, &'static str> {
    if memchr::memchr2(b'\n', b'\r', message).is_none() {
        return Ok(message.clone());
    }
    let mut line = message.to_vec();
    let (mut in_string, mut escaped) = (false, false);
    for byte in &mut line {
        match *byte {
            b'\n' | b'\r' if in_string => {
                return Err("it has a line end inside a string, so it is not JSON");
            }
            b'\n' | b'\r' => *byte = b' ',
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ => {}
        }
    }
    Ok(line.into())
}

// === the way in, and the end ===

/// Reads the process's output and waits for its end.
struct Minder {
    server: Arc<str>,
    child: Child,
    /// The guard's process group, which is its pid.
    group: Option<Pid>,
    end: End,
    log: LastWords,
    stop_within: Duration,
}

impl Minder {
    async fn run(
        mut self,
        mut lines: Lines<ChildStdout>,
        deliver: mpsc::Sender<Bytes>,
        tell: watch::Sender<Option<Closed>>,
    ) {
        let gone = CancellationToken::new();
        let status = {
            let reading = pump(&mut lines, &self.server, &deliver, &gone);
            tokio::pin!(reading);
            let mut read = false;
            let mut stop_by = None;
            let status = loop {
                tokio::select! {
                    result = &mut reading, if !read => {
                        read = true;
                        self.end.begin(match result {
                            Ok(()) => ENDED.to_owned(),
                            Err(error) => format!("the server's output cannot be read: {error}"),
                        });
                    }
                    () = self.end.begun(), if stop_by.is_none() => {
                        stop_by = Some(Instant::now() + self.stop_within);
                    }
                    status = self.child.wait() => break status.ok(),
                    () = passed(stop_by), if stop_by.is_some() => {
                        warn!(server = %self.server, "the guard does not end, killing it and its process group");
                        self.kill_group();
                        let _ = self.child.start_kill();
                        break self.child.wait().await.ok();
                    }
                }
            };
            self.sweep(status);
            self.end.begin(ENDED);
            gone.cancel();
            if !read {
                let _ = reading.await;
            }
            status
        };
        let ending = self.ending(status).await;
        debug!(server = %self.server, reason = %ending, "process ended");
        tell.send_replace(Some(ending));
        // Only now does the inbox end: whoever sees that can read the reason.
        drop(deliver);
    }

    /// A guard that was killed could not clean up; its group still can be.
    fn sweep(&self, status: Option<ExitStatus>) {
        if status.is_none_or(|status| status.signal().is_some()) {
            warn!(server = %self.server, "the guard was killed, killing its process group");
            self.kill_group();
        }
    }

    fn kill_group(&self) {
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }

    async fn ending(&mut self, status: Option<ExitStatus>) -> Closed {
        // The process is gone, so its last words are in the pipe; a moment to read them.
        let _ = timeout(LAST_LINES, self.log.finished()).await;
        let exit = status.and_then(|status| match guard::ending(status) {
            (Some(code), _) => Some(Exit::Status(code)),
            (None, Some(signal)) => Some(Exit::Signal(signal)),
            (None, None) => None,
        });
        Closed::with_exit(self.end.cause(), exit, self.log.words())
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Delivers lines until the output ends. Goes on reading when nobody takes them any more, so that a
/// process that is ending can write its last lines. Once the process is `gone`, a second of silence
/// counts as the end.
async fn pump(
    lines: &mut Lines<ChildStdout>,
    server: &str,
    deliver: &mpsc::Sender<Bytes>,
    gone: &CancellationToken,
) -> io::Result<()> {
    loop {
        let line = tokio::select! {
            biased;
            line = lines.next() => line?,
            () = silence_after(gone) => None,
        };
        let Some(line) = line else { return Ok(()) };
        let message = match line {
            Line::Whole(line) if is_message(&line) => line,
            Line::Whole(line) => {
                if !line.is_empty() {
                    debug!(server, line = %stderr::printable(&line), "skipped a line of output that is not JSON");
                }
                continue;
            }
            Line::TooLong { length, answer } => {
                warn!(
                    server,
                    length,
                    limit = lines.limit(),
                    "dropped a message that is larger than the limit"
                );
                match answer {
                    Some(answer) => answer,
                    None => continue,
                }
            }
        };
        let _ = deliver.send(message).await;
    }
}

async fn silence_after(gone: &CancellationToken) {
    gone.cancelled().await;
    tokio::time::sleep(LAST_LINES).await;
}

fn is_message(line: &[u8]) -> bool {
    matches!(line.first(), Some(b'{' | b'['))
}

#[cfg(test)]
mod tests;
