//! A server's standard error: to the log, line by line, and the last lines into the reason of its end.
//!
//! A server may write anything there, as fast as it likes, so lines are cut, control characters made
//! visible, and lines over the rate left out and counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStderr;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::upstream::duplex::guard::{Failure, Notice};

/// The target of these lines, to switch them off or on in the log's filter.
pub(super) const TARGET: &str = "holdfast::server";

/// A longer line is cut, in bytes.
const LINE: usize = 2048;
/// Lines kept for the reason of the end, and how many bytes of each.
const LAST: usize = 5;
const LAST_BYTES: usize = 500;
/// Lines logged in a window; the rest is counted.
const WINDOW: Duration = Duration::from_secs(10);
const LINES_PER_WINDOW: u32 = 500;

/// How the start of a command went.
#[derive(Debug)]
pub(super) enum Start {
    Running,
    Failed(Failure, String),
}

/// The last lines that a process wrote, and when it can write no more.
pub(super) struct LastWords {
    kept: Arc<Mutex<VecDeque<String>>>,
    finished: watch::Receiver<bool>,
}

impl LastWords {
    /// At most five lines, oldest first.
    pub(super) fn words(&self) -> Vec<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().collect()
    }

    /// Waits until everything was read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn finished(&mut self) {
        let _ = self.finished.wait_for(|finished| *finished).await;
    }
}

/// Follows the standard error of a guard and its server in a task of its own. The receiver gets the
/// guard's word on the start, or nothing if it ends before.
pub(super) fn follow(
    server: Arc<str>,
    stderr: ChildStderr,
) -> (LastWords, oneshot::Receiver<Start>) {
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    let (finish, finished) = watch::channel(false);
    let (started, start) = oneshot::channel();
    let follower = Follower {
        server,
        kept: kept.clone(),
        started: Some(started),
        rate: Rate::new(Instant::now()),
    };
    tokio::spawn(async move {
        follower.run(stderr).await;
        finish.send_replace(true);
    });
    (LastWords { kept, finished }, start)
}

struct Follower {
    server: Arc<str>,
    kept: Arc<Mutex<VecDeque<String>>>,
    started: Option<oneshot::Sender<Start>>,
    rate: Rate,
}

impl Follower {
    async fn run(mut self, stderr: ChildStderr) {
        let mut from = BufReader::new(stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            match read_line(&mut from, &mut line).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    debug!(server = %self.server, %error, "standard error cannot be read");
                    break;
                }
            }
            self.line(&line);
        }
        self.report_missing();
    }

    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if let Some(notice) = Notice::parse(&text) {
            if let Some(started) = self.started.take() {
                let _ = started.send(match notice {
                    Notice::Started => Start::Running,
                    Notice::Failed { kind, message } => Start::Failed(kind, message),
                });
            }
            return;
        }
        let text = printable(line);
        if text.is_empty() {
            return;
        }
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == LAST {
                kept.pop_front();
            }
            kept.push_back(cut(&text, LAST_BYTES).to_owned());
        }
        if self.rate.window_is_over(Instant::now()) {
            self.report_missing();
        }
        if self.rate.take() {
            info!(target: TARGET, server = %self.server, "{text}");
        }
    }

    fn report_missing(&mut self) {
        let missing = std::mem::take(&mut self.rate.missing);
        if missing > 0 {
            warn!(target: TARGET, server = %self.server, missing, "lines of standard error were left out");
        }
    }
}

/// Reads one line, of which at most [`LINE`] bytes are kept. `false` at the end.
async fn read_line(from: &mut BufReader<ChildStderr>, line: &mut Vec<u8>) -> std::io::Result<bool> {
    let kept = (&mut *from).take(LINE as u64).read_until(b'\n', line).await?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(true);
    }
    if kept < LINE {
        return Ok(kept > 0);
    }
    loop {
        let rest = from.fill_buf().await?;
        let (skip, done) = match memchr::memchr(b'\n', rest) {
            Some(at) => (at + 1, true),
            None => (rest.len(), rest.is_empty()),
        };
        from.consume(skip);
        if done {
            return Ok(true);
        }
    }
}

/// The line as text on one line, without the blanks at its end: control characters are escaped, so
/// that a server can neither forge log lines nor paint the terminal.
pub(super) fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    for character in cut(text.trim_end(), LINE).chars() {
        if character.is_control() && character != '\t' {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// So many lines in each window.
struct Rate {
    since: Instant,
    logged: u32,
    missing: u64,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { since: now, logged: 0, missing: 0 }
    }

    fn window_is_over(&mut self, now: Instant) -> bool {
        let over = now.duration_since(self.since) >= WINDOW;
        if over {
            self.since = now;
            self.logged = 0;
        }
        over
    }

    fn take(&mut self) -> bool {
        if self.logged < LINES_PER_WINDOW {
            self.logged += 1;
            return true;
        }
        self.missing += 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(printable(b"a\x1b[31mb\tc\rd  \r\n"), "a\\u{1b}[31mb\tc\\rd");
        assert_eq!(printable(b"\xff!"), "\u{fffd}!");
    }

    #[test]
    fn a_cut_does_not_split_a_character() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }

    #[test]
    fn lines_over_the_rate_are_counted_until_the_window_ends() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let logged = (0..LINES_PER_WINDOW + 7).filter(|_| rate.take()).count();
        assert_eq!((logged, rate.missing), (LINES_PER_WINDOW as usize, 7));
        assert!(!rate.window_is_over(start + WINDOW / 2));
        assert!(rate.window_is_over(start + WINDOW));
        assert!(rate.take());
    }
}
