//! A table of streams, a slow model of the specification's algorithm, and the codec's properties.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 20;

fn events_of(
    chunks: impl IntoIterator<Item = Bytes>,
    limit: usize,
) -> (Vec<Event>, Option<SseError>) {
    let mut decoder = Decoder::new(limit);
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        loop {
            match decoder.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

fn decode(text: &str) -> Vec<Event> {
    let (events, error) = events_of([Bytes::copy_from_slice(text.as_bytes())], LIMIT);
    assert_eq!(error, None);
    events
}

fn event(id: Option<&str>, kind: Option<&str>, data: Option<&str>, retry: Option<u64>) -> Event {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Event { id: id.map(bytes), event: kind.map(bytes), data: data.map(bytes), retry }
}

fn data(text: &str) -> Event {
    event(None, None, Some(text), None)
}

#[test]
fn streams_decode_as_the_specification_says() {
    let table: &[(&str, &[Event])] = &[
        ("", &[]),
        ("data: a\n\n", &[data("a")]),
        ("data:a\n\n", &[data("a")]),
        ("data:  a \n\n", &[data(" a ")]),
        ("data: a\r\n\r\n", &[data("a")]),
        ("data: a\r\rdata: b\r\r", &[data("a"), data("b")]),
        ("data: a\r\n\ndata: b\n\r\n", &[data("a"), data("b")]),
        ("data: a\ndata\ndata:\ndata: b\n\n", &[data("a\n\n\nb")]),
        ("data\n\n", &[data("")]),
        ("data: \n\n", &[data("")]),
        ("\u{feff}data: a\n\n", &[data("a")]),
        ("\u{feff}\u{feff}data: a\n\ndata: b\n\n", &[data("b")]),
        ("data: a\n\n\u{feff}data: b\n\n", &[data("a")]),
        (": comment\n\n:\n\ndata: a\n: inside\ndata: b\n\n", &[data("a\nb")]),
        ("\n\n\n", &[]),
        ("data: cut off\n", &[]),
        ("data: cut off", &[]),
        ("Data: a\nDATA: b\n data: c\nfoo: d\nfoo\n\n", &[]),
        ("data: x: y\n\n", &[data("x: y")]),
        ("event: e\nid: 1\ndata: a\n\n", &[event(Some("1"), Some("e"), Some("a"), None)]),
        ("id: 1\nid: 2\nevent: x\nevent\ndata\n\n", &[event(Some("2"), Some(""), Some(""), None)]),
        ("id\n\n", &[event(Some(""), None, None, None)]),
        ("id: 1\nid: a\0b\n\n", &[event(Some("1"), None, None, None)]),
        ("retry: 500\n\n", &[event(None, None, None, Some(500))]),
        ("retry: 007\n\n", &[event(None, None, None, Some(7))]),
        ("retry: +5\n\nretry: -5\n\nretry:\n\nretry: 5s\n\nretry: 99999999999999999999\n\n", &[]),
        // Priming, as the TypeScript and the Python SDK write it.
        ("id: s::1\nretry: 5000\ndata: \n\n", &[event(Some("s::1"), None, Some(""), Some(5000))]),
        ("id: 444\ndata: \nretry: 100\n\n", &[event(Some("444"), None, Some(""), Some(100))]),
    ];
    for (text, expected) in table {
        assert_eq!(&decode(text)[..], *expected, "{text:?}");
    }
}

#[test]
fn a_line_in_one_chunk_is_not_copied() {
    let chunk = Bytes::from_static(b"data: payload\n\n");
    let (events, _) = events_of([chunk.clone()], LIMIT);
    let data = events[0].data.as_ref().unwrap();
    assert_eq!(data.as_ptr(), chunk[6..].as_ptr());
}

#[test]
fn an_event_is_given_out_as_soon_as_its_last_byte_is_there() {
    let mut decoder = Decoder::new(LIMIT);
    assert!(decoder.is_between_events());
    decoder.push(Bytes::from_static(b"data: a\r\n"));
    assert_eq!(decoder.next(), Ok(None));
    assert!(!decoder.is_between_events());
    // The CR ends the empty line; whether a LF follows does not matter.
    decoder.push(Bytes::from_static(b"\r"));
    assert_eq!(decoder.next(), Ok(Some(data("a"))));
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.is_between_events());
    decoder.push(Bytes::from_static(b"\n"));
    decoder.push(Bytes::from_static(b"dat"));
    assert_eq!(decoder.next(), Ok(None));
    assert!(!decoder.is_between_events());
}

#[test]
fn only_a_message_is_one() {
    for (event, is_message) in [
        (data("x"), true),
        (event(None, Some("message"), Some("x"), None), true),
        (event(None, Some(""), Some("x"), None), true),
        (event(None, Some("endpoint"), Some("x"), None), false),
        (event(Some("1"), None, Some(""), None), false),
        (event(Some("1"), None, None, Some(1)), false),
    ] {
        assert_eq!(event.is_message(), is_message, "{event:?}");
    }
}

#[test]
fn an_event_beyond_the_limit_ends_the_stream() {
    let error = Some(SseError::TooLong { limit: 10 });
    for text in
        ["data: 12345\n\n", "data: 12345", "data: 1\ndata\n\n", ": 345678901", "data\ndata\ndata\n"]
    {
        let (events, found) = events_of([Bytes::from_static(text.as_bytes())], 10);
        assert_eq!((events.len(), found), (0, error), "{text:?}");
    }
    // Line ends count, a comment only while it is incomplete.
    for (limit, fits) in [(10, true), (9, false)] {
        let (events, _) = events_of([Bytes::from_static(b"data\ndata\n\n")], limit);
        assert_eq!(events.len() == 1, fits);
    }
    let chunks = [Bytes::from_static(b": 34567890"), Bytes::from_static(b"\ndata: 1\n\n")];
    assert_eq!(events_of(chunks, 10), (vec![data("1")], None));
    // The limit is on one event, not on the stream.
    let text = "data: 123\n\n: 23456789\n".repeat(50);
    assert_eq!(events_of([Bytes::from(text)], 10).0.len(), 50);

    let mut decoder = Decoder::new(10);
    decoder.push(Bytes::from_static(b"data: 12345\n\ndata: 1\n\n"));
    assert!(decoder.next().is_err());
    decoder.push(Bytes::from_static(b"\n\ndata: 1\n\n"));
    assert!(decoder.next().is_err(), "what follows has no known beginning");
    assert_eq!(
        SseError::TooLong { limit: 10 }.to_string(),
        "an event of the stream is longer than 10 bytes"
    );
}

#[test]
fn encoding_writes_what_clients_expect() {
    let mut out = BytesMut::new();
    encode_message(Some("tok"), br#"{"a":1}"#, &mut out);
    encode_message(None, b"{}", &mut out);
    encode_message_with(|out| out.extend_from_slice(b"tok"), br#"{"a":1}"#, &mut out);
    encode_prime(|out| out.extend_from_slice(b"tok"), 500, &mut out);
    encode(&Event::default(), &mut out);
    encode(&event(None, None, None, Some(7)), &mut out);
    out.extend_from_slice(COMMENT);
    encode(&event(Some("i"), Some("endpoint"), Some("/m"), None), &mut out);
    assert_eq!(
        std::str::from_utf8(&out).unwrap(),
        "event: message\nid: tok\ndata: {\"a\":1}\n\nevent: message\ndata: {}\n\n\
         event: message\nid: tok\ndata: {\"a\":1}\n\nid: tok\nretry: 500\ndata: \n\nretry: 7\n\n:\n\nevent: endpoint\nid: i\ndata: /m\n\n"
    );
}

#[test]
fn no_value_can_end_its_line() {
    let mut out = BytesMut::new();
    encode(
        &event(Some("a\ndata: x"), Some("b\r\rid: y"), Some("c\rd\r\ne\nid: z"), None),
        &mut out,
    );
    encode_message(Some("a\n\ndata: x"), b"m\n\nid: z", &mut out);
    encode_message_with(|_| {}, b"m\r\rid: z", &mut out);
    assert_eq!(
        decode(std::str::from_utf8(&out).unwrap()),
        [
            data("c\nd\ne\nid: z"),
            event(None, Some("message"), Some("m\n\nid: z"), None),
            event(Some(""), Some("message"), Some("m\n\nid: z"), None),
        ]
    );
}

// === Properties ===

/// Streams made of the pieces that matter, so that random ones are not all noise.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "data", "data:", "data: ", "id: ", "event: ",
            "retry: 12", "retry: ", ":", " ", "\u{feff}", "\0", "x", "{\"a\":1}",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn cut(stream: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| Bytes::copy_from_slice(&stream[pair[0]..pair[1]])).collect()
}

/// The specification's algorithm on the whole text at once, written without regard to cost.
fn model(stream: &[u8]) -> Vec<Event> {
    let mut lines = vec![Vec::new()];
    let mut bytes = stream.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
                lines.push(Vec::new());
            }
            b'\n' => lines.push(Vec::new()),
            byte => lines.last_mut().unwrap().push(byte),
        }
    }
    // What follows the last line end is no line, and so no end of an event either.
    let ended = lines.len() - 1;
    lines.truncate(ended);
    if let Some(first) = lines.first_mut()
        && first.starts_with(b"\xef\xbb\xbf")
    {
        first.drain(..3);
    }
    let mut events = Vec::new();
    let mut block: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for line in lines {
        if line.is_empty() {
            let last = |name: &[u8]| {
                block.iter().rev().find(|(n, _)| n == name).map(|(_, v)| Bytes::from(v.clone()))
            };
            let data: Vec<&[u8]> =
                block.iter().filter(|(n, _)| n == b"data").map(|(_, v)| &v[..]).collect();
            let event = Event {
                id: last(b"id"),
                event: last(b"event"),
                data: (!data.is_empty()).then(|| Bytes::from(data.join(&b'\n'))),
                retry: last(b"retry").map(|v| std::str::from_utf8(&v).unwrap().parse().unwrap()),
            };
            if event != Event::default() {
                events.push(event);
            }
            block.clear();
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            None => (line, Vec::new()),
            Some(at) => {
                let value = &line[at + 1..];
                (line[..at].to_vec(), value.strip_prefix(b" ").unwrap_or(value).to_vec())
            }
        };
        let usable = match &name[..] {
            b"id" => !value.contains(&0),
            b"retry" => {
                !value.is_empty()
                    && value.iter().all(u8::is_ascii_digit)
                    && std::str::from_utf8(&value).unwrap().parse::<u64>().is_ok()
            }
            _ => true,
        };
        if usable {
            block.push((name, value));
        }
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn agrees_with_the_model_however_it_is_cut(
        stream in stream(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let (events, error) = events_of(cut(&stream, &cuts), LIMIT);
        prop_assert_eq!(error, None);
        prop_assert_eq!(events, model(&stream));
    }

    /// The limit strikes at the same event wherever the stream is cut.
    #[test]
    fn the_limit_does_not_depend_on_the_cuts(
        stream in stream(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        limit in 0usize..40,
    ) {
        prop_assert_eq!(events_of(cut(&stream, &cuts), limit), events_of(cut(&stream, &[]), limit));
    }

    #[test]
    fn decoding_undoes_encoding(
        events in prop::collection::vec(
            (
                prop::option::of("[^\r\n\0]{0,8}"),
                prop::option::of("[^\r\n]{0,8}"),
                prop::option::of("[^\r]{0,16}"),
                prop::option::of(any::<u64>()),
            ),
            0..6,
        ),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let events: Vec<Event> = events
            .iter()
            .map(|(id, kind, data, retry)| event(id.as_deref(), kind.as_deref(), data.as_deref(), *retry))
            .filter(|event| *event != Event::default())
            .collect();
        let mut out = BytesMut::new();
        for event in &events {
            encode(event, &mut out);
        }
        prop_assert_eq!(events_of(cut(&out, &cuts), LIMIT), (events, None));
    }

    /// Whatever an event holds, it is written as one event at most.
    #[test]
    fn encoding_is_safe_from_injection(
        id in prop::option::of(prop::collection::vec(any::<u8>(), 0..8)),
        kind in prop::option::of("[\r\na: ]{0,6}"),
        data in prop::option::of("[\r\nid: ]{0,12}"),
    ) {
        let event = Event {
            id: id.map(Bytes::from),
            event: kind.map(Bytes::from),
            data: data.map(Bytes::from),
            retry: None,
        };
        let mut out = BytesMut::new();
        encode(&event, &mut out);
        encode(&self::data("end"), &mut out);
        let (events, _) = events_of([out.freeze()], LIMIT);
        prop_assert!(events.len() <= 2);
        prop_assert_eq!(events.last(), Some(&self::data("end")));
        if let [first, _] = &events[..] {
            prop_assert!(first.id.is_none() || first.id == event.id);
            prop_assert_eq!(first.data.is_some(), event.data.is_some());
        }
    }
}
