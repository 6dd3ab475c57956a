//! What the Sentinels say of a primary, and what that comes to.
//!
//! A Sentinel says `failover_in_progress` before it tells the replica, and until it names it. Then it tells the
//! other Sentinels, which name the old primary for up to two seconds more: under a lower configuration epoch.

use std::collections::HashMap;

use holdfast_config::HostPort;
use redis::from_redis_value;

use super::Replies;

/// What a Sentinel says of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// It names the one that is written to as the primary.
    ours: bool,
    /// It is putting another in the place of a primary.
    failing_over: bool,
    /// And that is the one that is written to.
    of_ours: bool,
    /// Of the failover that made the one that it names the primary: later ones have higher numbers.
    epoch: u64,
    /// How many replicas it knows, with those that are away.
    pub(super) replicas: usize,
    /// How many other Sentinels it knows, and how many of these it takes for dead.
    others: usize,
    dead: usize,
}

/// What that comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Stays,
    Goes,
    /// It names one that ours has replaced: it has not been told yet.
    Behind,
    Nothing,
    /// Nothing, and the others take it for dead.
    Dead,
}

/// What all of them come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Primary {
    Stays,
    Goes,
    /// It stays if those that said nothing do not know better.
    MayStay,
    /// Too few say anything.
    Unknown,
}

/// What they say together: any of them may be the one that replaces the primary, and most must know it.
/// `waited` is whether those that do not know better have had the time to hear it.
pub(super) fn conclude(says: &[Says], waited: bool) -> Primary {
    let are_most =
        |which: &[Says]| says.iter().filter(|says| which.contains(says)).count() * 2 > says.len();
    let all = !says.contains(&Says::Nothing);
    if says.contains(&Says::Goes) {
        Primary::Goes
    } else if are_most(&[Says::Stays]) && (all || waited) {
        Primary::Stays
    } else if are_most(&[Says::Stays, Says::Behind]) && !waited {
        Primary::MayStay
    } else {
        Primary::Unknown
    }
}

/// Reads the answers to `SENTINEL MASTER`, names and values, and to who is the primary. In the middle of a
/// failover they differ: the second names the one that has been promoted, the first the one before.
pub(super) fn read([master, named, others]: Replies, primary: &HostPort) -> Option<Said> {
    let fields = from_redis_value::<HashMap<String, String>>(master).ok()?;
    let (host, port) = from_redis_value::<(String, String)>(named).ok()?;
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    // Sentinels compare names without case.
    let is_ours = |host: &str, port: &str| {
        host.eq_ignore_ascii_case(&primary.host) && port == primary.port.to_string()
    };
    Some(Said {
        ours: is_ours(&host, &port),
        failing_over: field("flags").contains("failover_in_progress"),
        of_ours: is_ours(field("ip"), field("port")),
        epoch: field("config-epoch").parse().ok()?,
        replicas: field("num-slaves").parse().ok()?,
        others: field("num-other-sentinels").parse().ok()?,
        // Who may not ask for them knows of none that is dead.
        dead: from_redis_value::<Vec<HashMap<String, String>>>(others).map_or(0, |others| {
            let flags = others.iter().filter_map(|other| other.get("flags"));
            flags.filter(|flags| flags.contains("s_down")).count()
        }),
    })
}

