//! The shipped files by themselves: the programs that they are for accept them.

use std::net::SocketAddr;
use std::process::{Command, Output};

use super::balancer::{Nodes, environment, nginx, shipped};
use super::compose::Compose;
use crate::harness::TempDir;
use crate::harness::process::{binary, free_address};

fn addresses() -> (SocketAddr, Nodes) {
    (free_address(), Nodes::at([free_address(), free_address(), free_address()]))
}

fn run(command: &mut Command) -> (bool, String) {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let said = [stdout, stderr].concat();
    (status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn nginx_accepts_its_file() {
    let folder = TempDir::new();
    let (listen, nodes) = addresses();
    let (fine, said) = run(nginx(&folder.join("nginx"), listen, &nodes).arg("-t"));
    assert!(fine && !said.contains("[warn]"), "{said}");
}

#[test]
fn haproxy_accepts_its_file() {
    let (listen, nodes) = addresses();
    let mut command = Command::new("haproxy");
    command.args(["-c", "-f"]).arg(shipped("haproxy/haproxy.cfg"));
    let (fine, said) = run(command.envs(environment(listen, &nodes)));
    assert!(fine && !said.contains("WARNING"), "{said}");
}

/// The gateway takes the deployment's configuration with the environment that the deployment sets.
#[test]
fn the_gateway_accepts_the_deployments_file() {
    let folder = TempDir::new();
    for name in ["gateway-1", "gateway-2", "gateway-3"] {
        let gateway = &Compose::read(&folder.join("")).services[name];
        let mut command = Command::new(binary());
        command.arg("check-config").env_clear().envs(gateway.environment.iter().cloned());
        let (fine, said) = run(&mut command);
        assert!(fine && said.contains("config/ha.yaml: no problems"), "{said}");
        assert!(
            said.contains(&format!("node      {name}\n")) && !said.contains("notice"),
            "{said}"
        );
    }
}
