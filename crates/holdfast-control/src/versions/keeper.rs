//! The node's own part: reads its file, proposes, and takes over what was agreed on.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_cluster::ProposeError;
use holdfast_config::{Change, Config, Document, File, MAX_DOCUMENT, Problems};
use holdfast_engine::backoff::Backoff;
use holdfast_engine::configuration::Wish;
use holdfast_engine::configuration::follow::{Follow, Next};
use holdfast_engine::configuration::settle::Print;
use holdfast_engine::configuration::strays::Strays;
use holdfast_engine::replicated::{
    Configuration, ControlCommand, Reply, ServerCommand, ServerHappened,
};
use tokio::sync::{Mutex as Turn, MutexGuard as HeldTurn, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apply::Apply;
use super::ledger::{Ledger, put, remove};
use super::metrics::{Counts, Outcome};
use super::record::Record;
use super::standing::STANDING;
use super::view::{Ask, ReloadError, Reloaded};
use crate::group::Group;
use crate::random;

/// How long this node may take to hear of a version that was agreed on.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// How long an operator waits for a change that is under way.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// Between two tries to find out what the group has agreed on, while this node starts: at first.
const BEGIN_AGAIN: Duration = Duration::from_millis(200);
/// The longest pause between two tries, while the group agrees on nothing.
const AGAIN_AT_MOST: Duration = Duration::from_secs(2);
/// While there is nothing to do, for a nudge that was lost.
const REST: Duration = Duration::from_secs(60);
/// Files of this process's life whose secrets may be taken for a version.
const EARLIER: usize = 8;

/// What a node is told at its start.
pub struct Settings {
    /// Its file.
    pub path: PathBuf,
    /// Its environment.
    pub env: fn(&str) -> Option<String>,
    /// Its name.
    pub node: String,
    /// Where it may keep what it has seen; none: it keeps nothing.
    pub folder: Option<PathBuf>,
    /// How often the file is looked at; none: never.
    pub watch: Option<Duration>,
}

/// The configuration of one node.
pub struct Versions {
    pub(super) settings: Settings,
    pub(super) ledger: Arc<dyn Ledger>,
    /// Who is told what this node has to say; the ledger, unless each node has its own.
    group: Arc<dyn Group>,
    apply: Arc<dyn Apply>,
    /// One change at a time: what is read is what is proposed and taken over.
    pub(super) turn: Turn<()>,
    pub(super) state: Mutex<State>,
    nudge: Notify,
    pub(super) counts: Counts,
}

pub(super) struct State {
    /// Whose own settings and secrets count.
    pub(super) file: Arc<File>,
    /// Files before it, the newest first.
    earlier: VecDeque<Arc<File>>,
    record: Record,
    pub(super) follow: Follow,
    pub(super) since: u64,
    pub(super) trouble: Option<String>,
    /// Whether it has been told that the group agrees on nothing at present.
    idle: bool,
    strays: Strays,
    /// What the file had when it was last read to an end.
    read: Print,
}

/// Who wants a reload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// The node starts with this file.
    Start,
    /// The file has changed.
    File,
    /// A person by a signal.
    Signal,
    /// A person at the operator's port.
    Operator,
}

// === impl Versions ===

impl Versions {
    /// Of a node that runs what `file` says. [`Self::run`] has it follow the group from then on. `ledger`
    /// keeps the versions, `group` the history of what happened.
    #[must_use]
    pub fn new(
        file: File,
        settings: Settings,
        ledger: Arc<dyn Ledger>,
        group: Arc<dyn Group>,
        apply: Arc<dyn Apply>,
    ) -> Arc<Self> {
        let record = Record::open(settings.folder.clone());
        let since = ledger.time();
        Arc::new(Self {
            settings,
            turn: Turn::default(),
            state: Mutex::new(State {
                read: Some(file.print),
                file: Arc::new(file),
                earlier: VecDeque::new(),
                record,
                follow: Follow::default(),
                since,
                trouble: None,
                idle: false,
                strays: Strays::default(),
            }),
            nudge: Notify::new(),
            counts: Counts::default(),
            ledger,
            group,
            apply,
        })
    }

    /// Brings the file to the group at the start, then takes over what the group agrees on and reads the
    /// file when it changes. Runs until the stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            self.begin().await;
            tokio::join!(self.follow(), super::watch::watch(&self));
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Reads the file again, because a person has sent the signal for it.
    pub async fn signalled(&self) {
        let _ = self.reload_for(Cause::Signal, Ask::Do).await;
    }

