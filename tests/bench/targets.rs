//! What is measured: nginx and the gateway, each a process before the same server.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Error, measure};

/// A running process that listens; killed when dropped.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
    folder: PathBuf,
}

/// Both have two workers: the machine has two cores.
const WORKERS: usize = 2;

// === impl Target ===

impl Target {
    /// A plain proxy with kept connections: what the gateway is compared with.
    pub(crate) fn nginx(server: SocketAddr) -> Result<Self, Error> {
        let (folder, address) = (folder("nginx")?, free()?);
        let at = folder.display();
        let text = format!(
            "worker_processes {WORKERS};
daemon off;
pid {at}/pid;
error_log {at}/error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
  access_log off;
  client_body_temp_path {at}/body;
  proxy_temp_path {at}/proxy;
  fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi;
  scgi_temp_path {at}/scgi;
  keepalive_requests 1000000000;
  upstream server {{ server {server}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen {address} reuseport;
    location / {{
      proxy_pass http://server;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $http_host;
      proxy_buffering off;
      client_max_body_size 16m;
    }}
  }}
}}
"
        );
        let config = folder.join("nginx.conf");
        fs::write(&config, text)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder).arg("-c").arg(&config);
        Self::start("nginx", command, address, folder)
    }

    /// The gateway with its defaults, but for limits that a measurement would reach.
    pub(crate) fn gateway(server: SocketAddr, limits: &str) -> Result<Self, Error> {
        let binary = std::env::var_os("HOLDFAST_BIN")
            .ok_or("HOLDFAST_BIN is not set: start this with `cargo xtask bench`")?;
        let (folder, address, admin) = (folder("gateway")?, free()?, free()?);
        let text = format!(
            "listen: {{ address: \"{address}\", workers: {WORKERS} }}
admin: {{ address: \"{admin}\" }}
{limits}
servers:
  bench: {{ url: \"http://{server}/mcp\" }}
"
        );
        let config = folder.join("holdfast.yaml");
        fs::write(&config, text)?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--config").arg(&config);
        Self::start("holdfast", command, address, folder)
    }

    fn start(
        name: &'static str,
        mut command: Command,
        address: SocketAddr,
        folder: PathBuf,
    ) -> Result<Self, Error> {
        let log = folder.join("output.log");
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().map_err(|e| format!("start {name}: {e}"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                drop(child.kill());
                return Err(format!("{name} does not start:\n{}", said(&log)).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { name, address, child, folder })
    }

    /// The process and those it has started.
    pub(crate) fn pids(&self) -> Vec<u32> {
        measure::family(self.child.id())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // nginx's workers end with their master only when it ends in order.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn said(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default()
}

fn folder(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::temp_dir().join(format!("holdfast-bench-{}-{name}", std::process::id()));
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn free() -> Result<SocketAddr, Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
