//! A server's answers and a client's plain requests: however they arrive, they are read in one way.

#![no_main]

use bytes::{Bytes, BytesMut};
use holdfast_mcp::http1::{
    AnswerHeads, Chunks, Found, Framing, Head, HeadError, Limits, Piece, RequestHeads, Said,
};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;

/// What an answer was read as: its head and its body, and what is left behind it.
#[derive(Debug, PartialEq)]
enum Answer {
    Unfinished,
    Refused,
    Whole { head: String, body: Vec<u8>, left: Vec<u8> },
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let at_once = read(bytes, bytes.len().max(1));
    let in_pieces = read(bytes, usize::from(*piece).max(1));
    assert_eq!(at_once, in_pieces, "the cuts between reads mean nothing");
    check_request(bytes);
    check_again(bytes);
    // Nothing is made up and nothing is lost: body and rest stand in the input.
    if let Answer::Whole { body, left, .. } = &at_once {
        assert!(bytes.ends_with(left));
        assert!(body.len() + left.len() <= bytes.len());
    }
});

const LIMITS: Limits = Limits { fields: 100, head: 8192, body: 65_536 };

/// Less of a plain request is the beginning of it, and what follows it is not looked at.
fn check_request(bytes: &[u8]) {
    let plain = |bytes: &[u8]| RequestHeads::default().plain(bytes, &LIMITS);
    let parts = |found, bytes: &[u8]| {
        RequestHeads::default().parts(found, &Bytes::copy_from_slice(bytes))
    };
    let Found::Whole(whole) = plain(bytes) else { return };
    let length = whole.length;
    let first = parts(whole, bytes);
    if let Some((_, _, headers, body)) = &first {
        assert!(bytes[..length].ends_with(body));
        let declared = headers.get("content-length").map_or("0", |it| it.to_str().unwrap());
        assert_eq!(declared.parse(), Ok(body.len()));
        assert!(!headers.contains_key("transfer-encoding"));
    }
    match plain(&bytes[..length]) {
        Found::Whole(again) => assert_eq!(parts(again, &bytes[..length]), first),
        other => panic!("{other:?}"),
    }
    for end in [length / 2, length - 1] {
        let found = plain(&bytes[..end]);
        assert!(matches!(found, Found::Partial | Found::Head(_)), "{end}: {found:?}");
    }
}

/// What a connection remembers changes the meaning of nothing that comes. The parts of the input, which 0xff
/// ends, come on one connection: each twice, so that it is remembered, and then all of them in turn.
fn check_again(bytes: &[u8]) {
    let (mut requests, mut answers) = (RequestHeads::default(), AnswerHeads::default());
    let parts = || bytes.split(|byte| *byte == 0xff);
    for part in parts().flat_map(|part| [part, part]).chain(parts()) {
        let fresh = request(&mut RequestHeads::default(), part);
        assert_eq!(request(&mut requests, part), fresh);
        let fresh = answer(&mut AnswerHeads::default(), part);
        assert_eq!(answer(&mut answers, part), fresh);
    }
}

fn request(heads: &mut RequestHeads, bytes: &[u8]) -> String {
    match heads.plain(bytes, &LIMITS) {
        Found::Whole(found) => {
            let length = found.length;
            format!("{length} {:?}", heads.parts(found, &Bytes::copy_from_slice(bytes)))
        }
        other => format!("{other:?}"),
    }
}

fn answer(heads: &mut AnswerHeads<HeaderMap>, bytes: &[u8]) -> String {
    let mut buffer = BytesMut::from(bytes);
    let head = next(heads, &mut buffer).map(|head| head.map(said));
    format!("{head:?} {buffer:?}")
}

fn next(
    heads: &mut AnswerHeads<HeaderMap>,
    buffer: &mut BytesMut,
) -> Result<Option<Head<HeaderMap>>, HeadError> {
    heads.head(buffer, |headers| headers)
}

/// A head as text, whichever way it was read: what is kept of its fields says nothing of its length, which its
/// framing does.
fn said(head: Head<HeaderMap>) -> String {
    let headers = match head.said {
        Said::Once(mut headers) => {
            headers.remove("content-length");
            *headers
        }
        Said::Again(kept) => HeaderMap::clone(&kept),
    };
    format!("{} {headers:?} {:?} {}", head.status, head.framing, head.keeps)
}

fn read(bytes: &[u8], piece: usize) -> Answer {
    let mut pieces = bytes.chunks(piece);
    let mut buffer = BytesMut::new();
    let mut heads = AnswerHeads::default();
    let head = loop {
        match next(&mut heads, &mut buffer) {
            Ok(Some(head)) => break head,
            Err(_) => return Answer::Refused,
            Ok(None) => match pieces.next() {
                Some(more) => buffer.extend_from_slice(more),
                None => return Answer::Unfinished,
            },
        }
    };
    assert!(!head.status.is_informational() || head.status == 101);
    assert!(!head.keeps || head.framing != Framing::Close);
    let mut body = Vec::new();
    match head.framing {
        Framing::Close => {
            body.extend_from_slice(&buffer.split());
            pieces.by_ref().for_each(|more| body.extend_from_slice(more));
        }
        Framing::Length(length) => {
            while (buffer.len() as u64) < length {
                match pieces.next() {
                    Some(more) => buffer.extend_from_slice(more),
                    None => return Answer::Unfinished,
                }
            }
            body.extend_from_slice(&buffer.split_to(length as usize));
        }
        Framing::Chunked => {
            let mut chunks = Chunks::default();
            loop {
                match chunks.next(&mut buffer) {
                    Ok(Piece::Data(data)) => {
                        assert!(!data.is_empty());
                        body.extend_from_slice(&data);
                    }
                    Ok(Piece::End) => break,
                    Err(_) => return Answer::Refused,
                    Ok(Piece::Wanting) => match pieces.next() {
                        Some(more) => buffer.extend_from_slice(more),
                        None => return Answer::Unfinished,
                    },
                }
            }
        }
    }
    pieces.for_each(|more| buffer.extend_from_slice(more));
    Answer::Whole { head: said(head), body, left: buffer.to_vec() }
}
