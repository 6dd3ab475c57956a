//! docker-compose.ha.yml as it is, without a container engine: each service a process on a machine of its
//! own, at the address, with the environment and with the words that the file gives it, and asked by the
//! file's own checks whether it is well.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::balancer::{Master, keepalived, nginx_of};
use super::compose::{Compose, Place};
use super::keyed;
use crate::harness::client::Client;
use crate::harness::cluster::PATIENCE;
use crate::harness::process::Process;
use crate::harness::spaces::{Machine, inside};
use crate::harness::wire::Conn;
use crate::harness::{TempDir, message};

const SHARED: Ipv4Addr = Ipv4Addr::new(172, 31, 37, 10);
/// Where the file publishes the first balancer.
const PUBLISHED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// All that the file brings up.
struct Deployed {
    compose: Compose,
    machines: BTreeMap<String, Machine>,
    processes: BTreeMap<String, Master>,
    folder: TempDir,
}

impl Deployed {
    fn start(compose: Compose, folder: TempDir) -> Self {
        let mut machines = BTreeMap::new();
        for (name, service) in &compose.services {
            if let Place::Own(address) = &service.at {
                machines.insert(name.clone(), Machine::start(*address));
            }
        }
        let mut deployed = Self { compose, machines, processes: BTreeMap::new(), folder };
        let names: Vec<String> = deployed.compose.services.keys().cloned().collect();
        for name in names {
            deployed.run(&name);
        }
        deployed
    }

    fn machine(&self, name: &str) -> &Machine {
        match &self.compose.services[name].at {
            Place::Own(_) => &self.machines[name],
            Place::Of(owner) => &self.machines[owner],
        }
    }

    /// Starts a service, for the first time or again.
    fn run(&mut self, name: &str) {
        let service = &self.compose.services[name];
        // A machine is a process that sleeps: that is all of its owner.
        if service.words.first().is_some_and(|word| word == "sleep") {
            return;
        }
        let own = self.folder.join(name);
        let values: Vec<(&str, String)> =
            service.environment.iter().map(|(name, it)| (name.as_str(), it.clone())).collect();
        let mut command = if service.image.starts_with("nginx:") {
            self.machine(name).on(&nginx_of(&own, &values))
        } else if service.image.starts_with("holdfast-keepalived:") {
            self.machine(name).on(&keepalived(&own, &values))
        } else {
            self.within(name, &service.words)
        };
        self.processes.insert(name.to_owned(), Master(Process::start(&mut command)));
    }

    /// A command as one of the container, with its environment and no other.
    fn within(&self, name: &str, words: &[String]) -> Command {
        let (program, arguments) = words.split_first().expect("a program");
        let mut command = self.machine(name).within(program);
        let path = std::env::var_os("PATH").expect("a PATH");
        command.args(arguments).env_clear().env("PATH", path);
        command.envs(self.compose.services[name].environment.iter().cloned());
        command
    }

    /// Whether a command in the container ends with success, and what it says.
    fn asked(&self, name: &str, words: &[String]) -> (bool, String) {
        let output = self.within(name, words).output().expect("start nsenter");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// What `--wait` waits for.
    async fn is_well(&self, name: &str) {
        let Some(check) = &self.compose.services[name].check else { return };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (fine, said) = self.asked(name, check);
            if fine {
                return;
            }
            if Instant::now() > deadline {
                panic!("{name} is not well: {said}\n{}", self.processes[name].0.output());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What `holdfast nodes` says in a container once it says this.
    async fn nodes(&self, name: &str, expected: &str) -> String {
        let holdfast = &self.compose.services[name].words[0];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, said) = self.asked(name, &[holdfast.clone(), "nodes".into()]);
            if said.contains(expected) {
                return said;
            }
            if Instant::now() > deadline {
                panic!("not {expected}: {said}\n{}", self.processes[name].0.output());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn shared_address_is_somewhere(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !["balancer", "balancer-standby"].iter().any(|it| self.machines[*it].has(SHARED)) {
            assert!(Instant::now() < deadline, "{}", self.processes["keepalived"].0.output());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How often the ledger's two instances, which write into one file, executed this.
    fn executions(&self, key: &str) -> usize {
        let log = std::fs::read_to_string(self.folder.join("ledger/executions"));
        let log = log.unwrap_or_default();
        log.lines().filter(|line| line.split(' ').nth(1) == Some(key)).count()
    }
}

/// The response; while the gateway says that a call did not run, it is made once more.
async fn answer(client: &Client, body: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let response = client.post(body).await.response().await;
        if response["error"]["data"]["mayHaveRun"] != false || Instant::now() > deadline {
            return response;
        }
    }
}

async fn count(client: &Client, id: usize) -> Value {
    answer(client, &message::call(id, "counter")).await["result"]["content"][0]["text"].clone()
}

/// A client as the published port has it come: to a balancer's own address, under the published name.
async fn published(host: &str, to: SocketAddr) -> u16 {
    let body = message::initialize("2025-11-25");
    let request = Client::to(PUBLISHED).at("/mcp/counter").request("POST", &[], Some(&body));
    let request = request.replace(&PUBLISHED.to_string(), host);
    Conn::open(to).await.exchange(request).await.status
}

#[tokio::test]
async fn it_serves_and_outlives_a_node() {
    let folder = TempDir::new();
    for volume in ["gateway-1", "gateway-2", "gateway-3", "ledger"] {
        std::fs::create_dir_all(folder.join(volume)).expect("a volume");
    }
    let compose = Compose::read(&folder.join(""));
    if !inside("fronts::deployed::it_serves_and_outlives_a_node", compose.gateway) {
        return;
    }
    let mut deployed = Deployed::start(compose, folder);
    let names: Vec<String> = deployed.compose.services.keys().cloned().collect();
    for name in &names {
        deployed.is_well(name).await;
    }
    let said = deployed.nodes("gateway-1", "3 of 3 nodes ready").await;
    deployed.shared_address_is_somewhere().await;

    let balancer = SocketAddr::from((SHARED, 8080));
    let counter = Client::to(balancer).at("/mcp/counter").initialized().await;
    let ledger = Client::to(balancer).at("/mcp/ledger").initialized().await;
    assert_eq!(count(&counter, 1).await, "1");
    let written = answer(&ledger, &keyed(1, "write", "before", 0)).await;
    assert!(written["result"].is_object(), "{written}");
    assert_eq!(deployed.executions("before"), 1);
    // Under the name at which the file publishes it, and no other.
    for own in ["balancer", "balancer-standby"] {
        let to = SocketAddr::from((deployed.machines[own].address, 8080));
        assert_eq!(published(&PUBLISHED.to_string(), to).await, 200, "{own}");
        assert_eq!(published("elsewhere:8080", to).await, 403, "{own}");
    }

    let leader = names.iter().find(|name| said.contains(&format!("{name} is the coordinator")));
    let leader = leader.unwrap_or_else(|| panic!("nobody leads: {said}")).clone();
    deployed.processes.remove(&leader);
    for id in 2..6 {
        assert_eq!(count(&counter, id).await, id.to_string());
        let key = format!("after-{id}");
        let written = answer(&ledger, &keyed(id, "write", &key, 0)).await;
        assert!(written["result"].is_object(), "{written}");
        assert_eq!(deployed.executions(&key), 1);
    }

    deployed.run(&leader);
    deployed.is_well(&leader).await;
    deployed.nodes(&leader, "3 of 3 nodes ready").await;
    assert_eq!(count(&counter, 6).await, "6");
}
