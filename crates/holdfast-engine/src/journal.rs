//! The call journal: what is written down about a call, and what its second arrival does.
//!
//! A call that must not run twice is in the journal before it is on the wire. The entry says who sends
//! it (node and generation) and how far it got. When the call arrives again, at this node or another,
//! [`arrival`] decides by the entry:
//!
//! | entry | by a balancer's id | without one |
//! |---|---|---|
//! | none | run | run |
//! | of another principal | forbidden | forbidden |
//! | pending or streaming, its owner may run | wait for it | wait for it |
//! | pending or streaming, its owner is gone | take over | take over |
//! | waiting, its owner may run | wait for it | wait for it |
//! | waiting, its owner is gone: it was not sent | run | run |
//! | complete | deliver | run |
//! | complete, its answer too large to be kept | not kept | run |
//! | failed: it did not run | run | run |
//! | unknown | unknown | run |
//!
//! Without a balancer's id the key is made of the session and the JSON-RPC id, and clients restart
//! their counters: a finished entry may be another call's, so only an unfinished one counts. Whoever
//! has *waited* for an entry knows whose it is: then [`awaited`] decides, and what became of it counts,
//! or the second of two copies would run as soon as the first is done.
//!
//! # Saying that a call did not run
//! An error that says so is the call's answer, like any other: it is settled as [`Phase::Complete`],
//! so that no other copy of the call runs afterwards. [`Phase::Failed`] invites the
//! next arrival to run, and is for owners who give no answer, since nobody waits for it any more. A
//! node that cannot write to the journal knows of its own doing only: unless the balancer says that
//! this is its first attempt, an earlier one may be running elsewhere, and the answer is that the call
//! may have run.
//!
//! # How long it may wait
//! Two things end with time: what a node remembers of the calls that it told others it has not had, and the entry.
//! So an entry is begun within [`MAX_AGE`] of the call's receipt, and a call that has to wait for its turn, such as
//! for a failover's pause, is written down before it does; from then on every other sending of it finds the entry,
//! however long the wait is. It is sent within [`SENT_WITHIN`] of that, while the entry has at least as long to live.
//! While it waits the entry says so ([`Phase::Waiting`]), and before it is sent it is made [`Phase::Pending`], by
//! compare-and-set. So of a call whose owner died over the wait it is known that it was not sent: either whoever finds
//! it runs it, or its owner was faster.
//!
//! Whoever runs, takes over or settles does so by compare-and-set on the entry's revision, so of any
//! number of nodes that decide at once one goes on. What becomes of a call that was taken over is
//! [`orphan`]'s decision. The last check before a byte is written is [`may_send`].

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::class::CallClass;
use crate::replicated::Origin;

/// A call that must not run twice has its entry within this time of its receipt, or none and is not sent: for
/// longer no node remembers what it told others that it has not had.
pub const MAX_AGE: Duration = Duration::from_secs(10);

/// It is not sent later than this after its entry was begun; where it has none, after its receipt.
pub const SENT_WITHIN: Duration = Duration::from_secs(2 * 60);

/// How long an entry is kept, at least. Far longer than [`SENT_WITHIN`], so that no call is sent after the
/// entry that would stop its repetition is gone.
pub const KEEP: Duration = Duration::from_secs(5 * 60);

/// The name of a call: a SHA-256 over (principal, server, balancer's request id, digest of the body)
/// or (principal, session, JSON-RPC id, digest of the body).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CallKey(pub [u8; 32]);

/// How far a call got.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Phase {
    /// It may be sent, or has been.
    Pending,
    /// The server answers with a stream.
    Streaming {
        /// The gateway's id of the stream.
        stream: u128,
        /// The last event id that the server gave, if it gives any: then its stream is resumable.
        server_event: Option<String>,
        /// The server's session.
        server_session: Option<String>,
        /// The instance that answers, by its place in the configuration.
        instance: u16,
    },
    /// It ran, and this is its answer.
    Complete {
        /// The answer's body, sealed; none if it is too large to be kept.
        answer: Option<Bytes>,
        /// Its HTTP status.
        status: u16,
        /// Whether it was a stream of events.
        is_stream: bool,
    },
    /// It did not run, whoever wrote this will not send it any more and has given no answer: the next
    /// arrival may run.
    Failed,
    /// It may have run; its answer is lost.
    Unknown,
    /// It waits for its turn at its owner and has not been sent: before it is, this is made [`Self::Pending`].
    /// Nodes of an earlier version cannot read it, so it is written where all say that they can.
    Waiting,
}

