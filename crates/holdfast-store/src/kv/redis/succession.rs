//! Whether a replica that has not acknowledged may be about to become the primary.
//!
//! `WAIT` counts any replica. While a failover by command is under way the old primary lives and has
//! the other replicas: those acknowledge what the one that is promoted never sees. So a write lasts
//! only if *every* replica that could be promoted has it, or if no Sentinel is about to put one in this
//! primary's place. (When a primary is gone the Sentinels take the replica that is furthest, of those with the
//! same `replica-priority`, and one acknowledgement is enough.)
//!
//! Which could be promoted is the Sentinels' to say, and not the primary's: one that was away may come
//! back, be promoted and be gone from the primary's list again between two writes. They keep those that are
//! away, so a write that all of them have lasts without a question, and while one is away they are
//! asked about each group.
//!
//! A Sentinel says `failover_in_progress` before it tells the replica, and until it names it. Then it tells the
//! other Sentinels, which name the old primary for up to two seconds more: under a lower configuration epoch.
//! So one that this node cannot ask is waited for, three seconds,, unless most of the others take it for dead.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_config::{HostPort, Topology};
use redis::{Value, from_redis_value};
use tokio::time::{Instant, sleep};

use super::Shared;
use super::sentinels::{Replies, Sentinels};

/// What a primary's writer knows of its replicas and of who may succeed it.
pub(super) struct Succession {
    sentinels: Sentinels,
    primary: HostPort,
    /// Replicas that were connected after the last write.
    connected: usize,
    /// Replicas that could become the primary: as many as the Sentinels know, or as were connected.
    could: usize,
    /// When most of the Sentinels last said how many; `None` before the first time.
    counted: Option<Instant>,
    /// Why what is written may not last, since it was last asked.
    goes: Option<&'static str>,
}

/// What a Sentinel says of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    /// It names the one that is written to as the primary.
    ours: bool,
    /// It is putting another in the place of a primary.
    failing_over: bool,
    /// And that is the one that is written to.
    of_ours: bool,
    /// Of the failover that made the one that it names the primary: later ones have higher numbers.
    epoch: u64,
    /// How many replicas it knows, with those that are away.
    replicas: usize,
    /// How many other Sentinels it knows, and how many of these it takes for dead.
    others: usize,
    dead: usize,
}

/// What that comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
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
enum Primary {
    Stays,
    Goes,
    /// It stays if those that said nothing do not know better.
    MayStay,
    /// Too few say anything.
    Unknown,
}

impl Succession {
    /// `None` where no Sentinels name the primary.
    pub(super) fn of(shared: &Shared, primary: &HostPort) -> Option<Self> {
        let Topology::Sentinel { sentinels, master } = &shared.settings.topology else {
            return None;
        };
        let within = shared.settings.connect_timeout.min(shared.settings.command_timeout);
        Some(Self {
            sentinels: Sentinels::new(sentinels, master, shared.dialler.clone(), within),
            primary: primary.clone(),
            connected: 0,
            could: 0,
            counted: None,
            goes: None,
        })
    }

    /// How many replicas `WAIT` is to wait for, where `least` have to acknowledge.
    pub(super) fn wanted(&self, least: u8) -> u8 {
        least.max(u8::try_from(self.connected).unwrap_or(u8::MAX))
    }

