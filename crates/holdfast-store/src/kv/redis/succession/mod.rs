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
//! One that this node cannot ask may be the one that promotes a replica: it is waited for until it has told the
//! others (`said`), three seconds, unless most of the others take it for dead.
//!
//! # One for all writers of a primary
//! What is known is of the primary and not of a connection, so the writers share it. Each writer's write, its `WAIT`
//! and its `ROLE` are its own; only then it looks here. That this is as strict as if each knew by itself:
//!
//! * **Whether the primary stays** counts for a write only if the Sentinels were asked after its `WAIT` was over:
//!   one that has begun a failover in between says so, and to a question of before it has not. Writers share a
//!   round of questions that began after all of their acknowledgements were read, and never one that was under way
//!   then (`rounds`: a writer reads the number of rounds after its acknowledgement, under the lock under which a
//!   round takes its number before it asks anybody). Before the second question each waits its three seconds by
//!   itself, and that one has to begin after them.
//! * **How many replicas could be promoted** is no answer about a moment: it holds for [`COUNTED_FOR`] for any
//!   write, whoever had them counted, since a replica that is new has to be found by the Sentinels first. Any
//!   connection that sees more replicas raises it for all, before it decides. A count may lower it, to no less than
//!   what any connection saw since the count before, nor than what was connected after the last write that
//!   lasted. What a connection itself saw after its own last write counts for it besides: so no writer asks for
//!   fewer than it would alone, had it made the same count.
//! * **Without most of the Sentinels** the last count holds for as long as they are away, for a connection that is
//!   new as for one that was there when it was made. A replica that came after it, was found, promoted and gone
//!   before anybody wrote is not noticed, by either.
//! * **That what is written may not last** (`goes`) decides nothing: it saves writes that would become unknown. The
//!   last round has the word, in whatever order its writers come to say so.
//!
//! A write that every counted replica has, which is the usual case, takes one lock for a moment and waits for nobody.

mod rounds;
mod said;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_config::{HostPort, Topology};
use redis::Value;
use tokio::time::{Instant, sleep};

use self::rounds::{Asked, Round, Rounds};
use self::said::{Primary, Says};
use super::Shared;
use super::sentinels::Sentinels;
use super::topology::NAMED;

/// What is known of a primary's replicas, and of who may succeed it.
pub(super) struct Succession {
    primary: HostPort,
    rounds: Rounds<Watch>,
    known: Mutex<Known>,
    /// Whether `known.goes` says anything: most writes need not look.
    doubtful: AtomicBool,
}

/// The Sentinels that watch a primary.
struct Watch {
    sentinels: Sentinels,
    primary: HostPort,
}

/// What they have said in one round.
#[derive(Clone)]
struct Heard {
    says: Vec<Says>,
    /// When they were asked.
    asked: Instant,
    /// How many replicas there are, with those that are away, where most of them say that the primary stays.
    replicas: Option<usize>,
}

/// See the module: what the writers share.
#[derive(Debug, Default)]
struct Known {
    /// Replicas that could become the primary: as many as the Sentinels know, or as were seen.
    could: usize,
    /// When most of the Sentinels last said how many; `None` before the first time. And in which round.
    counted: Option<Instant>,
    counted_in: u64,
    /// The most replicas that were seen connected since then.
    seen: usize,
    /// Replicas that were connected after the last write that lasted.
    connected: usize,
    /// Why what is written may not last, and which round said so, or that it does.
    goes: Option<&'static str>,
    goes_by: u64,
}

/// What the replies to `SENTINEL MASTER`, who is the primary, and `SENTINEL SENTINELS` are asked with.
const QUESTIONS: [&str; 3] = ["MASTER", NAMED, "SENTINELS"];

/// The replies to these.
type Replies = [Value; QUESTIONS.len()];

impl Succession {
    /// `None` where no Sentinels name the primary.
    pub(super) fn of(shared: &Shared, primary: &HostPort) -> Option<Self> {
        let Topology::Sentinel { sentinels, master } = &shared.settings.topology else {
            return None;
        };
        let sentinels = Sentinels::new(shared, sentinels, master);
        Some(Self {
            primary: primary.clone(),
            rounds: Rounds::new(Watch { sentinels, primary: primary.clone() }),
            known: Mutex::default(),
            doubtful: AtomicBool::new(false),
        })
    }

