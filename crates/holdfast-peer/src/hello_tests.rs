//! The parser of the first message: round trips, and a seeded storm of broken ones.

use super::*;

const CHANNEL: [u8; 32] = [3; 32];

fn secret() -> Secret {
    Secret::new(&"current".into(), Some(&"previous".into()))
}

fn written(lane: Lane, name: &str, to: NodeId) -> Vec<u8> {
    let from = Caller { node: 7, name: fitting(name) };
    write(&secret(), &CHANNEL, Role::Dialler, lane, &from, to)
}

#[test]
fn what_is_written_is_read() {
    for (lane, name, to) in [
        (Lane::Control, "a", 0),
        (Lane::Data, "ein Knoten: ä", u64::MAX),
        (Lane::Data, &"n".repeat(255), 9),
    ] {
        let bytes = written(lane, name, to);
        let (first, rest) = bytes.split_first_chunk().unwrap();
        assert_eq!(length(*first), Ok(rest.len()));
        let hello = Hello::parse(rest).unwrap();
        assert_eq!((hello.lane, hello.from.node, hello.to), (lane, 7, to));
        assert_eq!(&*hello.from.name, name);
        assert_eq!(hello.role, Role::Dialler);
        assert!(hello.is_proven(&secret(), &CHANNEL));
        assert!(!hello.is_proven(&secret(), &[4; 32]));
    }
}

#[test]
fn names_are_made_to_fit() {
    assert_eq!(&*fitting(""), "?");
    assert_eq!(&*fitting("a\nb"), "a?b");
    assert_eq!(fitting(&"ä".repeat(200)).len(), 254);
}

#[test]
fn a_length_beyond_the_longest_message_is_refused() {
    assert_eq!(length([0, 1]), Ok(1));
    assert!(length([0xff, 0xff]).is_err());
    assert!(length(u16::try_from(LONGEST + 1).unwrap().to_be_bytes()).is_err());
}

/// Every single changed, missing or added byte: not read, or not proven.
#[test]
fn no_changed_byte_goes_unnoticed() {
    let bytes = written(Lane::Data, "node-a", 5);
    let message = &bytes[2..];
    // With two proofs, a change in one leaves the other right: the change is harmless.
    let signed = message.len() - 2 * PROOF - 1;
    for at in 0..message.len() {
        for bit in 0..8 {
            let mut changed = message.to_vec();
            changed[at] ^= 1 << bit;
            let accepted =
                Hello::parse(&changed).is_ok_and(|hello| hello.is_proven(&secret(), &CHANNEL));
            assert_eq!(accepted, at > signed, "byte {at}, bit {bit}");
        }
        assert!(Hello::parse(&message[..at]).is_err(), "cut at {at}");
    }
    assert!(Hello::parse(&[message, &[0]].concat()).is_err());
}

/// Random bytes and random edits of a real message: never a panic, never proven.
#[test]
fn a_storm_of_garbage_proves_nothing() {
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        chance
    };
    let secret = secret();
    let (mut parsed, mut refused) = (0, 0);
    for round in 0..20_000_u64 {
        let mut bytes = written(Lane::Control, "node", next())[2..].to_vec();
        if round % 2 == 0 {
            bytes.truncate(usize::try_from(next() % 400).unwrap());
            bytes.fill_with(|| next().to_le_bytes()[0]);
        } else {
            for _ in 0..=next() % 4 {
                let at = usize::try_from(next()).unwrap_or(0) % (bytes.len() - 2 * PROOF - 1);
                bytes[at] = bytes[at].wrapping_add(1 + next().to_le_bytes()[0] % 255);
            }
        }
        match Hello::parse(&bytes) {
            // Edits can cancel each other out; what was really said is then the original.
            Ok(hello) => {
                parsed += 1;
                let same =
                    hello.said == written(Lane::Control, "node", hello.to)[2..][..hello.said.len()];
                assert!(same || !hello.is_proven(&secret, &CHANNEL), "round {round}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(parsed > 1_000 && refused > 1_000, "{parsed} parsed, {refused} refused");
}
