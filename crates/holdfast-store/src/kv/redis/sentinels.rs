//! The Sentinels, as those have them who ask them: over connections that are kept, all of them at once, and without
//! waiting again for one that could not be reached.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_config::HostPort;
use redis::{Pipeline, Value};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Shared;
use super::dial::{Connection, Dialler, Server};
use super::failure::Unusable;

pub(super) struct Sentinels {
    all: Vec<Sentinel>,
    master: String,
    way: Way,
}

/// How they are reached.
struct Way {
    dialler: Dialler,
    /// Where their connections live: whoever asks may end before them.
    runtime: Handle,
    /// How long an answer may take.
    within: Duration,
}

struct Sentinel {
    address: HostPort,
    connection: Option<Connection>,
    /// Why it could not be asked the last time: it is looked for beside what goes on.
    away: Option<Unusable>,
    sought: Option<JoinHandle<Result<Connection, Unusable>>>,
    sought_at: Instant,
}

impl Sentinels {
    pub(super) fn new(shared: &Shared, addresses: &[HostPort], master: &str) -> Self {
        let sentinel = |address: &HostPort| Sentinel {
            address: address.clone(),
            connection: None,
            away: None,
            sought: None,
            sought_at: Instant::now(),
        };
        let way = Way {
            dialler: shared.dialler.clone(),
            runtime: shared.runtime.clone(),
            within: shared.settings.connect_timeout.min(shared.settings.command_timeout),
        };
        Self { all: addresses.iter().map(sentinel).collect(), master: master.to_owned(), way }
    }

    /// The name under which they watch the primary.
    pub(super) fn master(&self) -> &str {
        &self.master
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &HostPort> {
        self.all.iter().map(|it| &it.address)
    }

    /// Asks all of them at once about the primary. Of each, in their order: one reply to each question
    /// (`SENTINEL` comes before it, and the name of the primary behind), or why there is none.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn ask<const N: usize>(
        &mut self,
        questions: [&str; N],
    ) -> Vec<Result<[Value; N], Unusable>> {
        let mut commands = Pipeline::with_capacity(N);
        for question in questions {
            commands.cmd("SENTINEL").arg(question).arg(&self.master);
        }
        let way = &self.way;
        let replies = join_all(self.all.iter_mut().map(|it| it.ask(&commands, way))).await;
        let all = |replies: Vec<Value>| {
            let short = |_| Unusable::Away("a Sentinel has not answered everything".to_owned());
            replies.try_into().map_err(short)
        };
        replies.into_iter().map(|it| it.and_then(all)).collect()
    }

    /// As [`Self::ask`], and where none could be reached the last time, all are waited for: nothing goes on
    /// without them.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn ask_patiently<const N: usize>(
        &mut self,
        questions: [&str; N],
    ) -> Vec<Result<[Value; N], Unusable>> {
        if self.all.iter().all(|it| it.away.is_some()) {
            self.all.iter_mut().for_each(Sentinel::is_waited_for);
        }
        self.ask(questions).await
    }
}

impl Sentinel {
    fn is_waited_for(&mut self) {
        self.away = None;
        // That may have been long ago.
        self.sought.take_if(|it| it.is_finished());
    }

    async fn ask(&mut self, commands: &Pipeline, way: &Way) -> Result<Vec<Value>, Unusable> {
        let connection = self.connect(way).await?;
        match connection.ask_all(commands, way.within).await {
            Ok(replies) => Ok(replies),
            Err(error) => {
                connection.close();
                let error = Unusable::Away(format!("{}: {}", self.address, error.reason()));
                self.away = Some(error.clone());
                Err(error)
            }
        }
    }

    /// A connection, if there is one or can be one at once.
    async fn connect(&mut self, way: &Way) -> Result<Connection, Unusable> {
        if let Some(connection) = self.connection.as_ref().filter(|it| !it.is_lost()) {
            return Ok(connection.clone());
        }
        self.connection = None;
        if self.sought.is_none() && (self.away.is_none() || self.sought_at.elapsed() > SOUGHT_EVERY)
        {
            self.sought_at = Instant::now();
            let (dialler, address) = (way.dialler.clone(), self.address.clone());
            let seek = async move { dialler.dial(&address, Server::Sentinel, None).await };
            self.sought = Some(way.runtime.spawn(seek));
        }
        let found = match (&mut self.sought, &self.away) {
            (Some(sought), away) if away.is_none() || sought.is_finished() => sought.await,
            (_, Some(away)) => return Err(away.clone()),
            (_, None) => return Err(Unusable::Away("it is not looked for".to_owned())),
        };
        self.sought = None;
        let ended = |_| Err(Unusable::Away("the node ends".to_owned()));
        let found = found.unwrap_or_else(ended);
        self.away = found.as_ref().err().cloned();
        self.connection = found.as_ref().ok().cloned();
        found
    }
}

/// How often one that is away is looked for.
const SOUGHT_EVERY: Duration = Duration::from_secs(1);
