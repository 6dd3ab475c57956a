//! The SSE codec: what is decoded does not depend on how the stream was cut, and what is encoded
//! decodes to the same.

#![no_main]

use bytes::{Bytes, BytesMut};
use holdfast_mcp::sse::{Decoder, Event, SseError, encode, encode_message};
use libfuzzer_sys::fuzz_target;

fn decode<'a>(
    chunks: impl IntoIterator<Item = &'a [u8]>,
    limit: usize,
) -> (Vec<Event>, Result<bool, SseError>) {
    let mut decoder = Decoder::new(limit);
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
    }
    (events, Ok(decoder.is_between_events()))
}

// The first bytes say where to cut and what the limit is; the rest is the stream.
fuzz_target!(|data: &[u8]| {
    let Some((&[step, second, limit], stream)) = data.split_first_chunk::<3>() else { return };
    let limit = if limit < 64 { usize::from(limit) } else { usize::MAX };

    let whole = decode([stream], limit);
    let by_step = decode(stream.chunks(usize::from(step).max(1)), limit);
    let (head, tail) = stream.split_at(usize::from(second).min(stream.len()));
    let in_two = decode([head, tail], limit);
    let by_byte = decode(stream.chunks(1), limit);
    for other in [by_step, in_two, by_byte] {
        assert_eq!(other, whole);
    }

    let events = whole.0;
    let size = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    for event in &events {
        assert_ne!(*event, Event::default());
        assert!(size(&event.id) + size(&event.event) + size(&event.data) <= limit);
    }

    let mut out = BytesMut::new();
    for event in &events {
        encode(event, &mut out);
    }
    assert_eq!(decode([&out[..]], usize::MAX), (events, Ok(true)));

    // Any bytes at all make one message event whose data differs in line ends at most.
    let mut out = BytesMut::new();
    encode_message(std::str::from_utf8(head).ok(), tail, &mut out);
    let (events, end) = decode([&out[..]], usize::MAX);
    assert_eq!((events.len(), end), (1, Ok(true)));
    assert!(events[0].is_message() || tail.is_empty());
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.replace("\r\n", "\n").replace('\r', "\n")
    };
    assert_eq!(text(events[0].data.as_deref().unwrap_or_default()), text(tail));
});
