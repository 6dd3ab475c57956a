//! The data plane of a node in the world, as far as control sees it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_config::CheckKind;
use holdfast_engine::breaker::{self, Breaker, Evidence, Params};
use holdfast_engine::failover::{Failover, Route};
use holdfast_engine::health::passive::Indicators;
use holdfast_engine::health::score::{Failure, Outcome};
use holdfast_engine::health::votes::Opinion;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::plane::{Activity, At, CheckResult, Checked, Lost, Own, Plane, Sight, Verdict, Word};
use crate::shared::lock;

use super::World;

#[derive(Default)]
pub(crate) struct FakePlane {
    pub(super) world: OnceLock<Weak<World>>,
    pub(super) node: usize,
    pub(super) ids: Vec<Vec<String>>,
    pub(crate) routes: Mutex<BTreeMap<usize, Arc<Failover>>>,
    pub(crate) verdicts: Mutex<BTreeMap<At, Option<Opinion>>>,
    pub(crate) words: Mutex<Vec<(usize, Option<usize>, Word)>>,
    /// What was said of tools.
    pub(crate) tools: Mutex<Vec<(usize, String, Word)>>,
    /// What all nodes read, as far as it was told.
    pub(crate) reads: Mutex<u32>,
    /// What its breakers of tools have to tell.
    pub(crate) tool_evidence: Mutex<BTreeMap<String, Evidence>>,
    /// What clients of a server lost, until it is asked for.
    pub(crate) lost: Mutex<BTreeMap<usize, Lost>>,
    pub(crate) running: Mutex<BTreeMap<At, u64>>,
    pub(crate) evidence: Mutex<BTreeMap<usize, Evidence>>,
    pub(super) breakers: Mutex<BTreeMap<At, Breaker>>,
    /// Its place among so many that share the rates.
    pub(crate) shares: Mutex<(usize, usize)>,
    pub(crate) activity: Mutex<Activity>,
    pub(crate) found: Mutex<Own>,
    pub(super) changed: Notify,
    /// Instances that have failed a call since that was last asked.
    pub(super) suspects: Mutex<Vec<At>>,
}

impl FakePlane {
    pub(super) fn world(&self) -> Arc<World> {
        self.world.get().and_then(Weak::upgrade).expect("the world is there")
    }

    pub(super) fn place(&self, id: &str) -> Option<At> {
        let mut servers = self.ids.iter().enumerate();
        servers.find_map(|(server, ids)| {
            Some(At { server, instance: ids.iter().position(|it| it == id)? })
        })
    }

    pub(super) fn with_breaker<T>(&self, at: At, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut all = lock(&self.breakers);
        let new = || Breaker::new(Params::default(), Instant::now().into_std());
        act(all.entry(at).or_insert_with(new))
    }

    /// Calls of some sessions, as far as they go to this instance.
    pub(super) fn call(&self, at: At, now: std::time::Instant) {
        let name = &self.ids[at.server][at.instance];
        let fails = lock(&self.world().fails).contains(&(self.node, name.clone()));
        let outcome = if fails { breaker::Outcome::Failure } else { breaker::Outcome::Success };
        let route = lock(&self.routes).get(&at.server).cloned();
        let goes_there =
            |key: &u64| route.as_ref().is_none_or(|it| it.route(*key) == Route::To(name.as_str()));
        for key in (0..20).filter(goes_there) {
            self.with_breaker(at, |breaker| {
                if let Ok(permit) = breaker.admit(now, key) {
                    breaker.settle(permit, outcome, now, key);
                }
            });
        }
    }

    pub(super) fn is_frozen(&self, at: At) -> bool {
        lock(&self.world().frozen).contains(&self.ids[at.server][at.instance])
    }

    pub(super) fn reaches(&self, at: At) -> bool {
        let world = self.world();
        let down = lock(&world.down).contains(&self.ids[at.server][at.instance]);
        let blind = lock(&world.blind).contains(&self.node);
        !down && !blind
    }

    /// What this node's breaker of a tool says from now on.
    pub(crate) fn tool(&self, tool: &str, opened: bool) {
        let evidence = Evidence { opened, calls: 10, failed: if opened { 10 } else { 0 } };
        lock(&self.tool_evidence).insert(tool.to_owned(), evidence);
        self.changed.notify_one();
    }

    /// What this node's breaker of a server says from now on.
    pub(crate) fn breaker(&self, server: usize, opened: bool) {
        let evidence = Evidence { opened, calls: 10, failed: if opened { 10 } else { 0 } };
        lock(&self.evidence).insert(server, evidence);
        self.changed.notify_one();
    }
}

