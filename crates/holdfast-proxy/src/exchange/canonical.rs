//! What a JSON value is known by, so that two are taken for one only where every server reads the same in them.
//!
//! The order of members, spaces and escapes say nothing. Numbers are compared as they are written: what 2^64 and
//! one more are worth, or the twentieth digit, depends on who reads them. A name that is given twice counts twice,
//! since one reader takes the first and another the last.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// The members of an object, in their order.
pub(super) struct Members<'a>(Vec<(String, &'a RawValue)>);

/// What is nested deeper is known by its text.
const DEEPEST: u32 = 32;

// === impl Members ===

impl<'a> Members<'a> {
    /// Those of an object; none of anything else.
    pub(super) fn of(text: &'a str) -> Self {
        serde_json::from_str(text).unwrap_or(Self(Vec::new()))
    }

    /// All that have one of these names.
    pub(super) fn named(self, names: &[&str]) -> Self {
        self.filtered(|name| names.contains(&name))
    }

    /// All that have none of these.
    pub(super) fn beside(self, names: &[&str]) -> Self {
        self.filtered(|name| !names.contains(&name))
    }

    fn filtered(mut self, stays: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|(name, _)| stays(name));
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their texts.
    pub(super) fn texts(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(|(_, value)| value.get())
    }

    /// Adds what they are known by.
    pub(super) fn add_to(self, hash: &mut Sha256) {
        self.add(hash, 0);
    }

    fn add(mut self, hash: &mut Sha256, depth: u32) {
        // What is named twice stays in its order.
        self.0.sort_by(|(one, _), (other, _)| one.cmp(other));
        count(hash, b'{', self.0.len());
        for (name, value) in self.0 {
            part(hash, b'n', name.as_bytes());
            add(hash, value.get(), depth + 1);
        }
    }
}

fn add(hash: &mut Sha256, text: &str, depth: u32) {
    let text = text.trim_ascii();
    match text.as_bytes() {
        [b'{', ..] if depth < DEEPEST => return Members::of(text).add(hash, depth),
        [b'[', ..] if depth < DEEPEST => {
            if let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(text) {
                count(hash, b'[', elements.len());
                return elements.iter().for_each(|element| add(hash, element.get(), depth + 1));
            }
        }
        [b'"', ..] => {
            if let Ok(string) = serde_json::from_str::<String>(text) {
                return part(hash, b'"', string.as_bytes());
            }
        }
        _ => {}
    }
    part(hash, b'=', text.as_bytes());
}

fn part(hash: &mut Sha256, kind: u8, bytes: &[u8]) {
    count(hash, kind, bytes.len());
    hash.update(bytes);
}

fn count(hash: &mut Sha256, kind: u8, count: usize) {
    hash.update([kind]);
    hash.update((count as u64).to_be_bytes());
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Each).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known_by(text: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        add(&mut hash, text, 0);
        hash.finalize().into()
    }

    #[test]
    fn what_every_server_reads_alike_is_alike() {
        for (one, other) in [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true , null ],\n \"a\" : 1 }"),
            (r#"{"\u0061":"\u00e9"}"#, r#"{"a":"é"}"#),
            (r#"{"a":{"x":1,"y":{}}}"#, r#"{"a":{"y":{ },"x":1}}"#),
        ] {
            assert_eq!(known_by(one), known_by(other), "{one} {other}");
        }
    }

    #[test]
    fn what_one_server_may_read_differently_is_different() {
        let texts = [
            "18446744073709551616",
            "18446744073709551617",
            "1",
            "1.0",
            "0.12345678901234567890",
            "0.12345678901234567891",
            "1e400",
            "1e401",
            r#""1""#,
            r#"["1"]"#,
            r#"[["1"]]"#,
            r#"["1","1"]"#,
            r#"{"1":1}"#,
            r#"{"1":1,"1":2}"#,
            r#"{"1":2,"1":1}"#,
            r#"{"1":2}"#,
            "{}",
            "[]",
            "null",
            r#""""#,
        ];
        let different: std::collections::BTreeSet<_> =
            texts.iter().map(|it| known_by(it)).collect();
        assert_eq!(different.len(), texts.len());
        // However deep.
        let deep = |number: u32| format!("{}{number}{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(known_by(&deep(1)), known_by(&deep(1)));
        assert_ne!(known_by(&deep(1)), known_by(&deep(2)));
    }
}
