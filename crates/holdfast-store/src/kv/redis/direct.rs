//! A connection whose one user sends commands together and reads their replies before it sends more.
//!
//! The client library's connection can be shared, and pays for it: a task of its own, a queue to it,
//! a buffer for each message, a tree of commands and arguments. A writer shares its connection with nobody.

use std::io;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::dial::Stream;
use super::resp;

/// Commands as they go onto the wire.
#[derive(Debug, Default)]
pub(super) struct Commands {
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
}

/// The connection. Once it has given an error it is of no use any more.
pub(super) struct Direct {
    stream: Box<dyn Stream>,
    /// What has been read, up to `end`; what has been taken, up to `start`.
    input: Vec<u8>,
    start: usize,
    end: usize,
}

/// Why there were no replies. What was asked for may have been carried out.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection broke.
    Connection(String),
    /// The server says nothing, so it will say nothing over another connection either.
    Silent(String),
}

impl Commands {
    /// Without commands, and with their room if that is no more than groups usually need.
    pub(super) fn emptied(self) -> Self {
        let mut bytes = self.bytes;
        bytes.clear();
        bytes.shrink_to(KEPT);
        Self { bytes, count: 0 }
    }

    pub(super) fn add_command(&mut self, command: Cmd) {
        command.write_packed_command(&mut self.bytes);
        self.count += 1;
    }

    /// Adds a command of so many words.
    pub(super) fn add<'w>(&mut self, many: u64, words: impl Iterator<Item = &'w [u8]>) {
        self.head(b'*', many);
        for word in words {
            self.head(b'$', word.len() as u64);
            self.bytes.extend_from_slice(word);
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.count += 1;
    }

    fn head(&mut self, kind: u8, number: u64) {
        self.bytes.push(kind);
        decimal(number, &mut self.bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// Appends a number, as text.
pub(super) fn decimal(mut number: u64, into: &mut Vec<u8>) {
    if number < 10 {
        // As many lengths of words are.
        into.push(b'0' + number as u8);
        return;
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    // Two at a time: a division takes longer than all else.
    while number >= 10 {
        at -= 2;
        let pair = (number % 100) as usize * 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
        number /= 100;
    }
    if number > 0 {
        at -= 1;
        // Below ten.
        digits[at] = b'0' + number as u8;
    }
    into.extend_from_slice(&digits[at..]);
}

/// The numbers from 0 to 99 as two digits each.
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut number = 0;
    while number < 100 {
        pairs[number * 2] = b'0' + (number / 10) as u8;
        pairs[number * 2 + 1] = b'0' + (number % 10) as u8;
        number += 1;
    }
    pairs
};

impl Direct {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, input: vec![0; INPUT], start: 0, end: 0 }
    }

    /// Resolves when it is lost. Nothing is expected from the server meanwhile.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn lost(&mut self) {
        let mut unasked = [0];
        // The end of the stream, an error, or something that no command asked for.
        let _ = self.stream.read(&mut unasked).await;
    }

    /// Sends commands; one reply for each, in their order. A server's error is a reply.
    ///
    /// # Errors
    /// Whether it is the connection or the server.
    pub(super) async fn ask_all(
        &mut self,
        commands: &Commands,
        within: Duration,
    ) -> Result<Vec<Value>, Broken> {
        match timeout(within, self.exchange(commands)).await {
            Ok(Ok(replies)) => Ok(replies),
            Ok(Err(error)) => Err(Broken::Connection(error)),
            Err(_) => Err(Broken::Silent(format!("Redis has not answered within {within:?}"))),
        }
    }

    async fn exchange(&mut self, commands: &Commands) -> Result<Vec<Value>, String> {
        let broke = |error: io::Error| format!("the connection to Redis broke: {error}");
        self.stream.write_all(&commands.bytes).await.map_err(broke)?;
        self.stream.flush().await.map_err(broke)?;
        let mut replies = Vec::with_capacity(commands.count);
        loop {
            while replies.len() < commands.count {
                let read = self.input.get(self.start..self.end).unwrap_or_default();
                match resp::take(read).map_err(|error| error.to_string())? {
                    Some((reply, length)) => {
                        self.start += length;
                        replies.push(reply);
                    }
                    None => break,
                }
            }
            if replies.len() == commands.count {
                if self.start < self.end {
                    return Err("Redis says more than it was asked".to_owned());
                }
                (self.start, self.end) = (0, 0);
                return Ok(replies);
            }
            self.make_room();
            let room = self.input.get_mut(self.end..).unwrap_or_default();
            match self.stream.read(room).await.map_err(broke)? {
                0 => return Err("the connection to Redis was lost".to_owned()),
                more => self.end += more,
            }
        }
    }

    /// Leaves room behind what has been read.
    fn make_room(&mut self) {
        if self.end < self.input.len() {
            return;
        }
        self.input.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
    }
}

