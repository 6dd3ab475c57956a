//! A thousand clients that never finish their headers, while others go on as if they were not there.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::harness::client::Client;
use crate::harness::gateway::Setup;
use crate::harness::recorder::Recorder;
use crate::harness::wire::Conn;

const SLOW: usize = 1_000;
const CALLS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_clients_hold_nobody_up() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("read a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("raise a limit");
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).listen("header_timeout: 60s").start().await;

    // Each sends a byte of a header again and again, which keeps a naive timer from firing.
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut conn = Conn::open(gateway.address).await;
        conn.send(format!("POST /mcp HTTP/1.1\r\nHost: {}\r\nX-Slow: ", gateway.address)).await;
        slow.push(conn);
    }
    gateway.wait_metric("holdfast_connections", |open| open >= SLOW as f64).await;
    let dripping = tokio::spawn(async move {
        loop {
            for conn in &mut slow {
                assert!(conn.try_send("x").await, "cut off although the time is not over");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });

    let session = Client::legacy(&gateway).initialized().await;
    let calls: Vec<_> = (0..4)
        .map(|worker| {
            let client = if worker % 2 == 0 { session.clone() } else { Client::modern(&gateway) };
            tokio::spawn(async move {
                for call in 0..CALLS / 4 {
                    let id = worker * CALLS + call;
                    let response = client.call(id, "tool").await;
                    assert_eq!(response["id"], id, "{response}");
                    assert!(response.get("result").is_some(), "{response}");
                }
            })
        })
        .collect();
    for call in calls {
        call.await.expect("every call succeeds");
    }
    assert_eq!(recorder.calls("tool").len(), CALLS);
    assert!(
        gateway.metric("holdfast_connections").await >= SLOW as f64,
        "they are all still there"
    );
    assert!(!dripping.is_finished(), "a slow client was cut off");
    dripping.abort();
}

/// A drip does not stretch the time: it runs from the first byte to the end of the headers.
#[tokio::test]
async fn a_dripping_client_is_cut_off_in_the_end() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).listen("header_timeout: 1s").start().await;
    let mut conn = Conn::open(gateway.address).await;
    conn.send("POST /mcp HTTP/1.1\r\nX-Slow: ").await;
    crate::harness::within("the cut", async {
        while conn.try_send("x").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
