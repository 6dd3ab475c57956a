//! Streams: when an answer becomes one, how it is resumed, and that it always ends in an answer.

mod broken;
mod commit;
mod drain;
mod modern;
mod raw;
mod requests;
mod resume;
mod standing;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::recorder::{Recorder, Reply, Seen};

async fn start(
    section: &str,
    script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
) -> (Recorder, Gateway) {
    let recorder = Recorder::scripted(script).await;
    let gateway = Setup::http(&recorder.url()).section(section).start().await;
    (recorder, gateway)
}

/// A session whose gateway has seen the tools' annotations.
async fn client_with_tools(gateway: &Gateway) -> Client {
    let client = Client::legacy(gateway).initialized().await;
    let listed = client.ask("\"tools\"", "tools/list", "{}").await;
    assert_eq!(listed["result"]["tools"][0]["annotations"]["readOnlyHint"], true, "{listed}");
    client
}