/// A group of a few scripts is shorter.
const KEPT: usize = 16 * 1024;

/// Replies to a group are short; one that finds another's entry has that in it.
const INPUT: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_written_as_the_library_writes_them() {
        let long = [b'x'; 300];
        let words: [&[u8]; 5] = [b"EVALSHA", b"", b"a\r\nb", &long, b"0"];
        let mut ours = Commands::default();
        ours.add(5, words.into_iter());
        let mut theirs = redis::cmd("EVALSHA");
        for word in &words[1..] {
            theirs.arg(*word);
        }
        assert_eq!(ours.bytes, theirs.get_packed_command());
        ours.add_command(theirs);
        assert_eq!(ours.count, 2);
    }

    #[test]
    fn numbers_are_text() {
        for number in [0, 1, 9, 10, 99, 100, 101, 1_000, 12_345, 999_999, 1_000_000, u64::MAX] {
            let mut text = Vec::new();
            decimal(number, &mut text);
            assert_eq!(text, number.to_string().into_bytes());
        }
    }

    /// A server that says this in pieces, and a connection to it.
    fn saying(text: &'static [u8], piece: usize) -> Direct {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            for piece in text.chunks(piece) {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            // It listens, and says no more.
            let mut heard = [0; 1024];
            while theirs.read(&mut heard).await.is_ok_and(|more| more > 0) {}
        });
        Direct::new(Box::new(ours))
    }

    #[tokio::test(start_paused = true)]
    async fn replies_come_in_any_pieces_and_one_that_is_missing_is_lost() {
        let mut two = Commands::default();
        two.add_command(redis::cmd("PING"));
        two.add_command(redis::cmd("PING"));
        for piece in 1..12 {
            let mut direct = saying(b"+one\r\n:2\r\n", piece);
            let replies = direct.ask_all(&two, Duration::from_secs(1)).await.unwrap();
            assert_eq!(replies, [Value::SimpleString("one".into()), Value::Int(2)], "{piece}");
        }
        let mut direct = saying(b"+one\r\n:", 3);
        let error = direct.ask_all(&two, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, Broken::Silent(_)), "{error:?}");
        let mut direct = saying(b":1\r\n:2\r\n:3\r\n", 12);
        assert!(direct.ask_all(&two, Duration::from_secs(1)).await.is_err(), "one too many");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_reply_finds_room_and_an_idle_connection_is_lost_when_its_peer_ends() {
        let mut two = Commands::default();
        two.add_command(redis::cmd("PING"));
        two.add_command(redis::cmd("GET"));
        let long: &'static [u8] =
            format!(":7\r\n${}\r\n{}\r\n", 50_000, "y".repeat(50_000)).leak().as_bytes();
        let mut direct = saying(long, 1000);
        let replies = direct.ask_all(&two, Duration::from_secs(1)).await.unwrap();
        assert_eq!(replies, [Value::Int(7), Value::BulkString(vec![b'y'; 50_000])]);
        let (ours, theirs) = tokio::io::duplex(1024);
        let mut direct = Direct::new(Box::new(ours));
        assert!(timeout(Duration::from_secs(1), direct.lost()).await.is_err(), "it is there");
        drop(theirs);
        direct.lost().await;
    }
}