    /// How many replicas `WAIT` is to wait for, where `least` have to acknowledge and `connected` were there after
    /// the last write of the connection; of one that is new, after the last of any.
    pub(super) fn wanted(&self, connected: Option<usize>, least: u8) -> u8 {
        let connected = connected.unwrap_or_else(|| self.known().connected);
        least.max(u8::try_from(connected).unwrap_or(u8::MAX))
    }

    /// Why what is written now may not last, as far as is known: then nothing should be.
    pub(super) fn goes(&self) -> Option<&'static str> {
        if self.doubtful.load(Ordering::Acquire) { self.known().goes } else { None }
    }

    /// Asks again, where what was written last did not last. Why nothing should be written.
    pub(super) async fn look(&self) -> Option<&'static str> {
        let Round { number, answer } = self.ask().await;
        let primary = said::conclude(&answer.says, false);
        self.set_goes(number, reason(primary));
        // Where too few say anything all replicas may have what is written, and then it lasts.
        reason(primary).filter(|_| primary == Primary::Goes)
    }

    /// Whether what `acknowledged` replicas have lasts, where `role` is what the primary says of itself
    /// afterwards. `connected` are those that were there after the last write of the same connection; it is
    /// brought up to what they are.
    ///
    /// # Errors
    /// Why it may not last.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn lasts(
        &self,
        connected: &mut Option<usize>,
        acknowledged: i64,
        role: Option<&Value>,
    ) -> Result<(), &'static str> {
        let now = replicas(role);
        let acknowledged = usize::try_from(acknowledged).unwrap_or(0);
        let before = connected.unwrap_or(0);
        {
            let mut known = self.known();
            known.see(now);
            // One that nobody has counted yet may be promoted in a moment as well.
            if known.is_counted_now() && known.have_all(acknowledged, before) {
                known.connected = now;
                *connected = Some(now);
                return Ok(());
            }
        }
        self.ask_whether(acknowledged, before).await?;
        self.known().connected = now;
        *connected = Some(now);
        Ok(())
    }

    /// Asks whether the primary stays, and waits for what one that cannot be asked may know, unless every
    /// replica has the write.
    async fn ask_whether(&self, acknowledged: usize, before: usize) -> Result<(), &'static str> {
        let have_all = || self.known().have_all(acknowledged, before);
        let mut round = self.ask().await;
        let mut primary = said::conclude(&round.answer.says, false);
        let mut all = have_all();
        if primary == Primary::MayStay && !all {
            sleep(TOLD_WITHIN).await;
            round = self.ask().await;
            primary = said::conclude(&round.answer.says, true);
            all = have_all();
        }
        let lasts = match primary {
            Primary::Stays => true,
            Primary::Goes => false,
            // What every replica has is worth writing, whoever cannot be asked.
            Primary::MayStay | Primary::Unknown => all,
        };
        let goes = if lasts { None } else { Some(reason(primary).unwrap_or(UNTOLD)) };
        self.set_goes(round.number, goes);
        goes.map_or(Ok(()), Err)
    }

    /// What the Sentinels say when they are asked from now on.
    async fn ask(&self) -> Round<Heard> {
        let round = self.rounds.ask().await;
        if let Some(replicas) = round.answer.replicas {
            self.known().count(round.number, replicas, round.answer.asked);
        }
        round
    }

    /// Says once that what is written here may not last, and that it does again.
    fn set_goes(&self, round: u64, goes: Option<&'static str>) {
        let mut known = self.known();
        if round < known.goes_by {
            return;
        }
        known.goes_by = round;
        let before = std::mem::replace(&mut known.goes, goes);
        self.doubtful.store(goes.is_some(), Ordering::Release);
        // Whoever writes waits for the lock, and need not wait for a log that is slow.
        drop(known);
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

    fn known(&self) -> MutexGuard<'_, Known> {
        // No code panics under the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Succession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = &self.known;
        f.debug_struct("Succession").field("known", known).finish_non_exhaustive()
    }
}

// === impl Known ===

impl Known {
    /// So many are connected.
    fn see(&mut self, connected: usize) {
        self.seen = self.seen.max(connected);
        self.could = self.could.max(connected);
    }

