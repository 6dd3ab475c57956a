//! Whatever a connection remembers, heads mean what they say.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use proptest::prelude::*;

use crate::headers::name;
use crate::http1::tests::{LIMITS, Whole};
use crate::http1::{AnswerHeads, Found, Framing, Head, Limits, RequestHeads, Said};

/// What a reader that remembers, and one that has seen nothing, say of these bytes.
fn request_read_by(heads: &mut RequestHeads, bytes: &[u8]) -> String {
    match heads.plain(bytes, &LIMITS) {
        Found::Whole(found) => {
            let length = found.length;
            let parts = heads.parts(found, &Bytes::copy_from_slice(bytes));
            format!("{length} {parts:?}")
        }
        other => format!("{other:?}"),
    }
}

/// What is kept of an answer's fields says nothing of its length, which its framing does.
fn answer_read_by(heads: &mut AnswerHeads<HeaderMap>, bytes: &[u8]) -> String {
    let mut buffer = BytesMut::from(bytes);
    let head = heads.head(&mut buffer, |headers| headers).map(|head| {
        head.map(|Head { status, said, framing, keeps }| {
            let headers = match said {
                Said::Once(mut headers) => {
                    headers.remove(CONTENT_LENGTH);
                    *headers
                }
                Said::Again(kept) => HeaderMap::clone(&kept),
            };
            Whole { status, headers, framing, keeps }
        })
    });
    format!("{head:?} {buffer:?}")
}

/// The date stands behind the length, by which it moves.
const POST: &str = "POST /mcp HTTP/1.1\r\nHost: x:1\r\nX-Request-ID: WORD\r\nA: b\r\nContent-Length: LENGTH\r\nA: c\r\nMcp-Session-Id: of-WORD\r\nDate: Sun, 06 Nov 1994 08:49:SS GMT\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 06 Nov 1994 08:49:SS GMT\r\nContent-Length: LENGTH\r\nX-Request-ID: WORD\r\nMcp-Session-Id: a\r\n\r\n";

#[test]
fn a_head_that_comes_again_is_not_read_again_and_means_the_same() {
    let (mut requests, mut answers) = (RequestHeads::default(), AnswerHeads::default());
    // Of the first one its bytes are remembered, of the second what it means.
    for (turn, (length, second)) in
        [("7", "01"), ("7", "01"), ("7", "01"), ("12", "01"), ("0", "59"), ("031", "59")]
            .into_iter()
            .enumerate()
    {
        let body = " ".repeat(length.parse().unwrap());
        let word = &format!("{length}-{turn}");
        let request =
            POST.replace("LENGTH", length).replace("SS", second).replace("WORD", word) + &body;
        let answer = ANSWER.replace("LENGTH", length).replace("SS", second) + &body;
        let (knows_request, knows_answer) = (
            requests.last.same(request.as_bytes()).is_some(),
            answers.last.same(answer.as_bytes()).is_some(),
        );
        assert_eq!((knows_request, knows_answer), (turn >= 2, turn >= 2), "{turn}");
        let fresh = request_read_by(&mut RequestHeads::default(), request.as_bytes());
        assert_eq!(request_read_by(&mut requests, request.as_bytes()), fresh);
        let fresh = answer_read_by(&mut AnswerHeads::default(), answer.as_bytes());
        assert_eq!(answer_read_by(&mut answers, answer.as_bytes()), fresh);
    }
}

#[test]
fn a_head_that_differs_anywhere_else_is_read() {
    for (from, to) in [
        ("7", ""),
        ("7", "+7"),
        ("7", "7,7"),
        ("7", "7 "),
        ("7", "77777777777777777777"),
        ("7", "7\r\nTransfer-Encoding: chunked"),
        ("7", "7\r\nContent-Length: 8"),
        ("7", "51"),
        ("A: b", "A: B"),
        ("ID: WORD", "ID: "),
        ("ID: WORD", "ID: a b"),
        ("ID: WORD", "ID: a\t"),
        ("ID: WORD", "ID: a\u{e9}"),
        ("ID: WORD", "ID:WORD"),
        ("ID: WORD", "ID: a\r\nX-Request-ID: b"),
        ("ID: WORD", "ID: a\nX: b"),
        ("of-WORD", "of-WORD\r\n b"),
        ("of-WORD", "of-WORD\r\nTransfer-Encoding: chunked"),
        ("/mcp", "/mcq"),
        ("08:49:01 GMT", "08:49:01\0GMT"),
        ("08:49:01 GMT", "08:49\r\nB: c"),
        ("08:49:01 GMT", "08:49:01    "),
        ("application/json", "text/event-stream"),
        ("200", "204"),
        ("200", "100"),
        ("200", "101"),
        ("Session-Id: a", "Session-Id: b"),
        ("HTTP/1.1", "HTTP/1.0"),
    ] {
        let request = POST.replace("LENGTH", "7").replace("SS", "01") + "       ";
        let answer = ANSWER.replace("LENGTH", "7").replace("SS", "01");
        let (mut requests, mut answers) = (RequestHeads::default(), AnswerHeads::default());
        for _ in 0..3 {
            request_read_by(&mut requests, request.as_bytes());
            answer_read_by(&mut answers, answer.as_bytes());
        }
        let (request, answer) = (request.replacen(from, to, 1), answer.replacen(from, to, 1));
        // And is not remembered as something else.
        for _ in 0..3 {
            let fresh = request_read_by(&mut RequestHeads::default(), request.as_bytes());
            assert_eq!(request_read_by(&mut requests, request.as_bytes()), fresh, "{to:?}");
            let fresh = answer_read_by(&mut AnswerHeads::default(), answer.as_bytes());
            assert_eq!(answer_read_by(&mut answers, answer.as_bytes()), fresh, "{to:?}");
        }
    }
}

