//! Servers that are processes, written in shell, under a real guard.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;

use super::*;
use crate::upstream::duplex::testing::{eventually, guard_binary, runs, soon};

fn shell(script: &str) -> Stdio {
    let mut process = Stdio::new("sh");
    process.args = vec!["-c".to_owned(), script.to_owned()];
    process.stop_grace = Duration::from_millis(50);
    process
}

async fn try_open(process: &Stdio, limits: Limits) -> Result<Duplex, OpenError> {
    let guard = [guard_binary().into_os_string(), guard::SUBCOMMAND.into()];
    soon(open(&"test".into(), &guard, process, limits)).await
}

async fn run(script: &str) -> Duplex {
    try_open(&shell(script), Limits::default()).await.expect("it starts")
}

fn quick() -> Limits {
    Limits { send: Duration::from_millis(200), ..Limits::default() }
}

async fn next(duplex: &mut Duplex) -> Option<String> {
    let message = soon(duplex.inbox.recv()).await?;
    Some(String::from_utf8(message.to_vec()).expect("UTF-8"))
}

async fn ending(duplex: &mut Duplex) -> Closed {
    let closed = soon(duplex.closed.wait_for(Option::is_some)).await.expect("told");
    closed.clone().expect("a reason")
}

async fn send(duplex: &Duplex, message: impl Into<Bytes>) -> Result<(), SendError> {
    soon(duplex.sender.send(message.into())).await
}

#[tokio::test]
async fn a_message_is_a_line_whatever_line_ends_it_has() {
    let mut duplex = run("cat").await;
    let message = "{\r\n  \"a\" : \"x\\n\\\" {\",\n\t\"n\": 1.0e5 }";
    send(&duplex, message).await.expect("sent");
    let echoed = next(&mut duplex).await.expect("one message");
    assert_eq!(echoed, "{    \"a\" : \"x\\n\\\" {\", \t\"n\": 1.0e5 }");
    send(&duplex, "{}").await.expect("sent");
    assert_eq!(next(&mut duplex).await.expect("the next"), "{}");
}

#[tokio::test]
async fn a_line_end_inside_a_string_is_not_sent() {
    let mut duplex = run("cat").await;
    let error = send(&duplex, "{\"a\":\"\n\"}").await.expect_err("refused");
    assert!(matches!(error, SendError::NotSent(_)), "{error}");
    send(&duplex, "{}").await.expect("sent");
    assert_eq!(next(&mut duplex).await.expect("only the good one"), "{}");
}

#[tokio::test]
async fn large_messages_pass_in_both_directions_at_once() {
    let mut duplex = run("cat").await;
    let message = Bytes::from(format!("{{\"x\":\"{}\"}}", "ä".repeat(1_500_000)));
    let sending = tokio::spawn({
        let (sender, message) = (duplex.sender.clone(), message.clone());
        async move {
            for _ in 0..4 {
                sender.send(message.clone()).await.expect("sent");
            }
        }
    });
    for _ in 0..4 {
        assert!(soon(duplex.inbox.recv()).await.expect("a message") == message);
    }
    soon(sending).await.expect("joined");
}

#[tokio::test]
async fn output_that_is_no_json_is_skipped() {
    let mut duplex =
        run("echo listening on stdio; echo; echo '  {\"a\":1}  '; echo '[1]'; cat").await;
    assert_eq!(next(&mut duplex).await.expect("a message"), "{\"a\":1}");
    assert_eq!(next(&mut duplex).await.expect("a batch"), "[1]");
}

#[tokio::test]
async fn an_answer_over_the_limit_becomes_an_error_and_the_server_goes_on() {
    let limits = Limits { message: 1000, ..Limits::default() };
    let mut duplex = try_open(&shell("cat"), limits).await.expect("it starts");
    let large = format!("{{\"id\":5,\"result\":\"{}\"}}", "x".repeat(200_000));
    send(&duplex, large).await.expect("sent");
    send(&duplex, "{\"id\":6,\"result\":1}").await.expect("sent");
    let error = next(&mut duplex).await.expect("an error");
    assert!(error.contains("\"id\":5,\"error\"") && error.contains("1000 bytes"), "{error}");
    assert_eq!(next(&mut duplex).await.expect("the next"), "{\"id\":6,\"result\":1}");
}

