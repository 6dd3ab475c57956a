//! Peers that are not there, are gone, are silent or are somebody else: what is known, and when.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use holdfast_peer::{Lane, Limits, PeerError, Settings};
use http::Request;
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{
    LONG, NODE, Node, Pieces, Relay, echo, full, patient, patient_limits, peers, secret, until,
    until_echo,
};

/// Short enough for a test to wait for, and nothing that must happen has to happen within it.
const SHORT: Duration = Duration::from_millis(300);

/// How long a living peer may be silent in tests of pings: longer than any stall of the machine.
const SILENCE: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_process_that_is_not_there_is_refused_until_it_is() {
    let node = Node::usual().await;
    let mut relay = Relay::closed(node.address);
    let peers = peers(patient(), relay.address);
    for _ in 0..3 {
        let error = echo(&peers, Lane::Control).await.unwrap_err();
        assert_eq!(error, PeerError::Refused);
        assert!(error.is_refused() && error.certainly_not_sent());
    }
    let request = Request::get("/").body(full("")).unwrap();
    assert_eq!(peers.forward(NODE, request, LONG).await.unwrap_err(), PeerError::Refused);
    assert_eq!(peers.links()[0].error, Some(PeerError::Refused));
    let once = peers.call_address(&relay.address.to_string(), "echo", Bytes::new(), LONG).await;
    assert_eq!(once, Err(PeerError::Refused));
    relay.listen();
    until_echo(&peers).await;
}

#[tokio::test]
async fn a_peer_that_is_reached_on_one_lane_is_not_waited_for_on_the_other() {
    let node = Node::usual().await;
    let mut relay = Relay::closed(node.address);
    let settings = Settings { backoff_least: LONG * 4, backoff_most: LONG * 4, ..patient() };
    let peers = peers(settings, relay.address);
    assert_eq!(echo(&peers, Lane::Data).await, Err(PeerError::Refused));
    relay.listen();
    assert_eq!(echo(&peers, Lane::Data).await, Err(PeerError::Refused), "its back-off is long");
    echo(&peers, Lane::Control).await.unwrap();
    echo(&peers, Lane::Data).await.unwrap();
}

#[tokio::test]
async fn who_waits_for_nobody_is_told_at_once_during_the_back_off() {
    let node = Node::usual().await;
    let relay = Relay::closed(node.address);
    let settings = Settings { backoff_least: LONG * 4, backoff_most: LONG * 4, ..patient() };
    let peers = peers(settings, relay.address);
    for _ in 0..20 {
        assert_eq!(echo(&peers, Lane::Control).await, Err(PeerError::Refused));
    }
    assert_eq!(peers.links()[0].dials, 1);
    // Another address is another attempt.
    peers.set_address(NODE, node.address.to_string());
    echo(&peers, Lane::Control).await.unwrap();
}

#[tokio::test]
async fn an_unknown_peer_and_an_unknown_host_are_unreachable() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let error = peers.call(77, Lane::Control, "echo", Bytes::new(), LONG).await.unwrap_err();
    assert_eq!(error, PeerError::Unreachable("node 77 is no peer".into()));
    let error = peers.call_address("no port", "echo", Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable(_)), "{error}");
    assert!(error.certainly_not_sent());
}

#[tokio::test]
async fn a_peer_that_dies_during_a_call_leaves_it_unknown() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let (caller, forwarder) = (Arc::clone(&peers), Arc::clone(&peers));
    let call =
        tokio::spawn(
            async move { caller.call(NODE, Lane::Control, "wait", Bytes::new(), LONG).await },
        );
    let (pieces, body) = mpsc::channel(1);
    let request = Request::post("/").body(Pieces(body)).unwrap();
    let mut stream = forwarder.forward(NODE, request, LONG).await.unwrap().into_body();
    pieces.send(Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    node.waiting(1).await;
    node.kill().await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, PeerError::Broken(_)), "{error}");
    assert!(!error.certainly_not_sent());
    assert!(stream.frame().await.unwrap().is_err(), "a stream that broke does not just end");
    // The port is closed and the old connections are not used again.
    let after = async {
        loop {
            match echo(&peers, Lane::Control).await {
                Err(error) if error.certainly_not_sent() => break,
                Err(_) => {}
                Ok(()) => panic!("an answer from the dead"),
            }
        }
    };
    tokio::time::timeout(LONG, after).await.expect("the dead connection is kept");
}

#[tokio::test]
async fn a_service_that_panics_breaks_its_own_stream_only() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let error = peers.call(NODE, Lane::Control, "panic", Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(error, PeerError::Broken(_)), "{error}");
    echo(&peers, Lane::Control).await.unwrap();
    assert_eq!(node.counters.read().proven, 1);
}

#[tokio::test]
async fn a_socket_that_accepts_and_stays_silent_times_out_unsent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = peers(patient(), silent.local_addr().unwrap());
    let error = peers.call(NODE, Lane::Control, "echo", Bytes::new(), SHORT).await.unwrap_err();
    assert_eq!(error, PeerError::TimedOut { sent: false });
    let request = Request::get("/").body(full("")).unwrap();
    let error = peers.forward(NODE, request, SHORT).await.unwrap_err();
    assert_eq!(error, PeerError::TimedOut { sent: false });
    let address = silent.local_addr().unwrap().to_string();
    let error = peers.call_address(&address, "echo", Bytes::new(), SHORT).await.unwrap_err();
    assert_eq!(error, PeerError::TimedOut { sent: false });
}

