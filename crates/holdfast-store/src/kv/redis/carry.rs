//! How a question or a script gets to its primary, whatever happens to connections meanwhile.
//!
//! | what came back | a question | a script |
//! |---|---|---|
//! | nothing was done | again, until its time is over | again, until its time is over: did not happen |
//! | it may have been done | again | again, since it does what it does once: unknown when its time is over |
//! | Redis will not do it | unavailable | declined, at once: did not happen |

use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::replicated::KvEntry;
use redis::{Value, cmd};
use tokio::time::{Instant, sleep, timeout_at};

use super::keeper::Reach;
use super::link::{Link, Sent};
use super::scripts::{Call, Outcome};
use super::writer::Done;
use super::{Shared, entry, failure};
use crate::StoreError;
use crate::kv::NotWritten;

/// What a script did, and whether its reply had been lost before.
pub(super) struct Carried {
    pub(super) outcome: Outcome,
    pub(super) lost: Option<String>,
}

/// How a script is sent.
#[derive(Clone, Copy)]
pub(super) enum Lasting {
    Yes,
    No,
}

impl Shared {
    /// A link to where the key is. Waits until `limit` for one, less if there has been none for long.
    async fn link(&self, key: &[u8], limit: Instant) -> Result<Arc<Link>, String> {
        match self.link_now(key) {
            Some(link) => Ok(link),
            // Boxed, as is what few writes need: the future of each goes through many hands.
            None => Box::pin(self.link_until(key, limit)).await,
        }
    }

    async fn link_until(&self, key: &[u8], limit: Instant) -> Result<Arc<Link>, String> {
        let mut reach = self.reach.subscribe();
        loop {
            let (limit, reason) = match &*reach.borrow_and_update() {
                Reach::Here(routes) => {
                    let link = routes.of(key);
                    if !link.is_lost() {
                        return Ok(Arc::clone(link));
                    }
                    (limit, "the connection to Redis is lost".into())
                }
                Reach::Away { since, reason } => (limit.min(*since + PATIENCE), Arc::clone(reason)),
            };
            match timeout_at(limit, reach.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(format!("Redis is away: {reason}")),
            }
        }
    }

    /// The link to where the key is, if there is one.
    fn link_now(&self, key: &[u8]) -> Option<Arc<Link>> {
        match &*self.reach.borrow() {
            Reach::Here(routes) => Some(routes.of(key)).filter(|link| !link.is_lost()).cloned(),
            Reach::Away { .. } => None,
        }
    }

    pub(super) async fn read(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        let mut get = cmd("GET");
        get.arg(self.names.entry(key));
        let limit = Instant::now() + self.settings.command_timeout;
        self.operations.reads.inc();
        loop {
            let link = self.link(key, limit).await.map_err(StoreError::Unavailable)?;
            let left = limit.saturating_duration_since(Instant::now());
            let adopted = self.is_adopted();
            let mut sent = link.send(&get, left).await;
            if let Sent::NotDone(reason) = &sent
                && let Some(other) = self.asked_to_ask(reason)
            {
                sent = other.send_asking(&get, left).await;
            }
            // A primary that has been replaced lacks what its successor has.
            if matches!(sent, Sent::Reply(Value::Nil)) && !(adopted && self.is_adopted()) {
                sent = Sent::NotDone("the cluster has not adopted this Redis primary".to_owned());
            }
            match sent {
                Sent::Reply(Value::Nil) => {
                    self.keep(key, None);
                    return Ok(None);
                }
                Sent::Reply(Value::BulkString(stored)) => {
                    let found = entry::read(stored);
                    self.keep(key, found.as_ref());
                    return Ok(found);
                }
                Sent::Reply(_) => {
                    let reason = "Redis has something else at the key".to_owned();
                    return Err(StoreError::Unavailable(reason));
                }
                Sent::Refused(reason) => return Err(StoreError::Unavailable(reason)),
                Sent::NotDone(reason) | Sent::Lost(reason) | Sent::Broke(reason) => {
                    if Instant::now() + SHORTLY >= limit {
                        return Err(StoreError::Unavailable(reason));
                    }
                    sleep(SHORTLY).await;
                }
            }
        }
    }

