//! A body in chunks (RFC 9112, section 7.1): taken apart as it arrives, and put together as it leaves.

use bytes::{Buf as _, Bytes, BytesMut};

/// What stands behind the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// What ends a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Room for the line of a chunk's size, which is known once its data is there.
const SIZE_LINE: usize = 18;

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
                    let Some(end) = line(buffer)? else { return Ok(Piece::Wanting) };
                    self.state = match size(&buffer[..end])? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                    buffer.advance(end + 2);
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
                    let Some(end) = line(buffer)? else { return Ok(Piece::Wanting) };
                    self.trailers += end;
                    if end == 0 {
                        self.state = State::End;
                    } else if self.trailers > LONGEST_LINE {
                        return Err(ChunkError::TooLong);
                    }
                    buffer.advance(end + 2);
                }
                State::End => return Ok(Piece::End),
            }
        }
    }
}

/// Appends what begins a chunk of `length` bytes; [`CHUNK_END`] follows its data.
///
/// `length` is not 0: an empty chunk is the last one.
pub fn begin_chunk(length: usize, out: &mut BytesMut) {
    let mut line = [0; SIZE_LINE];
    out.extend_from_slice(size_line(length, &mut line));
}

/// Appends what `data` appends as one chunk; nothing where that is nothing.
pub fn chunk<T>(out: &mut BytesMut, data: impl FnOnce(&mut BytesMut) -> T) -> T {
    let start = out.len();
    out.extend_from_slice(&[0; SIZE_LINE]);
    let given = data(out);
    let length = out.len() - start - SIZE_LINE;
    if length == 0 {
        out.truncate(start);
        return given;
    }
    let mut line = [0; SIZE_LINE];
    let line = size_line(length, &mut line);
    out[start..start + line.len()].copy_from_slice(line);
    // The data moves up to its line, over the room that the line did not need.
    out.copy_within(start + SIZE_LINE.., start + line.len());
    out.truncate(start + line.len() + length);
    out.extend_from_slice(CHUNK_END);
    given
}

fn size_line(length: usize, line: &mut [u8; SIZE_LINE]) -> &[u8] {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4) as usize;
    for (at, place) in line[..digits].iter_mut().enumerate() {
        *place = b"0123456789abcdef"[(length >> (4 * (digits - 1 - at))) & 15];
    }
    line[digits..digits + 2].copy_from_slice(b"\r\n");
    &line[..digits + 2]
}

/// How long the line at the front of the buffer is without its end, CR LF; `None` while it has none.
fn line(buffer: &[u8]) -> Result<Option<usize>, ChunkError> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > LONGEST_LINE { Err(ChunkError::TooLong) } else { Ok(None) };
    };
    if end > LONGEST_LINE {
        return Err(ChunkError::TooLong);
    }
    match buffer[..end].split_last() {
        Some((b'\r', line)) if memchr::memchr(b'\r', line).is_none() => Ok(Some(line.len())),
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
