//! Keeps a link to every primary there is, for the life of the store.
//!
//! Nothing here heals by itself in the client library: a lost link, a primary that says it is none, a
//! key that is elsewhere all end in one place, where the primaries are asked for anew and dialled
//! again, with a pause that grows and differs from node to node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use holdfast_config::HostPort;
use tokio::time::{Instant, sleep};

use super::failure::Unusable;
use super::inspect::Inspected;
use super::keys::Bucket;
use super::link::Link;
use super::topology::{Finder, Target};
use super::{Primary, Shared};

/// The primaries that are in use.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) links: Vec<Arc<Link>>,
    /// Which link has a bucket.
    buckets: Vec<usize>,
    /// The run id; of several primaries, all of theirs in one.
    pub(super) run_id: Arc<str>,
}

/// What there is to send to.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    Here(Arc<Routes>),
    Away { since: Instant, reason: Arc<str> },
}

/// The task.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    finder: Finder,
    links: Vec<Arc<Link>>,
    /// Whether a primary has been in use before: from then on its successor's settings are complained
    /// of, and used.
    has_been: bool,
    /// What was last said of the settings of each primary, so that it is said once.
    said: HashMap<Arc<str>, Complaint>,
    /// When the settings of those in use were last looked at.
    looked: Instant,
}

/// What a primary's settings are complained of for.
#[derive(Default, PartialEq, Eq)]
struct Complaint {
    losing: String,
    doubtful: String,
}

impl Routes {
    pub(super) fn of(&self, key: &[u8]) -> &Arc<Link> {
        // One that is alone has all buckets.
        if let [only] = &self.links[..] {
            return only;
        }
        &self.links[self.buckets[Bucket::of(key).index()]]
    }

    fn new(shared: &Shared, links: Vec<Arc<Link>>) -> Option<Self> {
        let buckets: Option<Vec<usize>> = Bucket::all()
            .map(|bucket| {
                let slot = shared.names.slot(bucket);
                links.iter().position(|link| link.has(slot))
            })
            .collect();
        let run_id = run_id(&links);
        Some(Self { buckets: buckets?, run_id, links })
    }

    fn primary(&self) -> Primary {
        let addresses: Vec<_> =
            self.links.iter().map(|link| link.target.address.to_string()).collect();
        Primary { run_id: Arc::clone(&self.run_id), address: addresses.join(",") }
    }
}

/// The run id of one primary; of several, a digest of all.
fn run_id(links: &[Arc<Link>]) -> Arc<str> {
    if let [link] = links {
        return Arc::clone(&link.about.run_id);
    }
    let mut ids: Vec<&str> = links.iter().map(|link| &*link.about.run_id).collect();
    ids.sort_unstable();
    combined(&ids)
}

