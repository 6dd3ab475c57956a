//! The guard as a process, with servers written in shell.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use super::*;
use crate::upstream::duplex::testing::{PATIENCE, guard_binary, runs, until};

struct Guarded {
    guard: Child,
    lines: mpsc::Receiver<String>,
}

fn guard_command(grace_ms: u64, command: &[&str]) -> Command {
    let mut guard = Command::new(guard_binary());
    guard
        .args([SUBCOMMAND, GRACE_OPTION, &grace_ms.to_string(), "--"])
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    guard
}

fn start(grace_ms: u64, script: &str) -> Guarded {
    start_with(&mut guard_command(grace_ms, &["sh", "-c", script]))
}

fn start_with(command: &mut Command) -> Guarded {
    let mut guard = command.spawn().expect("the guard starts");
    let stdout = BufReader::new(guard.stdout.take().expect("piped"));
    let (said, lines) = mpsc::channel();
    std::thread::spawn(move || {
        stdout.lines().map_while(Result::ok).try_for_each(|line| said.send(line))
    });
    Guarded { guard, lines }
}

impl Guarded {
    /// The next line; an empty one at the end.
    #[track_caller]
    fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => String::new(),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it neither says anything nor ends"),
        }
    }

    fn pid(&mut self) -> i32 {
        self.line().parse().expect("a pid")
    }

    fn close_stdin(&mut self) {
        drop(self.guard.stdin.take());
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.guard.id().cast_signed()), signal).expect("the guard runs");
    }

    /// Waits for the end. Does not close stdin, unlike `Child::wait`.
    fn status(&mut self) -> i32 {
        let mut status = None;
        until("the guard does not end", || {
            status = self.guard.try_wait().expect("waitable");
            status.is_some()
        });
        status.and_then(|status| status.code()).expect("an exit status")
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        let mut stderr = self.guard.stderr.take().expect("piped");
        stderr.read_to_string(&mut text).expect("text");
        text
    }
}

#[test]
fn it_exits_with_the_status_of_the_server() {
    assert_eq!(start(1000, "exit 7").status(), 7);
    assert_eq!(start(1000, "kill -9 $$").status(), 137);
}

#[test]
fn a_command_that_does_not_exist_is_reported() {
    let mut guarded = start_with(&mut guard_command(1000, &["no-such-command-at-all"]));
    assert_eq!(guarded.status(), 127);
    let stderr = guarded.stderr();
    let notice = stderr.lines().find_map(Notice::parse).expect("a notice");
    assert!(matches!(notice, Notice::Failed { kind: Failure::NotFound, .. }), "{stderr}");
}

#[test]
fn a_file_that_is_no_program_is_reported() {
    let mut guarded = start_with(&mut guard_command(1000, &["/proc/self/environ"]));
    assert_eq!(guarded.status(), 126);
    let stderr = guarded.stderr();
    let notice = stderr.lines().find_map(Notice::parse).expect("a notice");
    assert!(matches!(notice, Notice::Failed { kind: Failure::NotExecutable, .. }), "{stderr}");
}

#[test]
fn a_server_that_ends_with_its_input_is_not_signalled() {
    let mut guarded = start(60_000, "trap 'echo signalled' TERM; cat; echo done");
    guarded.close_stdin();
    assert_eq!(guarded.status(), 0);
    assert_eq!(guarded.line(), "done");
    assert_eq!(guarded.line(), "");
}

#[test]
fn a_server_that_ignores_the_end_of_its_input_is_terminated() {
    let mut guarded = start(1000, "echo $$; exec sleep 1000");
    let pid = guarded.pid();
    guarded.close_stdin();
    assert_eq!(guarded.status(), 143);
    assert!(!runs(pid));
}

#[test]
fn a_server_that_ignores_signals_is_killed() {
    let mut guarded = start(50, "trap '' TERM; echo $$; while :; do sleep 1000; done");
    let pid = guarded.pid();
    guarded.close_stdin();
    assert_eq!(guarded.status(), 137);
    assert!(!runs(pid));
}