#[test]
fn what_a_head_comes_to_is_found_out_once_for_each_date_and_word_and_whatever_comes_between() {
    let other = ANSWER.replace("application/json", "text/plain");
    let of_b = ANSWER.replace("Id: a", "Id: b");
    let mut heads = AnswerHeads::default();
    let mut found = 0;
    for (text, length, second, news, again) in [
        (ANSWER, "7", "01", false, false),
        (ANSWER, "7", "01", false, false),
        (ANSWER, "7", "01", true, true),
        (ANSWER, "12", "01", false, true),
        (ANSWER, "0", "02", true, true),
        (ANSWER, "7", "02", false, true),
        (&other, "7", "02", false, false),
        // What was kept before is not taken for it.
        (&other, "7", "02", false, false),
        (&other, "8", "02", true, true),
        (ANSWER, "7", "02", false, false),
        (ANSWER, "7", "02", false, false),
        (ANSWER, "7", "02", true, true),
        (&of_b, "7", "02", true, true),
        (&of_b, "9", "02", false, true),
        (ANSWER, "7", "02", true, true),
    ] {
        let answer = text.replace("LENGTH", length).replace("SS", second);
        let before = found;
        let mean = |headers: HeaderMap| {
            found += 1;
            headers
        };
        let head = heads.head(&mut BytesMut::from(&*answer), mean).unwrap().unwrap();
        assert_eq!(head.framing, Framing::Length(length.parse().unwrap()));
        match head.said {
            Said::Once(headers) => assert!(!again && headers[CONTENT_LENGTH] == *length),
            Said::Again(kept) => {
                assert!(again, "{answer}");
                let date = kept[http::header::DATE].to_str().unwrap();
                assert!(date.contains(&format!(":{second} ")), "{date}");
                assert_eq!(kept[CONTENT_TYPE] == "text/plain", text == other);
                assert_eq!(kept[name::SESSION_ID] == "b", text == of_b);
                assert!(!kept.contains_key(CONTENT_LENGTH));
            }
        }
        assert_eq!(found > before, news, "{answer}");
    }
}

#[test]
fn heads_have_the_same_number_if_their_lengths_and_words_alone_differ() {
    let undated = POST.replace("Date", "Then");
    let mut heads = RequestHeads::default();
    let mut number = |text: &str, length: &str| {
        let word = format!("word-{length}");
        let bytes = text.replace("LENGTH", length).replace("SS", "01").replace("WORD", &word);
        let bytes = bytes + "       ";
        let Found::Whole(found) = heads.plain(bytes.as_bytes(), &LIMITS) else { panic!("{bytes}") };
        let number = heads.number(&found);
        let words = heads.words(&found).map(|(name, at)| (name.as_str(), &bytes[at]));
        let said = [("x-request-id", &*word), ("mcp-session-id", &*format!("of-{word}"))];
        let said = said.into_iter().filter(|_| heads.last.same(bytes.as_bytes()).is_some());
        assert_eq!(words.collect::<Vec<_>>(), said.collect::<Vec<_>>());
        heads.parts(found, &Bytes::copy_from_slice(bytes.as_bytes())).expect("a request");
        number
    };
    assert_eq!((number(&undated, "7"), number(&undated, "7")), (None, None));
    let first = number(&undated, "7");
    assert!(first.is_some());
    assert_eq!((number(&undated, "0"), number(&undated, "5")), (first, first));
    let other = undated.replace("A: b", "A: c");
    assert_eq!((number(&other, "7"), number(&other, "7")), (None, None));
    assert!(![first, None].contains(&number(&other, "7")));
    // A date may differ too.
    assert_eq!([number(POST, "7"), number(POST, "7"), number(POST, "7")], [None; 3]);
}

