//! What opens, what does not, and what a token shows.

use proptest::prelude::*;

use super::*;

const NONCE: [u8; 24] = [7; 24];

fn sample() -> EventId {
    EventId {
        stream: u128::MAX - 1,
        seq: 3,
        kind: StreamKind::Call,
        request_id: Some("\"a\"".into()),
        class: 3,
        instance: 513,
        generation: 70_000,
        principal: u64::MAX,
        server_session: None,
        server_event: Some("".into()),
        progress: Some(0.5),
    }
}

fn sealer() -> Sealer {
    Sealer::new(1, [1; 32])
}

fn bytes_of(id: &EventId) -> Vec<u8> {
    let mut bytes = Vec::new();
    id.put(&mut bytes);
    bytes
}

#[test]
fn a_token_opens_to_what_was_sealed_and_fits_in_a_header() {
    let token = sealer().seal(&sample(), NONCE);
    assert_eq!(sealer().open(token.as_bytes()), Ok(sample()));
    assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    assert!(token.len() < 180, "{}", token.len());
    assert!(!token.contains(&sealer().seal(&sample(), [8; 24])[34..]), "hides what it says");
}

#[test]
fn two_keys_live_at_once() {
    let old = sealer().seal(&sample(), NONCE);
    let rotated = Sealer::new(2, [2; 32]).with_previous(1, [1; 32]);
    assert_eq!(rotated.open(old.as_bytes()), Ok(sample()));
    let new = rotated.seal(&sample(), NONCE);
    assert_eq!(rotated.open(new.as_bytes()), Ok(sample()));
    assert_eq!(sealer().open(new.as_bytes()), Err(TokenError::UnknownKey));
    // The same id for another key, either way round.
    assert_eq!(Sealer::new(1, [9; 32]).open(old.as_bytes()), Err(TokenError::Forged));
    let same = Sealer::new(1, [9; 32]).with_previous(1, [1; 32]);
    assert_eq!(same.open(old.as_bytes()), Ok(sample()));
}

#[test]
fn a_token_is_good_for_its_purpose_only() {
    let bytes = sealer().seal_bytes(b"request state", b"inner", NONCE);
    let open = |purpose: &[u8], token: &str| sealer().open_bytes(purpose, token.as_bytes());
    assert_eq!(open(b"request state", &bytes), Ok(b"inner".to_vec()));
    assert_eq!(open(b"task", &bytes), Err(TokenError::Forged));
    assert_eq!(open(b"", &bytes), Err(TokenError::Forged));
    assert_eq!(sealer().open(bytes.as_bytes()), Err(TokenError::Forged));
    let event = sealer().seal(&sample(), NONCE);
    assert_eq!(open(b"request state", &event), Err(TokenError::Forged));
    let mut behind = BytesMut::from(&b"behind "[..]);
    sealer().seal_bytes_onto(b"request state", b"inner", NONCE, &mut behind);
    assert_eq!(behind, format!("behind {bytes}"));
    let empty = sealer().seal_bytes(b"", b"", NONCE);
    assert_eq!(open(b"", &empty), Ok(Vec::new()));
}

#[test]
fn nothing_else_opens() {
    let token = sealer().seal(&sample(), NONCE);
    for (text, error) in [
        ("", TokenError::Malformed),
        ("x", TokenError::Malformed),
        ("443", TokenError::Malformed),
        ("a::b_c", TokenError::Malformed),
        (&token[..50], TokenError::Malformed),
        (&format!("{token}="), TokenError::Malformed),
        (&format!(" {token}"), TokenError::Malformed),
    ] {
        assert_eq!(sealer().open(text.as_bytes()), Err(error), "{text}");
    }
    assert!(sealer().open(&token.as_bytes()[..token.len() - 4]).is_err());
    assert!(sealer().open(format!("{token}AAAA").as_bytes()).is_err());
}

#[test]
fn a_token_has_room_for_key_nonce_and_tag_or_is_none() {
    for length in 0..60 {
        let token = URL_SAFE_NO_PAD.encode(vec![0; length]);
        let error = if length < 41 { TokenError::Malformed } else { TokenError::UnknownKey };
        assert_eq!(sealer().open(token.as_bytes()), Err(error), "{length} bytes");
    }
}

#[test]
fn no_altered_token_opens() {
    let token = sealer().seal(&sample(), NONCE).into_bytes();
    for place in 0..token.len() {
        let mut altered = token.clone();
        altered[place] = if altered[place] == b'A' { b'B' } else { b'A' };
        assert!(sealer().open(&altered).is_err(), "byte {place}");
    }
}