#[tokio::test]
async fn a_command_that_cannot_be_run_says_why() {
    let error = try_open(&Stdio::new("no-such-command-at-all"), Limits::default()).await.err();
    let error = error.expect("refused");
    assert!(matches!(error, OpenError::CommandNotFound { .. }), "{error}");
    assert!(error.is_misconfiguration());
    assert!(error.to_string().contains("`no-such-command-at-all`"), "{error}");
    assert!(error.to_string().contains("PATH"), "{error}");

    let error = try_open(&Stdio::new("/proc/self/environ"), Limits::default()).await.err();
    let error = error.expect("refused");
    assert!(matches!(error, OpenError::CommandNotExecutable { .. }), "{error}");

    let mut process = shell("cat");
    process.cwd = Some("/no/such/folder".into());
    let error = try_open(&process, Limits::default()).await.expect_err("refused");
    assert!(matches!(error, OpenError::NoSuchFolder { .. }), "{error}");
}

#[tokio::test]
async fn a_guard_that_cannot_be_run_says_why() {
    let guard = ["/no/such/guard".into()];
    let error = open(&"test".into(), &guard, &shell("cat"), Limits::default()).await.err();
    assert!(matches!(error, Some(OpenError::Start { .. })), "{error:?}");
    // A program that is no guard at all.
    let guard = ["false".into()];
    let error = soon(open(&"test".into(), &guard, &shell("cat"), Limits::default())).await.err();
    assert!(matches!(error, Some(OpenError::Start { .. })), "{error:?}");
}

