//! A durable writer of one primary: a connection of its own, and one `WAIT` for many writes.
//!
//! `WAIT` holds up its whole connection until the replicas have what was written before it, so it has
//! a connection where nothing else goes. Writes that come while a group is under way are the next
//! group: many writers at once cost about as many waits as one.
//!
//! | the group's `WAIT` says | then |
//! |---|---|
//! | as many replicas as are asked for, or more | each write is answered as its script said |
//! | fewer | each is answered as lost: it is at the primary, and may last or not |
//! | nothing in time, or the connection is lost | as lost, and the connection is made anew (`writers`) |
//!
//! After a `WAIT` that was short, and on a new connection, there is one of its own before anything is
//! written: as long as the replicas are away, writes are refused and do not become unknown. A server that
//! refuses them for want of replicas (`NOREPLICAS`) is asked in the same way.
//!
//! Since Redis 7.2 `WAIT` counts from the last command of its connection *that wrote something*, before from
//! the last command. A script that is sent again after its connection was lost finds its own value and
//! writes nothing, so every `WAIT` comes behind a write of its own, to a key that nobody reads. In Redis Cluster
//! that key's slot may be on its way to another master: then there is one in another slot.
//!
//! Enough replicas may still be the wrong ones: `succession`.

use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::Shared;
use super::direct::{Broken, Commands, Direct};
use super::failure::{self, Refusal};
use super::link::Sent;
use super::scripts::Call;
use super::writers::{About, Standing};

/// The way to a writer.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    waiting: mpsc::Sender<Write>,
}

/// Told what became of a write.
pub(super) type Done = Box<dyn FnOnce(Sent) + Send>;

struct Write {
    call: Call,
    /// Nobody, once they are told.
    waits: Option<Waits>,
}

/// Who waits for a write.
enum Waits {
    Call(oneshot::Sender<Sent>),
    Done(Done),
}

struct Task {
    about: About,
    connection: Direct,
    /// Room for a group's commands.
    room: Commands,
    /// Replicas that were there after what was last written here and lasts; where Sentinels name the primary.
    connected: Option<usize>,
}

/// What the commands behind a group's scripts said, as far as there are any.
struct Said {
    marked: Option<Value>,
    count: Option<Value>,
    role: Option<Value>,
}

/// Why a writer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its connection is of no use any more.
    Connection,
    /// The link is not, or there is nobody left who writes.
    Link,
}

/// A writer over a connection, and what it does until it ends.
pub(super) fn over(
    about: About,
    connection: Direct,
) -> (Writer, impl Future<Output = Ended> + Send) {
    let (waiting, taken) = mpsc::channel(WAITING);
    (
        Writer { waiting },
        Task { about, connection, room: Commands::default(), connected: None }.run(taken),
    )
}

impl Writer {
    /// Has a script carried out so that it lasts.
    pub(super) async fn write(&self, call: Call) -> Sent {
        let (done, answer) = oneshot::channel();
        let write = Write { call, waits: Some(Waits::Call(done)) };
        if let Err(refused) = self.waiting.send(write).await {
            refused.0.answer(Sent::NotDone(GONE.to_owned()));
        }
        answer.await.unwrap_or_else(|_| Sent::Broke(WENT.to_owned()))
    }

    /// As [`Self::write`], for somebody who does not wait.
    ///
    /// # Errors
    /// Whoever was to be told: too many writes wait, or the connection is lost, and nothing was sent.
    pub(super) fn post(&self, call: Call, done: Done) -> Result<(), Done> {
        let refused = match self.waiting.try_reserve() {
            Ok(place) => {
                place.send(Write { call, waits: Some(Waits::Done(done)) });
                return Ok(());
            }
            Err(_) => done,
        };
        Err(refused)
    }
}

impl Task {
    async fn run(mut self, mut waiting: mpsc::Receiver<Write>) -> Ended {
        match self.serve(&mut waiting).await {
            Ok(()) => Ended::Link,
            Err(ended) => ended,
        }
    }