pub(super) fn understand(said: &[Option<Said>]) -> Vec<Says> {
    let replaces = |said: &Said| said.failing_over && said.of_ours;
    let ours = said.iter().flatten().filter(|said| said.ours && !said.failing_over);
    let epoch = ours.map(|said| said.epoch).max();
    let is_behind = |said: &Said| epoch.is_some_and(|epoch| said.epoch < epoch);
    // Under which names they know one another need not be what is configured here: so they are counted, where
    // all are configured.
    let silent = said.iter().filter(|said| said.is_none()).count();
    let knows = |it: &&Said| it.others + 1 == said.len() && it.dead >= silent;
    let dead = said.iter().flatten().filter(knows).count() * 2 > said.len();
    let one = |said: &Option<Said>| match said {
        None if dead => Says::Dead,
        None => Says::Nothing,
        Some(said) if replaces(said) => Says::Goes,
        Some(said) if said.ours => Says::Stays,
        // It may be putting yet another in the place of the one before.
        Some(said) if is_behind(said) && !said.failing_over => Says::Behind,
        Some(_) => Says::Goes,
    };
    said.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    /// The answers of a Sentinel with this primary, and what it names as the primary.
    fn replies(port: &str, flags: &str, epoch: &str, named: &str) -> Replies {
        let host = "10.0.0.1";
        let primary = ["name", "m", "ip", host, "port", port, "flags", flags];
        let counts = ["config-epoch", epoch, "num-slaves", "2", "num-other-sentinels", "2"];
        let others = Value::Array(vec![list(&["flags", "sentinel"]), list(&["flags", "sentinel"])]);
        [list(&[&primary[..], &counts].concat()), list(&[host, named]), others]
    }

    fn list(texts: &[&str]) -> Value {
        Value::Array(texts.iter().copied().map(text).collect())
    }

    #[test]
    fn a_primary_stays_unless_a_failover_is_under_way_or_a_later_one_is_named() {
        const FAILING: &str = "master,failover_in_progress";
        let primary = HostPort { host: "10.0.0.1".into(), port: 6379 };
        let ours = || replies("6379", "master", "4", "6379");
        let cases = [
            (ours(), Says::Stays),
            (replies("6379", FAILING, "4", "6379"), Says::Goes),
            // The replica has been promoted, and the others are yet to be told.
            (replies("6379", FAILING, "5", "6380"), Says::Goes),
            (replies("6380", "master", "5", "6380"), Says::Goes),
            // It is ours that was promoted.
            (replies("6380", FAILING, "4", "6379"), Says::Stays),
            // The one before ours, as is told within two seconds.
            (replies("6380", "master", "3", "6380"), Says::Behind),
            // And it is replaced once more, by one that will count for more than ours.
            (replies("6380", FAILING, "3", "6380"), Says::Goes),
            ([Value::Int(1), Value::Nil, Value::Nil], Says::Nothing),
        ];
        for (said, expected) in cases {
            let says = understand(&[read(ours(), &primary), read(said.clone(), &primary)]);
            assert_eq!(says, [Says::Stays, expected], "{said:?}");
        }
        assert_eq!(read(ours(), &primary).unwrap().replicas, 2);
    }

    #[test]
    fn who_is_silent_is_dead_where_most_say_so() {
        use Says::{Dead, Nothing, Stays};
        let primary = HostPort { host: "10.0.0.1".into(), port: 6379 };
        let said = |dead: usize, others| {
            let [master, named, _] = replies("6379", "master", "4", "6379");
            let flags = |at| if at < dead { "s_down,sentinel" } else { "sentinel" };
            let list = (0..2).map(|at| list(&["name", "s", "flags", flags(at)])).collect();
            let said = read([master, named, Value::Array(list)], &primary);
            said.map(|said| Said { others, ..said })
        };
        let cases = [
            ([said(1, 2), said(1, 2), None], [Stays, Stays, Dead]),
            ([said(1, 2), said(0, 2), None], [Stays, Stays, Nothing]),
            ([said(1, 2), None, None], [Stays, Nothing, Nothing]),
            // Of one that is not configured nobody knows whether it is the one that is silent.
            ([said(1, 3), said(1, 3), None], [Stays, Stays, Nothing]),
        ];
        for (said, expected) in cases {
            assert_eq!(understand(&said), expected, "{said:?}");
        }
        let [master, named, _] = replies("6379", "master", "4", "6379");
        assert_eq!(read([master, named, Value::Nil], &primary).map(|it| it.dead), Some(0));
    }

    #[test]
    fn any_may_replace_it_and_most_must_know_that_it_stays() {
        use Says::{Behind, Dead, Goes, Nothing, Stays};
        // What they say, what that is at once, and what it is when it is said again after the wait.
        let cases = [
            ([Stays, Stays, Stays], Primary::Stays, Primary::Stays),
            ([Stays, Stays, Goes], Primary::Goes, Primary::Goes),
            ([Dead, Nothing, Goes], Primary::Goes, Primary::Goes),
            ([Stays, Stays, Nothing], Primary::MayStay, Primary::Stays),
            ([Stays, Stays, Behind], Primary::Stays, Primary::Stays),
            ([Stays, Stays, Dead], Primary::Stays, Primary::Stays),
            ([Stays, Behind, Behind], Primary::MayStay, Primary::Unknown),
            ([Stays, Behind, Dead], Primary::MayStay, Primary::Unknown),
            ([Stays, Nothing, Dead], Primary::Unknown, Primary::Unknown),
            ([Stays, Dead, Dead], Primary::Unknown, Primary::Unknown),
        ];
        for (says, at_once, later) in cases {
            assert_eq!(conclude(&says, false), at_once, "{says:?}");
            assert_eq!(conclude(&says, true), later, "{says:?}");
        }
    }
}