/// Words stand before the length and are more than are remembered.
#[test]
fn a_length_may_differ_behind_any_number_of_words() {
    let words = [
        "X-Request-ID",
        "B3",
        "X-B3-TraceId",
        "X-B3-SpanId",
        "X-B3-ParentSpanId",
        "Mcp-Session-Id",
    ];
    let mut heads = RequestHeads::default();
    for (turn, length) in [7, 7, 7, 12, 0].into_iter().enumerate() {
        let fields: String = words.iter().map(|name| format!("{name}: a\r\n")).collect();
        let text = format!("POST / HTTP/1.1\r\n{fields}Content-Length: {length}\r\n\r\n{:12}", "");
        assert_eq!(heads.last.same(text.as_bytes()).is_some(), turn >= 2, "{turn}");
        let fresh = request_read_by(&mut RequestHeads::default(), text.as_bytes());
        assert!(fresh.contains("POST"), "{fresh}");
        assert_eq!(request_read_by(&mut heads, text.as_bytes()), fresh);
    }
    // Some of those words may differ, and whichever do, nothing is taken for another request.
    for name in words {
        let fields: String = words
            .iter()
            .map(|it| format!("{it}: {}\r\n", if *it == name { "b" } else { "a" }))
            .collect();
        let text = format!("POST / HTTP/1.1\r\n{fields}Content-Length: 7\r\n\r\n       ");
        for _ in 0..3 {
            let fresh = request_read_by(&mut RequestHeads::default(), text.as_bytes());
            assert_eq!(request_read_by(&mut heads, text.as_bytes()), fresh, "{name}");
        }
    }
}

#[test]
fn a_value_that_comes_twice_in_a_head_is_no_gap_in_it() {
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    for (fields, other) in [
        ("Content-Length: 7\r\nContent-Length: 7\r\n".to_owned(), "Content-Length: 8\r\n"),
        (format!("{date}{date}Content-Length: 7\r\n"), "Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"),
        ("B3: a\r\nB3: a\r\nContent-Length: 7\r\n".to_owned(), "B3: b\r\n"),
    ] {
        let mut heads = AnswerHeads::default();
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        (0..3).for_each(|_| _ = answer_read_by(&mut heads, answer.as_bytes()));
        assert!(heads.last.same(answer.as_bytes()).is_some());
        let first = answer.find(&other[..4]).unwrap();
        let answer = format!("{}{other}{}", &answer[..first], &answer[first + other.len()..]);
        let fresh = answer_read_by(&mut AnswerHeads::default(), answer.as_bytes());
        assert_eq!(answer_read_by(&mut heads, answer.as_bytes()), fresh, "{answer:?}");
    }
}

#[test]
fn what_is_long_or_asks_for_a_stream_is_not_remembered() {
    let long = POST.replace("LENGTH", "0").replace("A: b", &format!("A: {}", "b".repeat(2048)));
    let many: String = (0..32).map(|at| format!("A{at}: b\r\n")).collect();
    let many = POST.replace("LENGTH", "0").replace("A: b\r\n", &many);
    let limits = Limits { head: 4096, fields: 64, ..LIMITS };
    for text in [&long, &many, "GET /mcp HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut heads = RequestHeads::default();
        for _ in 0..3 {
            let Found::Whole(found) = heads.plain(text.as_bytes(), &limits) else {
                panic!("{text}")
            };
            assert!(heads.parts(found, &Bytes::copy_from_slice(text.as_bytes())).is_some());
        }
        assert!(heads.last.same(text.as_bytes()).is_none());
    }
}

proptest! {
    /// Whatever was read before, a head is read as if it were the first.
    #[test]
    fn what_is_remembered_changes_no_meaning(
        heads in prop::collection::vec(
            ("[0-9]{1,2}|[0-9]{20}|", "[0-5][0-9]", "[!-~]{1,6}|[ -~]{0,6}", prop::option::of((0..200usize, any::<u8>())), 1..4usize),
            1..8,
        ),
    ) {
        let (mut requests, mut answers) = (RequestHeads::default(), AnswerHeads::default());
        for (length, second, word, change, times) in heads {
            for (is_answer, text) in [(false, POST), (true, ANSWER)] {
                let text = text.replace("LENGTH", &length).replace("SS", &second);
                let mut bytes = text.replace("WORD", &word).into_bytes();
                bytes.extend_from_slice(&[b' '; 60]);
                if let Some((at, byte)) = change {
                    let at = at % bytes.len();
                    bytes[at] = byte;
                }
                for _ in 0..times {
                    let (read, fresh) = match is_answer {
                        true => (
                            answer_read_by(&mut answers, &bytes),
                            answer_read_by(&mut AnswerHeads::default(), &bytes),
                        ),
                        false => (
                            request_read_by(&mut requests, &bytes),
                            request_read_by(&mut RequestHeads::default(), &bytes),
                        ),
                    };
                    prop_assert_eq!(read, fresh);
                }
            }
        }
    }
}
