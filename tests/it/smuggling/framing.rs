//! Where the body ends: lengths, codings and chunks.

use super::Expect::{Carry, Close, Either, Once};
use super::{Parts, Vector, check, vector};

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
