//! Tables of heads and chunks, and bodies that arrive in pieces of any size.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use proptest::prelude::*;

use super::*;

/// The head of an answer with all its fields.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    pub(super) keeps: bool,
}

/// As a connection reads its first answer.
fn head(buffer: &mut BytesMut) -> Result<Option<Whole>, HeadError> {
    let head = AnswerHeads::default().head(buffer, |headers| headers)?;
    Ok(head.map(|Head { status, said, framing, keeps }| {
        let Said::Once(headers) = said else { panic!("nothing came before it") };
        Whole { status, headers: *headers, framing, keeps }
    }))
}

/// As a connection reads its first request.
fn plain(bytes: &[u8], limits: &Limits) -> Found {
    RequestHeads::default().plain(bytes, limits)
}

/// Target, headers and body of what [`plain`] has found.
fn parts(found: Plain, text: &str) -> Option<(http::Uri, HeaderMap, Bytes)> {
    let request = Bytes::copy_from_slice(text.as_bytes());
    let (_, target, headers, body) = RequestHeads::default().parts(found, &request)?;
    Some((target, headers, body))
}

fn whole(text: &str) -> Result<Option<Whole>, HeadError> {
    head(&mut BytesMut::from(text))
}

fn framed(fields: &str) -> (Framing, bool) {
    let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let head = whole(&text).unwrap_or_else(|error| panic!("{fields:?}: {error}")).expect("whole");
    (head.framing, head.keeps)
}

#[test]
fn a_head_is_taken_off_the_front_and_the_body_stays() {
    let mut buffer = BytesMut::from(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Empty:\r\nSet-Cookie: a\r\nset-cookie:  b \r\n\r\n{}",
    );
    let head = head(&mut buffer).unwrap().unwrap();
    assert_eq!((head.status.as_u16(), head.framing, head.keeps), (200, Framing::Length(2), true));
    assert_eq!(head.headers["x-empty"], "");
    let cookies: Vec<_> = head.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a", "b"]);
    assert_eq!(&buffer[..], b"{}");
}

#[test]
fn a_head_that_is_not_whole_waits() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nA: b\r\n\r\n";
    let mut buffer = BytesMut::new();
    for (at, byte) in text.bytes().enumerate() {
        assert!(head(&mut buffer).unwrap().is_none(), "at {at}");
        buffer.extend_from_slice(&[byte]);
    }
    assert_eq!(head(&mut buffer).unwrap().unwrap().status, 404);
    assert!(buffer.is_empty());
}

