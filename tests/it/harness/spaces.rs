//! Machines of their own, for balancers or for everything: network namespaces on one bridge, in a
//! namespace that is not the machine's, so that each has its addresses and ports to itself, and an
//! address can move from one to the other as it does between machines.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::process::Process;

/// Set in the process that runs inside.
const INSIDE: &str = "HOLDFAST_IT_INSIDE";
/// The network card of every machine, as containers have it.
pub(crate) const CARD: &str = "eth0";

/// One machine on the bridge. Everything in it ends with the value.
pub(crate) struct Machine {
    pub(crate) address: Ipv4Addr,
    /// The bridge's end of its cable.
    cable: String,
    holder: Process,
}

/// Whether this is the inner process. Outside, runs this same test once more in a network namespace of
/// its own, and fails if that fails. To the machines this process is at the address `here`.
pub(crate) fn inside(test: &str, here: Ipv4Addr) -> bool {
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

/// Packets between some machines that are [routed](Machine::routed) are thrown away, and nobody is told. Dropping it
/// lets them pass again.
pub(crate) struct Cut(Vec<[String; 2]>);

impl Cut {
    /// What one machine and each of the others send to each other.
    pub(crate) fn between(one: &Machine, others: &[&Machine]) -> Self {
        let mut ways = Vec::new();
        for other in others {
            let ends = [one, other].map(|it| it.address.to_string());
            ways.push([ends[1].clone(), ends[0].clone()]);
            ways.push(ends);
        }
        for [from, to] in &ways {
            run("ip", ["rule", "add", "priority", "100", "from", from, "to", to, "blackhole"]);
        }
        Self(ways)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for [from, to] in &self.0 {
            run("ip", ["rule", "del", "priority", "100", "from", from, "to", to, "blackhole"]);
        }
    }
}

/// A setting of this process's namespace.
fn set(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("a setting of the network");
}

// === impl Machine ===

impl Machine {
    pub(crate) fn start(address: Ipv4Addr) -> Self {
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
    pub(crate) fn within(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.pid().to_string(), "--net", "--"]).arg(program);
        command
    }

    /// The same for a command that is already there.
    pub(crate) fn on(&self, command: &Command) -> Command {
        let mut inside = self.within(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// What it and the others send to each other passes through the namespace of this process, at the address
    /// `by`, from now on, where it can be thrown away.
    pub(crate) fn routed(self, by: Ipv4Addr) -> Self {
        for (setting, value) in [("ip_forward", "1"), ("conf/all/send_redirects", "0")] {
            set(setting, value);
        }
        // Machines that are told of a shorter way would take it.
        set("conf/bridge/send_redirects", "0");
        let (own, by) = (self.address.to_string(), by.to_string());
        self.ip(&["address", "flush", "dev", CARD]);
        self.ip(&["address", "add", &format!("{own}/32"), "dev", CARD]);
        self.ip(&["route", "add", &by, "dev", CARD]);
        self.ip(&["route", "add", "default", "via", &by]);
        self
    }

    /// Nothing comes or goes any more.
    pub(crate) fn unplug(&self) {
        run("ip", ["link", "set", &self.cable, "down"]);
    }

    /// Whether this address is on this machine.
    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        let output = self.within("ip").args(["-4", "-o", "address", "show"]).output();
        let said = output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
        said.is_ok_and(|said| said.contains(&format!("{address}/")))
    }
}
