//! What goes into the driver of a call and what comes out of it, and the bugs that it can have.

use holdfast_engine::replicated::{KvCommand, Machine, Origin, Reply};

/// Virtual milliseconds.
pub(crate) type Ms = u64;

/// Names one execution of a call at the server.
pub(crate) type Token = u64;

/// Bugs that a run can have planted in it, to see that it finds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// The call is on the wire before it is in the journal.
    JournalAfterSend,
    /// Whoever takes a Write over sends it again.
    TakeOverRepeatsWrites,
    /// The lease is not looked at before sending.
    LeaseUnchecked,
    /// A call is sent in another life than the one that journaled it.
    LifeUnchecked,
    /// Who waited for an entry takes its end for another call's.
    WaitingForgotten,
    /// A call whose turn comes is sent while its entry says that it waits.
    TurnUnwritten,
    /// A leader grants leases without asking whether it still leads.
    GrantsWithoutQuorum,
}

/// What a client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// The result of this execution.
    Result(Token),
    /// It did not run and will not.
    DidNotRun,
    /// It may have run, or may still.
    MayHaveRun,
}

/// What the driver sees of its node.
pub(crate) struct View<'a> {
    pub(crate) now: Ms,
    pub(crate) me: Origin,
    /// Whether the node is a member in this life; if not, it is joining.
    pub(crate) joined: bool,
    pub(crate) lease: bool,
    pub(crate) machine: &'a Machine,
    pub(crate) bug: Option<Bug>,
}

/// What happens to an exchange.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Arrived,
    /// The last proposal's reply; none if its outcome is not known.
    Written(Option<Reply>),
    /// Something was applied here.
    Changed,
    /// The server's side of this attempt.
    Server(u32, ServerEvent),
    Reestablished,
    /// The client's connection is closed.
    Gone,
    Tick,
}

/// What comes from the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServerEvent {
    NotSent,
    LostSession,
    /// The connection broke after the call was sent.
    Broken,
    /// A stream has begun; with event ids, it can be resumed at this execution.
    Stream(Option<Token>),
    Answer(Token),
    /// There is no such stream to resume.
    NoStream,
}

/// What the node does for an exchange.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Propose(Origin, KvCommand),
    /// Send the call; the number tells its attempts apart.
    Send(u32),
    Resume(u32, Token),
    Reestablish,
    /// Let the response's headers go.
    Commit,
    Answer(Answer),
    /// The exchange is over.
    Close,
    /// For the statistics.
    Note(&'static str),
}
