//! Two balancers with keepalived, each on a machine of its own: the address that clients know moves
//! when one of them is gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::balancer::{Kind, Master, Nodes, end, haproxy, keepalived, nginx};
use super::keyed;
use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, PATIENCE};
use crate::harness::gateway::Setup;
use crate::harness::process::Process;
use crate::harness::sample::Sample;
use crate::harness::spaces::{CARD, Machine, inside};
use crate::harness::wire::Conn;
use crate::harness::{TempDir, eventually, message};

const PORT: u16 = 8080;
/// Where the nodes and the clients are.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The address that clients know.
const SHARED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);

/// nginx or HAProxy, and keepalived, on one machine.
struct Balancer {
    machine: Machine,
    front: Master,
    keepalived: Master,
    _folder: TempDir,
}

impl Balancer {
    fn start(kind: Kind, number: u8, peer: u8, cluster: &Cluster) -> Self {
        let address = |number: u8| Ipv4Addr::new(10, 77, 0, 10 + number);
        let (machine, folder) = (Machine::start(address(number)), TempDir::new());
        let front = front(kind, &machine, cluster, &folder.join("front"));
        let values = [
            ("HOLDFAST_BALANCER_INTERFACE", CARD.into()),
            ("HOLDFAST_BALANCER_OWN", machine.address.to_string()),
            ("HOLDFAST_BALANCER_PEER", address(peer).to_string()),
            ("HOLDFAST_BALANCER_SHARED", format!("{SHARED}/24")),
            ("HOLDFAST_BALANCER_PRIORITY", (102 - number).to_string()),
            ("HOLDFAST_BALANCER_CHECK", format!("http://127.0.0.1:{PORT}/balancer/health")),
        ];
        let keepalived = keepalived(&folder.join("keepalived"), &values);
        let keepalived = Master(Process::start(&mut machine.on(&keepalived)));
        Self { machine, front, keepalived, _folder: folder }
    }

    async fn gets_the_address(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.machine.has(SHARED) {
            let said = self.keepalived.0.output();
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{SHARED} is not on {}:\n{said}", self.machine.address);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // It goes on without what it does not understand.
        let said = self.keepalived.0.output();
        let complaint = said.lines().find(|it| {
            ["Unknown", "ignoring", "insecure", "invalid"].iter().any(|word| it.contains(word))
        });
        assert!(complaint.is_none(), "{said}");
    }
}

fn front(kind: Kind, machine: &Machine, cluster: &Cluster, folder: &Path) -> Master {
    let listen = SocketAddr::from(([0, 0, 0, 0], PORT));
    // The nodes' ports for the operator are on loopback, which no other machine reaches.
    let nodes = Nodes::at([cluster[0].address, cluster[1].address, cluster[2].address]);
    let command = match kind {
        Kind::Nginx => nginx(folder, listen, &nodes),
        Kind::HaProxy => haproxy(listen, &nodes),
    };
    Master(Process::start(&mut machine.on(&command)))
}

/// A call as a client makes it that comes back when its connection breaks: the answer, and how many
/// connections broke or could not be opened before.
async fn patient(client: &Client, body: &str) -> (Value, usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut broken = 0;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "no answer after {broken} tries: {body}");
        let tried = async {
            let stream = tokio::net::TcpStream::connect(client.address).await.ok()?;
            let mut conn = Conn::over(stream);
            conn.try_send(client.request("POST", &[], Some(body))).await.then_some(())?;
            conn.answer().await
        };
        match tokio::time::timeout(Duration::from_secs(5), tried).await {
            Ok(Some(answer)) => return (answer.json(), broken),
            Ok(None) | Err(_) => broken += 1,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_standby_takes_the_address_over_before_nginx() {
    if inside("fronts::standby::the_standby_takes_the_address_over_before_nginx", HERE) {
        the_standby_takes_the_address_over(Kind::Nginx).await;
    }
}

#[tokio::test]
async fn the_standby_takes_the_address_over_before_haproxy() {
    if inside("fronts::standby::the_standby_takes_the_address_over_before_haproxy", HERE) {
        the_standby_takes_the_address_over(Kind::HaProxy).await;
    }
}

async fn the_standby_takes_the_address_over(kind: Kind) {
    let sample = Sample::start(&["--answers", "json"]).await;
    let cluster = Setup::new()
        .server("main", &format!(r#"{{ url: "http://{}/mcp" }}"#, sample.address))
        .listen("trusted_proxies: [10.77.0.0/24]")
        .listen(&format!("public_hosts: [\"{SHARED}\"]"))
        .on(HERE)
        .cluster()
        .await;
    let mut first = Balancer::start(kind, 1, 2, &cluster);
    // Only then the other: whoever has the address keeps it, and the first may be slow to start.
    first.gets_the_address().await;
    let mut second = Balancer::start(kind, 2, 1, &cluster);
    eventually("the standby is one", || {
        second.keepalived.0.output().contains("BACKUP STATE").then_some(())
    })
    .await;
    assert!(!second.machine.has(SHARED), "the address is on both");
    let client = Client::to(SocketAddr::from((SHARED, PORT))).initialized().await;
    assert!(client.ask(1, "tools/list", "{}").await["result"].is_object());

    // It is killed with a Write in hand. Whoever made that lost the connection with it, and
    // learns from the nodes, which had it under another name, only that it may have run: once.
    let lost = client.clone();
    let lost = tokio::spawn(async move {
        let mut conn = Conn::open(lost.address).await;
        conn.send(lost.request("POST", &[], Some(&keyed(2, "write", "lost", 1500)))).await;
        conn.answer().await.is_none()
    });
    eventually("the Write at the server", || {
        (sample.executions("write", "lost") == 1).then_some(())
    })
    .await;
    end(&mut first.front.0);
    assert!(lost.await.expect("no panic"), "an answer out of a dead balancer");
    let (answer, broken) = patient(&client, &message::call(3, "whoami")).await;
    assert!(answer["result"].is_object(), "the session goes on: {answer}");
    assert!(broken > 0, "nothing was interrupted");
    second.gets_the_address().await;
    assert!(!first.machine.has(SHARED), "the address is on both");
    for id in 10..30 {
        let answer = client.post(&keyed(id, "write", &id.to_string(), 0)).await.response().await;
        assert!(answer["result"].is_object(), "{answer}");
    }
    assert_eq!(sample.executions("write", "lost"), 1);

    // It comes back and is the standby now; then the other machine is gone as a whole.
    let folder = TempDir::new();
    first.front = front(kind, &first.machine, &cluster, &folder.join("front"));
    eventually("its check to pass", || {
        first
            .keepalived
            .0
            .output()
            .rsplit('\n')
            .take(20)
            .any(|line| line.contains("BACKUP STATE"))
            .then_some(())
    })
    .await;
    assert!(second.machine.has(SHARED), "the address moved back for nothing");
    second.machine.unplug();
    end(&mut second.keepalived.0);
    // A connection that is being opened meanwhile is merely late.
    let (answer, _) = patient(&client, &message::call(40, "whoami")).await;
    assert!(answer["result"].is_object(), "{answer}");
    assert!(first.machine.has(SHARED));
    let answer = client.post(&keyed(41, "write", "41", 0)).await.response().await;
    assert!(answer["result"].is_object(), "{answer}");
    for id in 10..30 {
        assert_eq!(sample.executions("write", &id.to_string()), 1, "{id}");
    }
}
