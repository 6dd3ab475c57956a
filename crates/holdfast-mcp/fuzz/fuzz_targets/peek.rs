//! The peek, batches, tool hints and splicing, on arbitrary bodies.

#![no_main]

use holdfast_mcp::{
    Kind, Outline, Peek, PeekError, Raw, is_batch, outline, peek, peek_by_serde, splice, split_batch,
    tools::tool_hints,
};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok() && serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

fuzz_target!(|body: &[u8]| {
    // Two ways to one verdict: the scan of ordinary messages, and serde for all.
    assert_eq!(format!("{:?}", peek(body)), format!("{:?}", peek_by_serde(body)));
    check_outline(body);
    match peek(body) {
        Ok(peek) => {
            assert!(is_json(body) && !is_batch(body));
            check_values(body, &peek);
            check_splice(body, &peek);
        }
        Err(error) => {
            assert_eq!(error.is_batch(), is_batch(body) && std::str::from_utf8(body).is_ok());
            assert!(!error.to_string().is_empty());
        }
    }
    check_batch(body);
    for hint in tool_hints(body) {
        assert!(is_json(body), "{hint:?}");
    }
});

/// The outline says what the peek says, and takes what it would refuse only for a member that is there twice.
fn check_outline(body: &[u8]) {
    match (outline(body), peek(body)) {
        (Ok(outline), Err(error)) => {
            assert!(matches!(error, PeekError::DuplicateKey(_)), "{outline:?} {error}");
            assert!(is_json(body));
        }
        (outline, peek) => assert_eq!(outline, peek.map(Outline::from)),
    }
}

/// Every value stands where it says, and is JSON by itself.
fn check_values(body: &[u8], peek: &Peek<'_>) {
    let (params, result) = (&peek.params, &peek.result);
    let ids = [
        peek.id.filter(|id| !id.is_null()),
        params.request_id,
        params.progress_token,
        params.progressed_token,
        params.subscription_id,
        result.subscription_id,
    ];
    let values = [peek.id, params.level, params.request_state, result.request_state];
    for raw in ids.into_iter().chain(values).flatten() {
        assert_eq!(&body[raw.range_in(body)], raw.as_str().as_bytes());
        assert!(is_json(raw.as_str().as_bytes()));
    }
    for id in ids.into_iter().flatten() {
        assert!(id.is_id());
    }
    assert!(params.progress.is_none_or(f64::is_finite));
    match peek.kind {
        Kind::Request => assert!(peek.id.is_some_and(Raw::is_id) && !result.present),
        Kind::Notification => assert!(peek.id.is_none() && !result.present),
        Kind::Response => assert!(peek.method.is_empty() && result.present != peek.is_error),
    }
}

/// A new id changes the id alone; the old one put back gives the same bytes.
fn check_splice(body: &[u8], before: &Peek<'_>) {
    let Some(id) = before.id else { return };
    let range = id.range_in(body);
    let new = "\"spliced\"";
    let spliced = splice(body, &[(range.clone(), new.as_bytes())]);
    let after = peek(&spliced).expect("still a message");
    assert_eq!(after.id.map(Raw::as_str), Some(new));
    assert_eq!((after.kind, &after.method), (before.kind, &before.method));
    assert_eq!(
        format!("{:?}{:?}", after.params, after.result),
        format!("{:?}{:?}", before.params, before.result)
    );
    let back = range.start..range.start + new.len();
    assert_eq!(&splice(&spliced, &[(back, id.as_str().as_bytes())])[..], body);
}

/// The parts are in order and apart, each is JSON, and together they make the same batch.
fn check_batch(body: &[u8]) {
    let Ok(ranges) = split_batch(body) else { return };
    assert!(is_batch(body) && is_json(body) && !ranges.is_empty());
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    let parts: Vec<&[u8]> = ranges.into_iter().map(|range| &body[range]).collect();
    assert!(parts.iter().all(|part| is_json(part) && part.trim_ascii() == *part));
    let joined = [b"[", &parts.join(&b',')[..], b"]"].concat();
    let again: Vec<&[u8]> =
        split_batch(&joined).expect("a batch").into_iter().map(|range| &joined[range]).collect();
    assert_eq!(again, parts);
}
