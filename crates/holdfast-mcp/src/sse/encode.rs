//! From events to bytes.
//!
//! What is written decodes to the same event, and one event only: no value can end its line early.
//! JSON text has no raw line breaks within strings, so splitting data at them changes nothing that a
//! JSON parser sees.

use bytes::{BufMut, BytesMut};
use memchr::{memchr2, memchr3};

use super::Event;

/// A comment: keeps a stream and what lies between alive, and is no event.
pub const COMMENT: &[u8] = b":\n\n";

/// Appends one event. An id or type that has a line break (or, for an id, a NUL) cannot be written
/// and is left out; an event without any field writes nothing.
pub fn encode(event: &Event, out: &mut BytesMut) {
    let before = out.len();
    if let Some(kind) = &event.event
        && memchr2(b'\n', b'\r', kind).is_none()
    {
        line(b"event: ", kind, out);
    }
    if let Some(id) = &event.id
        && memchr3(b'\n', b'\r', 0, id).is_none()
    {
        line(b"id: ", id, out);
    }
    if let Some(retry) = event.retry {
        line(b"retry: ", retry.to_string().as_bytes(), out);
    }
    if let Some(data) = &event.data {
        data_lines(data, out);
    }
    if out.len() > before {
        out.put_u8(b'\n');
    }
}

/// Appends a JSON-RPC message as an event of type `message`.
pub fn encode_message(id: Option<&str>, data: &[u8], out: &mut BytesMut) {
    out.reserve(data.len() + 64);
    out.put_slice(b"event: message\n");
    if let Some(id) = id.filter(|id| memchr3(b'\n', b'\r', 0, id.as_bytes()).is_none()) {
        line(b"id: ", id.as_bytes(), out);
    }
    data_lines(data, out);
    out.put_u8(b'\n');
}

/// Appends a JSON-RPC message as an event whose id `id` appends, which must not write a line break
/// or a NUL: sealed tokens have neither.
pub fn encode_message_with(id: impl FnOnce(&mut BytesMut), data: &[u8], out: &mut BytesMut) {
    out.put_slice(b"event: message\nid: ");
    id(out);
    out.put_u8(b'\n');
    data_lines(data, out);
    out.put_u8(b'\n');
}

/// Appends the event that primes a stream: it gives the client an id to come back with, and says how
/// many milliseconds to wait before that. It hands the client no message. `id` is as for
/// [`encode_message_with`].
pub fn encode_prime(id: impl FnOnce(&mut BytesMut), retry_ms: u64, out: &mut BytesMut) {
    out.put_slice(b"id: ");
    id(out);
    out.put_slice(b"\nretry: ");
    out.put_slice(retry_ms.to_string().as_bytes());
    out.put_slice(b"\ndata: \n\n");
}

fn line(name: &[u8], value: &[u8], out: &mut BytesMut) {
    out.reserve(name.len() + value.len() + 1);
    out.put_slice(name);
    out.put_slice(value);
    out.put_u8(b'\n');
}

fn data_lines(mut data: &[u8], out: &mut BytesMut) {
    while let Some(end) = memchr2(b'\n', b'\r', data) {
        line(b"data: ", &data[..end], out);
        let crlf = data[end] == b'\r' && data.get(end + 1) == Some(&b'\n');
        data = &data[end + 1 + usize::from(crlf)..];
    }
    line(b"data: ", data, out);
}
