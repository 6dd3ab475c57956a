//! What a server says of itself, and which of its settings lose data.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{HostPort, Redis, Topology};
use redis::{Value, cmd, pipe};

use super::dial::Connection;
use super::failure::{self, Unusable};

/// A primary, as it says.
#[derive(Clone, Debug)]
pub(super) struct Inspected {
    pub(super) run_id: Arc<str>,
    pub(super) version: String,
    /// Settings with which acknowledged writes are lost, each with its cure.
    pub(super) losing: Vec<String>,
    /// What should be known and loses nothing by itself.
    pub(super) doubtful: Vec<String>,
    /// Replicas without which it takes no writes, as far as it may be asked.
    least_replicas: u64,
}

/// What `INFO` and `CONFIG GET` have answered.
#[derive(Debug, Default)]
struct Facts {
    info: HashMap<String, String>,
    /// None if the ACL user may not ask.
    config: Option<HashMap<String, String>>,
}

/// Asks a server what it is.
///
/// # Errors
/// That it is away or not ready, or not what the configuration says.
pub(super) async fn inspect(
    connection: &Connection,
    address: &HostPort,
    settings: &Redis,
) -> Result<Inspected, Unusable> {
    let facts = ask(connection, address, settings.command_timeout).await?;
    facts.is_the_right_kind(address, &settings.topology)?;
    let run_id = facts.info("run_id").unwrap_or_default();
    if run_id.is_empty() {
        return Err(Unusable::Wrong(format!(
            "{address} does not say which process it is: the ACL user needs INFO"
        )));
    }
    let (losing, doubtful) = facts.judge(settings);
    Ok(Inspected {
        run_id: Arc::from(run_id),
        version: facts.info("redis_version").unwrap_or("?").to_owned(),
        losing,
        doubtful,
        least_replicas: facts.least_replicas(),
    })
}

impl Inspected {
    /// Whether there are as many replicas as its writes need, where it says `INFO replication`.
    ///
    /// # Errors
    /// How many are missing.
    pub(super) fn has_replicas(&self, said: Value, settings: &Redis) -> Result<(), String> {
        let mut facts = Facts::default();
        facts.take_info(said);
        match facts.missing_replicas(settings, self.least_replicas) {
            Some(missing) => Err(format!("writes are refused: {missing}")),
            None => Ok(()),
        }
    }
}

async fn ask(
    connection: &Connection,
    address: &HostPort,
    within: Duration,
) -> Result<Facts, Unusable> {
    let mut commands = pipe();
    for section in SECTIONS {
        commands.add_command(cmd("INFO").arg(section).clone());
    }
    for setting in SETTINGS {
        commands.add_command(cmd("CONFIG").arg("GET").arg(setting).clone());
    }
    let replies = connection.ask_all(&commands, within).await;
    let replies =
        replies.map_err(|error| Unusable::Away(format!("{address}: {}", error.reason())))?;
    let mut facts = Facts { config: Some(HashMap::new()), ..Facts::default() };
    for (number, reply) in replies.into_iter().enumerate() {
        if let Value::ServerError(error) = &reply {
            if number >= SECTIONS.len() {
                facts.config = None;
                continue;
            }
            let reason = format!("{address}: {}", failure::text(error));
            return Err(match failure::refusal(error) {
                failure::Refusal::Never => Unusable::Wrong(reason),
                _ => Unusable::Away(reason),
            });
        }
        if number < SECTIONS.len() {
            facts.take_info(reply);
        } else if let Some(config) = &mut facts.config {
            let pairs: HashMap<String, String> = redis::from_redis_value(reply).unwrap_or_default();
            config.extend(pairs);
        }
    }
    Ok(facts)
}

// === impl Facts ===

