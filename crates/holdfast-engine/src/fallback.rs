//! Which answers are kept, and for whom, so that a Read can be answered while its server is away.
//!
//! Only complete results of Reads are kept. To whom one may be given is the server's word where the
//! protocol has it say so (2026-07-28: `ttlMs` and `cacheScope`), and otherwise only to the same
//! *audience*: the same principal with the same credential. An answer that is given from here is
//! marked as such by the caller, with its age.
//!
//! | answer to | kept |
//! |---|---|
//! | `server/discover`, `*/list`, `resources/read`, scope `public` | for everybody |
//! | the same with scope `private`, or without a scope | per audience |
//! | `prompts/get`, `completion/complete`, `tools/call` of a read-only tool | per audience, whatever it says |
//! | `tasks/*`, `subscriptions/listen`, `ping`, anything that is no Read | not |
//! | an error, a tool's own error, `input_required`, a task | not |
//! | a request with `inputResponses` or `requestState` | not |
//!
//! Spec: 2026-07-28 caching (SEP-2549): a private result never crosses authorization contexts;
//! `list_changed` and `resources/updated` invalidate at once; a stale answer may be given when the
//! server fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::class::CallClass;

/// The settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// How old an answer may be that is given while the server is away, unless its own `ttlMs` says
    /// longer.
    pub max_age: Duration,
    /// All kept answers together, in bytes.
    pub max_bytes: usize,
    /// One answer, in bytes; larger ones are not kept.
    pub max_answer: usize,
    /// All kept answers of one audience, in bytes: nobody can push everybody else's out.
    pub max_audience_bytes: usize,
}

/// To whom an answer may be given, as the server says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// To everybody.
    Public,
    /// Within one authorization context.
    Private,
}

/// What a result says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// `ttlMs`.
    pub ttl: Option<Duration>,
    /// `cacheScope`.
    pub scope: Option<Scope>,
}

/// What kind of result came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A result that is complete (`resultType` `complete` or absent), and no error of a tool.
    Complete,
    /// Everything else: errors, `isError`, `input_required`, tasks.
    Other,
}

/// For whom an answer is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Audience {
    /// For everybody.
    Everybody,
    /// For one authorization context: a digest of the principal and the credential that was sent.
    One(u128),
}

/// Whether and how an answer is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    /// To whom it may be given.
    pub scope: Scope,
    /// How long it may be given.
    pub lifetime: Duration,
}

/// What a notification makes stale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Topic {
    /// `tools/list` and what tools answered.
    Tools,
    /// `prompts/list` and what prompts answered.
    Prompts,
    /// Lists, templates and contents of resources.
    Resources,
    /// `server/discover` and `completion/complete`; no notification speaks of them.
    Other,
}

/// What an answer is the answer to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// The server, by the caller's number.
    pub server: u32,
    /// For whom.
    pub audience: Audience,
    /// A digest of the method and of the parameters that the result depends on (not `_meta`).
    pub question: u128,
}

/// Kept answers, bounded; those that have not been used for longest go first.
#[derive(Clone, Debug)]
pub struct Answers {
    params: Params,
    kept: BTreeMap<Key, Kept>,
    /// The same, the least recently used first.
    by_use: BTreeSet<(u64, Key)>,
    bytes: usize,
    audience_bytes: BTreeMap<(Audience, u32), usize>,
    uses: u64,
}

#[derive(Clone, Debug)]
struct Kept {
    answer: Bytes,
    topic: Topic,
    since: Instant,
    until: Instant,
    used: u64,
}

/// What an answer costs beside its bytes.
const OVERHEAD: usize = 256;
/// No answer is kept for longer, whatever it says.
const LONGEST: Duration = Duration::from_secs(86_400);

/// What the method's answers are about; `None` if they are never kept.
#[must_use]
pub fn topic(method: &str, class: CallClass) -> Option<Topic> {
    match (method, class) {
        ("server/discover", _) => Some(Topic::Other),
        (_, CallClass::Lifecycle | CallClass::Idempotent | CallClass::Write) => None,
        ("tools/list" | "tools/call", CallClass::Read) => Some(Topic::Tools),
        ("prompts/list" | "prompts/get", CallClass::Read) => Some(Topic::Prompts),
        ("resources/list" | "resources/templates/list" | "resources/read", CallClass::Read) => {
            Some(Topic::Resources)
        }
        ("completion/complete", CallClass::Read) => Some(Topic::Other),
        (_, CallClass::Read) => None,
    }
}

