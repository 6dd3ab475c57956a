//! A mapping with known keys: each is asked for once, and what nobody asked for is reported.
//!
//! The list of known keys is what the readers ask for, so it cannot fall out of step with them.

use std::ops::RangeInclusive;
use std::time::Duration;

use secrecy::SecretString;

use crate::context::{Context, Guard};
use crate::field::{Field, join, quoted};
use crate::nearest::nearest;
use crate::problem::{Place, Problem};
use crate::reserved;
use crate::tree::{Entry, Value};

/// A mapping that is being read. End with [`Section::finish`].
pub(crate) struct Section<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) path: String,
    pub(crate) place: Place,
    entries: &'a [Entry],
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(
        context: &'a Context<'a>,
        path: String,
        place: Place,
        entries: &'a [Entry],
    ) -> Self {
        Self { context, path, place, entries, asked: Vec::new() }
    }

    /// The value of `key`; `None` when it is absent or empty.
    pub(crate) fn field(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.asked.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        if matches!(entry.node.value, Value::Null) {
            return None;
        }
        Some(Field::new(self.context, join(&self.path, key), &entry.node))
    }

    /// The section under `key`; an absent one is empty.
    pub(crate) fn section(&mut self, key: &'static str) -> Self {
        let path = join(&self.path, key);
        let empty = Self::new(self.context, path, self.place.clone(), &[]);
        self.field(key).and_then(|field| field.section()).unwrap_or(empty)
    }

    pub(crate) fn flag(&mut self, key: &'static str, into: &mut bool) {
        set(into, self.field(key).and_then(|field| field.flag()));
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        self.field(key)?.text()
    }

    pub(crate) fn count(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        into: &mut usize,
    ) {
        let count = self.field(key).and_then(|field| field.count(&range));
        set(into, count.and_then(|count| usize::try_from(count).ok()));
    }

    /// A whole number of 32 bits.
    pub(crate) fn number(&mut self, key: &'static str, range: RangeInclusive<u32>, into: &mut u32) {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        let count = self.field(key).and_then(|field| field.count(&range));
        set(into, count.and_then(|count| u32::try_from(count).ok()));
    }

    /// A share: `0.1` or `10%`.
    pub(crate) fn share(&mut self, key: &'static str, range: RangeInclusive<f64>, into: &mut f64) {
        set(into, self.field(key).and_then(|field| field.share(&range)));
    }

    /// Names that the operator chose elsewhere, or that a server gave its tools: 1 to 128
    /// characters each, each once.
    pub(crate) fn names(&mut self, key: &'static str, most: usize, into: &mut Vec<String>) {
        let Some(field) = self.field(key) else { return };
        let Some(items) = field.items() else { return };
        if items.len() > most {
            let allowed = format!("at most {most}");
            field.problem(
                format!("a list of {}", items.len()),
                &allowed,
                "name the ones that matter",
            );
            return;
        }
        for item in &items {
            let Some(name) = item.name() else { continue };
            if into.contains(&name) {
                let found = format!("{} stands here a second time", quoted(&name));
                item.problem(found, "each name once", "remove one of the two");
            } else {
                into.push(name);
            }
        }
    }

    pub(crate) fn size(&mut self, key: &'static str, range: RangeInclusive<u64>, into: &mut usize) {
        let size = self.field(key).and_then(|field| field.size(&range));
        set(into, size.and_then(|size| usize::try_from(size).ok()));
    }

    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        into: &mut Duration,
    ) {
        set(into, self.field(key).and_then(|field| field.duration(&range)));
    }

    /// `requests_per_minute` and `burst`, which belong together.
    pub(crate) fn rate(&mut self, per_minute: &mut Option<u32>, burst: &mut Option<u32>) {
        let range = 1..=1_000_000;
        let read = |field: Field<'a>| field.count(&range).and_then(|n| u32::try_from(n).ok());
        let rate = self.field("requests_per_minute");
        let given = rate.is_some();
        *per_minute = rate.and_then(read);
        let Some(field) = self.field("burst") else { return };
        if !given {
            field.problem(
                "a burst without a rate".into(),
                "burst beside requests_per_minute",
                "add requests_per_minute, or remove burst",
            );
            return;
        }
        *burst = read(field);
    }

    /// A secret of at least `least` characters.
    pub(crate) fn secret(&mut self, key: &'static str, least: usize) -> Option<SecretString> {
        let field = self.field(key)?.hidden();
        field.guard(Guard::Whole);
        let text = field.text()?;
        if text.chars().count() < least {
            field.problem(
                format!("a secret of {} characters (not shown)", text.chars().count()),
                &format!("at least {least} characters"),
                "make a random one: openssl rand -hex 32",
            );
            return None;
        }
        Some(text.into())
    }

    /// Reports what does not fit together at `key`, or at the section where that is a default.
    pub(crate) fn report(&self, key: &str, found: String, allowed: &str, cure: &str) {
        self.context.report(&join(&self.path, key), found, allowed, cure);
    }

    /// Those of `keys` that the file gives a value.
    pub(crate) fn given(&self, keys: &[&'static str]) -> Vec<&'static str> {
        let has = |key: &&str| self.entries.iter().any(|entry| entry.key == **key);
        keys.iter().copied().filter(has).collect()
    }

    /// Whether the file gives `key` a value: nothing after the colon is none.
    pub(crate) fn has(&self, key: &str) -> bool {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.is_some_and(|entry| !matches!(entry.node.value, Value::Null))
    }

    /// Entries that nobody has asked for.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = &'a Entry> {
        let asked = self.asked.clone();
        self.entries.iter().filter(move |entry| !asked.contains(&entry.key.as_str()))
    }

    /// The known key that `word` was probably meant to be.
    pub(crate) fn nearest(&self, word: &str) -> Option<&'static str> {
        nearest(word, &self.asked)
    }

    /// Reports what nobody asked for. At the top, keys that begin with `x-` are free: a place for
    /// anchors.
    pub(crate) fn finish(self) {
        self.finish_but(&[]);
    }

    /// As [`Section::finish`], but lets `tolerated` pass.
    pub(crate) fn finish_but(self, tolerated: &[&str]) {
        for entry in self.unknown() {
            if tolerated.contains(&entry.key.as_str()) {
                continue;
            }
            if self.path.is_empty() && entry.key.starts_with("x-") {
                continue;
            }
            self.context.problem(self.unknown_key(entry));
        }
    }

    fn unknown_key(&self, entry: &Entry) -> Problem {
        let cure = match (reserved::cure(&self.path, &entry.key), self.nearest(&entry.key)) {
            (Some(cure), _) => cure.to_owned(),
            (None, Some(near)) => format!("did you mean {near}?"),
            (None, None) => "remove it, or check where it belongs".to_owned(),
        };
        let mut known = self.asked.clone();
        known.sort_unstable();
        Problem {
            place: entry.key_place.clone(),
            key: join(&self.path, &entry.key),
            found: "there is no such key".into(),
            allowed: known.join(", "),
            cure,
        }
    }
}

fn set<T>(into: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *into = value;
    }
}