#[tokio::test]
async fn dialling_ends_by_itself_where_the_caller_is_patient() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = peers(Settings { dial: SHORT, ..patient() }, silent.local_addr().unwrap());
    let error = echo(&peers, Lane::Control).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_frozen_connection_times_out_by_the_deadline_of_the_call() {
    let node = Node::usual().await;
    let relay = Relay::open(node.address);
    // Pings would notice only after the test.
    let peers = peers(patient(), relay.address);
    echo(&peers, Lane::Control).await.unwrap();
    relay.freeze();
    let error = peers.call(NODE, Lane::Control, "echo", Bytes::new(), SHORT).await.unwrap_err();
    assert_eq!(error, PeerError::TimedOut { sent: true });
    assert!(!error.certainly_not_sent());
}

#[tokio::test]
async fn pings_notice_a_frozen_connection_and_it_is_replaced() {
    let node = Node::usual().await;
    let relay = Relay::open(node.address);
    let mut settings = patient();
    (settings.ping_every, settings.ping_wait) = (SHORT, SILENCE);
    let peers = peers(settings, relay.address);
    let (pieces, body) = mpsc::channel(1);
    let request = Request::post("/").body(Pieces(body)).unwrap();
    let mut stream = peers.forward(NODE, request, LONG).await.unwrap().into_body();
    relay.freeze();
    let error = peers.call(NODE, Lane::Data, "echo", Bytes::new(), LONG * 2).await.unwrap_err();
    assert!(matches!(error, PeerError::Broken(_)), "{error}");
    assert!(stream.frame().await.unwrap().is_err());
    drop(pieces);
    until_echo(&peers).await;
    assert!(relay.connections.load(SeqCst) >= 2);
}

/// A peer whose window and socket buffers are full: even pings cannot be written any more.
#[tokio::test]
async fn a_peer_that_stops_reading_under_load_is_noticed() {
    let node = Node::usual().await;
    let relay = Relay::open(node.address);
    let mut settings = patient();
    (settings.ping_every, settings.ping_wait) = (SHORT, SHORT * 3);
    let peers = peers(settings, relay.address);
    until_echo(&peers).await;
    relay.freeze();
    let calls = (0..64).map(|_| {
        let peers = Arc::clone(&peers);
        tokio::spawn(async move {
            let large = Bytes::from(vec![0; 1 << 20]);
            peers.call(NODE, Lane::Control, "echo", large, LONG * 2).await
        })
    });
    for call in calls.collect::<Vec<_>>() {
        // Those that come after the connection was given up get a new one.
        match call.await.unwrap() {
            Ok(_) | Err(PeerError::Broken(_) | PeerError::Unreachable(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    until_echo(&peers).await;
    assert!(relay.connections.load(SeqCst) >= 2);
}

#[tokio::test]
async fn the_listener_gives_up_a_silent_peer_too() {
    let limits = Limits { ping_every: SHORT, ping_wait: SILENCE, ..patient_limits() };
    let node = Node::start(NODE, secret("shared"), limits).await;
    let relay = Relay::open(node.address);
    let peers = peers(patient(), relay.address);
    let caller = Arc::clone(&peers);
    let call = tokio::spawn(async move {
        caller.call(NODE, Lane::Control, "wait", Bytes::new(), LONG * 2).await
    });
    node.waiting(1).await;
    relay.freeze();
    // The service is not left running for a caller that nobody hears from.
    node.waiting(0).await;
    call.abort();
}

#[tokio::test]
async fn another_incarnation_at_the_address_is_not_spoken_to() {
    let (old, new) =
        (Node::usual().await, Node::start(9, secret("shared"), patient_limits()).await);
    let relay = Relay::open(old.address);
    let peers = peers(patient(), relay.address);
    echo(&peers, Lane::Control).await.unwrap();
    relay.set_target(new.address);
    relay.cut();
    let found = async {
        loop {
            match echo(&peers, Lane::Control).await {
                // Until the end of the old connection has been noticed.
                Err(PeerError::Broken(_)) => {}
                other => break other,
            }
        }
    };
    let found = tokio::time::timeout(LONG, found).await.unwrap().unwrap_err();
    assert_eq!(found, PeerError::WrongNode { found: 9, name: "node-9".into() });
    assert!(found.certainly_not_sent());
    assert_eq!(new.service.calls.load(SeqCst), 0);
    until("it is counted", || new.counters.read().wrong_node >= 1).await;
    // Under its own id it is there.
    peers.set_address(9, relay.address.to_string());
    let answer = peers.call(9, Lane::Control, "echo", Bytes::from_static(b"x"), LONG).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"x")));
}

#[tokio::test]
async fn a_forgotten_peer_breaks_what_is_under_way() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let caller = Arc::clone(&peers);
    let call =
        tokio::spawn(
            async move { caller.call(NODE, Lane::Control, "wait", Bytes::new(), LONG).await },
        );
    node.waiting(1).await;
    peers.forget(NODE);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, PeerError::Broken(_)), "{error}");
    node.waiting(0).await;
    let error = echo(&peers, Lane::Control).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable(_)), "{error}");
    assert!(peers.links().is_empty());
}