    /// Answers what another node asks; `None`: it is not meant for this.
    #[must_use]
    pub fn receive(&self, method: &str) -> Option<Result<Bytes, String>> {
        (method == STANDING).then(|| self.standing().to_message().map(Bytes::from))
    }

    /// What the file had when it was last read to an end.
    pub(super) fn read(&self) -> Print {
        self.state().read
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn versions(&self) -> Vec<Configuration> {
        self.ledger.state().borrow().servers.configurations.iter().cloned().collect()
    }

    pub(super) fn holds(&self) -> Option<Configuration> {
        self.ledger.state().borrow().servers.configuration().cloned()
    }

    // --- following ---

    async fn begin(&self) {
        let me = self.ledger.me();
        let mut state = self.ledger.state();
        let _ = state.wait_for(|state| state.members.contains_key(&me)).await;
        self.persist(Cause::Start, BEGIN_AGAIN).await;
    }

    /// Reads the file until the group has said what becomes of it, with longer and longer pauses.
    pub(super) async fn persist(&self, cause: Cause, pause: Duration) {
        let mut pauses = Backoff::new(pause, AGAIN_AT_MOST);
        while self.reload_for(cause, Ask::Do).await.is_err_and(|error| error.passes()) {
            tokio::time::sleep(pauses.next(random())).await;
        }
    }

    async fn follow(&self) {
        let mut state = self.ledger.state();
        loop {
            state.mark_unchanged();
            let now = Instant::now();
            let next = self.state().follow.next(self.holds().as_ref(), now.into_std());
            let wait = match next {
                Next::Rest => REST,
                Next::Wait(at) => Instant::from_std(at).saturating_duration_since(now),
                Next::Take(_) => {
                    let _turn = self.turn.lock().await;
                    let _ = self.take().await;
                    continue;
                }
            };
            self.tend().await;
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = self.nudge.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Removes the texts that no version has named for long enough, where this node coordinates.
    pub(super) async fn tend(&self) {
        if !self.ledger.leadership().borrow().me {
            self.state().strays = Strays::default();
            return;
        }
        // The texts before the versions: one that has been agreed on in between is named.
        let texts = self.ledger.texts();
        let named = |id: &str| self.versions().iter().any(|it| it.id == id);
        let unnamed = texts.into_iter().filter(|(id, _)| !named(id));
        let unnamed: Vec<_> = unnamed.map(|(id, entry)| (id, entry.revision)).collect();
        let due = self.state().strays.look(unnamed, Instant::now().into_std());
        if due.is_empty() || !self.ledger.fresh().await {
            return;
        }
        for (id, revision) in due {
            if !named(&id) {
                let _ = self.keep(remove(&id, revision)).await;
            }
        }
    }

    /// Takes over what holds, with the present file's own part, or keeps what runs and says why. The
    /// turn is the caller's.
    async fn take(&self) -> Result<Vec<Change>, ReloadError> {
        let Some(holds) = self.holds() else { return Ok(Vec::new()) };
        let version = holds.version;
        let taken = match self.compose(&holds).await {
            Ok(config) => self.apply.apply(config).await.map_err(|refusal| refusal.to_string()),
            Err(why) => Err(why),
        };
        match taken {
            Ok(changes) => {
                let before = self.state().follow.runs();
                if before != version || !changes.is_empty() {
                    self.state().since = self.ledger.time();
                    tracing::info!(version, changes = changes.len(), by = holds.by, "configured");
                }
                self.state().follow.took(version);
                self.apply.runs(version);
                Ok(changes)
            }
            Err(why) => {
                let now = Instant::now().into_std();
                let (news, runs) = {
                    let mut state = self.state();
                    (state.follow.failed_to(version, &why, now), state.follow.runs())
                };
                if news {
                    self.counts.count(Outcome::Failed);
                    tracing::error!(
                        version,
                        why,
                        "this node cannot take over what the cluster runs"
                    );
                    let runs = if runs == 0 { "its file".to_owned() } else { runs.to_string() };
                    let why = brief(&why);
                    self.say(&format!(
                        "cannot take version {version} over, and keeps {runs}: {why}"
                    ));
                }
                Err(ReloadError::Failed { version, why })
            }
        }
    }

    /// What a version says to this node.
    async fn compose(&self, version: &Configuration) -> Result<Config, String> {
        let number = version.version;
        let document = self.document(version);
        let document =
            document.ok_or_else(|| format!("the text of version {number} is not here"))?;
        let (file, earlier) = {
            let state = self.state();
            (Arc::clone(&state.file), state.earlier.clone())
        };
        let (name, env) = (format!("version {number}"), self.settings.env);
        let compose = move || {
            let earlier = earlier.iter().map(|file| &**file);
            file.with(&document, &name, earlier, &env).map_err(|problems| problems.to_string())
        };
        elsewhere(compose).await.map_err(|error| error.to_string())?
    }

    /// The text of a version: as the group keeps it, or as this node's own file has it.
    pub(super) fn document(&self, version: &Configuration) -> Option<Document> {
        if let Some(entry) = self.ledger.kept(&super::ledger::key(&version.id)) {
            let text = String::from_utf8(entry.value.to_vec()).ok()?;
            return Some(Document::new(text));
        }
        let state = self.state();
        let files = std::iter::once(&state.file).chain(&state.earlier);
        let document = files.map(|file| &file.document);
        document.into_iter().find(|it| it.id().to_string() == version.id).cloned()
    }

    /// Tells the history, and with it whoever is to be notified, what this node has to say.
    fn say(&self, what: &str) {
        let command = ControlCommand::Server(ServerCommand::Note {
            server: String::new(),
            instance: String::new(),
            what: ServerHappened::Noted,
            evidence: format!("{} {what}", self.settings.node),
        });
        let group = Arc::clone(&self.group);
        tokio::spawn(async move {
            if let Err(error) = group.propose(command).await {
                tracing::debug!(%error, "the history does not have what this node had to say");
            }
        });
    }

    // --- proposing ---

    pub(super) async fn reload_for(&self, cause: Cause, ask: Ask) -> Result<Reloaded, ReloadError> {
        let turn = match cause {
            Cause::Operator => self.turn_of_an_operator().await?,
            Cause::Start | Cause::File | Cause::Signal => self.turn.lock().await,
        };
        let print = super::watch::print(&self.settings.path);
        let done = self.read_and_take(cause, ask).await;
        let passes = done.as_ref().is_err_and(ReloadError::passes);
        if ask == Ask::Do && cause != Cause::Start && !passes {
            self.state().read = print;
        }
        drop(turn);
        self.nudge.notify_one();
        let done = self.concluded(cause, ask, done);
        match done {
            Ok(done) if ask == Ask::Do && cause != Cause::Start => Ok(self.with_nodes(done).await),
            done => done,
        }
    }

    /// A person does not wait for longer than this for what another one has begun.
    pub(super) async fn turn_of_an_operator(&self) -> Result<HeldTurn<'_, ()>, ReloadError> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.turn.lock()).await;
        turn.map_err(|_| ReloadError::Busy)
    }

    async fn read_and_take(&self, cause: Cause, ask: Ask) -> Result<Reloaded, ReloadError> {
        let file = match cause {
            Cause::Start => Arc::clone(&self.state().file),
            Cause::File | Cause::Signal | Cause::Operator => {
                let (path, env) = (self.settings.path.clone(), self.settings.env);
                // A long file takes its time, and this thread has the group's heartbeats.
                let read = move || File::read(Some(&path), &env);
                Arc::new(elsewhere(read).await?.map_err(problems)?)
            }
        };
        let checked = self.apply.check(&file.config).await;
        let changes = checked.map_err(|refusal| ReloadError::Refused(refusal.to_string()))?;
        let version = self.holds().map_or(0, |it| it.version);
        if ask == Ask::Check {
            return Ok(Reloaded { version, new: false, changes, nodes: Vec::new() });
        }
        if !self.ledger.fresh().await {
            return Err(ReloadError::NoQuorum);
        }
        let id = file.document.id().to_string();
        let asked = matches!(cause, Cause::Signal | Cause::Operator);
        let wish = {
            let (mut state, versions) = (self.state(), self.versions());
            state.record.change(|memory| memory.learn(&versions));
            state.record.memory().wish(&id, asked, &versions)
        };
        let new = match wish {
            Wish::Propose { follows } => {
                let by = format!("{} {}", cause.by(), self.settings.node);
                // Kept before: should this node die over it, it knows at its return.
                self.state().record.change(|memory| memory.offers(&id));
                let proposed = self.propose(&file.document, &by, follows, None).await;
                if matches!(proposed, Err(ReloadError::Overtaken { .. })) {
                    // It was looked at, and its secrets may be what the other version needs.
                    self.state().overtaken(&file, &id);
                }
                proposed?
            }
            Wish::Agreed { .. } => false,
            Wish::Behind { version } => {
                tracing::warn!(
                    version,
                    "the file is another configuration than the cluster runs, and this node goes by \
                     the cluster's: `holdfast reload` here proposes the file"
                );
                false
            }
            Wish::Late { is, version } => {
                tracing::warn!(
                    is,
                    version,
                    "the file is an earlier version than the cluster runs, and this node goes by the \
                     cluster's: `holdfast reload` here proposes the file"
                );
                false
            }
        };
        let holds = self.holds();
        let version = holds.as_ref().map_or(0, |it| it.version);
        let agreed = holds.filter(|it| it.id == id).map(|it| it.version);
        self.state().accept(file, &id, agreed);
        let changes = self.take().await?;
        Ok(Reloaded { version, new, changes, nodes: Vec::new() })
    }

    pub(super) async fn take_up_again(&self, version: u64) -> Result<Reloaded, ReloadError> {
        if !self.ledger.fresh().await {
            return Err(ReloadError::NoQuorum);
        }
        let versions = self.versions();
        let wanted = find(&versions, version)?;
        let holds = versions.last().map(|it| (it.version, it.id.clone())).unwrap_or_default();
        if holds.1 == wanted.id {
            return Err(ReloadError::Holds { version });
        }
        let document = self.document(wanted).ok_or(ReloadError::NoText { version })?;
        let config = self.compose(wanted).await.map_err(ReloadError::Problems)?;
        let checked = self.apply.check(&config).await;
        checked.map_err(|refusal| ReloadError::Refused(refusal.to_string()))?;
        let by = format!("{} {}", Cause::Operator.by(), self.settings.node);
        let new = self.propose(&document, &by, holds.0, Some(version)).await?;
        let changes = self.take().await?;
        let version = self.holds().map_or(0, |it| it.version);
        Ok(Reloaded { version, new, changes, nodes: Vec::new() })
    }

    /// Has the group agree on a text, as what follows a version. False: it had, meanwhile.
    async fn propose(
        &self,
        document: &Document,
        by: &str,
        follows: u64,
        rolls_back_to: Option<u64>,
    ) -> Result<bool, ReloadError> {
        let (id, text) = (document.id().to_string(), document.text());
        if text.len() > MAX_DOCUMENT {
            return Err(ReloadError::TooLong { found: text.len(), most: MAX_DOCUMENT });
        }
        self.keep(put(&id, text)).await?;
        let command =
            ServerCommand::Configure { id: id.clone(), by: by.to_owned(), follows, rolls_back_to };
        let reply = self.ledger.propose(ControlCommand::Server(command)).await.map_err(unheard)?;
        match reply {
            Reply::Done { .. } => {}
            Reply::Moved { generation, .. } => return Err(self.overtaken(generation).await),
            Reply::Fenced { .. } | Reply::Unknown => return Err(ReloadError::NoQuorum),
            other => return Err(ReloadError::Refused(format!("the group refuses it: {other:?}"))),
        }
        let mut state = self.ledger.state();
        let heard = state.wait_for(|state| {
            state.servers.configuration().is_some_and(|it| it.id == id || it.version > follows)
        });
        let heard = tokio::time::timeout(HEARD_WITHIN, heard).await;
        heard.map(drop).map_err(|_| ReloadError::TimedOut)?;
        if self.ledger.kept(&super::ledger::key(&id)).is_none() {
            // This process stood still in between, and the coordinator took the text for a stray.
            self.keep(put(&id, text)).await?;
        }
        Ok(self.holds().is_some_and(|it| it.version > follows))
    }

    /// What came first, once this node knows of it.
    async fn overtaken(&self, version: u64) -> ReloadError {
        let mut state = self.ledger.state();
        let heard = state.wait_for(|state| {
            state.servers.configuration().is_some_and(|it| it.version >= version)
        });
        let _ = tokio::time::timeout(HEARD_WITHIN, heard).await;
        let found = self.versions().into_iter().find(|it| it.version == version);
        let by = found.map_or_else(|| "by another node".to_owned(), |it| format!("by {}", it.by));
        ReloadError::Overtaken { version, by }
    }

    async fn keep(
        &self,
        command: holdfast_engine::replicated::KvCommand,
    ) -> Result<(), ReloadError> {
        match self.ledger.keep(command).await.map_err(unheard)? {
            Reply::Done { .. } | Reply::Mismatch { .. } => Ok(()),
            Reply::Fenced { .. } | Reply::Unknown => Err(ReloadError::NoQuorum),
            other => Err(ReloadError::Refused(format!("the group refuses its text: {other:?}"))),
        }
    }

    /// Counts, logs and tells what became of a reload.
    fn concluded(
        &self,
        cause: Cause,
        ask: Ask,
        done: Result<Reloaded, ReloadError>,
    ) -> Result<Reloaded, ReloadError> {
        if ask == Ask::Check {
            return done;
        }
        let by = cause.label();
        let passes = done.as_ref().is_err_and(ReloadError::passes);
        let idle = std::mem::replace(&mut self.state().idle, passes);
        if idle && !passes {
            tracing::info!("the cluster agrees on configurations again");
        }
        match &done {
            Ok(reloaded) => {
                let untouched = reloaded.changes.is_empty() && !reloaded.new;
                self.counts.count(if untouched { Outcome::Unchanged } else { Outcome::Applied });
                self.state().trouble = None;
                let (version, changes) = (reloaded.version, reloaded.changes.len());
                if cause == Cause::Start {
                    tracing::info!(version, changes, "configuration agreed on");
                } else {
                    tracing::info!(by, version, changes, "configuration reloaded");
                }
            }
            // It has been told already, and the file is not to blame.
            Err(ReloadError::Failed { .. }) => self.state().trouble = None,
            Err(error) if passes && idle => {
                tracing::debug!(by, %error, "configuration still not agreed on");
            }
            Err(error) if passes => {
                tracing::warn!(by, %error, "configuration not agreed on; the one before goes on");
            }
            Err(error) => {
                self.counts.count(Outcome::Refused);
                let text = error.to_string();
                let news = self.state().trouble.replace(text.clone()) != Some(text);
                tracing::error!(by, %error, "configuration refused; the one before goes on");
                if news {
                    let why = error.to_string();
                    self.say(&format!("does not take its file over: {}", brief(&why)));
                }
            }
        }
        done
    }
}

// === impl State ===

impl State {
    /// From here on the file's own settings and secrets count.
    fn accept(&mut self, file: Arc<File>, id: &str, agreed: Option<u64>) {
        self.record.change(|memory| memory.looked(id, agreed));
        self.follow.changed(std::time::Instant::now());
        if !Arc::ptr_eq(&self.file, &file) {
            let before = std::mem::replace(&mut self.file, file);
            self.remember(before);
        }
    }

    /// The file was read, and another version came first.
    fn overtaken(&mut self, file: &Arc<File>, id: &str) {
        self.record.change(|memory| memory.looked(id, None));
        self.follow.changed(std::time::Instant::now());
        if !Arc::ptr_eq(&self.file, file) {
            self.remember(Arc::clone(file));
        }
    }

    fn remember(&mut self, file: Arc<File>) {
        self.earlier.push_front(file);
        self.earlier.truncate(EARLIER);
    }
}

// === impl Cause ===

impl Cause {
    fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "file",
            Self::Signal => "signal",
            Self::Operator => "operator",
        }
    }