    /// # Errors
    /// What is of no use any more.
    async fn serve(&mut self, waiting: &mut mpsc::Receiver<Write>) -> Result<(), Ended> {
        // A primary that has just taken over may have no replicas yet.
        self.probe().await?;
        let mut group = Vec::new();
        loop {
            let doubtful = !self.standing().takes_writes();
            // A timer is made where it is waited for, and nearly never is.
            let probe = async { sleep(PROBE).await };
            let many = tokio::select! {
                biased;
                () = self.about.lost.cancelled() => return Ok(()),
                () = self.connection.lost() => return Err(Ended::Connection),
                many = waiting.recv_many(&mut group, GROUP) => many,
                () = probe, if doubtful => {
                    let Some(shared) = self.about.shared.upgrade() else { return Ok(()) };
                    look_at_succession(self.standing(), &shared).await;
                    self.probe().await?;
                    continue;
                }
            };
            if many == 0 {
                return Ok(());
            }
            self.write(&mut group).await?;
        }
    }

    fn standing(&self) -> &Standing {
        &self.about.standing
    }

    /// # Errors
    /// What is of no use any more.
    async fn write(&mut self, group: &mut Vec<Write>) -> Result<(), Ended> {
        let Some(shared) = self.about.shared.upgrade() else { return Err(Ended::Link) };
        if !shared.may_write(&self.about.run_id) {
            let reason = "the cluster has not adopted this Redis primary";
            answer(group, |_| Sent::NotDone(reason.to_owned()));
            return Ok(());
        }
        let replicas = shared.settings.replicas_to_acknowledge;
        let within = shared.settings.command_timeout + shared.settings.acknowledge_within;
        let succession = self.standing().succession.as_ref();
        let wanted = succession.map_or(replicas, |it| it.wanted(self.connected, replicas));
        let wait = (replicas > 0).then(|| wait(wanted, shared.settings.acknowledge_within));
        if self.standing().is_short() {
            let probed = self.probe().await;
            if self.standing().is_short() {
                // Who has been away for longer than a failover takes is not waited for.
                let long = self.standing().is_short_for_long();
                let sent = if long { Sent::Refused } else { Sent::NotDone };
                answer(group, |_| sent(few(replicas)));
                return probed;
            }
        }
        if let Some(reason) = look_at_succession(self.standing(), &shared).await {
            answer(group, |_| Sent::NotDone(reason.to_owned()));
            return Ok(());
        }
        shared.operations.groups.inc();
        shared.operations.scripts.add(u64::try_from(group.len()).unwrap_or(u64::MAX));
        let mut commands = std::mem::take(&mut self.room);
        for write in &*group {
            write.call.add_by_digest(&mut commands);
        }
        self.add_wait(&mut commands, wait.as_ref());
        let replies = self.connection.ask_all(&commands, within).await;
        self.room = commands.emptied();
        let replies = match replies {
            Ok(replies) => replies,
            Err(broken) => return Err(give_up(group, broken)),
        };
        self.settle(group, replies, wait.as_ref(), within, replicas).await
    }

    /// Who has it, and, where that matters, who of the replicas is there afterwards.
    fn add_wait(&self, commands: &mut Commands, wait: Option<&Cmd>) {
        let Some(wait) = wait else { return };
        commands.add_command(self.mark());
        commands.add_command(wait.clone());
        if self.standing().succession.is_some() {
            commands.add_command(redis::cmd("ROLE"));
        }
    }

    /// Takes the replies to those from the end.
    fn take_said(&self, replies: &mut Vec<Value>, wait: Option<&Cmd>) -> Said {
        let asked = wait.is_some() && self.standing().succession.is_some();
        let role = if asked { replies.pop() } else { None };
        let count = wait.and_then(|_| replies.pop());
        let marked = wait.and_then(|_| replies.pop());
        Said { marked, count, role }
    }

    /// Writes something that nobody reads.
    fn mark(&self) -> Cmd {
        let mut mark = redis::cmd("SET");
        mark.arg(self.about.probe_keys.first().map_or("", String::as_str))
            .arg("")
            .arg("PX")
            .arg(1_000);
        mark
    }

    /// Has the next mark go to another slot. Says no where each of them has been tried.
    fn mark_elsewhere(&mut self, tried: &mut usize) -> bool {
        *tried += 1;
        let more = *tried < self.about.probe_keys.len();
        if more {
            self.about.probe_keys.rotate_left(1);
        }
        more
    }