    /// The Sentinels know so many.
    fn count(&mut self, round: u64, replicas: usize, asked: Instant) {
        if round <= self.counted_in {
            return;
        }
        self.could = replicas.max(self.seen);
        self.seen = self.connected;
        (self.counted_in, self.counted) = (round, Some(asked));
    }

    fn is_counted_now(&self) -> bool {
        self.counted.is_some_and(|at| at.elapsed() < COUNTED_FOR)
    }

    /// Whether every replica that could become the primary has acknowledged, where `before` were seen on the
    /// same connection. Before there is a count, the one that is to be the primary may have gone already.
    fn have_all(&self, acknowledged: usize, before: usize) -> bool {
        self.counted.is_some() && acknowledged >= self.could.max(before)
    }
}

// === impl Watch ===

impl Asked for Watch {
    type Answer = Heard;

    async fn ask(&mut self) -> Heard {
        let asked = Instant::now();
        let replies = self.sentinels.ask(QUESTIONS).await;
        let read = |it: Result<Replies, _>| it.ok().and_then(|it| said::read(it, &self.primary));
        let said: Vec<_> = replies.into_iter().map(read).collect();
        let says = said::understand(&said);
        let stay = said.iter().zip(&says).filter(|(_, says)| **says == Says::Stays);
        let known: Vec<_> = stay.filter_map(|(said, _)| *said).map(|it| it.replicas).collect();
        // One that is about to replace the primary may know of a replica that the others do not.
        let counts = known.len() * 2 > says.len() && !says.contains(&Says::Goes);
        Heard { asked, replicas: known.into_iter().max().filter(|_| counts), says }
    }
}

/// Why what is written may not last.
fn reason(primary: Primary) -> Option<&'static str> {
    match primary {
        Primary::Stays | Primary::MayStay => None,
        Primary::Goes => Some("Redis is about to have another primary"),
        Primary::Unknown => Some(UNTOLD),
    }
}

/// Replicas in the answer to `ROLE` of a primary: `["master", offset, [replica, …]]`.
fn replicas(role: Option<&Value>) -> usize {
    match role {
        Some(Value::Array(role)) => match role.get(2) {
            Some(Value::Array(replicas)) => replicas.len(),
            _ => 0,
        },
        _ => 0,
    }
}

const UNTOLD: &str = "too few of Redis' Sentinels say that its primary stays";

/// Longer than Sentinels take to tell one another, which they do every two seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// How long a count of the replicas holds: a new one has to be found by the Sentinels before they promote it.
const COUNTED_FOR: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_connected_are_counted() {
        let replica = || Value::Array(vec![]);
        let name = Value::BulkString(b"master".to_vec());
        let role =
            Value::Array(vec![name, Value::Int(7), Value::Array(vec![replica(), replica()])]);
        assert_eq!(replicas(Some(&role)), 2);
        assert_eq!(replicas(Some(&Value::Nil)), 0);
        assert_eq!(replicas(None), 0);
    }

    #[test]
    fn all_that_were_counted_or_seen_by_anybody_have_to_have_it() {
        let mut known = Known::default();
        known.see(2);
        assert!(!known.have_all(2, 0), "the one that goes may have gone before it was counted");
        known.count(1, 3, Instant::now());
        // Any connection may rely on the count, also one that is new.
        assert!(known.have_all(3, 0) && !known.have_all(2, 0));
        assert!(!known.have_all(3, 4), "it has seen more by itself");
        known.see(4);
        assert!(!known.have_all(3, 0), "another connection has");
    }

    #[test]
    fn a_count_forgets_only_what_went_before_a_write_that_lasted() {
        let mut known = Known::default();
        known.see(3);
        known.connected = 3;
        known.count(2, 2, Instant::now());
        // The third has gone: it may be the next primary for as long as nothing lasts without it.
        for round in 3..6 {
            known.see(2);
            known.count(round, 2, Instant::now());
            assert!(!known.have_all(2, 0), "after {round}");
        }
        known.connected = 2;
        known.count(6, 2, Instant::now());
        known.count(7, 2, Instant::now());
        assert!(known.have_all(2, 0));
        // What an earlier round has counted is told late.
        known.count(5, 1, Instant::now());
        assert!(!known.have_all(1, 0));
    }
}
