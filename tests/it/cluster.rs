//! Three nodes and no edge: a client goes to whichever it likes, and nodes are killed, frozen and
//! stopped under it.

mod calls;
mod configuration;
mod drain;
mod framed;
mod frozen;
mod quorum;
mod redis;
mod sessions;
mod standing;
mod stdio;
mod strangers;
mod writes;

use std::time::Duration;

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::gateway::Setup;
use crate::harness::recorder::{Recorder, Reply, Seen};
use crate::harness::within;

/// SHA-256 of `alice-key-one` and `bob-key-one`.
const KEYS: &str = "auth:
  keys:
    - { principal: alice, sha256: 9ed640183e3b3b77fe8db34e151b54cb8895cdfa4be23c9d56c2f5735a057610 }
    - { principal: bob, sha256: b714c4186a91a889fe7e99a025340982d5dd0b81e1e0dedf8aab52b45ea50089 }";

async fn start(
    sections: &[&str],
    script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
) -> (Recorder, Cluster) {
    let recorder = Recorder::scripted(script).await;
    let mut setup = Setup::http(&recorder.url());
    for section in sections {
        setup = setup.section(section);
    }
    let cluster = setup.cluster().await;
    (recorder, cluster)
}

/// Sends a request with the id that a balancer gave it, and gives back the JSON-RPC response.
async fn balanced(client: &Client, balancer_id: &str, body: &str) -> Value {
    let client = client.clone().with("X-Request-ID", balancer_id);
    led(&client, body).await
}

/// Sends a request and gives back the JSON-RPC response. As long as the group has no leader no Write
/// is let in: then it is sent again.
pub(crate) async fn led(client: &Client, body: &str) -> Value {
    let answered = async {
        loop {
            let response = client.post(body).await.response().await;
            if response["error"]["code"] != -31004 {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("a group with a leader", answered).await
}

/// The call may have run, and nobody knows.
#[track_caller]
fn is_unknown(response: &Value) {
    assert_eq!(response["error"]["code"], -31002, "{response}");
    assert_eq!(response["error"]["data"]["mayHaveRun"], true, "{response}");
}