    /// Who proposes, before the node's name.
    fn by(self) -> &'static str {
        match self {
            Self::Start => "the start of",
            Self::File => "the file of",
            Self::Signal => "SIGHUP at",
            Self::Operator => "an operator at",
        }
    }
}

pub(super) fn find(
    versions: &[Configuration],
    version: u64,
) -> Result<&Configuration, ReloadError> {
    versions.iter().find(|it| it.version == version).ok_or_else(|| {
        let known = match (versions.first(), versions.last()) {
            (Some(first), Some(last)) if first.version < last.version => {
                format!("there are {} to {}", first.version, last.version)
            }
            (Some(only), _) => format!("there is {}", only.version),
            (None, _) => "none was agreed on yet".to_owned(),
        };
        ReloadError::Unknown { version, known }
    })
}

/// The first line: what is wrong, without what is allowed and what to do.
fn brief(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn problems(problems: Problems) -> ReloadError {
    ReloadError::Problems(problems.to_string())
}

/// Runs on a thread that may be blocked.
async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ReloadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ReloadError::Refused(format!("the node cannot read it: {error}")))
}

fn unheard(error: ProposeError) -> ReloadError {
    match error {
        ProposeError::Unavailable | ProposeError::Fenced => ReloadError::NoQuorum,
        ProposeError::Unknown => ReloadError::TimedOut,
    }
}