#[tokio::test]
async fn another_address_leaves_what_is_under_way() {
    let (old, new) = (Node::usual().await, Node::usual().await);
    let peers = peers(patient(), old.address);
    let caller = Arc::clone(&peers);
    let call = tokio::spawn(async move {
        caller.call(NODE, Lane::Control, "wait", Bytes::from_static(b"kept"), LONG).await
    });
    old.waiting(1).await;
    peers.set_address(NODE, new.address.to_string());
    echo(&peers, Lane::Control).await.unwrap();
    assert_eq!(new.service.calls.load(SeqCst), 1);
    old.service.go_on.notify_one();
    assert_eq!(call.await.unwrap(), Ok(Bytes::from_static(b"kept")));
}

#[tokio::test]
async fn a_caller_that_gives_up_ends_the_work_of_the_service() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let caller = Arc::clone(&peers);
    let call =
        tokio::spawn(
            async move { caller.call(NODE, Lane::Control, "wait", Bytes::new(), LONG).await },
        );
    node.waiting(1).await;
    call.abort();
    node.waiting(0).await;
    echo(&peers, Lane::Control).await.unwrap();
}

/// More than any cap on resets that HTTP/2 libraries have against attackers.
#[tokio::test]
async fn a_storm_of_cancelled_calls_does_not_cost_the_connection() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    for _ in 0..4 {
        let calls = (0..700).map(|_| {
            let peers = Arc::clone(&peers);
            tokio::spawn(async move {
                peers.call(NODE, Lane::Control, "wait", Bytes::new(), LONG).await
            })
        });
        let calls: Vec<_> = calls.collect();
        node.waiting(700).await;
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        node.waiting(0).await;
    }
    echo(&peers, Lane::Control).await.unwrap();
    assert_eq!(node.counters.read().proven, 1);
}

/// Begun and cancelled while the node was stalled: it sees the beginnings and the ends together.
#[tokio::test]
async fn a_storm_on_a_stalled_node_does_not_cost_the_connection() {
    const CALLS: usize = 500;
    // What one cancellation says at least: a frame of 13 bytes.
    const RESET: usize = 13;
    let theirs = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let theirs = theirs.unwrap();
    let node = theirs.spawn(Node::usual()).await.unwrap();
    let relay = Relay::open(node.address);
    let peers = peers(patient(), relay.address);
    echo(&peers, Lane::Control).await.unwrap();

    let (go_on, stalled) = std::sync::mpsc::channel::<()>();
    theirs.spawn(async move { stalled.recv() });
    let before = relay.sent.load(SeqCst);
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let peers = Arc::clone(&peers);
            tokio::spawn(async move {
                peers.call(NODE, Lane::Control, "wait", Bytes::new(), LONG).await
            })
        })
        .collect();
    // The head of a request takes more than a frame's own nine bytes.
    until("the calls are sent", || relay.sent.load(SeqCst) >= before + CALLS * 10).await;
    let before = relay.sent.load(SeqCst);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    until("the ends are sent", || relay.sent.load(SeqCst) >= before + CALLS * RESET / 2).await;
    drop(go_on);

    echo(&peers, Lane::Control).await.unwrap();
    assert_eq!(node.counters.read().proven, 1);
    theirs.shutdown_background();
}

#[tokio::test]
async fn a_node_that_stops_finishes_what_runs_and_takes_nothing_new() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let caller = Arc::clone(&peers);
    let call = tokio::spawn(async move {
        caller.call(NODE, Lane::Control, "wait", Bytes::from_static(b"done"), LONG).await
    });
    node.waiting(1).await;
    node.stop.cancel();
    // From some moment on nothing new is taken, and that is certain each time.
    let refused = async {
        loop {
            match echo(&peers, Lane::Control).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => break error,
            }
        }
    };
    let error = tokio::time::timeout(LONG, refused).await.expect("new calls are taken");
    assert!(error.certainly_not_sent(), "{error}");
    node.service.go_on.notify_one();
    assert_eq!(call.await.unwrap(), Ok(Bytes::from_static(b"done")));
    tokio::time::timeout(LONG, node.serving).await.expect("it does not end").unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let limits = Limits { drain: SHORT, ..patient_limits() };
    let node = Node::start(NODE, secret("shared"), limits).await;
    let peers = peers(patient(), node.address);
    let caller = Arc::clone(&peers);
    let call = tokio::spawn(async move {
        caller.call(NODE, Lane::Control, "wait", Bytes::new(), LONG * 2).await
    });
    node.waiting(1).await;
    node.stop.cancel();
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, PeerError::Broken(_)), "{error}");
    tokio::time::timeout(LONG, node.serving).await.expect("it does not end").unwrap();
}
