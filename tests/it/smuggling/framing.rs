//! Where the body ends: lengths, codings and chunks.

use std::time::Duration;

use super::Expect::{Carry, Close, Either, Once};
use super::{Parts, Vector, check, vector};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Recorder, Reply};
use crate::harness::wire::Conn;

/// Chunked, with a request hidden behind the end of chunks.
fn coding(name: &'static str, expect: super::Expect, lines: &'static str) -> Vector {
    vector(name, expect, move |p| p.post(lines, &format!("{}{}", p.chunked(), hidden(p, expect))))
}

/// Nothing is hidden where the framing may be understood: it would be an honest next request.
fn hidden(parts: &Parts, expect: super::Expect) -> &str {
    if matches!(expect, Close) { &parts.smuggled } else { "" }
}

#[tokio::test]
async fn transfer_encoding() {
    check(vec![
        coding("chunked is carried", Carry, "Transfer-Encoding: chunked\r\n"),
        vector("a length before the coding", Once, |p| {
            let lines = format!("{}Transfer-Encoding: chunked\r\n", p.length());
            p.post(&lines, &format!("{}{}", p.chunked(), p.smuggled))
        }),
        vector("a length after the coding", Once, |p| {
            let lines = format!("Transfer-Encoding: chunked\r\n{}", p.length());
            p.post(&lines, &format!("{}{}", p.chunked(), p.smuggled))
        }),
        vector("a length of zero beside the coding", Once, |p| {
            p.post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", &p.chunked())
        }),
        vector("a short length beside the coding", Close, |p| {
            let body = format!("0\r\n\r\n{}", p.smuggled);
            p.post(
                &format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
                &body,
            )
        }),
        coding("an unknown coding", Close, "Transfer-Encoding: xchunked\r\n"),
        coding("chunked, then identity", Close, "Transfer-Encoding: chunked, identity\r\n"),
        coding("identity, then chunked", Close, "Transfer-Encoding: identity, chunked\r\n"),
        coding("gzip, then chunked", Close, "Transfer-Encoding: gzip, chunked\r\n"),
        coding("chunked twice in a list", Close, "Transfer-Encoding: chunked, chunked\r\n"),
        coding(
            "chunked twice",
            Close,
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        coding(
            "chunked beside identity",
            Close,
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ),
        coding("identity alone", Close, "Transfer-Encoding: identity\r\n"),
        coding("an empty coding", Close, "Transfer-Encoding: \r\n"),
        coding("a quoted coding", Close, "Transfer-Encoding: \"chunked\"\r\n"),
        coding("a coding with a parameter", Close, "Transfer-Encoding: chunked;q=1\r\n"),
        coding("a vertical tab before the coding", Close, "Transfer-Encoding: \x0bchunked\r\n"),
        coding("a blank before the colon", Close, "Transfer-Encoding : chunked\r\n"),
        coding("a blank before the name", Close, " Transfer-Encoding: chunked\r\n"),
        coding("a coding on a folded line", Close, "Transfer-Encoding:\r\n chunked\r\n"),
        coding("a coding after a fold", Close, "X-Fold: a\r\n Transfer-Encoding: chunked\r\n"),
        coding("a coding behind a bare CR", Close, "X-Line: a\rTransfer-Encoding: chunked\r\n"),
        coding("in capitals", Either, "Transfer-Encoding: CHUNKED\r\n"),
        coding("a tab before the coding", Either, "Transfer-Encoding:\tchunked\r\n"),
        vector("on HTTP/1.0", Close, |p| {
            let lines = format!("Host: {}\r\nTransfer-Encoding: chunked\r\n", p.host);
            p.raw("POST /mcp HTTP/1.0", &lines, &format!("{}{}", p.chunked(), p.smuggled))
        }),
    ])
    .await;
}

fn length(
    name: &'static str,
    expect: super::Expect,
    lines: impl Fn(usize) -> String + 'static,
) -> Vector {
    vector(name, expect, move |p| {
        p.post(&lines(p.body.len()), &format!("{}{}", p.body, hidden(p, expect)))
    })
}

#[tokio::test]
async fn content_length() {
    check(vec![
        length("a length is carried", Carry, |n| format!("Content-Length: {n}\r\n")),
        length("two lengths that differ", Close, |n| {
            format!("Content-Length: {n}\r\nContent-Length: {}\r\n", n + 5)
        }),
        length("two lengths that differ, the short one last", Close, |n| {
            format!("Content-Length: {n}\r\nContent-Length: 0\r\n")
        }),
        length("lengths that differ in a list", Close, |n| format!("Content-Length: {n}, 5\r\n")),
        length("two equal lengths", Either, |n| {
            format!("Content-Length: {n}\r\nContent-Length: {n}\r\n")
        }),
        length("equal lengths in a list", Either, |n| format!("Content-Length: {n}, {n}\r\n")),
        length("a plus sign", Close, |n| format!("Content-Length: +{n}\r\n")),
        length("a minus sign", Close, |_| "Content-Length: -1\r\n".into()),
        length("a hexadecimal length", Close, |n| format!("Content-Length: 0x{n:x}\r\n")),
        length("two numbers", Close, |n| format!("Content-Length: {n} 5\r\n")),
        length("an empty length", Close, |_| "Content-Length: \r\n".into()),
        length("more than 64 bits", Close, |_| "Content-Length: 99999999999999999999\r\n".into()),
        length("a fraction", Close, |n| format!("Content-Length: {n}.0\r\n")),
        length("a NUL after the number", Close, |n| format!("Content-Length: {n}\0\r\n")),
        length("a blank before the colon", Close, |n| format!("Content-Length : {n}\r\n")),
        length("a length on a folded line", Close, |n| format!("Content-Length:\r\n {n}\r\n")),
        length("leading zeros", Either, |n| format!("Content-Length: 000{n}\r\n")),
    ])
    .await;
}

/// Chunked, with this as the body's bytes.
fn chunks(
    name: &'static str,
    expect: super::Expect,
    body: impl Fn(&Parts) -> String + 'static,
) -> Vector {
    vector(name, expect, move |p| p.post("Transfer-Encoding: chunked\r\n", &body(p)))
}

#[tokio::test]
async fn chunk_syntax() {
    check(vec![
        chunks("many small chunks", Carry, |p| {
            let mut text: String = p
                .body
                .as_bytes()
                .chunks(7)
                .map(|piece| {
                    format!("{:X}\r\n{}\r\n", piece.len(), std::str::from_utf8(piece).unwrap())
                })
                .collect();
            text.push_str("0\r\n\r\n");
            text
        }),
        chunks("an extension is dropped", Carry, |p| {
            format!("{:x};name=value\r\n{}\r\n0\r\n\r\n", p.body.len(), p.body)
        }),
        chunks("a trailer is dropped", Carry, |p| {
            format!("{:x}\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n", p.body.len(), p.body)
        }),
        chunks("a trailer that looks like framing", Either, |p| {
            format!("{:x}\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n", p.body.len(), p.body)
        }),
        chunks("a size with 0x", Close, |p| {
            format!("0x{:x}\r\n{}\r\n0\r\n\r\n{}", p.body.len(), p.body, p.smuggled)
        }),
        chunks("a negative size", Close, |p| format!("-1\r\n{}\r\n0\r\n\r\n", p.body)),
        chunks("a size with a plus sign", Close, |p| {
            format!("+{:x}\r\n{}\r\n0\r\n\r\n", p.body.len(), p.body)
        }),
        chunks("a size of more than 64 bits", Close, |p| {
            format!("{:017x}f\r\n{}\r\n0\r\n\r\n", u64::MAX, p.body)
        }),
        chunks("an empty size", Close, |p| format!("\r\n{}\r\n0\r\n\r\n", p.body)),
        chunks("letters as a size", Close, |p| format!("xyz\r\n{}\r\n0\r\n\r\n", p.body)),
        chunks("a bare LF after the size", Close, |p| {
            format!("{:x}\n{}\r\n0\r\n\r\n{}", p.body.len(), p.body, p.smuggled)
        }),
        chunks("a bare LF in an extension", Close, |p| {
            format!("{:x};a\nb\r\n{}\r\n0\r\n\r\n{}", p.body.len(), p.body, p.smuggled)
        }),
        chunks("nothing after a chunk's bytes", Close, |p| {
            format!("{:x}\r\n{}0\r\n\r\n{}", p.body.len(), p.body, p.smuggled)
        }),
        chunks("a chunk longer than its size", Close, |p| {
            format!("{:x}\r\n{}xx\r\n0\r\n\r\n", p.body.len(), p.body)
        }),
        chunks("a size with many zeros", Either, |p| {
            format!("{:032x}\r\n{}\r\n0\r\n\r\n", p.body.len(), p.body)
        }),
        chunks("an extension without end", Close, |p| {
            format!("{:x};{}\r\n{}\r\n0\r\n\r\n", p.body.len(), "e".repeat(64 * 1024), p.body)
        }),
    ])
    .await;
}

/// What stands on a connection before the request that is framed in two ways.
#[derive(Clone, Copy, Debug)]
enum Before {
    Plain,
    Chunked,
    /// Its answer is a stream.
    Stream,
    /// A body that comes while the request is served already.
    Late,
}

impl Before {
    fn bytes(self, gateway: &Gateway, id: usize) -> Vec<u8> {
        let tool = if matches!(self, Self::Stream) { "stream" } else { "first" };
        let body = message::modern_call(id, tool);
        let mut parts = Parts::new(gateway.address, tool);
        (parts.tool, parts.body) = (tool.into(), body);
        let extension = "x".repeat(100_000);
        match self {
            Self::Plain | Self::Stream => parts.post(&parts.length(), &parts.body),
            Self::Chunked => parts.post("Transfer-Encoding: chunked\r\n", &parts.chunked()),
            Self::Late => {
                parts.body = parts.body.replacen('{', &format!("{{\"x\":\"{extension}\","), 1);
                parts.post(&parts.length(), &parts.body)
            }
        }
    }
}

/// Wherever the head comes, and whatever it comes cut into.
#[tokio::test]
async fn a_length_beside_the_coding_behind_other_requests() {
    let recorder =
        Recorder::scripted(|seen| (seen.tool() == "stream").then(|| Reply::streamed(seen, [])))
            .await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let parts = Parts::new(gateway.address, "both");
    let both = format!("Transfer-Encoding: chunked\r\n{}", parts.length());
    let both = parts.post(&both, &format!("{}{}", parts.chunked(), parts.smuggled));
    use Before::{Chunked, Late, Plain, Stream};
    for before in [
        &[Plain][..],
        &[Chunked],
        &[Stream],
        &[Late],
        &[Plain, Chunked],
        &[Stream, Plain],
        &[Chunked, Late, Chunked, Stream],
    ] {
        let honest: Vec<u8> =
            (0..).zip(before).flat_map(|(id, it)| it.bytes(&gateway, id)).collect();
        // All at once; cut in the head; and with its first bytes at the end of what comes before.
        for cut in [None, Some(honest.len()), Some(honest.len() + 5), Some(honest.len() + 250)] {
            let mut conn = Conn::open(gateway.address).await;
            let mut bytes = &[&honest[..], &both[..]].concat()[..];
            if let Some(cut) = cut {
                conn.send(&bytes[..cut]).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                bytes = &bytes[cut..];
            }
            conn.send(bytes).await;
            for (id, it) in before.iter().enumerate() {
                let answer = conn.answer().await.unwrap_or_else(|| panic!("{before:?}: {it:?}"));
                let text = answer.text();
                let own = answer.status == 200 && text.contains(&format!("\"id\":{id}"));
                assert!(own, "{before:?}, cut at {cut:?}: {} {text}", answer.status);
            }
            let answer = conn.answer().await.map(|answer| answer.status);
            assert_eq!(answer, Some(400), "{before:?}, cut at {cut:?}");
            assert!(conn.answer().await.is_none(), "{before:?}, cut at {cut:?}: it goes on");
        }
    }
    let seen = recorder.seen();
    assert!(!seen.iter().any(|seen| seen.text().contains(&parts.tool)), "it reached the server");
}
