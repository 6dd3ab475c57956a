//! From a checked configuration to a running node, one block per component in the order in which
//! they start. Every port is bound before the first call is answered, so a port in use is an error
//! at the start and never half a node.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use holdfast_admin::Admin;
use holdfast_config::Config;
use holdfast_control::versions::Ledger;
use holdfast_control::{Alone, Clustered, Control, Group, Plan};
use holdfast_proxy::tls::expiry::Expiries;
use holdfast_proxy::upstream::duplex::guard;
use holdfast_proxy::{Options, Proxy};
use holdfast_store::Store;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Member, NodesView};
use crate::configuration::{Hangups, Origin};
use crate::descriptors;
use crate::reload::Reload;
use crate::shutdown::Signals;
use crate::telemetry::Logs;

/// Where a node that has started can be reached.
pub(crate) struct Started {
    pub(crate) client: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// Runs a node until a signal has drained it. `origin` is the file that `config` is from, which may
/// change; `started` is called once, when both ports are open.
///
/// # Errors
///
/// A component that cannot start. Nothing runs then.
pub(crate) fn run(
    config: Config,
    origin: Option<Origin>,
    logs: Logs,
    started: impl FnOnce(&Started),
) -> anyhow::Result<()> {
    // Calls run on threads of the data plane's own; this one has the operator's port and signals.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(start(Arc::new(config), origin, logs, started))
}

async fn start(
    config: Arc<Config>,
    origin: Option<Origin>,
    logs: Logs,
    started: impl FnOnce(&Started),
) -> anyhow::Result<()> {
    // === process: TLS provider, file descriptors ===
    crate::install_crypto()?;
    descriptors::raise(config.limits.connections, "limits.connections");

    // === signals: caught before anything is open ===
    let signals = Signals::catch().context("signals cannot be caught")?;
    let hangups = Hangups::catch().context("signals cannot be caught")?;
    let drain = CancellationToken::new();

    // === cluster: the group, where there is one; it joins in the background ===
    let member = Member::start(&config).await?;

    // === store: this process's memory, or what all nodes share ===
    let (store, clustered) = match &member {
        Some(member) => {
            let shared = member.open_store(&config).await?;
            (shared.store, Some(member.clustered(shared.changes)))
        }
        None => (Store::memory(), None),
    };

    // === data plane: client port, servers, sessions ===
    let options = Options { guard: guard::own_binary(), store, cluster: clustered };
    let proxy = Proxy::build(Arc::clone(&config), options)?;
    let client = proxy.local_addr();

    // === operator's port ===
    let admin = Admin::bind(Arc::clone(&proxy) as _, &config.admin).await?;
    let admin_address = admin.address();
    proxy.admin_listens(admin_address);
    if let Some(member) = &member {
        let names = config.cluster.iter().flat_map(|cluster| cluster.nodes.keys().cloned());
        admin.clustered(Arc::new(NodesView {
            cluster: Arc::clone(&member.cluster),
            proxy: Arc::clone(&proxy),
            names: names.collect(),
        }));
    }

    // === run ===
    let running = proxy.run(drain.clone())?;

    // === control plane: checks, votes, failover ===
    let (group, ledger): (Arc<dyn Group>, Arc<dyn Ledger>) = match &member {
        Some(member) => {
            let group = Arc::new(Clustered(Arc::clone(&member.cluster)));
            (Arc::clone(&group) as _, group)
        }
        None => {
            let group = Arc::new(alone(&config)?);
            (Arc::clone(&group) as _, group)
        }
    };
    let tls = holdfast_proxy::tls::client_config(&Expiries::default());
    let plane = Arc::new(proxy.servers());
    let control =
        Control::start(Plan::of(&config), Arc::clone(&group), plane, config.notify.clone(), tls);
    admin.operated(Arc::clone(&control) as _);
    if let Some(member) = &member {
        member.decides(Arc::clone(&control));
    }

    // === other configurations: from the file, and what the cluster agrees on ===
    let settings = admin.settings();
    let reload = Reload::new(Arc::clone(&proxy), Arc::clone(&control), settings, logs);
    let ledger =
        if config.reload.together { ledger } else { Arc::new(Alone::new(&config.node.id)) };
    let versions = origin.map(|origin| origin.versions(ledger, group, Arc::new(reload)));
    let stop_versions = CancellationToken::new();
    if let Some(versions) = &versions {
        admin.configured(Arc::clone(versions) as _);
        if let Some(member) = &member {
            member.configures(Arc::clone(versions));
        }
        tokio::spawn(Arc::clone(versions).run(stop_versions.clone()));
    }
    tokio::spawn(hangups.drive(versions));

    let close_admin = CancellationToken::new();
    let admin = tokio::spawn(admin.run(close_admin.clone()));
    let signals = tokio::spawn(signals.drive(drain.clone()));
    if let Some(member) = &member {
        member.serves(Arc::clone(&proxy));
        tokio::spawn(Member::follow(Arc::clone(&member.cluster), drain));
    }
    tracing::info!(
        node = config.node.id,
        version = env!("CARGO_PKG_VERSION"),
        clients = %client,
        admin = %admin_address,
        servers = config.servers.len(),
        "started"
    );
    started(&Started { client, admin: admin_address });

    // === drain: clients first; the operator's port stays open to watch it ===
    running.finished().await;
    stop_versions.cancel();
    if let Some(member) = member {
        member.leave().await;
    }
    control.stop().await;
    close_admin.cancel();
    admin.await.context("the admin port failed")?;
    // Ready for a second signal until the very end.
    signals.abort();
    tracing::info!(node = config.node.id, "ended");
    Ok(())
}

/// The group of a node without a cluster; where the node has a folder, what happens is kept there.
fn alone(config: &Config) -> anyhow::Result<Alone> {
    let name = &config.node.id;
    let Some(folder) = &config.node.data_dir else { return Ok(Alone::new(name)) };
    Alone::keeping(name, folder).with_context(|| {
        let folder = folder.display();
        format!(
            "{folder} (node.data_dir) cannot be written to: let this process, or take the key out"
        )
    })
}
