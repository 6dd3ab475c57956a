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
    words: Arc<Words>,
}

/// Words, one behind the other.
#[derive(Debug)]
struct Words {
    text: Vec<u8>,
    /// Where each of them ends.
    ends: [usize; MOST],
    many: usize,
}

/// Words of the script that has the most.
const MOST: usize = 10;

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
    pub(super) fn put(names: &Names, put: &Put, now: u64, channel: &[u8]) -> Self {
        let words = Words::of_entry(names, &put.key, put.value.len())
            .number(now)
            .expectation(put.expect)
            .word(&put.value)
            .number(entry::deadline(put.deadline))
            .word(&put.key)
            .word(kind(&put.key))
            .word(if put.later { b"later" } else { b"" })
            .word(channel);
        Self { script: Kind::Put, words: Arc::new(words) }
    }

    pub(super) fn delete(names: &Names, key: &[u8], expect: Expect, now: u64) -> Self {
        let words = Words::of_entry(names, key, 0).number(now).expectation(expect).word(key);
        Self { script: Kind::Delete, words: Arc::new(words) }
    }

    pub(super) fn touch(names: &Names, key: &[u8], deadline: u64, now: u64) -> Self {
        let words = Words::of_entry(names, key, 0)
            .number(now)
            .number(entry::deadline(Some(deadline)))
            .word(key)
            .word(kind(key));
        Self { script: Kind::Touch, words: Arc::new(words) }
    }

    /// `mark` is set if there is none; empty: it is not.
    pub(super) fn beat(names: &Names, bucket: Bucket, mark: &str) -> Self {
        let words = Words::with_room(0).word(names.mark(bucket).as_bytes()).word(mark.as_bytes());
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
        for word in head.into_iter().chain(self.words.iter()) {
            command.arg(word);
        }
        command
    }

    fn add(&self, head: [&[u8]; 3], commands: &mut Commands) {
        let many = (head.len() + self.words.many) as u64;
        commands.add(many, head.into_iter().chain(self.words.iter()));
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

// === impl Words ===

impl Words {
    /// None, with room for a script's usual ones and so many bytes more.
    fn with_room(more: usize) -> Self {
        Self { text: Vec::with_capacity(USUAL + more), ends: [0; MOST], many: 0 }
    }

    /// The keys of an entry and of the index of its bucket's deadlines; the others come behind them.
    fn of_entry(names: &Names, key: &[u8], more: usize) -> Self {
        let bucket = Bucket::of(key);
        let mut words = Self::with_room(2 * key.len() + more);
        words.text.extend_from_slice(names.tag(bucket).as_bytes());
        words.word(key).word(names.due(bucket))
    }

    /// Adds one.
    fn word(mut self, word: &[u8]) -> Self {
        self.text.extend_from_slice(word);
        self.end()
    }

    fn number(mut self, number: u64) -> Self {
        decimal(number, &mut self.text);
        self.end()
    }

    fn expectation(self, expect: Expect) -> Self {
        match expect {
            Expect::Any => self.word(b"any"),
            Expect::Absent => self.word(b"absent"),
            Expect::Revision(revision) => self.number(revision),
        }
    }

    fn end(mut self) -> Self {
        self.ends[self.many] = self.text.len();
        self.many += 1;
        self
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends[..self.many]
            .iter()
            .map(move |&end| &self.text[std::mem::replace(&mut start, end)..end])
    }
}

/// Bytes of the words beside the entry's key and value.
const USUAL: usize = 192;

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

fn kind(key: &[u8]) -> &'static [u8] {
    let session = key.starts_with(holdfast_engine::replicated::SESSIONS);
    if session { b"session" } else { b"" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_says_its_words_in_the_order_of_its_script_to_the_library_and_to_a_writer() {
        let names = Names::new("holdfast");
        let key = Bytes::from_static(b"s/0123456789abcdef");
        let put = Put {
            key: key.clone(),
            value: Bytes::from_static(b"a\r\nvalue"),
            expect: Expect::Revision(1_765_000_000_000_000),
            deadline: Some(1_765_000_300_000),
            later: true,
        };
        let call = Call::put(&names, &put, 0, names.channel());
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(PUT.text).arg(2);
        cmd.arg(names.entry(&key)).arg(names.due(Bucket::of(&key)));
        cmd.arg(0).arg(1_765_000_000_000_000_u64).arg(&put.value[..]).arg(1_765_000_300_000_u64);
        cmd.arg(&key[..]).arg("session").arg("later").arg("holdfast:changes");
        assert_eq!(call.by_text().get_packed_command(), cmd.get_packed_command());
        let mut commands = Commands::default();
        call.add_by_digest(&mut commands);
        assert_eq!(commands.bytes, call.by_digest().get_packed_command());
    }
}
