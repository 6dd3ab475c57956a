//! Sealed tokens: only what was sealed opens, and it opens to itself.

#![no_main]

use holdfast_mcp::event_id::{Sealer, TokenError};
use libfuzzer_sys::fuzz_target;

const NONCE: [u8; 24] = [3; 24];
/// The purpose of event ids, which lets this target put any content into a genuine token.
const EVENT_ID: &[u8] = b"holdfast event id 2";

fuzz_target!(|data: &[u8]| {
    let sealer = Sealer::new(7, [7; 32]).with_previous(6, [6; 32]);

    // As a token from outside.
    assert!(sealer.open(data).is_err() && sealer.open_bytes(b"x", data).is_err());

    // As the content of a genuine one: what reads as an event id is written the same way.
    let token = sealer.seal_bytes(EVENT_ID, data, NONCE);
    match sealer.open(token.as_bytes()) {
        Ok(id) => assert_eq!(sealer.seal(&id, NONCE), token),
        Err(error) => assert_eq!(error, TokenError::UnknownForm),
    }
    assert_eq!(sealer.open_bytes(EVENT_ID, token.as_bytes()).as_deref(), Ok(data));

    // As a change to it: any other text does not open.
    let mut altered = token.clone().into_bytes();
    for (place, byte) in data.chunks_exact(2).map(|pair| (usize::from(pair[0]), pair[1])) {
        let place = place % altered.len();
        altered[place] ^= byte;
    }
    assert_eq!(sealer.open_bytes(EVENT_ID, &altered).is_ok(), altered == token.as_bytes());

    // For another purpose, or under other keys, nothing opens.
    assert!(sealer.open_bytes(data, token.as_bytes()).is_err() || data == EVENT_ID);
    assert!(Sealer::new(7, [8; 32]).open(token.as_bytes()).is_err());
});
