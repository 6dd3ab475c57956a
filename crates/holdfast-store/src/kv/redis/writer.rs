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
//! | nothing in time, or the connection is lost | as lost, and the link is made anew |
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
use super::direct::{Commands, Direct};
use super::failure::{self, Refusal};
use super::link::Sent;
use super::scripts::Call;
use super::succession::Succession;
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
    /// Where Sentinels name the primary.
    succession: Option<Succession>,
}

/// What the commands behind a group's scripts said, as far as there are any.
struct Said {
    marked: Option<Value>,
    count: Option<Value>,
    role: Option<Value>,
}

/// Starts a writer over a connection, on this runtime. It ends with the connection, and then the link does.
pub(super) fn start(about: About, connection: Direct, succession: Option<Succession>) -> Writer {
    let (waiting, taken) = mpsc::channel(WAITING);
    tokio::spawn(Task { about, connection, succession }.run(taken));
    Writer { waiting }
}

impl Writer {
    /// Whether its runtime has not ended, nor its connection.
    pub(super) fn is_alive(&self) -> bool {
        !self.waiting.is_closed()
    }

    /// Has a script carried out so that it lasts.
    pub(super) async fn write(&self, call: Call) -> Sent {
        let (done, answer) = oneshot::channel();
        let write = Write { call, waits: Some(Waits::Call(done)) };
        if let Err(refused) = self.waiting.send(write).await {
            refused.0.answer(Sent::NotDone(GONE.to_owned()));
        }
        answer.await.unwrap_or_else(|_| Sent::Lost(WENT.to_owned()))
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
    async fn run(mut self, mut waiting: mpsc::Receiver<Write>) {
        // A primary that has just taken over may have no replicas yet.
        if self.probe().await.is_err() {
            self.about.lost.cancel();
        }
        loop {
            let doubtful = !self.standing().takes_writes();
            let first = tokio::select! {
                biased;
                () = self.about.lost.cancelled() => return,
                () = self.connection.lost() => break,
                first = waiting.recv() => first,
                () = sleep(PROBE), if doubtful => {
                    let Some(shared) = self.about.shared.upgrade() else { return };
                    self.look_at_succession(&shared).await;
                    if self.probe().await.is_err() {
                        break;
                    }
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            if self.write(group).await.is_err() {
                break;
            }
        }
        self.about.lost.cancel();
    }

    fn standing(&self) -> &Standing {
        &self.about.standing
    }

    /// # Errors
    /// The connection is of no use any more.
    async fn write(&mut self, group: Vec<Write>) -> Result<(), ()> {
        let Some(shared) = self.about.shared.upgrade() else { return Err(()) };
        if !shared.may_write(&self.about.run_id) {
            let reason = "the cluster has not adopted this Redis primary";
            answer(group, |_| Sent::NotDone(reason.to_owned()));
            return Ok(());
        }
        let replicas = shared.settings.replicas_to_acknowledge;
        let within = shared.settings.command_timeout + shared.settings.acknowledge_within;
        let wanted = self.succession.as_ref().map_or(replicas, |it| it.wanted(replicas));
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
        if let Some(reason) = self.look_at_succession(&shared).await {
            answer(group, |_| Sent::NotDone(reason.to_owned()));
            return Ok(());
        }
        shared.operations.groups.inc();
        shared.operations.scripts.add(u64::try_from(group.len()).unwrap_or(u64::MAX));
        let mut commands = Commands::default();
        for write in &group {
            write.call.add_by_digest(&mut commands);
        }
        self.add_wait(&mut commands, wait.as_ref());
        let replies = match self.connection.ask_all(&commands, within).await {
            Ok(replies) => replies,
            Err(error) => {
                let reason = error.reason();
                answer(group, |_| Sent::Lost(reason.clone()));
                return Err(());
            }
        };
        self.settle(group, replies, wait.as_ref(), within, replicas).await
    }

    /// Why nothing should be written here, since it may not last.
    async fn look_at_succession(&mut self, shared: &Shared) -> Option<&'static str> {
        let succession = self.succession.as_mut().filter(|it| it.goes().is_some())?;
        let refuses = succession.look().await;
        let goes = succession.goes();
        self.about.standing.set_goes(goes);
        if !refuses {
            return None;
        }
        // Its successor may be named by now.
        shared.look.notify_one();
        sleep(ASK_AGAIN).await;
        goes
    }

    /// Who has it, and, where that matters, who of the replicas is there afterwards.
    fn add_wait(&self, commands: &mut Commands, wait: Option<&Cmd>) {
        let Some(wait) = wait else { return };
        commands.add_command(self.mark());
        commands.add_command(wait.clone());
        if self.succession.is_some() {
            commands.add_command(redis::cmd("ROLE"));
        }
    }

    /// Takes the replies to those from the end.
    fn take_said(&self, replies: &mut Vec<Value>, wait: Option<&Cmd>) -> Said {
        let role = wait.and(self.succession.as_ref()).and_then(|_| replies.pop());
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
    /// The connection is of no use any more.
    async fn probe(&mut self) -> Result<(), ()> {
        let Some(shared) = self.about.shared.upgrade() else { return Err(()) };
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
            let replies = self.connection.ask_all(&commands, within).await.map_err(|_| ())?;
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
                return Err(());
            }
            Some(reply) if failure::lacks_replicas(reply) => {
                self.standing().set_short(true);
                return Ok(());
            }
            Some(Value::ServerError(_)) => {}
            None => return Err(()),
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
            Some(_) => Err(()),
        }
    }

    async fn settle(
        &mut self,
        group: Vec<Write>,
        mut replies: Vec<Value>,
        wait: Option<&Cmd>,
        within: Duration,
        replicas: u8,
    ) -> Result<(), ()> {
        let mut said = self.take_said(&mut replies, wait);
        let mut tried = 0;
        while said.marked.as_ref().is_some_and(failure::is_moved) && self.mark_elsewhere(&mut tried)
        {
            // The scripts have been carried out: what is asked again is who has them.
            let mut commands = Commands::default();
            self.add_wait(&mut commands, wait);
            match self.connection.ask_all(&commands, within).await {
                Ok(mut replies) => said = self.take_said(&mut replies, wait),
                Err(error) => {
                    let reason = error.reason();
                    answer(group, |_| Sent::Lost(reason.clone()));
                    return Err(());
                }
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
        let enough = match (&mut self.succession, &count) {
            // Scripts that the server has forgotten have written nothing yet.
            (Some(succession), Some(Value::Int(count))) if enough && !forgotten => {
                let lasts = tokio::select! {
                    lasts = succession.lasts(*count, role.as_ref()) => lasts,
                    // Its successor is in use already.
                    () = self.about.lost.cancelled() => false,
                };
                self.about.standing.set_goes(succession.goes());
                lasts
            }
            _ => enough,
        };
        let mut again = Vec::new();
        let mut elsewhere = false;
        for (write, reply) in group.into_iter().zip(replies) {
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
            } else if enough {
                write.answer(Sent::Reply(reply));
            } else {
                let goes = self.succession.as_ref().and_then(Succession::goes);
                write.answer(Sent::Lost(goes.map_or_else(|| few(replicas), str::to_owned)));
            }
        }
        if elsewhere {
            again.into_iter().for_each(|write| write.answer(Sent::NotDone("READONLY".into())));
            return Err(());
        }
        if again.is_empty() { Ok(()) } else { self.teach(again, wait, within, replicas).await }
    }

    /// Sends the scripts' texts: the server has forgotten them.
    async fn teach(
        &mut self,
        group: Vec<Write>,
        wait: Option<&Cmd>,
        within: Duration,
        replicas: u8,
    ) -> Result<(), ()> {
        let Some(shared) = self.about.shared.upgrade() else { return Err(()) };
        shared.operations.groups.inc();
        shared.operations.scripts.add(u64::try_from(group.len()).unwrap_or(u64::MAX));
        let mut commands = Commands::default();
        for write in &group {
            write.call.add_by_text(&mut commands);
        }
        self.add_wait(&mut commands, wait);
        match self.connection.ask_all(&commands, within).await {
            // A server that knows a script's text does not ask for it again.
            Ok(replies) => Box::pin(self.settle(group, replies, wait, within, replicas)).await,
            Err(error) => {
                let reason = error.reason();
                answer(group, |_| Sent::Lost(reason.clone()));
                Err(())
            }
        }
    }
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
        self.tell(Sent::Lost(WENT.to_owned()));
    }
}

fn answer(group: Vec<Write>, sent: impl Fn(&Call) -> Sent) {
    for write in group {
        let sent = sent(&write.call);
        write.answer(sent);
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
