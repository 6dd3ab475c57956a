//! Three nodes behind the balancers that the project ships, run from the very files that it ships:
//! calls, streams and WebSockets pass, and what breaks behind a balancer or in it costs no call.

mod balancer;
mod calls;
mod compose;
mod config;
mod deployed;
mod kills;
mod production;
mod reload;
mod standby;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use balancer::{Balancer, Kind, Nodes};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::sample::Sample;

const BOTH: [Kind; 2] = [Kind::Nginx, Kind::HaProxy];

/// The sample server, three nodes before it, a balancer before them.
struct Stack {
    sample: Sample,
    cluster: Cluster,
    balancer: Balancer,
}

impl Stack {
    /// Before a server that answers with JSON: until the whole answer is there, nothing goes to a client.
    async fn holding(kind: Kind) -> Self {
        Self::start(kind, &["--answers", "json"], &[]).await
    }

    /// Before a server that streams, and whose streams can be resumed.
    async fn streaming(kind: Kind) -> Self {
        Self::start(kind, &["--resumable"], &["streams: { commit_after: 0ms }"]).await
    }

    async fn start(kind: Kind, server: &[&str], sections: &[&str]) -> Self {
        let sample = Sample::start(server).await;
        let settings =
            format!(r#"{{ url: "http://{}/mcp", tools: {{ slow: read }} }}"#, sample.address);
        let mut setup = Setup::new().server("main", &settings);
        for section in sections {
            setup = setup.section(section);
        }
        let cluster = setup.cluster().await;
        let balancer = Balancer::start(kind, &Nodes::of(&cluster)).await;
        Self { sample, cluster, balancer }
    }

    /// A client of 2025-11-25 that knows the balancer's address and nothing else, and by whose question
    /// the nodes know which tools only read.
    async fn client(&self) -> Client {
        let client = Client::to(self.balancer.address).initialized().await;
        let tools = client.ask("\"tools\"", "tools/list", "{}").await;
        assert!(tools["result"].is_object(), "{tools}");
        client
    }
}

/// A call of a tool with a key by which the server counts its executions.
fn keyed(id: usize, tool: &str, key: &str, ms: u64) -> String {
    let arguments = format!(r#"{{"name":"{tool}","arguments":{{"key":"{key}","ms":{ms}}}}}"#);
    message::request(id, "tools/call", &arguments)
}

/// Calls that follow one another without a pause until they are told to stop, each on a connection of
/// its own: Writes and Reads in turn.
struct Load {
    go_on: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    callers: Vec<JoinHandle<Vec<(String, Value)>>>,
}

impl Load {
    fn start(client: &Client, callers: usize) -> Self {
        let (go_on, made) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let callers = (0..callers).map(|caller| {
            let (client, go_on, made) = (client.clone(), Arc::clone(&go_on), Arc::clone(&made));
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while go_on.load(Ordering::Relaxed) {
                    let number = answers.len();
                    let (id, key) = (caller * 100_000 + number, format!("{caller}-{number}"));
                    let tool = if number.is_multiple_of(2) { "write" } else { "echo" };
                    let answer = client.post(&keyed(id, tool, &key, 0)).await.response().await;
                    assert_eq!(answer["id"], id, "{answer}");
                    answers.push((key, answer));
                    made.fetch_add(1, Ordering::Relaxed);
                }
                answers
            })
        });
        let callers = callers.collect();
        Self { go_on, made, callers }
    }

    /// Waits until this many more calls have been answered.
    async fn goes_on_for(&self, more: usize) {
        let goal = self.made.load(Ordering::Relaxed) + more;
        crate::harness::within("calls are answered", async {
            while self.made.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Ends it, and gives back every answer by its key.
    async fn stop(self) -> Vec<(String, Value)> {
        self.go_on.store(false, Ordering::Relaxed);
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.await.expect("every call is answered"));
        }
        all
    }
}

/// Every answer is a result, and every Write ran once.
#[track_caller]
fn all_went_well(answers: &[(String, Value)], sample: &Sample) {
    let failed: Vec<_> = answers.iter().filter(|(_, it)| it.get("result").is_none()).collect();
    assert!(failed.is_empty(), "{} of {} calls failed: {failed:?}", failed.len(), answers.len());
    for (key, answer) in answers.iter().filter(|(key, _)| is_write(key)) {
        assert_eq!(sample.executions("write", key), 1, "{key}: {answer}");
    }
}

fn is_write(key: &str) -> bool {
    let number = key.rsplit('-').next().and_then(|it| it.parse::<usize>().ok());
    number.is_some_and(|number| number.is_multiple_of(2))
}