#[test]
fn interim_answers_are_stepped_over_and_a_switch_of_protocols_is_none() {
    let text = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
    let head = whole(text).unwrap().unwrap();
    assert_eq!((head.status.as_u16(), head.headers.len()), (202, 1));
    let switched = whole("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
    assert!(matches!(switched, Err(HeadError::Switched)), "{switched:?}");
}

#[test]
fn the_body_ends_as_rfc_9112_says() {
    for (fields, framing, keeps) in [
        ("Content-Length: 0\r\n", Framing::Length(0), true),
        ("Content-Length: 7\r\nContent-Length: 7\r\n", Framing::Length(7), true),
        ("Content-Length: 7, 7\r\n", Framing::Length(7), true),
        ("Transfer-Encoding: Chunked\r\n", Framing::Chunked, true),
        ("Transfer-Encoding: gzip, chunked\r\n", Framing::Chunked, true),
        ("Transfer-Encoding: chunked\r\nContent-Length: 7\r\n", Framing::Chunked, false),
        ("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n", Framing::Chunked, false),
        ("Transfer-Encoding: identity\r\n", Framing::Close, false),
        ("Transfer-Encoding: chunked, gzip\r\nContent-Length: 7\r\n", Framing::Close, false),
        ("", Framing::Close, false),
        ("Content-Length: 7\r\nConnection: x, Close\r\n", Framing::Length(7), false),
        ("Content-Length: 7\r\nConnection: keep-alive\r\n", Framing::Length(7), true),
    ] {
        assert_eq!(framed(fields), (framing, keeps), "{fields:?}");
    }
    for status in ["204 No Content", "304 Not Modified"] {
        let text = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let head = whole(&text).unwrap().unwrap();
        assert_eq!((head.framing, head.keeps), (Framing::Length(0), true));
    }
}

#[test]
fn an_older_server_keeps_its_connection_only_if_it_says_so() {
    let keeps = |fields: &str| {
        let text = format!("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n{fields}\r\n");
        whole(&text).unwrap().unwrap().keeps
    };
    assert!(!keeps(""));
    assert!(keeps("Connection: Keep-Alive\r\n"));
}

#[test]
fn what_two_readers_could_take_differently_is_refused() {
    let fields = |fields: &str| whole(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap_err();
    for length in ["-1", "+1", "1 2", "0x1", "", "1,2", "1,", "99999999999999999999"] {
        let error = fields(&format!("Content-Length: {length}\r\n"));
        assert_eq!(error, HeadError::Length, "{length:?}");
    }
    assert_eq!(fields("Content-Length: 1\r\nContent-Length: 2\r\n"), HeadError::Length);
    assert_eq!(
        whole("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_err(),
        HeadError::Coding
    );
    for malformed in [
        "HTTP/2.0 200 OK\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
    ] {
        assert!(matches!(whole(malformed), Err(HeadError::Malformed(_))), "{malformed:?}");
    }
}

#[test]
fn a_head_has_a_limit() {
    let many = "A: b\r\n".repeat(MOST_FIELDS + 1);
    assert_eq!(whole(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).unwrap_err(), HeadError::TooLong);
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(LONGEST_HEAD));
    assert_eq!(whole(&long).unwrap_err(), HeadError::TooLong);
    assert_eq!(whole(&format!("{long}\r\n\r\n")).unwrap_err(), HeadError::TooLong);
}

/// The data of a chunked body that arrives in pieces of so many bytes, and what is left behind it.
fn unchunked(text: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>), ChunkError> {
    let (mut chunks, mut buffer, mut data) = (Chunks::default(), BytesMut::new(), Vec::new());
    let mut pieces = text.chunks(piece);
    loop {
        match chunks.next(&mut buffer)? {
            Piece::Data(part) => data.extend_from_slice(&part),
            Piece::Wanting => match pieces.next() {
                Some(more) => buffer.extend_from_slice(more),
                None => panic!("{:?} does not end", String::from_utf8_lossy(text)),
            },
            Piece::End => {
                return Ok((
                    data,
                    [&buffer[..], &pieces.flatten().copied().collect::<Vec<u8>>()].concat(),
                ));
            }
        }
    }
}

#[test]
fn chunks_are_joined_and_what_follows_stays() {
    let text = b"4;a=\"b\"\r\nabcd\r\n00A \t\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nHTTP/1.1";
    for piece in 1..text.len() {
        let (data, left) = unchunked(text, piece).unwrap();
        assert_eq!((&data[..], &left[..]), (&b"abcd0123456789"[..], &b"HTTP/1.1"[..]), "{piece}");
    }
}

#[test]
fn what_is_no_chunk_is_refused() {
    for (text, error) in [
        (&b"\r\n"[..], ChunkError::Size),
        (b"x\r\n", ChunkError::Size),
        (b"-1\r\n", ChunkError::Size),
        (b"1 2\r\n", ChunkError::Size),
        (b"0x1\r\n", ChunkError::Size),
        (b"12345678901234567\r\n", ChunkError::Size),
        (b"1\n", ChunkError::End),
        (b"1;a\rb\r\n", ChunkError::End),
        (b"1\r\nab\r\n", ChunkError::End),
        (b"1\r\na\rb", ChunkError::End),
        (b"1\r\na\n", ChunkError::End),
        (b"0\r\nA: b\n\r\n", ChunkError::End),
    ] {
        let refused = unchunked(text, text.len());
        assert_eq!(refused.unwrap_err(), error, "{:?}", String::from_utf8_lossy(text));
    }
    let long = [b"1;", &b"a".repeat(17 * 1024)[..]].concat();
    assert_eq!(unchunked(&long, long.len()).unwrap_err(), ChunkError::TooLong);
    let trailers = [b"0\r\n", &b"A: 0123456789\r\n".repeat(2000)[..]].concat();
    assert_eq!(unchunked(&trailers, 100).unwrap_err(), ChunkError::TooLong);
}

pub(super) const LIMITS: Limits = Limits { fields: 10, head: 300, body: 50 };

#[test]
fn a_get_is_plain_without_a_body() {
    let text = "GET /mcp HTTP/1.1\r\nHost: x\r\n\r\nGET";
    let Found::Whole(found) = plain(text.as_bytes(), &LIMITS) else { panic!("{text}") };
    assert_eq!((&found.method, found.length), (&http::Method::GET, text.len() - 3));
    let (target, headers, body) = parts(found, text).unwrap();
    assert_eq!((target.path(), headers.len(), body.len()), ("/mcp", 1, 0));
    for end in 0..text.len() - 3 {
        let found = plain(&text.as_bytes()[..end], &LIMITS);
        assert!(matches!(found, Found::Partial), "{end}: {found:?}");
    }
    for (from, to) in [
        ("Host: x", "Content-Length: 0"),
        ("Host: x", "Content-Length: 3"),
        ("Host: x", "Transfer-Encoding: chunked"),
        ("Host: x", "Connection: Upgrade\r\nUpgrade: websocket"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("GET /", "GET http://x/"),
    ] {
        let text = text.replacen(from, to, 1);
        assert!(matches!(plain(text.as_bytes(), &LIMITS), Found::Other), "{text:?}");
    }
}

#[test]
fn chunks_are_written_as_bare_sizes_and_an_empty_one_never() {
    for length in [1, 9, 10, 15, 16, 255, 256, 4095, 4096, 65_535, 65_536, 1 << 20] {
        let data = vec![b'x'; length];
        let mut out = BytesMut::from(&b"before"[..]);
        chunk(&mut out, |out| out.extend_from_slice(&data));
        let mut by_hand = BytesMut::from(&b"before"[..]);
        begin_chunk(length, &mut by_hand);
        by_hand.extend_from_slice(&data);
        by_hand.extend_from_slice(CHUNK_END);
        assert_eq!(out, by_hand, "{length}");
        assert!(out.starts_with(format!("before{length:x}\r\nx").as_bytes()), "{length}");
        out.extend_from_slice(LAST_CHUNK);
        let (read, left) = unchunked(&out[6..], out.len()).unwrap();
        assert_eq!((read, left), (data, Vec::new()));
    }
    let mut out = BytesMut::from(&b"before"[..]);
    assert_eq!(chunk(&mut out, |_| 7), 7);
    assert_eq!(&out[..], b"before");
}

/// The request as `METHOD-less` parts: target, fields, body, and how much it takes.
fn request(text: &str) -> Option<(String, Vec<String>, Bytes, usize)> {
    let Found::Whole(found) = plain(text.as_bytes(), &LIMITS) else { return None };
    let length = found.length;
    let (target, headers, body) = parts(found, text)?;
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        format!("{name}: {}", value.to_str().unwrap_or("?"))
    };
    Some((target.to_string(), headers.iter().map(field).collect(), body, length))
}

#[test]
fn a_plain_request_is_found_with_its_parts() {
    let text = "POST /mcp/a?b=c HTTP/1.1\r\nHost: x:1\r\nX-Empty:\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\n{}POST";
    let (target, fields, body, length) = request(text).unwrap();
    assert_eq!(target, "/mcp/a?b=c");
    assert_eq!(fields, ["host: x:1", "x-empty: ", "content-length: 2", "connection: Keep-Alive"]);
    assert_eq!((&body[..], length), (&b"{}"[..], text.len() - 4));
    for end in 0..length - 2 {
        let found = plain(&text.as_bytes()[..end], &LIMITS);
        assert!(matches!(found, Found::Partial), "{end}: {found:?}");
    }
    for end in length - 2..length {
        let found = plain(&text.as_bytes()[..end], &LIMITS);
        assert!(matches!(found, Found::Head(needed) if needed == length), "{end}: {found:?}");
    }
}

#[test]
fn names_are_the_same_however_they_are_written_and_whoever_knows_them() {
    let text = "POST / HTTP/1.1\r\nMCP-Session-ID: 1\r\nmcp-protocol-version: 2\r\nMcp-Method: 3\r\nMCP-NAME: 4\r\nmcp-namf: 5\r\nConnection: keep-alive\r\nCONTENT-LENGTH: 0\r\n\r\n";
    let (_, fields, ..) = request(text).unwrap();
    let expected = [
        "mcp-session-id: 1",
        "mcp-protocol-version: 2",
        "mcp-method: 3",
        "mcp-name: 4",
        "mcp-namf: 5",
        "connection: keep-alive",
        "content-length: 0",
    ];
    assert_eq!(fields, expected);
    let head = whole("HTTP/1.1 200 OK\r\nMCP-SESSION-ID: a\r\n\r\n").unwrap().unwrap();
    assert_eq!(head.headers["mcp-session-id"], "a");
}

#[test]
fn whatever_is_not_plain_is_left_to_others() {
    let plain_one = "POST /mcp HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    assert!(request(plain_one).is_some());
    for (from, to) in [
        ("POST", "GET"),
        ("POST", "HEAD"),
        ("POST", "PUT"),
        ("POST ", "post "),
        ("POST ", "\r\nPOST "),
        ("/mcp", "http://x/mcp"),
        ("/mcp", "*"),
        ("/mcp", "/\u{1}"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("Content-Length: 2", "X: 2"),
        ("Content-Length: 2", "Content-Length: +2"),
        ("Content-Length: 2", "Content-Length: 2, 2"),
        ("Content-Length: 2", "Content-Length: 2\r\nContent-Length: 2"),
        ("Content-Length: 2", "Content-Length: 51"),
        ("Content-Length: 2", "Content-Length: 2\r\nTransfer-Encoding: chunked"),
        ("Content-Length: 2", "Transfer-Encoding: chunked"),
        ("Content-Length: 2", "Content-Length : 2"),
        ("Content-Length: 2", "Content-Length: 2\r\n folded"),
        ("Content-Length: 2", "Content-Length: 2\r\nUpgrade: websocket"),
        ("Content-Length: 2", "Content-Length: 2\r\nExpect: 100-continue"),
        ("Content-Length: 2", "Content-Length: 2\r\nConnection: close"),
        ("Content-Length: 2", "Content-Length: 2\r\nConnection: keep-alive, x"),
        ("Content-Length: 2", "Content-Length: 2\r\nX: a\0b"),
    ] {
        let text = plain_one.replacen(from, to, 1);
        assert!(request(&text).is_none(), "{text:?}");
    }
    let many = "A: b\r\n".repeat(LIMITS.fields);
    assert!(request(&plain_one.replacen("Content", &format!("{many}Content"), 1)).is_none());
    let long = format!("A: {}\r\n", "b".repeat(LIMITS.head));
    assert!(request(&plain_one.replacen("Content", &format!("{long}Content"), 1)).is_none());
    let endless = format!("POST /{}", "a".repeat(LIMITS.head));
    assert!(matches!(plain(endless.as_bytes(), &LIMITS), Found::Other));
}

proptest! {
    /// Whatever is cut into chunks comes out whole, however it arrives.
    #[test]
    fn any_body_survives_its_chunks(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        piece in 1..64usize,
    ) {
        let mut text = Vec::new();
        for part in &parts {
            text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            text.extend_from_slice(part);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"0\r\n\r\nrest");
        let (data, left) = unchunked(&text, piece).unwrap();
        prop_assert_eq!(data, parts.concat());
        prop_assert_eq!(left, b"rest");
    }

    #[test]
    fn noise_is_taken_or_refused_and_nothing_else(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut buffer = BytesMut::from(&b"HTTP/1.1 200 OK\r\n"[..]);
        buffer.extend_from_slice(&noise);
        let _ = head(&mut buffer);
        let (mut chunks, mut buffer) = (Chunks::default(), BytesMut::from(&noise[..]));
        while let Ok(Piece::Data(data)) = chunks.next(&mut buffer) {
            prop_assert_ne!(data, Bytes::new());
        }
    }
}

const CODED: &str = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
const BOTH: &str =
    "POST /b HTTP/1.1\r\nContent-LENGTH: 3\r\ntransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n";

/// What is said of the requests on a connection, in their order.
fn framings(bytes: &str, piece: usize, requests: usize) -> Vec<bool> {
    let mut framings = Framings::default();
    bytes.as_bytes().chunks(piece).for_each(|piece| framings.push(piece));
    (0..requests).map(|_| framings.next_has_both()).collect()
}

#[test]
fn a_head_with_length_and_coding_is_seen_behind_whatever_comes_before_it() {
    for before in [
        "POST / HTTP/1.1\r\nContent-Length: 26\r\n\r\nContent-Length: 3\r\nPOST /\r\n",
        "\r\n\r\nGET / HTTP/1.1\nX-Content-Length: 3\n\n",
        "POST / HTTP/1.1\r\ncontent-length: 0\r\nX: y\r\n\r\n",
        &format!(
            "{CODED}5;a=b\r\n\r\n\r\nC\r\n0C\r\n0\r\n\r\nContent\r\n0\r\nContent-Length: 1\r\n\r\n"
        ),
        &format!("{CODED}0\r\nX: {}\r\n\r\n", "y".repeat(300)),
    ] {
        let bytes = format!("{before}{BOTH}{CODED}0\r\n\r\n");
        for piece in [1, 2, 7, 64, bytes.len()] {
            let seen = framings(&bytes, piece, 4);
            assert_eq!(seen, [false, true, false, true], "in pieces of {piece}: {before:?}");
        }
    }
}

/// Nothing is said of a request that two readers may find in different places.
#[test]
fn where_a_request_ends_in_doubt_what_follows_is_not_believed() {
    let zeros = "0".repeat(70);
    for before in [
        "POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "POST / HTTP/1.1\r\nContent-Length: 2, 2\r\n\r\n{}",
        &format!("POST / HTTP/1.1\r\nContent-Length: {}2\r\n\r\n{{}}", " ".repeat(70)),
        "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &format!("{CODED}{zeros}5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
        &format!("{CODED}0\r\nX: a\n\nGET / HTTP/1.1\r\n\r\n"),
        &format!("{CODED}0\n\n"),
        &format!("{CODED}\r\n0\r\n\r\n"),
        &format!("{CODED}1\r\n{{}}\r\n0\r\n\r\n"),
    ] {
        let bytes = format!("{before}{CODED}0\r\n\r\n");
        assert_eq!(framings(&bytes, bytes.len(), 3).last(), Some(&true), "{before:?}");
    }
    let mut framings = Framings::default();
    framings.stop();
    framings.push(CODED.as_bytes());
    assert!(framings.next_has_both());
}