/// Whether an answer to `method` is kept, for how long and for whom. `carried_input` says that the
/// request had `inputResponses` or `requestState`.
#[must_use]
pub fn may_keep(
    method: &str,
    class: CallClass,
    carried_input: bool,
    kind: Kind,
    hints: Hints,
    params: &Params,
) -> Option<Keep> {
    topic(method, class)?;
    if carried_input || kind == Kind::Other {
        return None;
    }
    // Only for these does the protocol let a server say that everybody may have the answer.
    let may_be_public = matches!(
        method,
        "server/discover"
            | "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
    );
    let scope = match hints.scope {
        Some(Scope::Public) if may_be_public => Scope::Public,
        Some(Scope::Public | Scope::Private) | None => Scope::Private,
    };
    let lifetime = params.max_age.max(hints.ttl.unwrap_or_default()).min(LONGEST);
    (!lifetime.is_zero()).then_some(Keep { scope, lifetime })
}

// === impl Answers ===

impl Answers {
    /// Nothing kept.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self {
            params,
            kept: BTreeMap::new(),
            by_use: BTreeSet::new(),
            bytes: 0,
            audience_bytes: BTreeMap::new(),
            uses: 0,
        }
    }

    /// Keeps an answer in the place of an earlier one. Returns whether it fits.
    pub fn put(&mut self, key: Key, topic: Topic, answer: Bytes, keep: Keep, now: Instant) -> bool {
        self.remove(&key);
        let size = answer.len() + OVERHEAD;
        let within = self.params.max_audience_bytes.min(self.params.max_bytes);
        if answer.len() > self.params.max_answer || size > within {
            return false;
        }
        self.uses += 1;
        let used = self.uses;
        let since = now;
        self.kept.insert(key, Kept { answer, topic, since, until: now + keep.lifetime, used });
        self.by_use.insert((used, key));
        self.bytes += size;
        *self.audience_bytes.entry(share_of(&key)).or_default() += size;
        while self.audience_bytes.get(&share_of(&key)).is_some_and(|it| *it > within) {
            self.evict(|other| share_of(other) == share_of(&key));
        }
        while self.bytes > self.params.max_bytes {
            self.evict(|_| true);
        }
        true
    }

    /// The answer that may be given, and its age: the audience's own, else everybody's.
    pub fn get(
        &mut self,
        server: u32,
        audience: u128,
        question: u128,
        now: Instant,
    ) -> Option<(Bytes, Duration)> {
        [Audience::One(audience), Audience::Everybody].into_iter().find_map(|audience| {
            let key = Key { server, audience, question };
            let kept = self.kept.get_mut(&key)?;
            if kept.until <= now {
                self.remove(&key);
                return None;
            }
            self.uses += 1;
            self.by_use.remove(&(kept.used, key));
            self.by_use.insert((self.uses, key));
            kept.used = self.uses;
            Some((kept.answer.clone(), now.saturating_duration_since(kept.since)))
        })
    }

    /// The server says that these have changed.
    pub fn invalidate(&mut self, server: u32, topic: Topic) {
        self.remove_where(|key, kept| key.server == server && kept.topic == topic);
    }

    /// The server is gone from the configuration, or is another one now.
    pub fn forget_server(&mut self, server: u32) {
        self.remove_where(|key, _| key.server == server);
    }

    /// Drops what is too old to be given.
    pub fn expire(&mut self, now: Instant) {
        self.remove_where(|_, kept| kept.until <= now);
    }

    /// How many answers are kept, and their bytes with what it costs to keep them.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }

    fn evict(&mut self, which: impl Fn(&Key) -> bool) {
        let oldest = self.by_use.iter().map(|(_, key)| *key).find(which);
        if let Some(key) = oldest {
            self.remove(&key);
        }
    }

    fn remove_where(&mut self, which: impl Fn(&Key, &Kept) -> bool) {
        let keys: Vec<Key> =
            self.kept.iter().filter(|(key, kept)| which(key, kept)).map(|(key, _)| *key).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(kept) = self.kept.remove(key) else { return };
        let size = kept.answer.len() + OVERHEAD;
        self.by_use.remove(&(kept.used, *key));
        self.bytes -= size;
        if let Some(bytes) = self.audience_bytes.get_mut(&share_of(key)) {
            *bytes -= size;
            if *bytes == 0 {
                self.audience_bytes.remove(&share_of(key));
            }
        }
    }
}

/// Whose share of the room an answer takes: an audience's, or a server's answers for everybody.
fn share_of(key: &Key) -> (Audience, u32) {
    match key.audience {
        Audience::One(_) => (key.audience, 0),
        Audience::Everybody => (key.audience, key.server),
    }
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(300),
            max_bytes: 64 << 20,
            max_answer: 256 << 10,
            max_audience_bytes: 8 << 20,
        }
    }
}