/// As long as a run id. Not a secret: only equality counts.
fn combined(ids: &[&str]) -> Arc<str> {
    let text = ids.join(" ");
    let words = (0..5_u32).map(|word| {
        let seed = 0x811c_9dc5_u32 ^ word.wrapping_mul(0x9e37_79b9);
        let hash = text
            .bytes()
            .fold(seed, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("{hash:08x}")
    });
    words.collect::<String>().into()
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let finder = Finder::new(&shared);
        Self {
            shared,
            finder,
            links: Vec::new(),
            has_been: false,
            said: HashMap::new(),
            looked: Instant::now(),
        }
    }

    /// Runs for as long as anybody holds the store.
    pub(super) async fn run(mut self, mut ended: tokio::sync::watch::Receiver<()>) {
        tokio::select! {
            () = self.keep() => {}
            // Its sender is dropped with the store.
            _ = ended.changed() => {}
        }
    }

    async fn keep(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.round().await.is_ok() {
                pause = FIRST_PAUSE;
                self.wait().await;
            } else {
                sleep(jittered(pause, self.shared.random())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&self) {
        let lost: Vec<_> = self
            .links
            .iter()
            .map(|link| {
                let lost = link.lost();
                Box::pin(async move { lost.cancelled().await })
            })
            .collect();
        tokio::select! {
            _ = select_all(lost) => {}
            () = self.shared.look.notified() => {}
            () = sleep(jittered(LOOK, self.shared.random())) => {}
        }
    }

    /// Brings the links up to what is so.
    ///
    /// # Errors
    /// That not every primary is in use.
    pub(super) async fn round(&mut self) -> Result<(), Unusable> {
        let before = self.links.len();
        self.links.retain(|link| !link.is_lost());
        if self.links.len() < before {
            self.shared.away("the connection was lost");
        }
        let done = match self.finder.find().await {
            Ok(targets) => self.go_to(targets).await,
            // Who cannot be asked does not change what is known.
            Err(_) if before > 0 && self.links.len() == before => Ok(()),
            Err(error) => Err(error),
        };
        done.map_err(|error| self.failed(error))
    }

    /// Has these primaries in use, and no other.
    async fn go_to(&mut self, targets: Vec<Target>) -> Result<(), Unusable> {
        // A master that has other slots alone is nobody to write to, nor to wait for.
        let has_ours = |target: &Target| target.buckets(&self.shared.names).next().is_some();
        let targets: Vec<Target> = targets.into_iter().filter(has_ours).collect();
        let has = |links: &[Arc<Link>], target: &Target| {
            links.iter().any(|link| link.target == *target && !link.is_lost())
        };
        let same = targets.len() == self.links.len()
            && targets.iter().all(|target| has(&self.links, target));
        // After a node has named a primary that is none, the links are there and in no use.
        let in_use = matches!(*self.shared.reach.borrow(), Reach::Here(_));
        if same && in_use {
            self.look_at_settings().await;
            return Ok(());
        }
        let new: Vec<Target> = targets.iter().filter(|it| !has(&self.links, it)).cloned().collect();
        let dialled =
            join_all(new.into_iter().map(|target| Link::connect(&self.shared, target))).await;
        let mut links = Vec::with_capacity(targets.len());
        for link in dialled {
            links.push(self.admit(link?)?);
        }
        // What waits for one that is left is sent to its successor.
        let left = self.links.iter().filter(|link| !targets.contains(&link.target));
        left.for_each(|link| link.give_up());
        links.extend(
            self.links.iter().filter(|link| targets.contains(&link.target)).map(Arc::clone),
        );
        links.sort_by(|one, other| one.target.address.cmp(&other.target.address));
        self.links = links;
        let routes = Routes::new(&self.shared, self.links.clone());
        let routes = routes.ok_or_else(|| {
            Unusable::Away("no master has some of the cluster's slots".to_owned())
        })?;
        self.has_been = true;
        self.announce(&routes);
        self.shared.here(routes);
        Ok(())
    }

    /// Looks at the settings of a primary.
    fn admit(&mut self, link: Arc<Link>) -> Result<Arc<Link>, Unusable> {
        let (address, about) = (&link.target.address, &link.about);
        if !about.losing.is_empty() && !self.has_been && !self.shared.settings.allow_unsafe {
            let losing = about.losing.join("; ");
            return Err(Unusable::Wrong(format!(
                "the Redis at {address} would lose data: {losing}. \
                 sessions.redis.allow_unsafe: true uses it all the same"
            )));
        }
        self.complain(address, about);
        Ok(link)
    }

    /// Looks now and then whether somebody has changed the settings of those in use.
    async fn look_at_settings(&mut self) {
        if self.looked.elapsed() < LOOK_AT_SETTINGS {
            return;
        }
        self.looked = Instant::now();
        for link in self.links.clone() {
            // One that does not answer is noticed elsewhere.
            if let Ok(about) = link.inspect(&self.shared.settings).await {
                self.complain(&link.target.address, &about);
            }
        }
        let used = |run_id: &Arc<str>| self.links.iter().any(|it| it.about.run_id == *run_id);
        self.said.retain(|run_id, _| used(run_id));
    }

    /// Says what there is to say of a primary's settings, when it changes.
    fn complain(&mut self, address: &HostPort, about: &Inspected) {
        let now =
            Complaint { losing: about.losing.join("; "), doubtful: about.doubtful.join("; ") };
        let before = self.said.entry(Arc::clone(&about.run_id)).or_default();
        let Complaint { losing, doubtful } = &now;
        if *losing != before.losing && !losing.is_empty() {
            if self.shared.settings.allow_unsafe {
                tracing::warn!(%address, losing, "redis has settings that lose data");
            } else {
                tracing::error!(%address, losing, "redis has settings that lose data");
            }
        }
        if *doubtful != before.doubtful && !doubtful.is_empty() {
            tracing::warn!(%address, doubtful, "redis has settings to be looked at");
        }
        if now == Complaint::default() && *before != now {
            tracing::info!(%address, "redis has no settings to be looked at any more");
        }
        *before = now;
    }

    fn announce(&self, routes: &Routes) {
        for link in &routes.links {
            tracing::info!(
                address = %link.target.address,
                topology = self.shared.settings.topology.label(),
                role = "primary",
                run_id = &*link.about.run_id,
                version = link.about.version,
                "redis connected"
            );
        }
    }

    fn failed(&self, error: Unusable) -> Unusable {
        self.shared.away(error.reason());
        error
    }
}

/// Between half of a pause and all of it: nodes that lost one Redis do not come back as one.
fn jittered(pause: Duration, random: u64) -> Duration {
    pause.mul_f64(0.5 + (random % 1024) as f64 / 2048.0)
}

impl Shared {
    /// The store can be reached.
    fn here(&self, routes: Routes) {
        let primary = routes.primary();
        self.reach.send_replace(Reach::Here(Arc::new(routes)));
        self.seen.send_if_modified(|seen| {
            let changed = seen.as_ref() != Some(&primary);
            if changed {
                let before = seen.as_ref().map(|seen| seen.address.clone());
                tracing::info!(
                    address = primary.address,
                    run_id = &*primary.run_id,
                    before,
                    "redis primary"
                );
                *seen = Some(primary);
                // It may have less than the one before.
                self.copy.clear();
            }
            changed
        });
    }

    /// The store cannot be reached. Said once.
    pub(super) fn away(&self, reason: &str) {
        self.reach.send_if_modified(|reach| match reach {
            Reach::Here(_) => {
                tracing::warn!(reason, "redis lost");
                *reach = Reach::Away { since: Instant::now(), reason: reason.into() };
                true
            }
            Reach::Away { reason: before, .. } if **before != *reason => {
                tracing::warn!(reason, "redis is away");
                *before = reason.into();
                true
            }
            Reach::Away { .. } => false,
        });
        self.seen.send_if_modified(|seen| seen.take().is_some());
    }
}

/// How often the primaries are asked for while all is well.
const LOOK: Duration = Duration::from_secs(1);

/// How often the settings of a primary that is in use are looked at.
const LOOK_AT_SETTINGS: Duration = Duration::from_secs(10);

/// The pause after a first failure; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_run_ids_are_one_and_each_of_them_counts() {
        let one = combined(&["a", "b"]);
        assert_eq!(one.len(), 40);
        assert_eq!(one, combined(&["a", "b"]));
        assert_ne!(one, combined(&["a", "c"]));
        assert_ne!(one, combined(&["a"]));
    }

    #[test]
    fn pauses_differ_and_are_never_longer() {
        let pause = Duration::from_millis(100);
        let pauses: Vec<_> = (0..2048).map(|random| jittered(pause, random)).collect();
        assert_eq!(pauses.iter().min(), Some(&(pause / 2)));
        assert!(
            pauses
                .iter()
                .max()
                .is_some_and(|longest| *longest <= pause && *longest > pause * 9 / 10)
        );
    }
}
