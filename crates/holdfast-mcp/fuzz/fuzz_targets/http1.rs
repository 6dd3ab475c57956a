//! A server's answers and a client's plain requests: however they arrive, they are read in one way.

#![no_main]

use bytes::{Bytes, BytesMut};
use holdfast_mcp::http1::{Chunks, Found, Framing, Head, Limits, Piece, head, plain};
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
    // Nothing is made up and nothing is lost: body and rest stand in the input.
    if let Answer::Whole { body, left, .. } = &at_once {
        assert!(bytes.ends_with(left));
        assert!(body.len() + left.len() <= bytes.len());
    }
});

const LIMITS: Limits = Limits { fields: 100, head: 8192, body: 65_536 };

/// Less of a plain request is the beginning of it, and what follows it is not looked at.
fn check_request(bytes: &[u8]) {
    let Found::Whole(whole) = plain(bytes, &LIMITS) else { return };
    let length = whole.length;
    let parts = whole.parts(&Bytes::copy_from_slice(bytes));
    if let Some((_, headers, body)) = &parts {
        assert!(bytes[..length].ends_with(body));
        let declared = headers.get("content-length").map_or("0", |it| it.to_str().unwrap());
        assert_eq!(declared.parse(), Ok(body.len()));
        assert!(!headers.contains_key("transfer-encoding"));
    }
    match plain(&bytes[..length], &LIMITS) {
        Found::Whole(again) => {
            assert_eq!(again.parts(&Bytes::copy_from_slice(&bytes[..length])), parts);
        }
        other => panic!("{other:?}"),
    }
    for end in [length / 2, length - 1] {
        let found = plain(&bytes[..end], &LIMITS);
        assert!(matches!(found, Found::Partial | Found::Head(_)), "{end}: {found:?}");
    }
}

fn read(bytes: &[u8], piece: usize) -> Answer {
    let mut pieces = bytes.chunks(piece);
    let mut buffer = BytesMut::new();
    let head: Head = loop {
        match head(&mut buffer) {
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
    let head = format!("{} {:?} {:?} {}", head.status, head.headers, head.framing, head.keeps);
    Answer::Whole { head, body, left: buffer.to_vec() }
}
