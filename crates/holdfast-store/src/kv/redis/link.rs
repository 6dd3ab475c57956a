//! One primary: its connection for commands, its durable writers, and its heartbeat.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_config::{HostPort, Redis};
use redis::{Cmd, Pipeline, Value};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Shared;
use super::dial::{Connection, NoReply, Server};
use super::failure::{self, Refusal, Unusable};
use super::inspect::{self, Inspected};
use super::keys::Bucket;
use super::scripts::Call;
use super::succession::Succession;
use super::topology::Target;
use super::writer;
use super::writers::{About, Standing, Writers};

/// A primary that is used.
pub(super) struct Link {
    pub(super) target: Target,
    pub(super) about: Inspected,
    pub(super) writers: Writers,
    commands: Connection,
    lost: CancellationToken,
    _open: DropGuard,
}

/// What became of a command.
#[derive(Debug)]
pub(super) enum Sent {
    Reply(Value),
    /// It was not carried out. Trying again may help.
    NotDone(String),
    /// It was not carried out, and will not be until somebody changes something at Redis.
    Refused(String),
    /// It may have been carried out.
    Lost(String),
    /// As well: the connection by which it went is of no use any more.
    Broke(String),
}

impl Link {
    /// Connects and finds out what the server is.
    ///
    /// # Errors
    /// That it is away, or is not what it should be.
    pub(super) async fn connect(
        shared: &Arc<Shared>,
        target: Target,
    ) -> Result<Arc<Self>, Unusable> {
        let (dialler, settings) = (&shared.dialler, &shared.settings);
        let address = &target.address;
        let commands = dialler.dial(address, Server::Data, None).await?;
        let about = inspect::inspect(&commands, address, settings).await?;
        let writing = dialler.dial_fresh(address, Server::Data, None).await?;
        // Behind one address there may be several servers.
        let again = inspect::inspect(&writing.connection, address, settings).await?;
        if again.run_id != about.run_id {
            return Err(failure::another(address));
        }
        may_wait(&writing.connection, address, settings).await?;
        let writing = writing.into_direct(address).await?;
        let lost = CancellationToken::new();
        let own = target.buckets(&shared.names);
        let known = About {
            shared: Arc::downgrade(shared),
            address: address.clone(),
            run_id: Arc::clone(&about.run_id),
            lost: lost.clone(),
            probe_keys: own.map(|bucket| shared.names.probe(bucket)).collect(),
            standing: Arc::new(Standing::new(Succession::of(shared, address))),
        };
        let writers = Writers::start(known, writing);
        let link = Arc::new(Self {
            target,
            about,
            writers,
            commands,
            _open: lost.clone().drop_guard(),
            lost,
        });
        link.beat(shared).await?;
        let (shared, commands) = (Arc::downgrade(shared), link.commands.clone());
        tokio::spawn(heart(shared, Arc::downgrade(&link), commands, link.lost.clone()));
        Ok(link)
    }

