//! The scripts, and how they are called and answered.
//!
//! Every script may run twice with the same arguments and does what it does once: that is how a lost
//! reply is found out. A server that has forgotten a script (restarted, failed over, flushed) is given
//! it again.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use holdfast_engine::replicated::{Expect, KvEntry};
use redis::{Cmd, Script, Value};

use super::direct::{Commands, decimal};
use super::entry;
use super::keys::{Bucket, Names};

static PUT: LazyLock<Source> = LazyLock::new(|| Source::new(include_str!("lua/put.lua")));
static DELETE: LazyLock<Source> = LazyLock::new(|| Source::new(include_str!("lua/delete.lua")));
static TOUCH: LazyLock<Source> = LazyLock::new(|| Source::new(include_str!("lua/touch.lua")));
static BEAT: LazyLock<Source> = LazyLock::new(|| Source::new(include_str!("lua/beat.lua")));

struct Source {
    text: &'static str,
    script: Script,
}

/// A script and its arguments.
#[derive(Clone, Debug)]
pub(super) struct Call {
    script: Kind,
    /// Its keys, and then its arguments; shared, since it is kept to be sent once more.
    words: Arc<[Bytes]>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Put,
    Delete,
    Touch,
    Beat,
}

/// What came of a script that changes an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done { revision: u64, deadline: Option<u64> },
    Mismatch(Option<KvEntry>),
}

/// What a put is to do.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) expect: Expect,
    pub(super) deadline: Option<u64>,
    /// A deadline that is there and later stays.
    pub(super) later: bool,
}

// === impl Source ===

impl Source {
    fn new(text: &'static str) -> Self {
        Self { text, script: Script::new(text) }
    }
}

// === impl Call ===

impl Call {
    /// `now` is 0 for Redis' own time. `channel` is told of the change, unless it is empty.
    pub(super) fn put(names: &Names, put: &Put, now: u64, channel: Bytes) -> Self {
        let [entry, due] = of(names, &put.key);
        let words = [
            entry,
            due,
            number(now),
            expectation(put.expect),
            put.value.clone(),
            number(entry::deadline(put.deadline)),
            put.key.clone(),
            kind(&put.key),
            Bytes::from_static(if put.later { b"later" } else { b"" }),
            channel,
        ];
        Self { script: Kind::Put, words: Arc::new(words) }
    }

    pub(super) fn delete(names: &Names, key: &Bytes, expect: Expect, now: u64) -> Self {
        let [entry, due] = of(names, key);
        let words = [entry, due, number(now), expectation(expect), key.clone()];
        Self { script: Kind::Delete, words: Arc::new(words) }
    }

    pub(super) fn touch(names: &Names, key: &Bytes, deadline: u64, now: u64) -> Self {
        let [entry, due] = of(names, key);
        let deadline = number(entry::deadline(Some(deadline)));
        let words = [entry, due, number(now), deadline, key.clone(), kind(key)];
        Self { script: Kind::Touch, words: Arc::new(words) }
    }

    /// `mark` is set if there is none; empty: it is not.
    pub(super) fn beat(names: &Names, bucket: Bucket, mark: &str) -> Self {
        let words = [names.mark(bucket).into(), Bytes::copy_from_slice(mark.as_bytes())];
        Self { script: Kind::Beat, words: Arc::new(words) }
    }

    /// By its digest: the server knows it.
    pub(super) fn by_digest(&self) -> Cmd {
        self.command(self.digest())
    }

    /// With its text: the server learns it.
    pub(super) fn by_text(&self) -> Cmd {
        self.command(self.text())
    }

    /// As [`Self::by_digest`], behind others.
    pub(super) fn add_by_digest(&self, commands: &mut Commands) {
        self.add(self.digest(), commands);
    }

    /// As [`Self::by_text`], behind others.
    pub(super) fn add_by_text(&self, commands: &mut Commands) {
        self.add(self.text(), commands);
    }

    fn command(&self, head: [&[u8]; 3]) -> Cmd {
        let mut command = Cmd::new();
        for word in head.into_iter().chain(self.words.iter().map(|word| &word[..])) {
            command.arg(word);
        }
        command
    }

    fn add(&self, head: [&[u8]; 3], commands: &mut Commands) {
        let many = (head.len() + self.words.len()) as u64;
        let words = self.words.iter().map(|word| &word[..]);
        commands.add(many, head.into_iter().chain(words));
    }

    fn digest(&self) -> [&[u8]; 3] {
        [b"EVALSHA", self.source().script.get_hash().as_bytes(), self.keys()]
    }

    fn text(&self) -> [&[u8]; 3] {
        [b"EVAL", self.source().text.as_bytes(), self.keys()]
    }

    /// How many of its words are keys.
    fn keys(&self) -> &'static [u8] {
        match self.script {
            Kind::Put | Kind::Delete | Kind::Touch => b"2",
            Kind::Beat => b"1",
        }
    }

    fn source(&self) -> &'static Source {
        match self.script {
            Kind::Put => &PUT,
            Kind::Delete => &DELETE,
            Kind::Touch => &TOUCH,
            Kind::Beat => &BEAT,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// What a script's reply says; none if it is no reply of these scripts.
    pub(super) fn read(reply: Value) -> Option<Self> {
        let Value::Array(reply) = reply else { return None };
        let mut reply = reply.into_iter();
        match (reply.next()?, reply.next(), reply.next()) {
            (Value::Int(1), Some(Value::Int(revision)), Some(Value::Int(deadline))) => {
                Some(Self::Done {
                    revision: u64::try_from(revision).ok()?,
                    deadline: entry::deadline_of(u64::try_from(deadline).ok()?),
                })
            }
            (Value::Int(0), Some(Value::BulkString(found)), None) => {
                Some(Self::Mismatch(Some(entry::read(found)?)))
            }
            (Value::Int(0), None | Some(Value::Nil | Value::Boolean(false)), None) => {
                Some(Self::Mismatch(None))
            }
            _ => None,
        }
    }
}

/// The keys of an entry, and of the index of its bucket's deadlines.
fn of(names: &Names, key: &[u8]) -> [Bytes; 2] {
    [names.entry(key).into(), names.due(Bucket::of(key))]
}

fn number(number: u64) -> Bytes {
    if number == 0 {
        return Bytes::from_static(b"0");
    }
    let mut text = Vec::with_capacity(20);
    decimal(number, &mut text);
    text.into()
}

fn expectation(expect: Expect) -> Bytes {
    match expect {
        Expect::Any => Bytes::from_static(b"any"),
        Expect::Absent => Bytes::from_static(b"absent"),
        Expect::Revision(revision) => number(revision),
    }
}

fn kind(key: &[u8]) -> Bytes {
    let session = key.starts_with(holdfast_engine::replicated::SESSIONS);
    Bytes::from_static(if session { b"session" } else { b"" })
}