#[tokio::test]
async fn the_environment_is_what_the_configuration_names() {
    let mut process = shell(PIDS);
    process.env = BTreeMap::from([("GREETING".to_owned(), SecretString::from("hello"))]);
    process.cwd = Some("/".into());
    let mut duplex = try_open(&process, Limits::default()).await.expect("it starts");
    let (server, _) = pids(&mut duplex).await;

    // The shell adds a few of its own.
    let known = |name: &str| {
        INHERITED.contains(&name) || ["GREETING", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name)
    };
    // There is none for a moment while the shell becomes `sleep`.
    let environment = loop {
        let read = std::fs::read_to_string(format!("/proc/{server}/environ")).expect("its own");
        if !read.is_empty() {
            break read;
        }
        tokio::task::yield_now().await;
    };
    let mut entries = environment.split_terminator('\0').filter_map(|entry| entry.split_once('='));
    let unknown: Vec<_> = entries.clone().filter(|(name, _)| !known(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(entries.clone().any(|(name, _)| name == "PATH"));
    assert!(entries.any(|entry| entry == ("GREETING", "hello")));
    assert!(
        std::env::vars_os().any(|(name, _)| !name.to_str().is_some_and(known)),
        "nothing here could have been passed on by mistake"
    );
    let folder = std::fs::read_link(format!("/proc/{server}/cwd")).expect("its own");
    assert_eq!(folder, Path::new("/"));
}

#[tokio::test]
async fn the_end_tells_status_and_last_words_after_the_last_message() {
    let script =
        "for i in 1 2 3 4 5 6 7; do echo \"line $i\" >&2; echo \"{\\\"n\\\":$i}\"; done; exit 3";
    let mut duplex = run(script).await;
    for n in 1..=7 {
        assert_eq!(next(&mut duplex).await.expect("a message"), format!("{{\"n\":{n}}}"));
    }
    assert_eq!(next(&mut duplex).await, None);
    let closed = duplex.closed.borrow().clone().expect("told before the inbox ended");
    assert_eq!(closed.exit(), Some(Exit::Status(3)));
    assert_eq!(closed.stderr(), ["line 3", "line 4", "line 5", "line 6", "line 7"]);
    assert!(closed.to_string().contains("exit status 3"), "{closed}");
    let error = send(&duplex, "{}").await.expect_err("closed");
    assert!(error.did_not_run(), "{error}");
}

#[tokio::test]
async fn a_signal_is_named() {
    let mut duplex = run("kill -9 $$").await;
    let closed = ending(&mut duplex).await;
    assert_eq!(closed.exit(), Some(Exit::Signal(9)));
    assert!(closed.to_string().contains("SIGKILL"), "{closed}");
}

#[tokio::test]
async fn a_part_of_a_message_ends_the_connection() {
    let mut duplex = try_open(&shell("sleep 1000"), quick()).await.expect("it starts");
    let error = send(&duplex, vec![b' '; 1 << 20]).await.expect_err("nobody reads");
    assert!(matches!(error, SendError::Closed(_)), "{error}");
    assert!(!error.did_not_run());
    let closed = ending(&mut duplex).await;
    assert!(closed.reason().contains("does not read"), "{closed}");
}

#[tokio::test]
async fn a_message_of_which_nothing_was_written_does_not() {
    let duplex = try_open(&shell("sleep 1000"), quick()).await.expect("it starts");
    // Exactly what the pipe holds, with the line end.
    send(&duplex, vec![b' '; 65_535]).await.expect("it fits");
    let error = send(&duplex, "{}").await.expect_err("full");
    assert!(matches!(error, SendError::NotSent(_)), "{error}");
    assert_eq!(duplex.sender.closed(), None);
}

const PIDS: &str = r#"echo "{\"server\":$$,\"guard\":$PPID}"; exec sleep 1000"#;

async fn pids(duplex: &mut Duplex) -> (i32, i32) {
    let line = next(duplex).await.expect("a line");
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let pid = |name: &str| i32::try_from(value[name].as_i64().expect("a pid")).expect("a pid");
    let (server, guard) = (pid("server"), pid("guard"));
    assert!(runs(server) && runs(guard));
    (server, guard)
}

#[tokio::test]
async fn dropping_the_connection_ends_the_process() {
    let mut duplex = run(PIDS).await;
    let (server, guard) = pids(&mut duplex).await;
    let Duplex { sender, inbox, mut closed } = duplex;
    drop((sender, inbox));
    let closed = soon(closed.wait_for(Option::is_some)).await.expect("told").clone();
    assert_eq!(closed.expect("a reason").reason(), "closed by the gateway");
    eventually("both have ended", || !runs(server) && !runs(guard)).await;
}

#[tokio::test]
async fn closing_ends_the_process_while_others_hold_the_connection() {
    let mut duplex = run(PIDS).await;
    let (server, _) = pids(&mut duplex).await;
    duplex.sender.close();
    ending(&mut duplex).await;
    assert!(!runs(server), "the end is told when the process has ended");
}

#[tokio::test]
async fn giving_up_an_opening_ends_the_process() {
    let marker = std::env::temp_dir().join(format!("holdfast-opening-{}", std::process::id()));
    let guard =
        ["sh".into(), "-c".into(), format!("echo $$ > {}; exec cat", marker.display()).into()];
    let limits = Limits { open: Duration::from_millis(300), ..Limits::default() };
    let error = open(&"test".into(), &guard, &shell("cat"), limits).await.err();
    assert!(matches!(error, Some(OpenError::TimedOut { .. })), "{error:?}");
    let pid: i32 = std::fs::read_to_string(&marker).expect("a pid").trim().parse().expect("a pid");
    std::fs::remove_file(&marker).expect("removable");
    eventually("it has ended", || !runs(pid)).await;
}

#[tokio::test]
async fn a_killed_guard_does_not_leave_its_group_behind() {
    let mut duplex = run(PIDS).await;
    let (server, guard) = pids(&mut duplex).await;
    nix::sys::signal::kill(Pid::from_raw(guard), Signal::SIGKILL).expect("it runs");
    let closed = ending(&mut duplex).await;
    assert_eq!(closed.exit(), Some(Exit::Signal(9)));
    eventually("the server has ended", || !runs(server)).await;
    assert_eq!(next(&mut duplex).await, None);
}
