//! `address`, `sentinel` and `cluster` under `sessions.redis`: where a Redis is, key by key.

use super::url::{is_master, parse_host};
use super::{HostPort, Topology};
use crate::field::{Field, quoted};
use crate::section::Section;

pub(super) fn read_address(field: &Field<'_>, port: u16) -> Option<HostPort> {
    let text = field.text()?;
    match parse_host(&text, port) {
        Ok(host) => Some(host),
        Err(why) => {
            let cure = format!("write something like redis:{port}");
            field.problem(format!("{} cannot be called: {why}", field.shown()), ADDRESS, &cure);
            None
        }
    }
}

const ADDRESS: &str = "HOST or HOST:PORT, IPv6 in brackets";

/// A list of addresses under `key`.
fn read_addresses(
    section: &mut Section<'_>,
    key: &'static str,
    port: u16,
) -> Option<Vec<HostPort>> {
    let items = section.field(key)?.items()?;
    let mut hosts: Vec<HostPort> = Vec::new();
    let mut whole = true;
    for item in &items {
        match read_address(item, port) {
            Some(host) if hosts.contains(&host) => {
                let found = format!("{} stands here a second time", quoted(&host.to_string()));
                item.problem(found, "each address once", "remove one of the two");
                whole = false;
            }
            Some(host) => hosts.push(host),
            None => whole = false,
        }
    }
    whole.then_some(hosts)
}

pub(super) fn read_sentinel(field: &Field<'_>) -> Option<Topology> {
    let mut section = field.section()?;
    let sentinels = read_addresses(&mut section, "sentinels", 26379);
    let master = section.field("master").and_then(|field| {
        let master = field.text()?;
        if is_master(&master) {
            return Some(master);
        }
        let allowed = "1 to 64 letters, digits, dots, dashes and underscores";
        field.wrong("a master's name", allowed, "write it as `sentinel monitor` does: mymaster");
        None
    });
    let lacking: Vec<_> = ["sentinels", "master"]
        .into_iter()
        .filter(|key| section.given(&[key]).is_empty())
        .chain(sentinels.as_ref().is_some_and(Vec::is_empty).then_some("any sentinels"))
        .collect();
    if !lacking.is_empty() {
        field.problem(
            format!("Sentinel without {}", lacking.join(" and ")),
            "sentinels and master",
            "write { sentinels: [\"HOST:26379\", …], master: mymaster }",
        );
        return None;
    }
    section.finish();
    Some(Topology::Sentinel { sentinels: sentinels?, master: master? })
}

pub(super) fn read_cluster(field: &Field<'_>) -> Option<Topology> {
    let mut section = field.section()?;
    let nodes = read_addresses(&mut section, "nodes", 6379);
    if section.given(&["nodes"]).is_empty() || nodes.as_ref().is_some_and(Vec::is_empty) {
        let cure = "write { nodes: [\"HOST:6379\", …] }";
        field.problem("a Redis Cluster without nodes".into(), "at least one node", cure);
        return None;
    }
    section.finish();
    Some(Topology::Cluster { nodes: nodes? })
}