    /// Asks whether the server takes writes, and whether the replicas have what was written so far.
    ///
    /// # Errors
    /// What is of no use any more.
    async fn probe(&mut self) -> Result<(), Ended> {
        let Some(shared) = self.about.shared.upgrade() else { return Err(Ended::Link) };
        let settings = &shared.settings;
        let replicas = settings.replicas_to_acknowledge;
        let within = settings.command_timeout + settings.acknowledge_within;
        let mut tried = 0;
        let replies = loop {
            let mut commands = Commands::default();
            commands.add_command(self.mark());
            if replicas > 0 {
                commands.add_command(wait(replicas, settings.acknowledge_within));
            }
            let replies = self.connection.ask_all(&commands, within).await;
            let replies = replies.map_err(|broken| give_up(&mut Vec::new(), broken))?;
            let moves = replies.first().is_some_and(failure::is_moved);
            if !(moves && self.mark_elsewhere(&mut tried)) {
                break replies;
            }
        };
        match replies.first() {
            Some(Value::ServerError(error)) if failure::takes_no_writes(error) => {
                self.standing().set_refusing(Some(error));
            }
            Some(Value::ServerError(error))
                if matches!(failure::refusal(error), Refusal::Elsewhere) =>
            {
                return Err(Ended::Link);
            }
            Some(reply) if failure::lacks_replicas(reply) => {
                self.standing().set_short(true);
                return Ok(());
            }
            Some(Value::ServerError(_)) => {}
            None => return Err(Ended::Connection),
            Some(_) => self.standing().set_refusing(None),
        }
        match replies.get(1) {
            None => {
                self.standing().set_short(false);
                Ok(())
            }
            Some(Value::Int(count)) => {
                self.standing().set_short(*count < i64::from(replicas));
                Ok(())
            }
            Some(_) => Err(Ended::Connection),
        }
    }

    async fn settle(
        &mut self,
        group: &mut Vec<Write>,
        mut replies: Vec<Value>,
        wait: Option<&Cmd>,
        within: Duration,
        replicas: u8,
    ) -> Result<(), Ended> {
        let mut said = self.take_said(&mut replies, wait);
        let mut tried = 0;
        while said.marked.as_ref().is_some_and(failure::is_moved) && self.mark_elsewhere(&mut tried)
        {
            // The scripts have been carried out: what is asked again is who has them.
            let mut commands = Commands::default();
            self.add_wait(&mut commands, wait);
            match self.connection.ask_all(&commands, within).await {
                Ok(mut replies) => said = self.take_said(&mut replies, wait),
                Err(broken) => return Err(give_up(group, broken)),
            }
        }
        let Said { marked, count, role } = said;
        let enough = match (&count, &marked) {
            (None, _) => true,
            (_, Some(Value::ServerError(_))) => false,
            (Some(Value::Int(count)), _) => *count >= i64::from(replicas),
            (Some(_), _) => false,
        };
        // Its own rule about replicas (`min-replicas-to-write`) counts like ours.
        let full =
            matches!(&marked, Some(Value::ServerError(error)) if failure::takes_no_writes(error));
        let lacks = replies.iter().any(failure::lacks_replicas);
        self.standing().set_short(!enough && !full || lacks);
        let forgotten = replies.iter().all(failure::is_forgotten);
        let lasts = match (&self.about.standing.succession, &count) {
            // Scripts that the server has forgotten have written nothing yet.
            (Some(succession), Some(Value::Int(count))) if enough && !forgotten => tokio::select! {
                lasts = succession.lasts(&mut self.connected, *count, role.as_ref()) => {
                    lasts.map_err(str::to_owned)
                }
                // Its successor is in use already.
                () = self.about.lost.cancelled() => Err(WENT.to_owned()),
            },
            _ if enough => Ok(()),
            _ => Err(few(replicas)),
        };
        let mut again = Vec::new();
        let mut elsewhere = false;
        for (write, reply) in group.drain(..).zip(replies) {
            match &reply {
                Value::ServerError(error) if failure::takes_no_writes(error) => {
                    self.standing().set_refusing(Some(error));
                }
                Value::ServerError(_) => {}
                _ => self.standing().set_refusing(None),
            }
            if let Value::ServerError(error) = &reply {
                match failure::refusal(error) {
                    Refusal::NoScript => {
                        again.push(write);
                        continue;
                    }
                    Refusal::Elsewhere => elsewhere = true,
                    Refusal::Ask(_) | Refusal::Later | Refusal::Never | Refusal::Other => {}
                }
                write.answer(Sent::understand(Ok(reply)));
            } else {
                write.answer(match &lasts {
                    Ok(()) => Sent::Reply(reply),
                    Err(reason) => Sent::Lost(reason.clone()),
                });
            }
        }
        if elsewhere {
            again.into_iter().for_each(|write| write.answer(Sent::NotDone("READONLY".into())));
            return Err(Ended::Link);
        }
        if again.is_empty() { Ok(()) } else { self.teach(&mut again, wait, within, replicas).await }
    }

