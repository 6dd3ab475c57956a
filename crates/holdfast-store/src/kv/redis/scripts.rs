//! The scripts, and how they are called and answered.
//!
//! Every script may run twice with the same arguments and does what it does once: that is how a lost
//! reply is found out. A server that has forgotten a script (restarted, failed over, flushed) is given
//! it again.

use std::sync::LazyLock;

use bytes::Bytes;
use holdfast_engine::replicated::{Expect, KvEntry};
use redis::{Cmd, Script, Value};

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
    keys: Vec<Vec<u8>>,
    args: Vec<Bytes>,
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
    pub(super) fn put(names: &Names, put: &Put, now: u64, channel: &str) -> Self {
        let args = vec![
            number(now),
            expectation(put.expect),
            put.value.clone(),
            number(entry::deadline(put.deadline)),
            put.key.clone(),
            kind(&put.key),
            Bytes::from_static(if put.later { b"later" } else { b"" }),
            Bytes::copy_from_slice(channel.as_bytes()),
        ];
        Self { script: Kind::Put, keys: of(names, &put.key), args }
    }

    pub(super) fn delete(names: &Names, key: &Bytes, expect: Expect, now: u64) -> Self {
        let args = vec![number(now), expectation(expect), key.clone()];
        Self { script: Kind::Delete, keys: of(names, key), args }
    }

    pub(super) fn touch(names: &Names, key: &Bytes, deadline: u64, now: u64) -> Self {
        let deadline = number(entry::deadline(Some(deadline)));
        let args = vec![number(now), deadline, key.clone(), kind(key)];
        Self { script: Kind::Touch, keys: of(names, key), args }
    }

    /// `mark` is set if there is none; empty: it is not.
    pub(super) fn beat(names: &Names, bucket: Bucket, mark: &str) -> Self {
        let mark = Bytes::copy_from_slice(mark.as_bytes());
        Self { script: Kind::Beat, keys: vec![names.mark(bucket).into_bytes()], args: vec![mark] }
    }

    /// By its digest: the server knows it.
    pub(super) fn by_digest(&self) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.source().script.get_hash());
        self.arguments(command)
    }

    /// With its text: the server learns it.
    pub(super) fn by_text(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.source().text);
        self.arguments(command)
    }

    fn arguments(&self, mut command: Cmd) -> Cmd {
        command.arg(self.keys.len());
        for key in &self.keys {
            command.arg(&key[..]);
        }
        for arg in &self.args {
            command.arg(&arg[..]);
        }
        command
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

fn of(names: &Names, key: &[u8]) -> Vec<Vec<u8>> {
    vec![names.entry(key), names.due(Bucket::of(key)).into_bytes()]
}

fn number(number: u64) -> Bytes {
    number.to_string().into()
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
