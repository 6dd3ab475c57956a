//! What the control plane says, and what it is told.
//!
//! Every word carries a generation that only rises: a word of an older one is refused, so that whoever
//! was coordinator before cannot take anything back.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use holdfast_engine::breaker::{self, Override};
use holdfast_engine::failover::Failover;
use holdfast_engine::health::passive::Indicators;
use holdfast_engine::health::votes::Opinion;
use tokio::sync::broadcast;

use super::{Fleet, ServerFleet, chance};

/// An instance, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Its server's number: that of [`Fleet::servers`].
    pub server: usize,
    /// Its number among the server's instances.
    pub instance: usize,
}

/// What the group, or this node alone, finds of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether it is used; `None`: too few have looked to say.
    pub opinion: Option<Opinion>,
    /// The score behind it, 0 to 100.
    pub score: u8,
    /// Why, in words for the operator.
    pub why: Arc<str>,
}

/// How one check of an instance ended.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckResult {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What is wrong; no addresses.
    pub error: Option<Arc<str>>,
    /// What it has read, of one that reads something.
    pub detail: Option<Arc<str>>,
    /// How long it took.
    pub elapsed: Duration,
    /// When it was made.
    pub at: Instant,
}

/// An instance as this node's calls see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sight {
    /// Calls that run at it now, without those that last for as long as their clients like.
    pub in_flight: u64,
    /// What the calls of the last minutes say.
    pub indicators: Indicators,
    /// Where its breaker is.
    pub breaker: breaker::Phase,
    /// What its breaker has to tell the other nodes: nothing of this node's own network.
    pub evidence: breaker::Evidence,
    /// Its breaker is open, or half-open after that, for a reason that is the instance's: this node's own
    /// calls, or the cluster's word.
    pub is_open: bool,
    /// For how long no call was answered; none: none ever was. No time of day, since the nodes' clocks differ.
    pub answered_ago: Option<Duration>,
}

/// What the group or an operator says of a breaker. Generations rise with each word about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The group opens it on every node, for so long.
    Opened {
        /// From now on.
        length: Duration,
        /// Of the word.
        generation: u64,
    },
    /// The group takes that back.
    Released {
        /// Of the word.
        generation: u64,
    },
    /// An operator holds it open or closed, or lets it decide.
    Forced {
        /// What it is to be.
        what: Override,
        /// Of the word.
        generation: u64,
    },
}

/// Something that happened to an instance on this node.
#[derive(Clone, Copy, Debug)]
pub struct News {
    /// Which.
    pub at: At,
    /// What.
    pub change: Change,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Its breaker changed its state.
    Breaker(breaker::Transition),
    /// It cannot be reached from here (`true`), or can be again.
    Away(bool),
    /// What is found of it changed: from, to.
    Opinion(Opinion, Opinion),
}

// === impl Verdict ===

impl Verdict {
    /// Nobody has looked yet: it is used.
    #[must_use]
    pub fn unknown() -> Self {
        Self { opinion: None, score: 100, why: Arc::from("not checked yet") }
    }
}

// === impl Fleet ===

impl Fleet {
    /// Where an instance stands in the configuration.
    #[must_use]
    pub fn at(&self, server: &str, instance: &str) -> Option<At> {
        let server = self.server(server)?;
        let found = server.instance_ids().position(|id| id == instance)?;
        Some(At { server: server.index, instance: found })
    }

    fn with<T>(&self, at: At, act: impl FnOnce(&ServerFleet) -> T) -> Option<T> {
        let server = self.servers.get(at.server)?;
        (at.instance < server.instances.len()).then(|| act(server))
    }

    // --- what is told ---

    /// Everything that happens to an instance from here on. A listener that is behind by more than a
    /// thousand is told so, and looks at [`Fleet::snapshot`](super::Fleet::snapshot).
    #[must_use]
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// Waits until a breaker has changed, or an instance has failed a call, since this last returned;
    /// which instances have. Where only a tool's breaker has changed, none.
    ///
    /// # Cancel safety
    /// A change is not lost.
    pub async fn changed(&self) -> Vec<At> {
        loop {
            let heard = self.heard.notified();
            let (mut changed, mut any) = (Vec::new(), false);
            for server in &self.servers {
                any |= server.tools_changed.swap(false, Ordering::AcqRel);
                for (instance, it) in server.instances.iter().enumerate() {
                    if it.news.swap(false, Ordering::AcqRel) {
                        changed.push(At { server: server.index, instance });
                    }
                }
            }
            if any || !changed.is_empty() {
                return changed;
            }
            heard.await;
        }
    }

    /// What this node's calls say of an instance now.
    #[must_use]
    pub fn sight(&self, at: At) -> Sight {
        let seen = self.with(at, |server| {
            let it = &server.instances[at.instance];
            let now = Instant::now();
            let (breaker, evidence, is_open) = it.steer(
                |breaker| {
                    breaker.tick(now, chance());
                    (breaker.phase(), breaker.evidence(), breaker.is_open_by_server())
                },
                |change| server.tell(at.instance, change),
            );
            fence(Ordering::SeqCst);
            let indicators = it.indicators(it.millis(now));
            it.weigh(&indicators, &server.thresholds);
            Sight {
                in_flight: u64::from(it.running()),
                indicators,
                breaker,
                evidence,
                is_open,
                answered_ago: it.answered_ago(now),
            }
        });
        seen.unwrap_or_else(|| Sight {
            in_flight: 0,
            indicators: Indicators::default(),
            breaker: breaker::Phase::Closed,
            evidence: breaker::Evidence::default(),
            is_open: false,
            answered_ago: None,
        })
    }

