//! Machines of their own, for balancers or for everything: network namespaces on one bridge, in a
//! namespace that is not the machine's, so that each has its addresses and ports to itself, and an
//! address can move from one to the other as it does between machines.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::DEADLINE;
use crate::harness::process::Process;

/// Set in the process that runs inside.
const INSIDE: &str = "HOLDFAST_IT_INSIDE";
/// The network card of every machine, as containers have it.
pub(super) const CARD: &str = "eth0";

/// One machine on the bridge. Everything in it ends with the value.
pub(super) struct Machine {
    pub(super) address: Ipv4Addr,
    /// The bridge's end of its cable.
    cable: String,
    holder: Process,
}

/// Whether this is the inner process. Outside, runs this same test once more in a network namespace of
/// its own, and fails if that fails. To the machines this process is at the address `here`.
pub(super) fn inside(test: &str, here: Ipv4Addr) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", ["link", "set", "lo", "up"]);
        run("ip", ["link", "add", "bridge", "type", "bridge"]);
        run("ip", ["address", "add", &format!("{here}/24"), "dev", "bridge"]);
        run("ip", ["link", "set", "bridge", "up"]);
        return true;
    }
    let own = std::env::current_exe().expect("the path of this test");
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(own).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    // Takes root, as keepalived does.
    let inner = command.output().expect("start unshare");
    let said = [inner.stdout, inner.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    assert!(inner.status.success() && said[0].contains("1 passed"), "{}\n{}", said[0], said[1]);
    false
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) {
    let mut command = Command::new(program);
    let output = command.args(arguments).output().expect("start ip");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

// === impl Machine ===

impl Machine {
    pub(super) fn start(address: Ipv4Addr) -> Self {
        let mut sleeper = Command::new("unshare");
        sleeper.args(["--net", "--", "sleep", "infinity"]);
        let holder = Process::start(&mut sleeper);
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        let deadline = Instant::now() + DEADLINE;
        while space(&holder.pid().to_string()).ok() == space("self").ok() {
            assert!(Instant::now() < deadline, "unshare makes no namespace");
            std::thread::sleep(Duration::from_millis(5));
        }
        let machine = Self { address, cable: format!("cable{}", address.octets()[3]), holder };
        let pid = machine.holder.pid().to_string();
        let cable = machine.cable.as_str();
        run("ip", ["link", "add", cable, "type", "veth", "peer", "name", CARD, "netns", &pid]);
        run("ip", ["link", "set", cable, "master", "bridge", "up"]);
        machine.ip(&["link", "set", "lo", "up"]);
        machine.ip(&["address", "add", &format!("{}/24", machine.address), "dev", CARD]);
        machine.ip(&["link", "set", CARD, "up"]);
        machine
    }

    fn ip(&self, arguments: &[&str]) {
        let output = self.within("ip").args(arguments).output().expect("start nsenter");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A program on this machine.
    pub(super) fn within(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.pid().to_string(), "--net", "--"]).arg(program);
        command
    }

    /// The same for a command that is already there.
    pub(super) fn on(&self, command: &Command) -> Command {
        let mut inside = self.within(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs().filter_map(|(name, it)| Some((name, it?))) {
            inside.env(name, value);
        }
        inside
    }

    /// Nothing comes or goes any more.
    pub(super) fn unplug(&self) {
        run("ip", ["link", "set", &self.cable, "down"]);
    }

    /// Whether this address is on this machine.
    pub(super) fn has(&self, address: Ipv4Addr) -> bool {
        let output = self.within("ip").args(["-4", "-o", "address", "show"]).output();
        let said = output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
        said.is_ok_and(|said| said.contains(&format!("{address}/")))
    }
}
