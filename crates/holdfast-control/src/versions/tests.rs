//! One node, and two of one group, with a file that is written by the test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_config::{Config, File, When};
use holdfast_engine::configuration::strays::STRAY;
use holdfast_engine::replicated::{Body, ControlCommand, ServerCommand, ServerHappened};

use super::keeper::Cause;
use super::*;
use crate::Alone;
use crate::Group as _;
use std::sync::Arc;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-versions-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node's parts that take over everything but a restart, and nothing while they are broken.
struct Parts {
    running: Mutex<Arc<Config>>,
    broken: Mutex<Option<&'static str>>,
    runs: AtomicU64,
}

impl Parts {
    fn difference(&self, new: &Config) -> Result<Vec<holdfast_config::Change>, Refusal> {
        let changes = self.running().difference(new);
        if let Some(change) = changes.iter().find(|it| it.when == When::Restart) {
            return Err(Refusal(format!("{change}: restart the node")));
        }
        Ok(changes)
    }

    fn breaks(&self, why: Option<&'static str>) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

impl Apply for Parts {
    fn running(&self) -> Arc<Config> {
        Arc::clone(&self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check<'a>(
        &'a self,
        new: &'a Config,
    ) -> futures_util::future::BoxFuture<'a, Result<Vec<holdfast_config::Change>, Refusal>> {
        Box::pin(std::future::ready(self.difference(new)))
    }

    fn apply(
        &self,
        new: Config,
    ) -> futures_util::future::BoxFuture<'_, Result<Vec<holdfast_config::Change>, Refusal>> {
        let broken = *self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match broken {
            Some(why) => Err(Refusal(why.to_owned())),
            None => self.difference(&new),
        };
        if done.is_ok() {
            *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        }
        Box::pin(std::future::ready(done))
    }

    fn runs(&self, version: u64) {
        self.runs.store(version, Ordering::Relaxed);
    }
}

struct Node {
    versions: Arc<Versions>,
    parts: Arc<Parts>,
    path: PathBuf,
}

fn text(minute: u32) -> String {
    format!(
        "limits: {{ requests_per_minute: {minute} }}\nservers: {{ a: {{ url: \"http://a/\" }} }}\n"
    )
}

fn env(name: &str) -> Option<String> {
    (name == "TOKEN").then(|| "t0k3n".to_owned())
}

impl Node {
    /// A node of this group that was started with this file.
    fn new(folder: &Path, name: &str, text: &str, ledger: &Arc<Alone>) -> Self {
        let path = folder.join(format!("{name}.yaml"));
        std::fs::write(&path, text).unwrap();
        let file = File::read(Some(&path), &env).unwrap();
        let running = Mutex::new(Arc::new(file.config.clone()));
        let parts = Arc::new(Parts { running, broken: Mutex::default(), runs: AtomicU64::new(0) });
        let data = folder.join(name);
        std::fs::create_dir_all(&data).unwrap();
        let settings = Settings {
            path: path.clone(),
            env,
            node: name.to_owned(),
            folder: Some(data),
            watch: None,
        };
        let (group, apply) = (Arc::clone(ledger), Arc::clone(&parts));
        let versions = Versions::new(file, settings, Arc::clone(ledger) as _, group, apply);
        Self { versions, parts, path }
    }

    async fn starts(&self) -> Result<Reloaded, ReloadError> {
        self.versions.reload_for(Cause::Start, Ask::Do).await
    }

    async fn reads(&self, cause: Cause, text: &str) -> Result<Reloaded, ReloadError> {
        std::fs::write(&self.path, text).unwrap();
        self.versions.reload_for(cause, Ask::Do).await
    }

