//! A node takes over another configuration, and all the others with it: first one that is no good, which
//! must change nothing, then one that gives every server other settings.

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use super::{Incident, What, calm};
use crate::load::ledger::Ledger;
use crate::stack::{NODES, Stack};
use crate::{Error, PATIENCE, http};

/// How long a change may take: the node answers when all others have had a second.
const CHANGED_WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn strike(
    victim: usize,
    stack: &mut Stack,
    ledger: &Ledger,
) -> Result<(Incident, Option<Error>), Error> {
    let mut incident = Incident::new(What::ConfigReload, &stack.nodes[victim].name, ledger);
    let file = stack.folder.join("holdfast.yaml");
    let good = fs::read_to_string(&file)?;
    let before = version(stack, victim).await.ok_or("a node does not say which version it runs")?;

    fs::write(&file, good.replace("url: ", "urls: "))?;
    let (status, said) = reload(stack, victim).await?;
    if status != 422 {
        return Err(format!("void: a file that is no good is answered {status}: {said}").into());
    }
    for node in 0..NODES {
        if version(stack, node).await.is_some_and(|it| it != before) {
            return Err(
                format!("{} has taken over what was refused", stack.nodes[node].name).into()
            );
        }
    }

    let seconds = 300 + before;
    let timeout = format!("timeout: {seconds}s, url: ");
    let text: Vec<String> = good
        .lines()
        .map(|line| match line.split_once("url: ") {
            Some((name, url)) if line.starts_with("  ") => {
                let name = name.split_once("timeout: ").map_or(name, |(name, _)| name);
                format!("{name}{timeout}{url}")
            }
            _ => line.to_owned(),
        })
        .collect();
    fs::write(&file, text.join("\n") + "\n")?;
    let (status, said) = reload(stack, victim).await?;
    if status != 200 {
        return Err(format!("a good file is answered {status}: {said}").into());
    }
    let deadline = Instant::now() + PATIENCE;
    for node in 0..NODES {
        while version(stack, node).await.is_none_or(|it| it <= before) {
            if Instant::now() > deadline {
                let name = &stack.nodes[node].name;
                return Err(
                    format!("{name} does not take over what follows version {before}").into()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    incident.replaced = Some(ledger.now() - incident.from);
    Ok(calm(incident, stack, ledger).await)
}

async fn reload(stack: &Stack, node: usize) -> Result<(u16, Value), Error> {
    let admin = stack.nodes[node].admin;
    let body = Bytes::from_static(b"{}");
    let asked = http::exchange(admin, "POST", "/api/config/reload", body);
    let (status, body) = tokio::time::timeout(CHANGED_WITHIN, asked)
        .await
        .map_err(|_| "a reload is not answered in time")??;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

/// The version that a node runs.
async fn version(stack: &Stack, node: usize) -> Option<u64> {
    let node = &stack.nodes[node];
    let (_, body) = http::get(node.admin, "/api/nodes", CHANGED_WITHIN).await?;
    let said: Value = serde_json::from_slice(&body).ok()?;
    let all = said["nodes"].as_array()?;
    let own = all.iter().find(|it| it["name"] == *node.name)?;
    own["configuration"]["version"].as_u64()
}
