//! What Redis refuses, sorted by what it means for whoever asked.

use holdfast_config::HostPort;
use redis::{ErrorKind, RedisError, ServerError, Value};

use super::dial::Server;

/// Why an address is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It is away, or not ready yet: it is tried again.
    Away(String),
    /// It is there, and is not what the configuration says, or would lose data. Trying again has a
    /// point only after somebody has changed something.
    Wrong(String),
}

/// What a server's refusal of a command means. It was not carried out in any of these cases.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The server does not know the script.
    NoScript,
    /// Another server has this key, or this one is no primary any more: look for the primary anew.
    Elsewhere,
    /// The slot is on its way to this address, which has to be asked.
    Ask(String),
    /// It will pass.
    Later,
    /// It will not pass by itself.
    Never,
    /// It may have been carried out in part.
    Other,
}

impl Unusable {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Away(reason) | Self::Wrong(reason) => reason,
        }
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

/// What an error of the connection's set-up says. `address` names it.
pub(super) fn setup(address: &str, server: Server, error: &RedisError) -> Unusable {
    let text = error.to_string();
    let has = |word: &str| error.code() == Some(word) || text.contains(word);
    if has("WRONGPASS") || has("NOAUTH") || error.kind() == ErrorKind::AuthenticationFailed {
        let (who, keys) = match server {
            Server::Data => ("", "username and password"),
            // Those of the url are the data servers' alone.
            Server::Sentinel => ("the Sentinel ", "sentinel_username and sentinel_password"),
        };
        return Unusable::Wrong(format!(
            "{who}{address} refuses the user name or password (sessions.redis.{keys}): {text}"
        ));
    }
    if has("DB index") || has("SELECT is not allowed") || text.contains("database") {
        return Unusable::Wrong(format!(
            "{address} has no such database (the number at the end of the URL, or \
             sessions.redis.database): {text}"
        ));
    }
    if error.kind() == ErrorKind::RESP3NotSupported {
        return Unusable::Wrong(format!("{address} is too old: Redis 7.0 or later is needed"));
    }
    // What speaks TLS, or is no Redis, hangs up or answers with something else.
    let puzzled = error.kind() == ErrorKind::Parse || error.is_connection_dropped();
    let hint = if puzzled { ": is it a port for TLS (rediss://), or no Redis?" } else { "" };
    Unusable::Away(format!("{address}: {text}{hint}"))
}

/// What is said of an address that leads to several servers.
pub(super) fn another(address: &HostPort) -> Unusable {
    Unusable::Away(format!("{address} is one server now and another then"))
}

/// What is said of a user that lacks rights. They do not come by themselves.
pub(super) fn forbidden(address: &HostPort, reason: &str) -> String {
    format!(
        "{address}: {reason}: the ACL user of the gateways (sessions.redis.username) needs the rights that \
         redis/start.sh gives its user"
    )
}

/// The reason without the addresses in it: anybody may be told.
pub(super) fn without_addresses(reason: &str) -> String {
    let is_address = |word: &str| {
        word.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.ends_with('/') && port.parse::<u16>().is_ok()
        })
    };
    let told = |word: &&str| !is_address(word.trim_end_matches([':', ',', ';', ')']));
    reason.split(' ').filter(told).collect::<Vec<_>>().join(" ")
}

/// What a server's error means.
pub(super) fn refusal(error: &ServerError) -> Refusal {
    match error.code() {
        "NOSCRIPT" => Refusal::NoScript,
        "MOVED" | "READONLY" => Refusal::Elsewhere,
        "ASK" => match error.details().and_then(|details| details.rsplit(' ').next()) {
            Some(address) => Refusal::Ask(address.to_owned()),
            None => Refusal::Elsewhere,
        },
        "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "BUSY" | "NOREPLICAS" => {
            Refusal::Later
        }
        "NOPERM" | "NOAUTH" | "OOM" | "MISCONF" | "CROSSSLOT" | "WRONGPASS" => Refusal::Never,
        _ => Refusal::Other,
    }
}

/// Whether a reply says that the key's slot is, or is about to be, another master's.
pub(super) fn is_moved(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if matches!(error.code(), "ASK" | "MOVED"))
}

/// Whether a reply says that the server does not know the script.
pub(super) fn is_forgotten(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if matches!(refusal(error), Refusal::NoScript))
}

/// Whether a reply says that the server takes no writes for want of replicas.
pub(super) fn lacks_replicas(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "NOREPLICAS")
}

/// Whether it means that nothing at all can be written there: memory, or the disk, is full.
pub(super) fn takes_no_writes(error: &ServerError) -> bool {
    matches!(error.code(), "OOM" | "MISCONF")
}

/// Why a server takes no writes, in words for whoever writes.
pub(super) fn why_declined(reason: &str) -> &'static str {
    match reason.split(' ').next() {
        Some("OOM") => "its memory is full",
        Some("MISCONF") => "it cannot write to its disk",
        Some("NOPERM" | "NOAUTH" | "WRONGPASS") => "it refuses the gateway's user",
        Some("CROSSSLOT") => "it has the keys on several servers",
        _ => "too few of its replicas acknowledge",
    }
}

/// A server's error as text, without the script that met it.
pub(super) fn text(error: &ServerError) -> String {
    match error.details() {
        Some(details) => {
            let details = details.split_once(" script: ").map_or(details, |(before, _)| before);
            format!("{} {}", error.code(), details.trim_end_matches('.'))
        }
        None => error.code().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_is_told_the_reason_and_not_where() {
        for (reason, told) in [
            (
                "10.0.0.1:6379: Connection refused (os error 111)",
                "Connection refused (os error 111)",
            ),
            ("[::1]:6379 does not answer within 1s", "does not answer within 1s"),
            ("the Sentinel redis-1:26379 refuses", "the Sentinel refuses"),
            ("use redis:// or rediss://: it is TLS", "use redis:// or rediss://: it is TLS"),
        ] {
            assert_eq!(without_addresses(reason), told);
        }
    }
}