impl Plane for FakePlane {
    fn check<'a>(
        &'a self,
        at: At,
        check: &'a CheckKind,
        within: Duration,
    ) -> BoxFuture<'a, Checked> {
        Box::pin(async move {
            let name = &self.ids[at.server][at.instance];
            let slow = lock(&self.world().slow).get(name).copied();
            let took = slow.unwrap_or(Duration::from_millis(3));
            let hangs =
                matches!(check, CheckKind::Tool { .. }) && lock(&self.world().hung).contains(name);
            // Here it is only asked as a monitor's, and that takes the connection and is silent.
            let monitor = matches!(check, CheckKind::Http { .. });
            if hangs || monitor || (*check != CheckKind::Connect && self.is_frozen(at)) {
                tokio::time::sleep(within).await;
                let outcome = Outcome::Failed(Failure::TimedOut);
                return Checked { outcome, took: within, text: String::new() };
            }
            tokio::time::sleep(took).await;
            let is_shut = lock(&self.world().shut).contains(name);
            if is_shut && *check == CheckKind::Connect {
                let outcome = Outcome::Failed(Failure::Unreachable);
                return Checked { outcome, took, text: "connection refused".into() };
            }
            // That a connection comes about says nothing beside what is lost.
            let is_lost = *check != CheckKind::Connect
                && lock(&self.world().lost)
                    .get_mut(&(self.node, name.clone()))
                    .is_some_and(|left| std::mem::replace(left, left.saturating_sub(1)) > 0);
            if !self.reaches(at) || is_lost {
                let outcome = Outcome::Failed(Failure::Unreachable);
                return Checked { outcome, took, text: "refused".into() };
            }
            let text = match check {
                CheckKind::Tool { .. } => {
                    let answers = lock(&self.world().answers).clone();
                    answers.get(&self.ids[at.server][at.instance]).cloned().unwrap_or_default()
                }
                _ => String::new(),
            };
            let is_poorly = lock(&self.world().poorly).contains(name);
            let outcome = if is_poorly { Outcome::Partly(0.85) } else { Outcome::Passed };
            Checked { outcome, took, text }
        })
    }

    fn sight(&self, at: At) -> Sight {
        let name = &self.ids[at.server][at.instance];
        let goes_there = lock(&self.routes)
            .get(&at.server)
            .is_some_and(|it| it.route(7) == Route::To(name.as_str()));
        let answers = goes_there && self.reaches(at) && !self.is_frozen(at);
        let now = Instant::now().into_std();
        let is_called = !lock(&self.world().idle).contains(&self.node);
        let fails = lock(&self.world().fails).contains(&(self.node, name.clone()));
        if is_called && (self.reaches(at) || fails) && !self.is_frozen(at) {
            self.call(at, now);
        }
        let error_rate = lock(&self.world().error_rates).get(name).copied();
        let (breaker, evidence, is_open) = self.with_breaker(at, |breaker| {
            breaker.tick(now, 0);
            (breaker.phase(), breaker.evidence(), breaker.is_open_by_server())
        });
        Sight {
            in_flight: lock(&self.running).get(&at).copied().unwrap_or(0),
            indicators: Indicators {
                calls: if is_called && goes_there { 1_000 } else { 0 },
                error_rate: error_rate.filter(|_| is_called && goes_there),
                called_lately: is_called && goes_there,
                ..Indicators::default()
            },
            breaker,
            evidence,
            is_open,
            answered_ago: (is_called && answers).then(|| *lock(&self.world().answered_ago)),
        }
    }

    fn server_evidence(&self, server: usize) -> Evidence {
        lock(&self.evidence).get(&server).copied().unwrap_or_default()
    }

    fn tool_evidence(&self, _server: usize, tool: &str) -> Evidence {
        lock(&self.tool_evidence).get(tool).copied().unwrap_or_default()
    }

    fn changed(&self) -> BoxFuture<'_, Vec<At>> {
        Box::pin(async {
            self.changed.notified().await;
            std::mem::take(&mut *lock(&self.suspects))
        })
    }

    fn route(&self, server: usize, failover: Arc<Failover>) {
        let mut routes = lock(&self.routes);
        if let Some(last) = routes.get(&server) {
            let step = |it: &Failover| (it.generation, it.step);
            assert!(step(&failover) > step(last), "a node goes back to an earlier step");
            for (instance, name) in self.ids[server].iter().enumerate() {
                if failover.serves(name) && !last.serves(name) {
                    let now = Instant::now().into_std();
                    let at = At { server, instance };
                    self.with_breaker(at, |breaker| breaker.start_over(now, 0));
                }
            }
        }
        routes.insert(server, failover);
    }

    fn judge(&self, at: At, verdict: Verdict) {
        lock(&self.verdicts).insert(at, verdict.opinion);
    }

    fn checked(&self, _at: At, _round: Vec<CheckResult>) {}

    fn share_rates(&self, place: usize, nodes: usize) {
        *lock(&self.shares) = (place, nodes);
    }

    fn say(&self, server: usize, instance: Option<usize>, word: Word) {
        lock(&self.words).push((server, instance, word));
        if let (Some(instance), Word::Opened { length, generation }) = (instance, word) {
            let now = Instant::now().into_std();
            self.with_breaker(At { server, instance }, |breaker| {
                breaker.opened_by_cluster(now + length, generation, now, 0)
            });
        }
    }

    fn say_of_tool(&self, server: usize, tool: &str, word: Word) {
        lock(&self.tools).push((server, tool.to_owned(), word));
    }

    fn all_read(&self, reads: u32) {
        *lock(&self.reads) = reads;
    }

    fn take_lost(&self, server: usize) -> Option<Lost> {
        lock(&self.lost).remove(&server)
    }

    fn activity(&self) -> Activity {
        lock(&self.activity).clone()
    }

    fn certificates(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    fn is_found(&self, own: Own) {
        *lock(&self.found) = own;
    }
}