    /// Why what is written now may not last, as far as is known: then nothing should be.
    pub(super) fn goes(&self) -> Option<&'static str> {
        self.goes
    }

    /// Asks again, where what was written last did not last. Whether nothing should be written.
    pub(super) async fn look(&mut self) -> bool {
        if self.goes.is_none() {
            return false;
        }
        let primary = conclude(&self.ask_once().await, false);
        self.set_goes(primary);
        // Where too few say anything all replicas may have what is written, and then it lasts.
        primary == Primary::Goes
    }

    /// Whether what `acknowledged` replicas have lasts, where `role` is what the primary says of itself
    /// afterwards.
    pub(super) async fn lasts(&mut self, acknowledged: i64, role: Option<&Value>) -> bool {
        let connected = connected(role);
        self.could = self.could.max(connected);
        // One that nobody has counted yet may be promoted in a moment as well.
        let counted = self.counted.is_some_and(|at| at.elapsed() < COUNTED_FOR);
        let lasts = counted && self.have_all(acknowledged) || {
            let primary = self.ask(acknowledged).await;
            let lasts = match primary {
                Primary::Stays => true,
                Primary::Goes => false,
                Primary::MayStay | Primary::Unknown => self.have_all(acknowledged),
            };
            // What every replica has is worth writing, whoever cannot be asked.
            self.set_goes(if lasts { Primary::Stays } else { primary });
            lasts
        };
        if lasts {
            self.connected = connected;
        }
        lasts
    }

    /// Whether every replica that could become the primary has acknowledged. On a new connection the one that
    /// is to be the primary may have gone before it was counted.
    fn have_all(&self, acknowledged: i64) -> bool {
        self.counted.is_some() && usize::try_from(acknowledged).is_ok_and(|it| it >= self.could)
    }

    /// Asks whether the primary stays, and waits for what one that cannot be asked may know, unless every
    /// replica has the write.
    async fn ask(&mut self, acknowledged: i64) -> Primary {
        let primary = conclude(&self.ask_once().await, false);
        if primary != Primary::MayStay || self.have_all(acknowledged) {
            return primary;
        }
        sleep(TOLD_WITHIN).await;
        conclude(&self.ask_once().await, true)
    }

    async fn ask_once(&mut self) -> Vec<Says> {
        let asked = Instant::now();
        let replies = self.sentinels.ask().await;
        let said: Vec<_> =
            replies.into_iter().map(|it| it.and_then(|it| read(it, &self.primary))).collect();
        let says = understand(&said);
        let stay = said.iter().zip(&says).filter(|(_, says)| **says == Says::Stays);
        let known: Vec<_> = stay.filter_map(|(said, _)| *said).map(|it| it.replicas).collect();
        if let Some(most) = known.iter().max()
            && known.len() * 2 > says.len()
        {
            self.could = self.connected.max(*most);
            self.counted = Some(asked);
        }
        says
    }

    /// Says once that what is written here may not last, and that it does again.
    fn set_goes(&mut self, primary: Primary) {
        let goes = match primary {
            Primary::Stays | Primary::MayStay => None,
            Primary::Goes => Some("Redis is about to have another primary"),
            Primary::Unknown => Some("too few of Redis' Sentinels say that its primary stays"),
        };
        let before = std::mem::replace(&mut self.goes, goes);
        match goes {
            Some(reason) if before != goes => {
                tracing::warn!(address = %self.primary, reason, "what is written to redis may not last");
            }
            None if before.is_some() => {
                tracing::info!(address = %self.primary, "what is written to redis lasts again");
            }
            Some(_) | None => {}
        }
    }
}

/// What they say together: any of them may be the one that replaces the primary, and most must know it.
/// `waited` is whether those that do not know better have had the time to hear it.
fn conclude(says: &[Says], waited: bool) -> Primary {
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
fn read([master, named, others]: Replies, primary: &HostPort) -> Option<Said> {
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

fn understand(said: &[Option<Said>]) -> Vec<Says> {
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

/// Replicas in the answer to `ROLE` of a primary: `["master", offset, [replica, …]]`.
fn connected(role: Option<&Value>) -> usize {
    match role {
        Some(Value::Array(role)) => match role.get(2) {
            Some(Value::Array(replicas)) => replicas.len(),
            _ => 0,
        },
        _ => 0,
    }
}

/// Longer than Sentinels take to tell one another, which they do every two seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// How long a count of the replicas holds: a new one has to be found by the Sentinels before they promote it.
const COUNTED_FOR: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
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

    #[test]
    fn replicas_that_are_connected_are_counted() {
        let role = Value::Array(vec![
            text("master"),
            Value::Int(7),
            Value::Array(vec![Value::Array(vec![]), Value::Array(vec![])]),
        ]);
        assert_eq!(connected(Some(&role)), 2);
        assert_eq!(connected(Some(&Value::Nil)), 0);
        assert_eq!(connected(None), 0);
    }
}