/// What the journal knows of a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Who sends it.
    pub owner: Origin,
    /// Whose call it is.
    pub principal: u64,
    /// The server's name.
    pub server: String,
    /// The call's class, [`CallClass`] as a number.
    pub class: u8,
    /// The instance that it is sent to, by its place in the configuration.
    pub instance: u16,
    /// When it was received, in milliseconds since the Unix epoch.
    pub started: u64,
    /// Whether the key has a balancer's request id in it.
    pub by_balancer: bool,
    /// How far it got.
    pub phase: Phase,
}

/// What to do with a call that arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival<'a> {
    /// Write the entry (in place of the one that was found, if any), then send.
    Run,
    /// Its owner lives: wait for what it settles, or until it is gone.
    Wait,
    /// Give this answer.
    Deliver {
        /// The body, sealed.
        answer: &'a Bytes,
        /// The HTTP status.
        status: u16,
        /// Whether it is a stream of events.
        is_stream: bool,
    },
    /// Say that it ran, and that its answer was too large to be kept.
    NotKept,
    /// Its owner is gone: take the entry over, then do what [`orphan`] says.
    TakeOver,
    /// It belongs to another principal.
    Forbidden,
    /// Say that it may have run.
    Unknown,
}

/// What becomes of a call whose owner is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Orphan {
    /// Go on with the server's stream where it was left.
    Resume,
    /// Send the call again.
    Repeat,
    /// Settle it as unknown and say so.
    OutcomeUnknown,
}

/// Why a call is not sent, although its entry is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum NotSent {
    /// The node has no lease from the group.
    #[error("this node has no lease from the cluster")]
    NoLease,
    /// The node has joined anew since it wrote the entry, which is no longer its own.
    #[error("this node has joined the cluster anew since it took the call")]
    OtherLife,
    /// It has waited for too long since its entry was begun.
    #[error("the call waited for more than {} s before it could be sent", SENT_WITHIN.as_secs())]
    TooOld,
}

/// Decides what an arriving call does, given the entry at its key. With a balancer's id that may be a
/// copy that lags behind, since whatever follows is compare-and-set. Without one it must be the entry
/// as the log has it, such as a put-if-absent finds it: a copy may still show an earlier call under
/// this key as unfinished, and its answer would be taken for this call's. `owner_may_run` is
/// [`ClusterState::may_run`](crate::replicated::ClusterState::may_run) of the entry's owner.
#[must_use]
pub fn arrival(
    entry: Option<&Entry>,
    principal: u64,
    by_balancer: bool,
    owner_may_run: bool,
) -> Arrival<'_> {
    let Some(entry) = entry else { return Arrival::Run };
    decide(entry, principal, by_balancer && entry.by_balancer, owner_may_run)
}

/// Decides again for a call that has waited for an entry, or tried to take it over, and so knows that
/// the entry is its own. One that has gone tells nothing of what became of it, and nothing is run.
#[must_use]
pub fn awaited(entry: Option<&Entry>, principal: u64, owner_may_run: bool) -> Arrival<'_> {
    let Some(entry) = entry else { return Arrival::Unknown };
    decide(entry, principal, true, owner_may_run)
}

fn decide(
    entry: &Entry,
    principal: u64,
    names_this_call: bool,
    owner_may_run: bool,
) -> Arrival<'_> {
    if entry.principal != principal {
        return Arrival::Forbidden;
    }
    match &entry.phase {
        Phase::Pending | Phase::Streaming { .. } | Phase::Waiting if owner_may_run => Arrival::Wait,
        Phase::Pending | Phase::Streaming { .. } => Arrival::TakeOver,
        Phase::Failed | Phase::Waiting => Arrival::Run,
        Phase::Complete { .. } | Phase::Unknown if !names_this_call => Arrival::Run,
        Phase::Complete { answer: Some(answer), status, is_stream } => {
            Arrival::Deliver { answer, status: *status, is_stream: *is_stream }
        }
        Phase::Complete { answer: None, .. } => Arrival::NotKept,
        Phase::Unknown => Arrival::Unknown,
    }
}

/// Decides what becomes of an orphan. `resumable` says that the server's stream can be gone on with
/// ([`Phase::is_resumable`]); `client_waits` that someone waits for this very call and its session has
/// seen no later one.
#[must_use]
pub fn orphan(class: CallClass, resumable: bool, client_waits: bool) -> Orphan {
    match class {
        _ if resumable => Orphan::Resume,
        CallClass::Lifecycle | CallClass::Read => Orphan::Repeat,
        CallClass::Idempotent if client_waits => Orphan::Repeat,
        CallClass::Idempotent | CallClass::Write => Orphan::OutcomeUnknown,
    }
}