    /// Gives it up: whoever keeps the links makes a new one.
    pub(super) fn give_up(&self) {
        self.lost.cancel();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Resolves when it has to be made anew.
    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Sends a command; what the server's errors mean is acted upon here.
    pub(super) async fn send(&self, command: &Cmd, within: Duration) -> Sent {
        if self.is_lost() {
            return Sent::NotDone("the connection to Redis is lost".to_owned());
        }
        self.understand(self.commands.ask(command, within).await)
    }

    /// Sends commands together.
    ///
    /// # Errors
    /// Why there are no replies.
    pub(super) async fn send_all(
        &self,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<Vec<Value>, String> {
        self.commands.ask_all(commands, within).await.map_err(NoReply::reason)
    }

    /// Sends a script.
    pub(super) async fn call(&self, call: &Call, within: Duration) -> Sent {
        match self.commands.ask(&call.by_digest(), within).await {
            Ok(Value::ServerError(error)) if failure::refusal(&error) == Refusal::NoScript => {
                self.understand(self.commands.ask(&call.by_text(), within).await)
            }
            reply => self.understand(reply),
        }
    }

    /// Sends a command for a slot that is on its way to this server.
    pub(super) async fn send_asking(&self, command: &Cmd, within: Duration) -> Sent {
        let mut commands = Pipeline::with_capacity(2);
        commands.add_command(redis::cmd("ASKING"));
        commands.add_command(command.clone());
        let replies = self.commands.ask_all(&commands, within).await;
        self.understand(replies.map(|mut replies| replies.pop().unwrap_or(Value::Nil)))
    }

    fn understand(&self, reply: Result<Value, NoReply>) -> Sent {
        let sent = Sent::understand(reply);
        if let Sent::NotDone(reason) = &sent
            && (reason.starts_with("READONLY") || reason.starts_with("MOVED"))
        {
            self.give_up();
        }
        sent
    }

    /// Asks for the time and the mark. What they say is told to `shared`.
    async fn beat(&self, shared: &Shared) -> Result<(), Unusable> {
        // The mark is in the first bucket that this primary has, and whose slot is not on its way elsewhere.
        for bucket in self.target.buckets(&shared.names) {
            if self.beat_in(shared, bucket).await? {
                break;
            }
        }
        Ok(())
    }

    /// Says no where the bucket's slot is on its way to another master.
    async fn beat_in(&self, shared: &Shared, bucket: Bucket) -> Result<bool, Unusable> {
        // Where the cluster has not adopted the primary, nothing is written.
        let mark = if shared.is_adopted() { shared.new_mark() } else { String::new() };
        let asked = Instant::now();
        let within = shared.settings.command_timeout;
        match self.call(&Call::beat(&shared.names, bucket, &mark), within).await {
            Sent::Reply(reply) => {
                let heard: Result<(u64, u64, Option<String>), _> = redis::from_redis_value(reply);
                let (seconds, micros, found) =
                    heard.map_err(|error| Unusable::Away(error.to_string()))?;
                shared.clock.heard(asked, seconds * 1000 + micros / 1000);
                shared.marked(bucket, &self.target.address, found.as_deref(), &mark);
                Ok(true)
            }
            Sent::NotDone(reason) if reason.starts_with("ASK ") => Ok(false),
            Sent::Refused(reason) if reason.starts_with("NOPERM") => {
                Err(Unusable::Wrong(failure::forbidden(&self.target.address, &reason)))
            }
            Sent::NotDone(reason)
            | Sent::Refused(reason)
            | Sent::Lost(reason)
            | Sent::Broke(reason) => Err(Unusable::Away(reason)),
        }
    }

    /// Whether the server answers.
    ///
    /// # Errors
    /// That it does not, or that it lacks replicas without which nothing is written.
    pub(super) async fn sign(&self, settings: &Redis, within: Duration) -> Result<(), String> {
        let mut info = redis::cmd("INFO");
        match self.send(info.arg("replication"), within).await {
            Sent::Reply(said) => self.about.has_replicas(said, settings),
            _ => Err("Redis does not answer".to_owned()),
        }
    }

    /// Asks it anew what it is.
    ///
    /// # Errors
    /// That it does not answer, or is not what it was.
    pub(super) async fn inspect(&self, settings: &Redis) -> Result<Inspected, Unusable> {
        inspect::inspect(&self.commands, &self.target.address, settings).await
    }

    pub(super) fn has(&self, slot: u16) -> bool {
        self.target.has(slot)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("target", &self.target).finish_non_exhaustive()
    }
}

// === impl Sent ===

impl Sent {
    pub(super) fn understand(reply: Result<Value, NoReply>) -> Self {
        match reply {
            Ok(Value::ServerError(error)) => {
                let text = failure::text(&error);
                match failure::refusal(&error) {
                    Refusal::NoScript | Refusal::Elsewhere | Refusal::Ask(_) | Refusal::Later => {
                        Self::NotDone(text)
                    }
                    Refusal::Never => Self::Refused(text),
                    Refusal::Other => Self::Lost(text),
                }
            }
            Ok(reply) => Self::Reply(reply),
            Err(NoReply::NotSent(reason)) => Self::NotDone(reason),
            Err(NoReply::Lost(reason)) => Self::Lost(reason),
        }
    }
}

/// Whether the user may ask how many replicas have what was written.
async fn may_wait(
    writing: &Connection,
    address: &HostPort,
    settings: &Redis,
) -> Result<(), Unusable> {
    if settings.replicas_to_acknowledge == 0 {
        return Ok(());
    }
    let wait = writer::wait(0, Duration::from_millis(1));
    match writing.ask(&wait, settings.command_timeout).await {
        Ok(Value::ServerError(error)) if failure::refusal(&error) == Refusal::Never => {
            Err(Unusable::Wrong(failure::forbidden(address, &failure::text(&error))))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Unusable::Away(format!("{address}: {}", error.reason()))),
    }
}

/// Notices a server that is gone, or that does not answer, without being asked anything.
async fn heart(
    shared: std::sync::Weak<Shared>,
    link: std::sync::Weak<Link>,
    commands: Connection,
    lost: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            () = commands.lost() => {}
            () = lost.cancelled() => return,
        }
        let (Some(shared), Some(link)) = (shared.upgrade(), link.upgrade()) else { return };
        let beat = link.beat(&shared).await;
        if let Err(error) = beat {
            if !link.is_lost() {
                let address = &link.target.address;
                tracing::warn!(%address, reason = error.reason(), "redis does not answer");
            }
            link.give_up();
            return;
        }
    }
}

/// How often a primary is asked for a sign of life.
const BEAT: Duration = Duration::from_secs(1);