#[test]
fn genuine_content_of_another_form_is_told_apart() {
    let mut wrong = vec![bytes_of(&sample()); 6];
    wrong[0].push(0);
    wrong[1].pop();
    wrong[2].clear();
    wrong[3][24] = 9; // kind
    wrong[4][40] = 2; // neither absent nor present
    wrong[5][41..45].fill(0xff); // a length beyond the end
    for content in wrong {
        let token = sealer().seal_bytes(EVENT_ID, &content, NONCE);
        assert_eq!(sealer().open(token.as_bytes()), Err(TokenError::UnknownForm));
    }
}

fn numbered(sealer: &Sealer, nonce: [u8; 24], seq: u64, progress: Option<f64>) -> String {
    let mut token = BytesMut::new();
    sealer.number_onto(&sealer.series(&sample(), nonce), seq, progress, &mut token);
    String::from_utf8(token.into()).unwrap()
}

#[test]
fn a_number_of_a_series_opens_as_the_event_that_it_is_of() {
    for (seq, progress) in [(0, None), (7, Some(0.5)), (u64::MAX, Some(f64::MAX))] {
        let expected = EventId { seq, progress, server_event: None, ..sample() };
        let token = numbered(&sealer(), NONCE, seq, progress);
        assert_eq!(sealer().open(token.as_bytes()), Ok(expected));
    }
}

#[test]
fn no_altered_number_opens_nor_one_of_another_series() {
    let token = numbered(&sealer(), NONCE, 7, Some(0.5)).into_bytes();
    for place in 0..token.len() {
        let mut altered = token.clone();
        altered[place] = if altered[place] == b'A' { b'B' } else { b'A' };
        assert!(sealer().open(&altered).is_err(), "byte {place}");
    }
    let other = numbered(&sealer(), [9; 24], 8, None);
    let own = String::from_utf8(token).unwrap();
    let (base, number) = own.split_once('.').unwrap();
    let (_, foreign) = other.split_once('.').unwrap();
    let open = |token: String| sealer().open(token.as_bytes());
    assert_eq!(open(format!("{base}.{foreign}")), Err(TokenError::Forged));
    assert_eq!(open(format!("{base}.")), Err(TokenError::Malformed));
    assert_eq!(open(format!("{base}.{number}.{number}")), Err(TokenError::Malformed));
    // The common part is no event id, and an event id is no common part.
    assert_eq!(open(base.to_owned()), Err(TokenError::Forged));
    let event = sealer().seal(&sample(), NONCE);
    assert_eq!(open(format!("{event}.{number}")), Err(TokenError::Forged));
}

#[test]
fn a_series_outlives_the_change_of_its_key() {
    let token = numbered(&Sealer::new(4, [4; 32]), NONCE, 7, None);
    let after = Sealer::new(5, [5; 32]).with_previous(4, [4; 32]);
    assert_eq!(after.open(token.as_bytes()).map(|id| id.seq), Ok(7));
    let without = Sealer::new(5, [5; 32]);
    assert_eq!(without.open(token.as_bytes()), Err(TokenError::UnknownKey));
    let forged = Sealer::new(5, [5; 32]).with_previous(4, [6; 32]);
    assert_eq!(forged.open(token.as_bytes()), Err(TokenError::Forged));
}

#[test]
fn a_sealer_does_not_print_its_keys() {
    let text = format!("{:?}", Sealer::new(5, [0x41; 32]).with_previous(4, [0x42; 32]));
    assert!(text.contains('5') && text.contains('4') && !text.contains("65"), "{text}");
}

fn event_id() -> impl Strategy<Value = EventId> {
    let text = || prop::option::of("\\PC{0,40}".prop_map(String::into_boxed_str));
    let progress = || prop::option::of(-1e9..1e9f64);
    (any::<(u128, u64, bool, u8, u16, u32, u64)>(), text(), text(), text(), progress()).prop_map(
        |((stream, seq, call, class, instance, generation, principal), a, b, c, progress)| {
            EventId {
                stream,
                seq,
                kind: if call { StreamKind::Call } else { StreamKind::Standing },
                request_id: a,
                class,
                instance,
                generation,
                principal,
                server_session: b,
                server_event: c,
                progress,
            }
        },
    )
}

proptest! {
    #[test]
    fn opening_undoes_sealing(id in event_id(), nonce in any::<[u8; 24]>(), key in any::<[u8; 32]>()) {
        let sealer = Sealer::new(key[0], key);
        prop_assert_eq!(sealer.open(sealer.seal(&id, nonce).as_bytes()), Ok(id));
    }

    /// One content has one form: what reads as an event id is what that id is written as.
    #[test]
    fn the_form_is_canonical(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Some(id) = EventId::from_bytes(&bytes) {
            prop_assert_eq!(bytes_of(&id), bytes);
        }
    }
}
