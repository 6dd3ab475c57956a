//! Lines of a stream, each bounded. A line over the limit is read to its end and dropped: the next
//! one is a message again, and the others who share the process do not lose it.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::oversize::Scanner;

/// Read at once; what a pipe of Linux holds.
const CHUNK: usize = 64 * 1024;

/// One line, without its line end and the blanks around it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(Bytes),
    /// It was longer than the limit. If it was the answer to a call, there is an error to give to the
    /// caller in its place.
    TooLong {
        length: u64,
        answer: Option<Bytes>,
    },
}

pub(super) struct Lines<R> {
    from: R,
    limit: usize,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    skipping: Option<Scanner>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(from: R, limit: usize) -> Self {
        Self { from, limit, buffer: BytesMut::new(), searched: 0, skipping: None, ended: false }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The next line, `None` at the end of the stream. A last line without a line end counts.
    ///
    /// # Cancel safety
    /// Cancel safe: what was read stays in the buffer.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                return Ok(Some(self.finish(&line.freeze())));
            }
            if self.skipping.is_some() || self.buffer.len() > self.limit {
                let scanner = self.skipping.get_or_insert_with(Scanner::default);
                scanner.push(&self.buffer);
                self.buffer.clear();
            }
            self.searched = self.buffer.len();
            if self.ended {
                let line = self.buffer.split().freeze();
                self.searched = 0;
                let nothing = line.is_empty() && self.skipping.is_none();
                return Ok((!nothing).then(|| self.finish(&line)));
            }
            self.buffer.reserve(CHUNK);
            self.ended = self.from.read_buf(&mut self.buffer).await? == 0;
        }
    }

    fn finish(&mut self, line: &Bytes) -> Line {
        let mut scanner = match self.skipping.take() {
            Some(scanner) => scanner,
            None if line.len() > self.limit + 1 => Scanner::default(),
            None => return Line::Whole(line.slice_ref(line.trim_ascii())),
        };
        scanner.push(line);
        Line::TooLong { length: scanner.length(), answer: scanner.answer(self.limit) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(chunks: &[&[u8]], limit: usize) -> Vec<Line> {
        let mut mock = Chunks(chunks.iter().map(|chunk| chunk.to_vec()).collect());
        let mut lines = Lines::new(&mut mock, limit);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.expect("no read fails") {
            all.push(line);
        }
        all
    }

    struct Chunks(std::collections::VecDeque<Vec<u8>>);

    impl AsyncRead for Chunks {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            if let Some(chunk) = self.0.pop_front() {
                buffer.put_slice(&chunk);
            }
            std::task::Poll::Ready(Ok(()))
        }
    }

    fn whole(text: &'static str) -> Line {
        Line::Whole(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn lines_come_out_however_they_are_cut() {
        let lines = read_all(&[b"{\"a\"", b":1}\r", b"\n  {}\n", b"{\"last\":1}"], 100).await;
        assert_eq!(lines, [whole("{\"a\":1}"), whole("{}"), whole("{\"last\":1}")]);
    }

    #[tokio::test]
    async fn a_line_of_exactly_the_limit_passes() {
        assert_eq!(read_all(&[b"12345\n"], 5).await, [whole("12345")]);
    }

    #[tokio::test]
    async fn a_line_over_the_limit_is_dropped_and_the_next_one_is_not() {
        for chunks in [
            vec![&b"123456\n{}\n"[..]],
            vec![b"12", b"34", b"56", b"\n{}", b"\n"],
            vec![b"123456", b"\n{}\n"],
        ] {
            let lines = read_all(&chunks, 5).await;
            assert!(
                matches!(&lines[0], Line::TooLong { length: 6 | 7, answer: None }),
                "{lines:?}"
            );
            assert_eq!(lines[1], whole("{}"));
        }
    }

    #[tokio::test]
    async fn an_answer_over_the_limit_becomes_an_error_for_its_caller() {
        let lines =
            read_all(&[br#"{"result":{"te"#, br#"xt":"xxxxxxxx"},"id":"#, b"\"a-7\"}\n"], 20).await;
        let [Line::TooLong { answer: Some(answer), .. }] = &lines[..] else {
            panic!("{lines:?}");
        };
        let answer: serde_json::Value = serde_json::from_slice(answer).expect("JSON");
        assert_eq!(answer["id"], "a-7");
        assert!(answer["error"]["message"].as_str().expect("a message").contains("20 bytes"));
    }
}