    fn minute(&self) -> u32 {
        self.parts.running().limits.requests_per_minute.unwrap_or_default()
    }
}

async fn one() -> (Folder, Node, Arc<Alone>) {
    let (folder, ledger) = (Folder::new(), Arc::new(Alone::new("n1")));
    let node = Node::new(&folder.0, "n1", &text(1), &ledger);
    let begun = node.starts().await.unwrap();
    assert_eq!((begun.version, begun.new, begun.changes.len()), (1, true, 0));
    (folder, node, ledger)
}

fn numbers(history: &History) -> Vec<(u64, Option<u64>)> {
    history.versions.iter().map(|it| (it.version, it.rolls_back_to)).collect()
}

#[tokio::test]
async fn a_file_that_changes_is_a_version_and_one_can_go_back() {
    let (_folder, node, _) = one().await;
    let done = node.reads(Cause::File, &text(2)).await.unwrap();
    assert_eq!((done.version, done.new, node.minute()), (2, true, 2));
    assert_eq!(node.parts.runs.load(Ordering::Relaxed), 2, "who decides for others asks for it");
    assert_eq!(done.changes[0].to_string(), "limits.requests_per_minute: 1 → 2");
    // The same again is nothing new.
    let again = node.reads(Cause::Operator, &text(2)).await.unwrap();
    assert_eq!((again.version, again.new, again.changes.len()), (2, false, 0));
    let back = node.versions.roll_back(1).await.unwrap();
    assert_eq!((back.version, node.minute()), (3, 1));
    // The file is what it was, and does not come back by itself; a person may want it.
    let file = node.versions.reload_for(Cause::File, Ask::Do).await.unwrap();
    assert_eq!((file.version, node.minute()), (3, 1));
    let asked = node.versions.reload_for(Cause::Operator, Ask::Do).await.unwrap();
    assert_eq!((asked.version, node.minute()), (4, 2));
    let history = node.versions.history().await;
    assert_eq!(numbers(&history), [(1, None), (2, None), (3, Some(1)), (4, None)]);
    assert_eq!(history.versions[2].by, "an operator at n1");
    assert_eq!(
        node.versions.show(Some(1)).unwrap().text,
        node.versions.show(Some(3)).unwrap().text
    );
    assert_eq!(
        node.versions.roll_back(9).await.unwrap_err().to_string(),
        "there is no version 9; there are 1 to 4"
    );
    assert_eq!(node.versions.roll_back(4).await, Err(ReloadError::Holds { version: 4 }));
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_is_told_once() {
    let (_folder, node, ledger) = one().await;
    let more = text(2);
    for (wrong, said) in [
        ("servers: [".to_owned(), "this is not YAML"),
        (more.replace("requests", "request"), "did you mean requests_per_minute?"),
        (format!("{more}log: {{ format: json }}\n"), "log.format: logfmt → json (after a restart)"),
    ] {
        for cause in [Cause::File, Cause::Signal, Cause::Operator] {
            let error = node.reads(cause, &wrong).await.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
    std::fs::remove_file(&node.path).unwrap();
    let error = node.versions.reload_for(Cause::File, Ask::Do).await.unwrap_err().to_string();
    assert!(error.contains("it cannot be read"), "{error}");
    assert_eq!(node.minute(), 1);
    assert_eq!(numbers(&node.versions.history().await), [(1, None)]);
    tokio::task::yield_now().await;
    let events = ledger.state().borrow().servers.events.clone();
    let told: Vec<_> = events.iter().filter(|it| it.what == ServerHappened::Noted).collect();
    assert_eq!(told.len(), 4, "{told:#?}");
    assert!(told.iter().all(|it| it.evidence.starts_with("n1 does not take its file over: ")));
    let history = node.versions.history().await;
    assert!(history.nodes[0].said.standing().is_some_and(|it| it.trouble.is_some()));
    // A good file ends it.
    node.reads(Cause::File, &more).await.unwrap();
    let history = node.versions.history().await;
    assert!(history.nodes[0].said.standing().is_some_and(|it| it.trouble.is_none()));
}

#[tokio::test]
async fn a_check_tells_and_changes_nothing() {
    let (_folder, node, _) = one().await;
    std::fs::write(&node.path, text(5)).unwrap();
    let told = node.versions.reload_for(Cause::Operator, Ask::Check).await.unwrap();
    assert_eq!((told.version, told.changes.len(), node.minute()), (1, 1, 1));
    assert_eq!(numbers(&node.versions.history().await), [(1, None)]);
}

#[tokio::test]
async fn a_node_that_cannot_keeps_what_it_runs_and_takes_it_over_later() {
    let (folder, node, ledger) = one().await;
    let other = Node::new(&folder.0, "n2", &text(1), &ledger);
    other.starts().await.unwrap();
    node.reads(Cause::File, &text(2)).await.unwrap();
    other.parts.breaks(Some("no certificate at /x"));
    let error = other.versions.reload_for(Cause::File, Ask::Do).await.unwrap_err();
    let why = "no certificate at /x".to_owned();
    assert_eq!(error, ReloadError::Failed { version: 2, why: why.clone() });
    let standing = |node: &Node| node.versions.receive("control/configuration").unwrap().unwrap();
    let Said::Standing(said) = Said::read(&standing(&other)) else {
        panic!("it says how it stands")
    };
    assert_eq!((said.version, said.failed, said.trouble), (1, Some((2, why)), None));
    assert_eq!(other.minute(), 1);
    let mut metrics = String::new();
    other.versions.render(&mut metrics);
    assert!(metrics.contains("holdfast_config_failed 1\n"), "{metrics}");
    other.parts.breaks(None);
    let done = other.versions.reload_for(Cause::Signal, Ask::Do).await;
    assert_eq!(done.map(|it| it.version).ok(), Some(3), "a person wants this file: version 3");
}

#[tokio::test]
async fn a_file_that_changed_while_the_node_was_away_is_told_from_an_old_one() {
    let (folder, node, ledger) = one().await;
    let away = Node::new(&folder.0, "n2", &text(1), &ledger);
    away.starts().await.unwrap();
    drop(away);
    node.reads(Cause::File, &text(2)).await.unwrap();
    // It comes back with the file it had: the cluster's version holds.
    let back = Node::new(&folder.0, "n2", &text(1), &ledger);
    let begun = back.starts().await.unwrap();
    assert_eq!((begun.version, begun.new, back.minute()), (2, false, 2));
    drop(back);
    // It comes back with a new one: that is proposed.
    let back = Node::new(&folder.0, "n2", &text(3), &ledger);
    let begun = back.starts().await.unwrap();
    assert_eq!((begun.version, begun.new, back.minute()), (3, true, 3));
    // One that was never here goes by the cluster.
    let new = Node::new(&folder.0, "n3", &text(9), &ledger);
    let begun = new.starts().await.unwrap();
    assert_eq!((begun.version, begun.new, new.minute()), (3, false, 3));
}

#[tokio::test]
async fn texts_go_with_their_versions() {
    let (_folder, node, ledger) = one().await;
    for minute in 2..=11 {
        node.reads(Cause::File, &text(minute)).await.unwrap();
    }
    let history = node.versions.history().await;
    assert_eq!((history.versions.len(), history.versions[0].version), (8, 4));
    // Somebody died between putting a text and proposing it.
    ledger.apply(Body::Kv(ledger::put("stray", "x: 1")));
    let texts = || ledger.texts().into_iter().map(|it| it.0).collect::<BTreeSet<_>>();
    assert_eq!(texts().len(), 12);
    tokio::time::pause();
    node.versions.tend().await;
    tokio::time::advance(STRAY - Duration::from_secs(1)).await;
    // One is proposed again before its time is up, by a rollback to the same content.
    node.reads(Cause::Operator, &text(2)).await.unwrap();
    node.versions.tend().await;
    tokio::time::advance(Duration::from_secs(1)).await;
    node.versions.tend().await;
    let history = node.versions.history().await;
    let mut named: BTreeSet<_> = history.versions.iter().map(|it| it.id.clone()).collect();
    assert_eq!(named.len(), 8);
    // What has just fallen out has its time before it.
    let fallen = texts().difference(&named).count();
    assert_eq!(fallen, 1, "{:?}", texts());
    tokio::time::advance(STRAY).await;
    node.versions.tend().await;
    assert_eq!(texts(), std::mem::take(&mut named), "one text for each version");
    assert!(node.versions.show(Some(5)).is_ok());
    assert!(matches!(node.versions.show(Some(4)), Err(ReloadError::Unknown { .. })));
    // All of them are there for good.
    assert!(ledger.texts().iter().all(|(_, entry)| entry.deadline.is_none()));
}

#[tokio::test]
async fn a_text_that_a_version_came_to_name_stays_however_long_nobody_could_decide() {
    let (_folder, node, ledger) = one().await;
    // The proposer died before it heard that it was agreed on, and nobody was there for an hour.
    let (id, by) = ("f".repeat(64), "n9".to_owned());
    ledger.apply(Body::Kv(ledger::put(&id, &text(7))));
    node.versions.tend().await;
    let configure =
        ServerCommand::Configure { id: id.clone(), by, follows: 1, rolls_back_to: None };
    ledger.apply(Body::Control(ControlCommand::Server(configure)));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    node.versions.tend().await;
    assert_eq!(node.versions.show(Some(2)).unwrap().text, text(7));
}

#[tokio::test]
async fn an_operator_is_told_of_a_change_that_is_under_way() {
    let (_folder, node, _) = one().await;
    let turn = node.versions.turn.lock().await;
    tokio::time::pause();
    assert_eq!(node.versions.reload(Ask::Do).await, Err(ReloadError::Busy));
    assert_eq!(node.versions.roll_back(1).await, Err(ReloadError::Busy));
    drop(turn);
    assert!(node.versions.reload(Ask::Do).await.is_ok());
}

#[test]
fn what_a_later_version_says_is_known_for_that() {
    let mine = Standing { version: 3, ..Standing::default() };
    let mut message = mine.to_message().unwrap();
    assert_eq!(Said::read(&message), Said::Standing(mine));
    message[0] = 2;
    message.push(0xff);
    assert_eq!(Said::read(&message), Said::Format(2));
    assert_eq!(Said::read(&[]), Said::Nothing);
    assert_eq!(Said::read(&[1, 0xff]), Said::Nothing);
}

#[tokio::test]
async fn a_node_that_finds_what_a_later_version_kept_goes_by_the_cluster() {
    let (folder, node, ledger) = one().await;
    node.reads(Cause::File, &text(2)).await.unwrap();
    let seen = folder.0.join("n1/configuration-seen");
    let kept = std::fs::read_to_string(&seen).unwrap();
    assert!(kept.starts_with("format 1\n"), "{kept}");
    let starts = async |kept: String| {
        std::fs::write(&seen, kept).unwrap();
        let back = Node::new(&folder.0, "n1", &text(3), &ledger);
        let begun = back.starts().await.unwrap();
        (begun.version, begun.new)
    };
    assert_eq!(starts(kept.replace("format 1", "format 2")).await, (2, false));
    // In its own format it knows that the file has changed meanwhile.
    assert_eq!(starts(kept).await, (3, true));
}

#[tokio::test]
async fn a_secret_is_in_no_text_and_its_change_is_taken_over_without_a_version() {
    let (_folder, node, ledger) = one().await;
    let with = |secret: &str| {
        let header = format!("headers: {{ Authorization: {secret} }}");
        text(1).replace("url", &format!("{header}, url"))
    };
    assert_eq!(node.reads(Cause::File, &with("hunter2")).await.unwrap().version, 2);
    let done = node.reads(Cause::File, &with("hunter3")).await.unwrap();
    assert_eq!((done.version, done.new), (2, false));
    assert_eq!(done.changes[0].to_string(), "servers.a.headers.authorization: changed (not shown)");
    let snapshot = ledger.read(|machine| String::from_utf8_lossy(&machine.snapshot()).into_owned());
    assert!(!snapshot.contains("hunter"), "{snapshot}");
    assert!(snapshot.contains("${file:servers.a.headers.Authorization}"));
}
