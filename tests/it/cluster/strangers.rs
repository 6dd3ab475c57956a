//! What comes to the cluster port and does not belong there.

use tokio::io::AsyncWriteExt as _;

use crate::harness::cluster::PATIENCE;
use crate::harness::gateway::Setup;
use crate::harness::recorder::Recorder;

#[tokio::test]
async fn a_node_with_another_secret_gets_nothing_and_garbage_disturbs_nobody() {
    let recorder = Recorder::start().await;
    let mut cluster = Setup::http(&recorder.url()).cluster_with_a_stranger().await;
    let client = cluster.client(0).initialized().await;

    // The stranger says what is wrong, and is of no use to anybody.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !cluster[2].log().contains("the cluster secret") {
        assert!(tokio::time::Instant::now() < deadline, "it does not say what is wrong");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(cluster[2].readiness().await, Some(503));
    let stranger = client.on(cluster[2].address);
    let answer = stranger.post(&crate::harness::message::call(1, "theft")).await.answer();
    let known = answer.status == 200 && answer.json()["error"]["code"] == -31004;
    assert!(known || answer.status == 404, "{} {}", answer.status, answer.text());
    assert!(recorder.calls("theft").is_empty());
    let seen = cluster.sees(0, 2, "not one of them", |node| node["state"] != "ready").await;
    assert!(seen.is_null() || seen["state"] != "ready", "{seen}");

    // Bytes of all kinds, from many who stay connected.
    let mut rude = Vec::new();
    for round in 0..60 {
        let Ok(mut stream) = tokio::net::TcpStream::connect(cluster[0].peer).await else {
            continue;
        };
        let bytes: Vec<u8> = match round % 4 {
            0 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            1 => vec![0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0],
            2 => vec![0xff; 64 * 1024],
            _ => Vec::new(),
        };
        drop(stream.write_all(&bytes).await);
        rude.push(stream);
        let at = round % 2;
        let response = client.on(cluster[at].address).call(100 + round, "write").await;
        assert!(response.get("result").is_some(), "{round}: {response}");
    }
    assert_eq!(recorder.calls("write").len(), 60);
    // The port still serves those who belong there.
    cluster.restart(1).await;
    let response = client.on(cluster[1].address).call(1, "write").await;
    assert!(response.get("result").is_some(), "{response}");
}