    /// Has a script carried out, whatever happens to the connection meanwhile.
    pub(super) async fn carry_out(
        &self,
        key: &[u8],
        call: Call,
        lasting: Lasting,
    ) -> Result<Carried, NotWritten> {
        let start = Instant::now();
        let last = start + PATIENCE + self.settings.command_timeout;
        let (mut lost, mut losses): (Option<String>, u32) = (None, 0);
        // Whether a connection broke: then there is time to find out at the next primary.
        let mut broke = false;
        loop {
            let limit = if broke { last } else { start + PATIENCE };
            let failed = |lost: Option<String>, reason| {
                Err(NotWritten::Failed(match lost {
                    Some(lost) => StoreError::Unknown(lost),
                    None => StoreError::Unavailable(reason),
                }))
            };
            let link = match self.link(key, limit).await {
                Ok(link) => link,
                Err(reason) => return failed(lost, reason),
            };
            let sent = match lasting {
                Lasting::Yes => match timeout_at(last, link.writers.write(call.clone())).await {
                    Ok(sent) => sent,
                    Err(_) => Sent::Lost("Redis has not answered in time".to_owned()),
                },
                Lasting::No => {
                    self.operations.scripts.inc();
                    Box::pin(link.call(&call, self.settings.command_timeout)).await
                }
            };
            broke |= matches!(sent, Sent::Broke(_));
            match sent {
                Sent::Reply(reply) => match Outcome::read(reply) {
                    Some(outcome) => return Ok(Carried { outcome, lost }),
                    None => {
                        let reason = "Redis' reply cannot be read".to_owned();
                        return failed(Some(reason), String::new());
                    }
                },
                Sent::Refused(reason) => {
                    let why = failure::why_declined(&reason);
                    let declined = StoreError::Declined { why, said: reason };
                    return Err(NotWritten::Failed(lost.map_or(declined, StoreError::Unknown)));
                }
                Sent::NotDone(reason) => {
                    if Instant::now() >= limit {
                        return failed(lost, reason);
                    }
                }
                Sent::Lost(reason) | Sent::Broke(reason) => {
                    losses += 1;
                    broke |= link.is_lost();
                    // A connection that broke says nothing about the next one; an answer that was
                    // not enough twice will not be.
                    let tries = if broke { TRIES } else { 2 };
                    let lost = lost.get_or_insert(reason);
                    if losses >= tries || Instant::now() >= last {
                        return failed(Some(lost.clone()), String::new());
                    }
                }
            }
            sleep(SHORTLY).await;
        }
    }

    /// Sends a script that must last, once, and does not wait. `done` is told what came of it, at once where
    /// there is nobody to send it to.
    pub(super) fn post(&self, key: &[u8], call: Call, done: Done) {
        let posted = match self.link_now(key) {
            Some(link) => link.writers.post(call, done),
            None => Err(done),
        };
        if let Err(done) = posted {
            done(Sent::NotDone("there is nobody to send it to now".to_owned()));
        }
    }

    /// The server that an `ASK` names.
    fn asked_to_ask(&self, reason: &str) -> Option<Arc<Link>> {
        let address = reason.strip_prefix("ASK ")?.rsplit(' ').next()?;
        let Reach::Here(routes) = &*self.reach.borrow() else { return None };
        let found = routes.links.iter().find(|link| link.target.address.to_string() == address);
        found.map(Arc::clone)
    }
}

/// How long a caller waits for a primary: longer than Sentinels take to name another one. With what
/// follows a write ends well within the ten seconds after which a call is not sent any more.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// How long a primary may lack replicas before that is said at once to whoever writes. One that is cut off from
/// them is replaced within five seconds (`down-after-milliseconds` 2000, and the Sentinels' vote), and its
/// successor has them back a second later: until then it is worth the wait.
pub(super) const LACKING: Duration = Duration::from_secs(6);

/// The pause before something is tried again.
const SHORTLY: Duration = Duration::from_millis(20);

/// How often a write is sent whose reply was lost with its connection.
const TRIES: u32 = 4;
