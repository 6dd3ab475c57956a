//! Which answers are kept, and for whom, so that a Read can be answered while its server is away.
//!
//! Only complete results of Reads are kept. To whom one may be given is the server's word where the
//! protocol has it say so (2026-07-28: `ttlMs` and `cacheScope`), and otherwise only to the same
//! *audience*: whoever the server cannot tell apart. An answer that is given from here is marked as such
//! by the caller, with its age.
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
    /// For one authorization context: a digest of all that may say who asked.
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
    /// For whom.
    pub audience: Audience,
    /// A digest of the method and of the parameters that the result depends on (not `_meta`).
    pub question: u128,
}

/// Kept answers of one server, bounded; those that have not been used for longest go first.
#[derive(Clone, Debug)]
pub struct Answers {
    params: Params,
    kept: BTreeMap<Key, Kept>,
    /// The same, the least recently used first.
    by_use: BTreeSet<(u64, Key)>,
    bytes: usize,
    audience_bytes: BTreeMap<Audience, usize>,
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
        *self.audience_bytes.entry(key.audience).or_default() += size;
        while self.audience_bytes.get(&key.audience).is_some_and(|it| *it > within) {
            self.evict(|other| other.audience == key.audience);
        }
        while self.bytes > self.params.max_bytes {
            self.evict(|_| true);
        }
        true
    }

    /// The answer that may be given, and its age: the audience's own, else everybody's.
    pub fn get(
        &mut self,
        audience: u128,
        question: u128,
        now: Instant,
    ) -> Option<(Bytes, Duration)> {
        [Audience::One(audience), Audience::Everybody].into_iter().find_map(|audience| {
            let key = Key { audience, question };
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
    pub fn invalidate(&mut self, topic: Topic) {
        self.remove_where(|kept| kept.topic == topic);
    }

    /// Drops what is too old to be given.
    pub fn expire(&mut self, now: Instant) {
        self.remove_where(|kept| kept.until <= now);
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

    fn remove_where(&mut self, which: impl Fn(&Kept) -> bool) {
        let keys: Vec<Key> =
            self.kept.iter().filter(|(_, kept)| which(kept)).map(|(key, _)| *key).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(kept) = self.kept.remove(key) else { return };
        let size = kept.answer.len() + OVERHEAD;
        self.by_use.remove(&(kept.used, *key));
        self.bytes -= size;
        if let Some(bytes) = self.audience_bytes.get_mut(&key.audience) {
            *bytes -= size;
            if *bytes == 0 {
                self.audience_bytes.remove(&key.audience);
            }
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const EVERYBODY: Hints = Hints { ttl: None, scope: Some(Scope::Public) };
    const PRIVATE: Hints = Hints { ttl: None, scope: Some(Scope::Private) };
    const SILENT: Hints = Hints { ttl: None, scope: None };

    fn scope(method: &str, class: CallClass, hints: Hints) -> Option<Scope> {
        may_keep(method, class, false, Kind::Complete, hints, &Params::default())
            .map(|keep| keep.scope)
    }

    #[test]
    fn what_is_kept_and_for_whom() {
        use CallClass::{Idempotent, Lifecycle, Read, Write};
        use Scope::{Private, Public};
        let lists = ["tools/list", "prompts/list", "resources/list", "resources/templates/list"];
        for method in lists.into_iter().chain(["resources/read"]) {
            assert_eq!(scope(method, Read, EVERYBODY), Some(Public), "{method}");
            assert_eq!(scope(method, Read, PRIVATE), Some(Private), "{method}");
            assert_eq!(scope(method, Read, SILENT), Some(Private), "{method}");
        }
        assert_eq!(scope("server/discover", Lifecycle, EVERYBODY), Some(Public));
        assert_eq!(scope("server/discover", Lifecycle, SILENT), Some(Private));
        // The protocol gives these no scope, so what they say of one counts for nothing.
        for method in ["tools/call", "prompts/get", "completion/complete"] {
            assert_eq!(scope(method, Read, EVERYBODY), Some(Private), "{method}");
        }
        for class in [Idempotent, Write] {
            assert_eq!(scope("tools/call", class, EVERYBODY), None, "{class:?}");
        }
        for method in
            ["tasks/get", "tasks/result", "tasks/list", "subscriptions/listen", "roots/list"]
        {
            assert_eq!(scope(method, Read, EVERYBODY), None, "{method}");
        }
        for method in ["initialize", "ping", "notifications/initialized"] {
            assert_eq!(scope(method, Lifecycle, EVERYBODY), None, "{method}");
        }
    }

    #[test]
    fn only_complete_results_of_plain_questions_are_kept() {
        let keep = |carried_input, kind| {
            let params = Params::default();
            may_keep("tools/list", CallClass::Read, carried_input, kind, EVERYBODY, &params)
        };
        assert!(keep(false, Kind::Complete).is_some());
        assert_eq!(keep(true, Kind::Complete), None);
        assert_eq!(keep(false, Kind::Other), None);
    }

    #[test]
    fn an_answer_is_kept_for_the_longer_of_the_two_times() {
        let lifetime = |max_age, ttl: Option<u64>| {
            let hints = Hints { ttl: ttl.map(Duration::from_secs), scope: None };
            let params = Params { max_age: SECOND * max_age, ..Params::default() };
            may_keep("tools/list", CallClass::Read, false, Kind::Complete, hints, &params)
                .map(|keep| keep.lifetime.as_secs())
        };
        assert_eq!(lifetime(300, None), Some(300));
        assert_eq!(lifetime(300, Some(0)), Some(300), "stale at once, and better than nothing");
        assert_eq!(lifetime(300, Some(3600)), Some(3600));
        assert_eq!(lifetime(300, Some(u64::MAX)), Some(86_400));
        assert_eq!(lifetime(0, None), None);
    }

    fn key(audience: Audience, question: u128) -> Key {
        Key { audience, question }
    }

    fn keep(seconds: u32) -> Keep {
        Keep { scope: Scope::Private, lifetime: SECOND * seconds }
    }

    fn answers(max_bytes: usize, max_audience_bytes: usize) -> (Answers, Instant) {
        let params =
            Params { max_bytes, max_audience_bytes, max_answer: 1000, ..Params::default() };
        (Answers::new(params), Instant::now())
    }

    #[test]
    fn a_private_answer_is_for_its_audience_and_a_public_one_for_everybody() {
        let (mut answers, now) = answers(1 << 20, 1 << 20);
        let (public, private) = (Bytes::from_static(b"all"), Bytes::from_static(b"mine"));
        answers.put(key(Audience::Everybody, 7), Topic::Tools, public, keep(10), now);
        answers.put(key(Audience::One(5), 7), Topic::Tools, private, keep(10), now);
        let mut get = |audience, question| {
            answers.get(audience, question, now + SECOND).map(|(bytes, age)| {
                assert_eq!(age, SECOND);
                bytes
            })
        };
        assert_eq!(get(5, 7).as_deref(), Some(&b"mine"[..]));
        assert_eq!(get(6, 7).as_deref(), Some(&b"all"[..]));
        assert_eq!(get(5, 8), None, "to another question");
    }

    #[test]
    fn what_is_too_old_is_not_given_and_what_changed_neither() {
        let (mut answers, now) = answers(1 << 20, 1 << 20);
        let put = |answers: &mut Answers, question, topic| {
            let key = key(Audience::One(5), question);
            answers.put(key, topic, Bytes::from_static(b"it"), keep(10), now)
        };
        for (question, topic) in
            [(1, Topic::Tools), (2, Topic::Prompts), (3, Topic::Resources), (4, Topic::Other)]
        {
            assert!(put(&mut answers, question, topic));
        }
        answers.invalidate(Topic::Tools);
        let kept: Vec<bool> = (1..=4).map(|at| answers.get(5, at, now).is_some()).collect();
        assert_eq!(kept, [false, true, true, true]);
        assert!(answers.get(5, 2, now + SECOND * 10 - SECOND / 1000).is_some());
        assert!(answers.get(5, 2, now + SECOND * 10).is_none());
        assert_eq!(answers.size().0, 2, "it is gone");
        answers.expire(now + SECOND * 10);
        assert_eq!(answers.size(), (0, 0));
    }

    #[test]
    fn the_least_recently_used_goes_first_and_nobody_pushes_everybody_out() {
        let room = 3 * (100 + OVERHEAD);
        let (mut answers, now) = answers(2 * room, room);
        let put = |answers: &mut Answers, audience, question| {
            let key = key(Audience::One(audience), question);
            answers.put(key, Topic::Tools, Bytes::from(vec![0; 100]), keep(10), now)
        };
        for question in 1..=3 {
            assert!(put(&mut answers, 5, question));
            assert!(put(&mut answers, 6, question));
        }
        assert!(answers.get(6, 1, now).is_some());
        // A fourth of one audience takes its own oldest place.
        assert!(put(&mut answers, 6, 4));
        let kept: Vec<bool> = (1..=4).map(|at| answers.get(6, at, now).is_some()).collect();
        assert_eq!(kept, [true, false, true, true]);
        assert!((1..=3).all(|at| answers.get(5, at, now).is_some()));
        // A third audience takes the place of what was used least recently by anybody.
        assert!(put(&mut answers, 7, 1));
        assert!(answers.get(6, 1, now).is_none());
        let large = Bytes::from(vec![0; 1001]);
        assert!(!answers.put(key(Audience::One(5), 1), Topic::Tools, large, keep(10), now));
        assert!(answers.get(5, 1, now).is_none(), "the answer of before is out of date");
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_gives_to_nobody_what_is_another_ones(
            steps in prop::collection::vec(
                (0u8..8, 0u128..4, 0u128..6, 0usize..1200, 0u32..8),
                1..300,
            ),
        ) {
            let (mut answers, mut now) = answers(6000, 2500);
            for (step, audience, question, size, seconds) in steps {
                let one = key(Audience::One(audience), question);
                let all = key(Audience::Everybody, question);
                // The answer says for whom it is.
                let says = |whose: u8| {
                    let mut bytes = vec![whose; size + 1];
                    bytes[0] = whose;
                    Bytes::from(bytes)
                };
                match step {
                    0..=2 => {
                        let whose = u8::try_from(audience).unwrap();
                        answers.put(one, Topic::Tools, says(whose), keep(seconds), now);
                    }
                    3 => {
                        answers.put(all, Topic::Resources, says(255), keep(seconds), now);
                    }
                    4 => answers.invalidate(Topic::Tools),
                    5 => now += SECOND,
                    _ => {
                        if let Some((bytes, age)) = answers.get(audience, question, now) {
                            let whose = bytes[0];
                            prop_assert!(whose == 255 || u128::from(whose) == audience);
                            prop_assert!(age < SECOND * 8);
                        }
                    }
                }
                let (count, bytes) = answers.size();
                prop_assert!(bytes <= 6000);
                prop_assert_eq!(count == 0, bytes == 0);
                prop_assert_eq!(answers.by_use.len(), count);
                let sum: usize = answers.kept.values().map(|it| it.answer.len() + OVERHEAD).sum();
                prop_assert_eq!(sum, bytes);
                prop_assert!(answers.audience_bytes.values().all(|it| (1..=2500).contains(it)));
                prop_assert_eq!(answers.audience_bytes.values().sum::<usize>(), bytes);
            }
        }
    }
}
