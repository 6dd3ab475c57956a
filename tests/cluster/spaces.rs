//! Nodes in network namespaces of their own, tied together by a router that can drop what it likes:
//! the real thing beside the proxies of `links`, for machines where the drill may be root.
//!
//! The drill itself, the balancer and the servers are in the router's namespace, which is not the
//! machine's. Node `i` has the address 10.77.`i`.2 at the end of a cable to it. A link is cut by a
//! routing rule that throws away packets from one address to another, without telling anybody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Error, PATIENCE};

/// Set inside the router's namespace.
pub(crate) const INSIDE: &str = "HOLDFAST_DRILL_INSIDE";
/// The router's own address: where the servers listen.
pub(crate) const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const TRY: &str = "0.3";

/// The namespaces of all nodes. They end with the value.
pub(crate) struct Spaces {
    holders: Vec<Child>,
    /// Rules that are in force, as `ip rule` takes them.
    rules: Mutex<Vec<Vec<String>>>,
}

// === impl Spaces ===

impl Spaces {
    /// Makes a namespace per node and joins it to the router.
    ///
    /// # Errors
    /// What `ip` says when it cannot.
    pub(crate) fn start(nodes: usize) -> Result<Self, Error> {
        if std::env::var_os(INSIDE).is_none() {
            return Err("the namespaces of a drill are made inside one of its own".into());
        }
        run("ip", &["link", "set", "lo", "up"])?;
        run("ip", &["address", "add", &format!("{ROUTER}/32"), "dev", "lo"])?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        let mut spaces = Self { holders: Vec::new(), rules: Mutex::default() };
        for at in 0..nodes {
            spaces.join(at)?;
        }
        Ok(spaces)
    }

    fn join(&mut self, at: usize) -> Result<(), Error> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sleep", "infinity"]).stdin(Stdio::null());
        let holder = command.spawn()?;
        let pid = holder.id().to_string();
        self.holders.push(holder);
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let deadline = Instant::now() + PATIENCE;
        while std::fs::read_link(format!("/proc/{pid}/ns/net"))? == own {
            if Instant::now() > deadline {
                return Err("unshare makes no namespace".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let cable = format!("hf{at}");
        run(
            "ip",
            &["link", "add", &cable, "type", "veth", "peer", "name", "cable", "netns", &pid],
        )?;
        let (near, far) = (format!("10.77.{}.1", at + 1), address(at).to_string());
        run("ip", &["address", "add", &format!("{near}/24"), "dev", &cable])?;
        run("ip", &["link", "set", &cable, "up"])?;
        for words in [
            vec!["link", "set", "lo", "up"],
            vec!["address", "add", &format!("{far}/24"), "dev", "cable"],
            vec!["link", "set", "cable", "up"],
            vec!["route", "add", "default", "via", &near],
        ] {
            let mut inside = vec!["--target", &pid, "--net", "--", "ip"];
            inside.extend(words);
            run("nsenter", &inside)?;
        }
        Ok(())
    }

    /// A command that runs in a node's namespace, as a process with the id that it was started with.
    pub(crate) fn inside(&self, at: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holders[at].id().to_string(), "--net", "--"]).arg(program);
        command
    }

    /// Throws away what `from` sends to `to` from now on.
    pub(crate) fn cut(&self, from: usize, to: usize) -> Result<(), Error> {
        self.rule(vec![
            "from".into(),
            address(from).to_string(),
            "to".into(),
            address(to).to_string(),
        ])
    }

    /// Throws away all that a node sends and is sent: clients, servers and peers alike.
    pub(crate) fn isolate(&self, at: usize) -> Result<(), Error> {
        self.rule(vec!["from".into(), address(at).to_string()])?;
        self.rule(vec!["to".into(), address(at).to_string()])
    }

    fn rule(&self, words: Vec<String>) -> Result<(), Error> {
        let mut add = vec!["rule", "add", "priority", "100"];
        add.extend(words.iter().map(String::as_str));
        add.push("blackhole");
        run("ip", &add)?;
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(words);
        Ok(())
    }

    /// Everything passes again.
    pub(crate) fn heal(&self) -> Result<(), Error> {
        for words in self.rules.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let mut delete = vec!["rule", "del", "priority", "100"];
            delete.extend(words.iter().map(String::as_str));
            delete.push("blackhole");
            run("ip", &delete)?;
        }
        Ok(())
    }

    /// Whether a connection can be opened from one node's namespace to an address: the proof of a cut.
    pub(crate) fn reaches(&self, from: usize, to: SocketAddr) -> bool {
        let open = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
        let mut command = self.inside(from, std::path::Path::new("timeout"));
        command.args([TRY, "bash", "-c", &open]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            drop(holder.kill());
            drop(holder.wait());
        }
    }
}

/// Where a node is.
pub(crate) fn address(at: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, u8::try_from(at + 1).unwrap_or(u8::MAX), 2))
}

fn run(program: &str, words: &[&str]) -> Result<(), Error> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", words.join(" "), said.trim()).into())
}