/// The last check before the first byte of a journaled call is written. `entry` is the owner in the
/// entry, `now` who the node is at this moment, `lease` whether it holds one, `age` how long ago the
/// entry was begun, or the call received that has none. A refusal means that this attempt was not sent.
///
/// # Errors
/// [`NotSent`], with the reason.
pub fn may_send(entry: Origin, now: Origin, lease: bool, age: Duration) -> Result<(), NotSent> {
    if entry != now {
        Err(NotSent::OtherLife)
    } else if !lease {
        Err(NotSent::NoLease)
    } else if age >= SENT_WITHIN {
        Err(NotSent::TooOld)
    } else {
        Ok(())
    }
}

// === impl CallKey ===

impl AsRef<[u8]> for CallKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// === impl Phase ===

impl Phase {
    /// Whether nothing more is expected to be written about the call.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match self {
            Self::Pending | Self::Streaming { .. } | Self::Waiting => false,
            Self::Complete { .. } | Self::Failed | Self::Unknown => true,
        }
    }

    /// Whether the server's stream can be gone on with: it is a stream, and the server gave event ids.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        matches!(self, Self::Streaming { server_event: Some(_), .. })
    }
}

// === impl Entry ===

impl Entry {
    /// The call's class. What is not known is a Write.
    #[must_use]
    pub fn call_class(&self) -> CallClass {
        [CallClass::Lifecycle, CallClass::Read, CallClass::Idempotent]
            .into_iter()
            .find(|class| *class as u8 == self.class)
            .unwrap_or(CallClass::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Origin = Origin { node: 7, generation: 2 };

    fn entry(by_balancer: bool, phase: Phase) -> Entry {
        Entry {
            owner: OWNER,
            principal: 1,
            server: "notes".into(),
            class: CallClass::Write as u8,
            instance: 0,
            started: 0,
            by_balancer,
            phase,
        }
    }

    fn streaming(server_event: Option<&str>) -> Phase {
        Phase::Streaming {
            stream: 5,
            server_event: server_event.map(str::to_owned),
            server_session: None,
            instance: 0,
        }
    }

    fn complete() -> Phase {
        let answer = Some(Bytes::from_static(b"sealed"));
        Phase::Complete { answer, status: 200, is_stream: true }
    }

    fn not_kept() -> Phase {
        Phase::Complete { answer: None, status: 200, is_stream: true }
    }

    #[test]
    fn every_cell_of_the_table_of_arrivals() {
        let answer = Bytes::from_static(b"sealed");
        let deliver = Arrival::Deliver { answer: &answer, status: 200, is_stream: true };
        // phase, owner may run, with a balancer's id, without one
        let table = [
            (Phase::Pending, true, Arrival::Wait, Arrival::Wait),
            (Phase::Pending, false, Arrival::TakeOver, Arrival::TakeOver),
            (streaming(None), true, Arrival::Wait, Arrival::Wait),
            (streaming(None), false, Arrival::TakeOver, Arrival::TakeOver),
            (streaming(Some("e1")), true, Arrival::Wait, Arrival::Wait),
            (streaming(Some("e1")), false, Arrival::TakeOver, Arrival::TakeOver),
            (Phase::Waiting, true, Arrival::Wait, Arrival::Wait),
            (Phase::Waiting, false, Arrival::Run, Arrival::Run),
            (complete(), true, deliver, Arrival::Run),
            (complete(), false, deliver, Arrival::Run),
            (not_kept(), true, Arrival::NotKept, Arrival::Run),
            (not_kept(), false, Arrival::NotKept, Arrival::Run),
            (Phase::Failed, true, Arrival::Run, Arrival::Run),
            (Phase::Failed, false, Arrival::Run, Arrival::Run),
            (Phase::Unknown, true, Arrival::Unknown, Arrival::Run),
            (Phase::Unknown, false, Arrival::Unknown, Arrival::Run),
        ];
        for (phase, owner_may_run, with, without) in table {
            let row = format!("{phase:?} {owner_may_run}");
            for (by_balancer, expected) in [(true, with), (false, without)] {
                let entry = entry(by_balancer, phase.clone());
                assert_eq!(arrival(Some(&entry), 1, by_balancer, owner_may_run), expected, "{row}");
                assert_eq!(
                    arrival(Some(&entry), 2, by_balancer, owner_may_run),
                    Arrival::Forbidden,
                    "another principal: {row}"
                );
            }
        }
        for by_balancer in [true, false] {
            assert_eq!(arrival(None, 1, by_balancer, true), Arrival::Run);
            assert_eq!(arrival(None, 1, by_balancer, false), Arrival::Run);
        }
    }

    #[test]
    fn a_finished_entry_counts_only_if_both_sides_have_the_balancers_id() {
        for (written, arrives) in [(true, false), (false, true)] {
            for phase in [complete(), not_kept(), Phase::Unknown] {
                let entry = entry(written, phase);
                assert_eq!(arrival(Some(&entry), 1, arrives, false), Arrival::Run);
            }
        }
    }

    #[test]
    fn for_whoever_has_waited_a_finished_entry_counts_and_a_missing_one_does_not_run() {
        let answer = Bytes::from_static(b"sealed");
        let deliver = Arrival::Deliver { answer: &answer, status: 200, is_stream: true };
        let table = [
            (Phase::Pending, true, Arrival::Wait),
            (Phase::Pending, false, Arrival::TakeOver),
            (streaming(None), true, Arrival::Wait),
            (streaming(None), false, Arrival::TakeOver),
            (Phase::Waiting, true, Arrival::Wait),
            (Phase::Waiting, false, Arrival::Run),
            (complete(), false, deliver),
            (Phase::Unknown, false, Arrival::Unknown),
            (Phase::Failed, false, Arrival::Run),
        ];
        for (phase, owner_may_run, expected) in table {
            for by_balancer in [true, false] {
                let entry = entry(by_balancer, phase.clone());
                assert_eq!(awaited(Some(&entry), 1, owner_may_run), expected, "{phase:?}");
                assert_eq!(awaited(Some(&entry), 2, owner_may_run), Arrival::Forbidden);
            }
        }
        assert_eq!(awaited(None, 1, false), Arrival::Unknown);
    }

    #[test]
    fn every_cell_of_the_table_of_orphans() {
        use CallClass::*;
        use Orphan::*;
        for class in [Lifecycle, Read, Idempotent, Write] {
            for waits in [true, false] {
                assert_eq!(orphan(class, true, waits), Resume, "{class:?}");
                let expected = match (class, waits) {
                    (Lifecycle | Read, _) | (Idempotent, true) => Repeat,
                    (Idempotent, false) | (Write, _) => OutcomeUnknown,
                };
                assert_eq!(orphan(class, false, waits), expected, "{class:?} {waits}");
            }
        }
    }

    #[test]
    fn only_a_stream_with_event_ids_is_resumable() {
        assert!(streaming(Some("e1")).is_resumable());
        let others = [Phase::Pending, Phase::Waiting, Phase::Failed, Phase::Unknown];
        for phase in others.into_iter().chain([streaming(None), complete()]) {
            assert!(!phase.is_resumable(), "{phase:?}");
        }
    }

    #[test]
    fn what_is_finished() {
        for phase in [complete(), Phase::Failed, Phase::Unknown] {
            assert!(phase.is_finished(), "{phase:?}");
        }
        for phase in [Phase::Pending, Phase::Waiting, streaming(None)] {
            assert!(!phase.is_finished(), "{phase:?}");
        }
    }

    #[test]
    fn a_call_is_sent_in_the_life_that_journaled_it_under_a_lease_and_young() {
        let ok = Duration::from_millis(9_999);
        assert_eq!(may_send(OWNER, OWNER, true, ok), Ok(()));
        assert_eq!(may_send(OWNER, OWNER, true, SENT_WITHIN), Err(NotSent::TooOld));
        assert_eq!(may_send(OWNER, OWNER, false, ok), Err(NotSent::NoLease));
        let later = Origin { generation: 3, ..OWNER };
        assert_eq!(may_send(OWNER, later, true, ok), Err(NotSent::OtherLife));
        let other = Origin { node: 8, ..OWNER };
        assert_eq!(may_send(OWNER, other, true, ok), Err(NotSent::OtherLife));
        assert!(MAX_AGE < SENT_WITHIN && SENT_WITHIN * 2 < KEEP);
    }

    #[test]
    fn a_class_survives_the_entry_and_what_is_not_known_is_a_write() {
        for class in
            [CallClass::Lifecycle, CallClass::Read, CallClass::Idempotent, CallClass::Write]
        {
            let entry = Entry { class: class as u8, ..entry(true, Phase::Pending) };
            let bytes = postcard::to_stdvec(&entry).unwrap();
            let again: Entry = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(again, entry);
            assert_eq!(again.call_class(), class);
        }
        let strange = Entry { class: 200, ..entry(true, Phase::Pending) };
        assert_eq!(strange.call_class(), CallClass::Write);
    }
}
