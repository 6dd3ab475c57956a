//! The drill's own parts, where a mistake would make a run look better than it was.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_tests::ports::free_address;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::PATIENCE;
use crate::chance::Chance;
use crate::links::{Links, Port, Weather};
use crate::nemesis::{Scope, What};
use crate::network::Network;
use crate::options::{Options, USAGE};
use crate::run::faults;

const CUT: Weather = Weather { cut: true, delay: Duration::ZERO };

/// Two nodes, both of them this process; node 1 sends back what it gets.
async fn two_nodes() -> (Arc<Links>, SocketAddr) {
    let echo = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let real = echo.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    let free = || free_address().expect("a free port");
    let known = free();
    let silent = Port { party: 0, known: free(), real: free() };
    let links = Links::new(2, vec![silent, Port { party: 1, known, real }]);
    links.know(vec![Some(std::process::id()), None]);
    links.up(1).await.expect("its port");
    (links, known)
}

async fn echoed(stream: &mut TcpStream, byte: u8) -> u8 {
    stream.write_all(&[byte]).await.expect("a connection");
    tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("a byte")
}

/// What comes back after a while in which, without a fault, it would have come.
async fn comes_back(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await.is_ok()
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("a listening link")
}

#[tokio::test]
async fn a_cut_link_holds_bytes_in_its_direction_and_loses_none() {
    for (from, to) in [(0, 1), (1, 0)] {
        let (links, address) = two_nodes().await;
        let mut stream = connect(address).await;
        assert_eq!(echoed(&mut stream, 1).await, 1);
        links.set(from, to, CUT);
        stream.write_all(&[2]).await.expect("a connection");
        assert!(!comes_back(&mut stream).await, "it passed a cut link");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while links.held() == 0 {
            assert!(tokio::time::Instant::now() < deadline, "a cut that held something says so");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        links.heal();
        let healed = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("in time");
        assert_eq!(healed.expect("a byte"), 2);
        assert_eq!(echoed(&mut stream, 3).await, 3);
    }
}

#[tokio::test]
async fn nothing_connects_over_a_cut_link_and_nobody_else_is_cut() {
    let (links, address) = two_nodes().await;
    links.set(1, 0, CUT);
    let mut stream = connect(address).await;
    stream.write_all(&[1]).await.expect("the kernel takes it");
    assert!(!comes_back(&mut stream).await, "it passed a cut link");
    links.heal();
    let healed = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("in time");
    assert_eq!(healed.expect("a byte"), 1);
    // The link of a node with itself is none of these two.
    links.set(0, 0, CUT);
    assert_eq!(echoed(&mut stream, 2).await, 2);
}

#[tokio::test]
async fn the_port_of_a_dead_node_refuses() {
    let (links, address) = two_nodes().await;
    links.down(1);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // The task that listens ends soon, not at once.
    while TcpStream::connect(address).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "it accepts connections");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    links.up(1).await.expect("the same port again");
    assert_eq!(echoed(&mut connect(address).await, 7).await, 7);
}

#[tokio::test]
async fn a_fault_that_this_network_does_not_have_makes_a_run_void() {
    let (network, _) = Network::new(false).expect("free ports");
    let refused = network.spoil(0, What::Isolate).await.expect_err("proxies reach no client");
    assert!(refused.to_string().starts_with("void"), "{refused}");
    assert!(!network.took_effect(network.mark(), 0, &[]), "nothing was held up");
}

#[test]
fn the_coordinators_share_of_the_faults_is_spread_and_exact() {
    for (many, of_leader) in [(30, 10), (4, 2), (1, 1), (3, 0), (7, 7)] {
        let faults = faults(What::Kill, many, of_leader);
        assert_eq!(faults.len(), many);
        assert_eq!(faults.iter().filter(|fault| fault.leader).count(), of_leader);
    }
    let half = faults(What::Kill, 30, 10).into_iter().take(15).filter(|it| it.leader).count();
    assert_eq!(half, 5);
}

#[test]
fn the_same_seed_draws_the_same() {
    let draw = |seed| {
        let mut chance = Chance::new(seed);
        (0..20).map(|_| chance.below(1_000)).collect::<Vec<u64>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn every_option_that_is_named_is_understood() {
    let text = USAGE.lines().filter_map(|line| line.trim().strip_prefix("--"));
    let mut options = 0;
    for line in text {
        let (words, _) = line.split_once("  ").expect("what it does");
        let mut words = words.split(' ');
        let name = format!("--{}", words.next().expect("its name"));
        let value = words.next().map(|value| match value.split('|').next() {
            Some("N" | "MS") => "2".to_owned(),
            Some(first) => first.to_owned(),
            None => String::new(),
        });
        // A store that any fault can befall, unless the option names one.
        let store = ["--store", "sentinel"].map(|word| Some(word.to_owned()));
        let args = store.into_iter().chain([Some(name.clone()), value]).flatten();
        let read = Options::from_args(args, "holdfast".into(), 1);
        assert!(read.is_ok(), "{name}: {:?}", read.err());
        options += 1;
    }
    assert!(options > 25, "only {options} options are explained");
    let read = |args: &str| {
        let args = args.split(' ').map(str::to_owned);
        Options::from_args(args, "holdfast".into(), 1).map(|options| options.plan)
    };
    for (without, needs) in [
        ("--redis-kills 1", "--store redis, sentinel or redis-cluster, not replicated"),
        ("--store redis --failovers 1", "--store sentinel or redis-cluster, not redis"),
    ] {
        let refusal = read(without).err().unwrap_or_default();
        assert!(refusal.contains(needs), "{without}: {refusal}");
    }
    let plan =
        read("--store sentinel --redis-splits 2 --front-kills 1 --kills 3").expect("options");
    let scopes: Vec<Scope> = plan.faults.iter().map(|fault| fault.what.scope()).collect();
    assert_eq!(scopes.iter().filter(|scope| **scope == Scope::Redis).count(), 2);
    assert_eq!(scopes.iter().filter(|scope| **scope == Scope::Node).count(), 3);
    assert!(plan.standby, "a balancer is killed only where another takes over");
}