    /// Sends the scripts' texts: the server has forgotten them.
    async fn teach(
        &mut self,
        group: &mut Vec<Write>,
        wait: Option<&Cmd>,
        within: Duration,
        replicas: u8,
    ) -> Result<(), Ended> {
        let Some(shared) = self.about.shared.upgrade() else { return Err(Ended::Link) };
        shared.operations.groups.inc();
        shared.operations.scripts.add(u64::try_from(group.len()).unwrap_or(u64::MAX));
        let mut commands = Commands::default();
        for write in &*group {
            write.call.add_by_text(&mut commands);
        }
        self.add_wait(&mut commands, wait);
        match self.connection.ask_all(&commands, within).await {
            // A server that knows a script's text does not ask for it again.
            Ok(replies) => Box::pin(self.settle(group, replies, wait, within, replicas)).await,
            Err(broken) => Err(give_up(group, broken)),
        }
    }
}

/// Why nothing should be written to this primary, since it may not last.
async fn look_at_succession(standing: &Standing, shared: &Shared) -> Option<&'static str> {
    let succession = standing.succession.as_ref().filter(|it| it.goes().is_some())?;
    let refuses = succession.look().await?;
    // Its successor may be named by now.
    shared.look.notify_one();
    sleep(ASK_AGAIN).await;
    Some(refuses)
}

impl Write {
    fn answer(mut self, sent: Sent) {
        self.tell(sent);
    }

    fn tell(&mut self, sent: Sent) {
        match self.waits.take() {
            // Whoever asked may have given up.
            Some(Waits::Call(call)) => drop(call.send(sent)),
            Some(Waits::Done(done)) => done(sent),
            None => {}
        }
    }
}

impl Drop for Write {
    /// What was not answered may have been sent.
    fn drop(&mut self) {
        self.tell(Sent::Broke(WENT.to_owned()));
    }
}

fn answer(group: &mut Vec<Write>, sent: impl Fn(&Call) -> Sent) {
    for write in group.drain(..) {
        let sent = sent(&write.call);
        write.answer(sent);
    }
}

/// Nobody knows what came of these; what of it ends with that.
fn give_up(group: &mut Vec<Write>, broken: Broken) -> Ended {
    match broken {
        Broken::Connection(reason) => {
            answer(group, |_| Sent::Broke(reason.clone()));
            Ended::Connection
        }
        Broken::Silent(reason) => {
            answer(group, |_| Sent::Lost(reason.clone()));
            Ended::Link
        }
    }
}

pub(super) fn wait(replicas: u8, within: Duration) -> Cmd {
    let mut wait = redis::cmd("WAIT");
    wait.arg(replicas).arg(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
    wait
}

fn few(replicas: u8) -> String {
    if replicas == 0 {
        return "Redis lacks the replicas without which it takes no writes (min-replicas-to-write)"
            .to_owned();
    }
    format!("fewer than {replicas} of Redis' replicas have acknowledged in time")
}

/// Why nothing was sent, and why what was sent has no answer.
const GONE: &str = "the connection to Redis is lost";
const WENT: &str = "the connection to Redis was lost";

/// How often replicas that were missing are asked for while nothing is written.
const PROBE: Duration = Duration::from_millis(500);

/// The pause between two questions to the Sentinels while the primary may be about to be replaced.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Writes in one group.
const GROUP: usize = 64;

/// Writes that wait for a group; more wait before that.
const WAITING: usize = 1024;