#[test]
fn each_process_is_asked_once() {
    let mut guarded = start(1500, "trap 'echo asked' TERM; echo up; while :; do sleep 0.02; done");
    assert_eq!(guarded.line(), "up");
    guarded.signal(Signal::SIGTERM);
    assert_eq!(guarded.status(), 137);
    assert_eq!(guarded.line(), "asked");
    assert_eq!(guarded.line(), "", "asked twice");
}

/// A child, one in a session of its own, one that was orphaned into a session of its own, and one that
/// ignores `SIGTERM` there.
const TREE: &str = r#"
    sleep 1000 & echo $!
    setsid sleep 1000 & echo $!
    (setsid sh -c 'echo $$; exec sleep 1000' &)
    (setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 1000; done' &)
"#;

fn pids(guarded: &mut Guarded) -> Vec<i32> {
    let pids: Vec<i32> = (0..4).map(|_| guarded.pid()).collect();
    assert!(pids.iter().all(|pid| runs(*pid)), "{pids:?}");
    pids
}

#[test]
fn everything_below_the_server_ends_with_it() {
    let mut guarded = start(50, &format!("{TREE} echo $$; exec sleep 1000"));
    let mut all = pids(&mut guarded);
    all.push(guarded.pid());
    guarded.close_stdin();
    guarded.status();
    assert_eq!(all.iter().filter(|pid| runs(**pid)).count(), 0);
}

#[test]
fn what_a_server_leaves_behind_is_ended_too() {
    let mut guarded = start(50, &format!("{TREE} read go; exit 5"));
    let all = pids(&mut guarded);
    {
        use std::io::Write;
        let stdin = guarded.guard.stdin.as_mut().expect("open");
        stdin.write_all(b"\n").expect("the server reads");
    }
    assert_eq!(guarded.status(), 5, "the server's own status, with its input still open");
    assert_eq!(all.iter().filter(|pid| runs(**pid)).count(), 0);
}

#[test]
fn a_parent_that_is_killed_takes_everything_with_it() {
    let script = format!("{TREE} echo $$; exec sleep 1000");
    let mut command = guard_command(50, &["sh", "-c", &script]);
    // The process that holds the guard's input, as the gateway does.
    let mut parent =
        Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().expect("sleep starts");
    let held = parent.stdout.take().expect("piped");
    let mut guarded = start_with(command.stdin(held));
    drop(command); // it holds a copy of the pipe's read end only, but let nothing hang on that
    let mut all = pids(&mut guarded);
    all.push(guarded.pid());
    parent.kill().expect("kill -9");
    parent.wait().expect("reaped");
    guarded.status();
    assert_eq!(all.iter().filter(|pid| runs(**pid)).count(), 0);
}

#[test]
fn bad_arguments_are_refused() {
    for argv in
        [vec![], vec![GRACE_OPTION, "5", "--"], vec![GRACE_OPTION, "x", "--", "true"], vec!["true"]]
    {
        let argv = argv.into_iter().map(OsString::from).collect();
        assert!(parse(argv).is_err());
    }
    let argv = [GRACE_OPTION, "5", "--", "true", "--x"].map(OsString::from).to_vec();
    let (grace, command) = parse(argv).expect("good arguments");
    assert_eq!(grace, Duration::from_millis(5));
    assert_eq!(command, ["true", "--x"]);
}

#[test]
fn a_notice_is_read_as_it_was_written() {
    let failed = Notice::Failed { kind: Failure::NotExecutable, message: "no\nway".to_owned() };
    assert_eq!(Notice::parse(&Notice::Started.render()), Some(Notice::Started));
    assert_eq!(
        Notice::parse(&failed.render()),
        Some(Notice::Failed { kind: Failure::NotExecutable, message: "no way".to_owned() })
    );
    assert_eq!(Notice::parse("holdfast-guard started"), None);
}
