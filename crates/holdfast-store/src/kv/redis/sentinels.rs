//! The Sentinels as a writer asks them: over connections that are kept, and without waiting again for one that
//! could not be reached.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_config::HostPort;
use redis::{Pipeline, Value};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::dial::{Connection, Dialler, Server};

pub(super) struct Sentinels {
    all: Vec<Sentinel>,
    master: String,
    dialler: Dialler,
    /// How long a connection, and an answer, may take.
    within: Duration,
}

/// What one of them says: the replies to `SENTINEL MASTER`, `SENTINEL GET-MASTER-ADDR-BY-NAME` and
/// `SENTINEL SENTINELS`.
pub(super) type Replies = [Value; 3];

struct Sentinel {
    address: HostPort,
    connection: Option<Connection>,
    /// It could not be reached: it is looked for beside what goes on.
    away: bool,
    sought: Option<JoinHandle<Option<Connection>>>,
    sought_at: Instant,
}

impl Sentinels {
    pub(super) fn new(
        addresses: &[HostPort],
        master: &str,
        dialler: Dialler,
        within: Duration,
    ) -> Self {
        let sentinel = |address: &HostPort| Sentinel {
            address: address.clone(),
            connection: None,
            away: false,
            sought: None,
            sought_at: Instant::now(),
        };
        let all = addresses.iter().map(sentinel).collect();
        Self { all, master: master.to_owned(), dialler, within }
    }

    /// Asks all of them at once about the primary; one answer for each, in their order, `None` from one that
    /// gives none.
    pub(super) async fn ask(&mut self) -> Vec<Option<Replies>> {
        let questions = ["MASTER", "GET-MASTER-ADDR-BY-NAME", "SENTINELS"];
        let mut commands = Pipeline::with_capacity(questions.len());
        for question in questions {
            commands.cmd("SENTINEL").arg(question).arg(&self.master);
        }
        let (dialler, within) = (&self.dialler, self.within);
        join_all(self.all.iter_mut().map(|it| it.ask(&commands, dialler, within))).await
    }
}

impl Sentinel {
    async fn ask(
        &mut self,
        commands: &Pipeline,
        dialler: &Dialler,
        within: Duration,
    ) -> Option<Replies> {
        self.connect(dialler).await;
        let replies = match &self.connection {
            Some(connection) => connection.ask_all(commands, within).await.ok(),
            None => None,
        };
        self.away = replies.is_none();
        if self.away {
            self.close();
        }
        replies?.try_into().ok()
    }

    /// Has a connection, if there can be one at once.
    async fn connect(&mut self, dialler: &Dialler) {
        if self.connection.as_ref().is_some_and(|it| !it.is_lost()) {
            return;
        }
        self.connection = None;
        if !self.away {
            self.connection = dialler.dial(&self.address, Server::Sentinel, None).await.ok();
            return;
        }
        if let Some(sought) = self.sought.take_if(|it| it.is_finished()) {
            self.connection = sought.await.ok().flatten().filter(|it| !it.is_lost());
        }
        if self.connection.is_none()
            && self.sought.is_none()
            && self.sought_at.elapsed() > SOUGHT_EVERY
        {
            self.sought_at = Instant::now();
            let (dialler, address) = (dialler.clone(), self.address.clone());
            let seek = async move { dialler.dial(&address, Server::Sentinel, None).await.ok() };
            self.sought = Some(tokio::spawn(seek));
        }
    }

    fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
    }
}

/// How often one that is away is looked for.
const SOUGHT_EVERY: Duration = Duration::from_secs(1);