impl Facts {
    /// Takes in a section of `INFO`.
    fn take_info(&mut self, reply: Value) {
        let text: String = redis::from_redis_value(reply).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.trim().split_once(':'));
        self.info.extend(lines.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    /// `min-replicas-to-write`; 0 where it may not be asked for.
    fn least_replicas(&self) -> u64 {
        self.config("min-replicas-to-write").and_then(|it| it.parse().ok()).unwrap_or(0)
    }

    /// Which replicas are missing for anything to be written.
    fn missing_replicas(&self, settings: &Redis, least: u64) -> Option<String> {
        let asked = u64::from(settings.replicas_to_acknowledge);
        let connected = self.number("connected_slaves").unwrap_or(0);
        if connected < asked {
            return Some(format!(
                "{connected} replicas of Redis are connected and \
                 sessions.redis.replicas_to_acknowledge is {asked}"
            ));
        }
        // Those that are in step. Redis says it only while it has a least number, which may have been
        // changed since it was asked for.
        let good = self.number("min_slaves_good_slaves").filter(|good| *good < least)?;
        Some(format!(
            "{good} replicas of Redis are in step and its min-replicas-to-write is {least}"
        ))
    }

    fn info(&self, name: &str) -> Option<&str> {
        self.info.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.info(name)?.parse().ok()
    }

    fn config(&self, name: &str) -> Option<&str> {
        self.config.as_ref()?.get(name).map(String::as_str)
    }

    fn is_the_right_kind(&self, address: &HostPort, topology: &Topology) -> Result<(), Unusable> {
        let wrong = |reason: String| Err(Unusable::Wrong(reason));
        match (self.info("redis_mode").unwrap_or("standalone"), topology) {
            ("sentinel", _) => {
                return wrong(format!(
                    "{address} is a Sentinel and keeps no data: give the Sentinels as \
                     redis+sentinel://{address}/NAME"
                ));
            }
            ("cluster", Topology::Standalone(_) | Topology::Sentinel { .. }) => {
                return wrong(format!(
                    "{address} is a node of a Redis Cluster: give it as redis+cluster://{address}"
                ));
            }
            ("standalone", Topology::Cluster { .. }) => {
                return wrong(format!(
                    "{address} is no node of a Redis Cluster: give it as redis://{address}"
                ));
            }
            _ => {}
        }
        if self.info("loading") == Some("1") {
            return Err(Unusable::Away(format!("{address} is still loading its data")));
        }
        if self.info("role") == Some("master") {
            return Ok(());
        }
        let of = format!(
            "{}:{}",
            self.info("master_host").unwrap_or("?"),
            self.info("master_port").unwrap_or("?")
        );
        match topology {
            Topology::Standalone(_) => wrong(format!(
                "{address} is a replica of {of} and takes no writes: give the primary's address, \
                 or the Sentinels as redis+sentinel://"
            )),
            // The Sentinels, or the cluster, have not finished yet.
            Topology::Sentinel { .. } | Topology::Cluster { .. } => {
                Err(Unusable::Away(format!("{address} is a replica of {of} still")))
            }
        }
    }

    /// Settings that lose data, and settings that should be known.
    fn judge(&self, settings: &Redis) -> (Vec<String>, Vec<String>) {
        let (mut losing, mut doubtful) = (Vec::new(), Vec::new());
        let policy = self.info("maxmemory_policy").unwrap_or("noeviction");
        let limit = self.number("maxmemory").unwrap_or(0);
        if limit > 0 && policy != "noeviction" {
            losing.push(format!(
                "maxmemory-policy is {policy} with maxmemory {limit}: Redis would throw sessions \
                 away when it is full; set maxmemory-policy noeviction"
            ));
        }
        let appends = self.info("aof_enabled") == Some("1");
        match (appends, self.config("save")) {
            (true, _) => {}
            (false, Some("")) => losing.push(
                "appendonly is no and save is empty: a restart of Redis would lose everything; set \
                 appendonly yes"
                    .to_owned(),
            ),
            (false, Some(save)) => losing.push(format!(
                "appendonly is no (save is \"{save}\"): a restart of Redis would lose what was \
                 written since its last snapshot; set appendonly yes"
            )),
            (false, None) => losing.push(
                "appendonly is no, and the ACL user may not ask for save (CONFIG GET): a restart \
                 of Redis would lose at least what was written since its last snapshot; set \
                 appendonly yes"
                    .to_owned(),
            ),
        }
        match self.config("appendfsync") {
            Some("no") if appends => doubtful.push(
                "appendfsync is no: a machine that fails loses what its kernel had not written; \
                 set appendfsync always"
                    .to_owned(),
            ),
            // Redis puts a write off while it waits for the disk, and has answered it by then.
            Some("everysec") if appends && settings.replicas_to_acknowledge == 0 => doubtful.push(
                "appendfsync is everysec and no replica acknowledges: a Redis that is killed may \
                 lose two seconds; set appendfsync always"
                    .to_owned(),
            ),
            _ => {}
        }
        self.judge_replicas(settings, &mut losing, &mut doubtful);
        if self.config.is_none() {
            doubtful.push(
                "save, appendfsync and min-replicas-to-write could not be checked: the ACL user \
                 may not use CONFIG GET"
                    .to_owned(),
            );
        }
        (losing, doubtful)
    }

    fn judge_replicas(
        &self,
        settings: &Redis,
        losing: &mut Vec<String>,
        doubtful: &mut Vec<String>,
    ) {
        let asked = u64::from(settings.replicas_to_acknowledge);
        let connected = self.number("connected_slaves").unwrap_or(0);
        // Refused by the configuration unless allow_unsafe is set.
        if asked == 0 && !matches!(settings.topology, Topology::Standalone(_)) {
            losing.push(
                "sessions.redis.replicas_to_acknowledge is 0: whatever the primary had not passed \
                 on is lost in a failover; set it to 1"
                    .to_owned(),
            );
        }
        // Loses nothing: no write is acknowledged. And replicas may come later than this node.
        if let Some(missing) = self.missing_replicas(settings, self.least_replicas()) {
            doubtful.push(format!(
                "{missing}: no session is opened and no tier-1 Write is sent until there are more"
            ));
        }
        let least = self.config("min-replicas-to-write");
        if connected > 0 && least == Some("0") {
            doubtful.push(
                "min-replicas-to-write is 0: a primary that is cut off goes on taking writes that \
                 are lost later; set min-replicas-to-write 1 and min-replicas-max-lag 2"
                    .to_owned(),
            );
        }
    }
}

const SECTIONS: [&str; 4] = ["server", "replication", "persistence", "memory"];

const SETTINGS: [&str; 3] = ["save", "appendfsync", "min-replicas-to-write"];

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> HostPort {
        HostPort { host: "r".into(), port: 1 }
    }

