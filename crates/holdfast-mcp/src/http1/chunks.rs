//! A body in chunks (RFC 9112, section 7.1), taken apart as it arrives.

use bytes::{Buf as _, Bytes, BytesMut};

/// A size with its extensions, or all trailers together, are refused beyond so many bytes.
const LONGEST_LINE: usize = 16 * 1024;

/// Takes the data out of a chunked body. Extensions and trailers are dropped.
#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
    /// Bytes of trailers so far.
    trailers: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Size,
    /// So many bytes are left of the chunk.
    Data(u64),
    /// The end of the line behind a chunk.
    DataEnd,
    Trailers,
    End,
}

/// What came next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// A part of the body, not empty.
    Data(Bytes),
    /// More bytes are needed.
    Wanting,
    /// The body is over. What is left in the buffer does not belong to it.
    End,
}

/// Not a chunked body; nothing that follows can be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChunkError {
    /// A size that is no hexadecimal number of at most 16 digits.
    #[error("a chunk has no size")]
    Size,
    /// A line does not end where it has to, or ends with a bare line feed.
    #[error("a chunk does not end as it has to")]
    End,
    /// Extensions or trailers without end.
    #[error("what stands around the chunks is too long")]
    TooLong,
}

impl Chunks {
    /// Takes the next piece off the front of `buffer`.
    ///
    /// # Errors
    /// [`ChunkError`].
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, ChunkError> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = line(buffer)? else { return Ok(Piece::Wanting) };
                    self.state = match size(&line)? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                }
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Piece::Wanting);
                    }
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    self.state = match left - here as u64 {
                        0 => State::DataEnd,
                        left => State::Data(left),
                    };
                    return Ok(Piece::Data(buffer.split_to(here).freeze()));
                }
                State::DataEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        self.state = State::Size;
                    }
                    None if buffer.is_empty() || buffer[0] == b'\r' => return Ok(Piece::Wanting),
                    _ => return Err(ChunkError::End),
                },
                State::Trailers => {
                    let Some(line) = line(buffer)? else { return Ok(Piece::Wanting) };
                    self.trailers += line.len();
                    if line.is_empty() {
                        self.state = State::End;
                    } else if self.trailers > LONGEST_LINE {
                        return Err(ChunkError::TooLong);
                    }
                }
                State::End => return Ok(Piece::End),
            }
        }
    }
}

/// Takes a line off the buffer, without its end.
fn line(buffer: &mut BytesMut) -> Result<Option<BytesMut>, ChunkError> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > LONGEST_LINE { Err(ChunkError::TooLong) } else { Ok(None) };
    };
    if end > LONGEST_LINE {
        return Err(ChunkError::TooLong);
    }
    let mut line = buffer.split_to(end + 1);
    line.truncate(end);
    match line.split_last() {
        Some((b'\r', rest)) if memchr::memchr(b'\r', rest).is_none() => {
            line.truncate(end - 1);
            Ok(Some(line))
        }
        _ => Err(ChunkError::End),
    }
}

/// The size that a line begins with; white space and extensions may follow.
fn size(line: &[u8]) -> Result<u64, ChunkError> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let behind = line[digits..].trim_ascii_start();
    if digits == 0 || digits > 16 || !matches!(behind.first(), None | Some(b';')) {
        return Err(ChunkError::Size);
    }
    let hex = |byte: &u8| u64::from(char::from(*byte).to_digit(16).unwrap_or_default());
    Ok(line[..digits].iter().fold(0, |sum, digit| sum << 4 | hex(digit)))
}