    /// What this node has to tell the others of a whole server: open where all instances are, and the
    /// calls of the one that fails least of them. A server is as well as its best instance; one that
    /// fails says nothing of those that stand by.
    #[must_use]
    pub fn server_evidence(&self, server: usize) -> breaker::Evidence {
        let Some(fleet) = self.servers.get(server) else { return breaker::Evidence::default() };
        let all = (0..fleet.instances.len()).map(|instance| self.sight(At { server, instance }));
        let share = |it: &breaker::Evidence| f64::from(it.failed) / f64::from(it.calls.max(1));
        let best = |one: breaker::Evidence, other: breaker::Evidence| breaker::Evidence {
            opened: one.opened && other.opened,
            ..if share(&other) < share(&one) { other } else { one }
        };
        all.map(|it| it.evidence).reduce(best).unwrap_or_default()
    }

    /// What this node has to tell the others of a tool that has a breaker of its own.
    #[must_use]
    pub fn tool_evidence(&self, server: usize, tool: &str) -> breaker::Evidence {
        let found = self.servers.get(server).and_then(|it| Some((it, it.tool(tool)?)));
        let evidence = found.map(|(fleet, number)| {
            fleet.steer_tool(number, |breaker| {
                breaker.tick(Instant::now(), chance());
                breaker.evidence()
            })
        });
        evidence.unwrap_or_default()
    }

    // --- what is said ---

    /// From here on calls of a server go by this state. When it returns, no call is admitted by an
    /// earlier one that [`Fleet::sight`] does not count. Sessions that are bound to another instance
    /// move with their next call, and those whose client listens at once.
    pub fn route(&self, server: usize, failover: Arc<Failover>) {
        let Some(server) = self.servers.get(server) else { return };
        let old = server.failover.swap(Some(Arc::clone(&failover)));
        fence(Ordering::SeqCst);
        for (at, it) in server.instances.iter().enumerate() {
            let served = old.as_ref().is_some_and(|old| old.serves(&it.id));
            let serves = failover.serves(&it.id);
            if served && !serves {
                it.give_up();
            }
            // How many calls come back to it is the failover's to say.
            if old.is_some() && serves && !served {
                it.forget_calls();
                let now = Instant::now();
                let tell = |change| server.tell(at, change);
                it.steer(|breaker| breaker.start_over(now, chance()), tell);
            }
        }
        server.take_measure();
        server.turned.notify_waiters();
        server.queue.look_again();
    }

    /// Takes in what is found of an instance.
    pub fn judge(&self, at: At, verdict: Verdict) {
        self.with(at, |server| {
            let now = Instant::now();
            if let Some((from, to)) = server.instances[at.instance].find(verdict, now) {
                server.say(at.instance, Change::Opinion(from, to));
            }
            server.take_measure();
        });
    }

    /// Takes in the checks of an instance as this node made them, for `/health`.
    pub fn checked(&self, at: At, checks: Vec<CheckResult>) {
        self.with(at, |server| server.instances[at.instance].checks.store(Arc::new(checks)));
    }

    /// What the group or an operator says of a breaker, an instance's or of all of a server's; whether
    /// it is news to any of them: an older generation, or the same, is refused. Where an operator holds
    /// an instance for itself, that stays whatever is said of its server.
    pub fn say(&self, server: usize, instance: Option<usize>, word: Word) -> bool {
        let Some(fleet) = self.servers.get(server) else { return false };
        let all = 0..fleet.instances.len();
        let mut is_news = false;
        for at in all.filter(|it| instance.is_none_or(|wanted| wanted == *it)) {
            let now = Instant::now();
            let (it, tell) = (&fleet.instances[at], |change| fleet.tell(at, change));
            is_news |= match word {
                Word::Opened { length, generation } => it.steer(
                    |it| it.opened_by_cluster(now + length, generation, now, chance()),
                    tell,
                ),
                Word::Released { generation } => {
                    it.steer(|it| it.released_by_cluster(generation, now), tell)
                }
                Word::Forced { what, generation } => {
                    it.hold(instance.is_none(), (what, generation), now, tell)
                }
            };
        }
        is_news
    }

    /// The same of the breaker of a tool that has one of its own (`breaker.per_tool`); whether there is one, and
    /// it is news.
    pub fn say_of_tool(&self, server: usize, tool: &str, word: Word) -> bool {
        let Some(fleet) = self.servers.get(server) else { return false };
        let Some(number) = fleet.tool(tool) else { return false };
        let now = Instant::now();
        fleet.steer_tool(number, |breaker| match word {
            Word::Opened { length, generation } => {
                breaker.opened_by_cluster(now + length, generation, now, chance())
            }
            Word::Released { generation } => breaker.released_by_cluster(generation, now),
            Word::Forced { what, generation } => breaker.force(what, generation, now),
        })
    }

    /// This node is the one at this place of so many that share what an instance may take a minute
    /// (`balance.rate`).
    pub fn share_rates(&self, place: usize, nodes: usize) {
        for server in &self.servers {
            server.share_rate(place, nodes);
        }
    }
}