    fn facts(info: &[(&str, &str)], config: Option<&[(&str, &str)]>) -> Facts {
        let owned = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Facts { info: owned(info), config: config.map(owned) }
    }

    fn losing(info: &[(&str, &str)], config: Option<&[(&str, &str)]>) -> Vec<String> {
        let settings = Redis::new(Topology::Standalone(address()));
        facts(info, config).judge(&settings).0
    }

    #[test]
    fn safe_settings_are_not_complained_of() {
        let info = [("aof_enabled", "1"), ("maxmemory", "100"), ("maxmemory_policy", "noeviction")];
        assert_eq!(losing(&info, Some(&[("save", "")])), [""; 0]);
        let no_limit =
            [("aof_enabled", "1"), ("maxmemory", "0"), ("maxmemory_policy", "allkeys-lru")];
        assert_eq!(losing(&no_limit, None), [""; 0], "without a limit nothing is thrown away");
    }

    #[test]
    fn each_setting_that_loses_data_is_named_with_its_value_and_cure() {
        let lru = [("aof_enabled", "1"), ("maxmemory", "100"), ("maxmemory_policy", "allkeys-lru")];
        let said = losing(&lru, None).join("");
        assert!(said.contains("maxmemory-policy is allkeys-lru"), "{said}");
        assert!(said.contains("set maxmemory-policy noeviction"), "{said}");
        for (save, words) in [(Some(""), "save is empty"), (Some("3600 1"), "save is \"3600 1\"")] {
            let config = save.map(|save| [("save", save)]);
            let said = losing(&[("aof_enabled", "0")], config.as_ref().map(|it| &it[..])).join("");
            assert!(said.contains(words) && said.contains("set appendonly yes"), "{said}");
        }
        let said = losing(&[("aof_enabled", "0")], None).join("");
        assert!(said.contains("may not ask"), "{said}");
    }

    #[test]
    fn replicas_that_are_missing_or_not_asked_are_named() {
        let sentinels =
            Topology::Sentinel { sentinels: vec![address()], master: "mymaster".into() };
        let mut settings = Redis::new(sentinels);
        let info = [("aof_enabled", "1"), ("connected_slaves", "0")];
        let (losing, doubtful) = facts(&info, None).judge(&settings);
        assert_eq!(losing, [""; 0]);
        assert!(doubtful[0].contains("0 replicas of Redis are connected"), "{doubtful:?}");
        let info =
            [("aof_enabled", "1"), ("connected_slaves", "1"), ("min_slaves_good_slaves", "0")];
        let (_, doubtful) = facts(&info, Some(&[("min-replicas-to-write", "1")])).judge(&settings);
        assert!(doubtful[0].contains("0 replicas of Redis are in step"), "{doubtful:?}");
        settings.replicas_to_acknowledge = 0;
        let info = [("aof_enabled", "1"), ("connected_slaves", "2")];
        let config = [("min-replicas-to-write", "0")];
        let (losing, doubtful) = facts(&info, Some(&config)).judge(&settings);
        assert!(losing[0].contains("replicas_to_acknowledge is 0"), "{losing:?}");
        assert!(doubtful[0].contains("set min-replicas-to-write 1"), "{doubtful:?}");
    }

    #[test]
    fn what_is_no_primary_of_this_kind_is_named() {
        let standalone = Topology::Standalone(address());
        let cluster = Topology::Cluster { nodes: vec![address()] };
        let check = |info: &[(&str, &str)], topology: &Topology| {
            facts(info, None).is_the_right_kind(&address(), topology).unwrap_err()
        };
        let said = check(&[("redis_mode", "sentinel")], &standalone);
        assert!(matches!(&said, Unusable::Wrong(it) if it.contains("is a Sentinel")), "{said}");
        let said = check(&[("redis_mode", "cluster")], &standalone);
        assert!(matches!(&said, Unusable::Wrong(it) if it.contains("redis+cluster://")), "{said}");
        let said = check(&[("redis_mode", "standalone")], &cluster);
        assert!(matches!(&said, Unusable::Wrong(it) if it.contains("no node of")), "{said}");
        let replica = [("role", "slave"), ("master_host", "p"), ("master_port", "2")];
        let said = check(&replica, &standalone);
        assert!(matches!(&said, Unusable::Wrong(it) if it.contains("replica of p:2")), "{said}");
        let said = check(&[("loading", "1")], &standalone);
        assert!(matches!(said, Unusable::Away(_)));
    }
}
