//! The calls in flight.
//!
//! Each has a number, rising in the order of their start; in Shared mode that number is its id and its
//! progress token on the wire.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use thiserror::Error;

use super::Sharing;
use super::queue::Queue;

/// Abandoned calls remembered (Private), so that an answer that comes late is not taken for that of
/// a new call with the same id. Servers answer in the end; this is for those that do not.
const ABANDONED: usize = 1024;

pub(super) struct Table {
    sharing: Sharing,
    calls: BTreeMap<u64, Pending>,
    /// Private: the client's ids and progress tokens.
    ids: HashMap<Box<str>, u64>,
    tokens: HashMap<Box<str>, u64>,
    abandoned: usize,
    last: u64,
    /// The connection ended: no call starts any more.
    closed: Option<String>,
}

/// A call in flight, with the client's own JSON texts.
pub(super) struct Pending {
    pub(super) id: Box<str>,
    pub(super) token: Option<Box<str>>,
    pub(super) stream_ok: bool,
    log_level: bool,
    pub(super) queue: Arc<Queue>,
    /// Private: its caller has gone.
    abandoned: bool,
}

/// A call that is about to start.
pub(super) struct New<'a> {
    pub(super) id: &'a str,
    pub(super) token: Option<&'a str>,
    pub(super) stream_ok: bool,
    pub(super) log_level: bool,
    pub(super) queue: Arc<Queue>,
}

/// Why a call cannot start.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Refusal {
    #[error("the connection is closed: {0}")]
    Closed(String),
    #[error("a call with the id {0} is in flight already")]
    Duplicate(Box<str>),
}

impl Table {
    pub(super) fn new(sharing: Sharing) -> Self {
        Self {
            sharing,
            calls: BTreeMap::new(),
            ids: HashMap::new(),
            tokens: HashMap::new(),
            abandoned: 0,
            last: 0,
            closed: None,
        }
    }

    pub(super) fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// Calls that somebody waits for.
    pub(super) fn len(&self) -> usize {
        self.calls.len() - self.abandoned
    }

    pub(super) fn insert(&mut self, new: New<'_>) -> Result<u64, Refusal> {
        if let Some(reason) = &self.closed {
            return Err(Refusal::Closed(reason.clone()));
        }
        let number = self.last + 1;
        if self.sharing == Sharing::Private {
            let id = key(new.id);
            if self.ids.contains_key(&*id) {
                return Err(Refusal::Duplicate(new.id.into()));
            }
            self.ids.insert(id.into(), number);
            if let Some(token) = new.token {
                self.tokens.insert(key(token).into(), number);
            }
        }
        self.last = number;
        self.calls.insert(
            number,
            Pending {
                id: new.id.into(),
                token: new.token.map(Into::into),
                stream_ok: new.stream_ok,
                log_level: new.log_level,
                queue: new.queue,
                abandoned: false,
            },
        );
        Ok(number)
    }

    /// The call of a response's id.
    pub(super) fn by_id(&self, id: &str) -> Option<u64> {
        let id = key(id);
        match self.sharing {
            Sharing::Private => self.ids.get(&*id).copied(),
            Sharing::Shared => ours(&id),
        }
    }

    /// The call of a progress token.
    pub(super) fn by_token(&self, token: &str) -> Option<u64> {
        let token = key(token);
        match self.sharing {
            Sharing::Private => self.tokens.get(&*token).copied(),
            Sharing::Shared => ours(&token),
        }
    }

    /// A call that somebody waits for.
    pub(super) fn get(&self, number: u64) -> Option<&Pending> {
        self.calls.get(&number).filter(|pending| !pending.abandoned)
    }

    /// The call that was started last among those that somebody waits for.
    pub(super) fn newest(&self) -> Option<(u64, &Pending)> {
        let mut calls = self.calls.iter().rev();
        calls.find(|(_, pending)| !pending.abandoned).map(|(number, pending)| (*number, pending))
    }

    /// The calls that asked for log messages.
    pub(super) fn with_log_level(&self) -> Vec<(u64, &Pending)> {
        let asked = self.calls.iter().filter(|(_, pending)| pending.log_level);
        asked.map(|(number, pending)| (*number, pending)).collect()
    }

    /// Takes a call out. `None` when it is unknown, or when nobody waits for it (it is out all the same).
    pub(super) fn remove(&mut self, number: u64) -> Option<Pending> {
        let pending = self.calls.remove(&number)?;
        if self.sharing == Sharing::Private {
            self.ids.remove(&*key(&pending.id));
            if let Some(token) = &pending.token {
                let token = key(token);
                // A later call may have taken the same token.
                if self.tokens.get(&*token) == Some(&number) {
                    self.tokens.remove(&*token);
                }
            }
            self.abandoned -= usize::from(pending.abandoned);
        }
        (!pending.abandoned).then_some(pending)
    }

    /// The caller has gone. Gives the id with which to cancel at the server, if that is to be done.
    pub(super) fn abandon(&mut self, number: u64) -> Option<String> {
        match self.sharing {
            Sharing::Shared => {
                self.calls.remove(&number)?;
                Some(number.to_string())
            }
            Sharing::Private => {
                let pending = self.calls.get_mut(&number)?;
                if !std::mem::replace(&mut pending.abandoned, true) {
                    self.abandoned += 1;
                }
                if self.abandoned > ABANDONED {
                    let oldest = self.calls.iter().find(|(_, pending)| pending.abandoned);
                    if let Some(oldest) = oldest.map(|(number, _)| *number) {
                        self.remove(oldest);
                    }
                }
                None
            }
        }
    }

    /// Ends everything: the queues of the calls that somebody waits for.
    pub(super) fn close(&mut self, reason: &str) -> Vec<Arc<Queue>> {
        self.closed = Some(reason.to_owned());
        self.ids.clear();
        self.tokens.clear();
        self.abandoned = 0;
        let calls = std::mem::take(&mut self.calls);
        calls
            .into_values()
            .filter(|pending| !pending.abandoned)
            .map(|pending| pending.queue)
            .collect()
    }
}

/// Our number, as number or as the text that some servers make of it.
fn ours(id: &str) -> Option<u64> {
    id.trim_matches('"').parse().ok()
}

/// Two JSON texts of the same id or token have the same key: a server that parses and prints again may
/// write `"A"` for `"\u0041"` and `1` for `1.0`.
fn key(raw: &str) -> Cow<'_, str> {
    if raw.starts_with('"') {
        if !raw.contains('\\') {
            return Cow::Borrowed(raw);
        }
        // One that is no Rust string (a lone surrogate) stays as it is written.
        let Ok(text) = serde_json::from_str::<String>(raw) else {
            return Cow::Borrowed(raw);
        };
        return serde_json::to_string(&text).map_or(Cow::Borrowed(raw), Cow::Owned);
    }
    if !raw.contains(['.', 'e', 'E']) {
        return Cow::Borrowed(if raw == "-0" { "0" } else { raw });
    }
    match raw.parse::<f64>() {
        // Above this a double does not hold every integer, so two ids could become one.
        Ok(number) if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 => {
            Cow::Owned(format!("{}", number + 0.0))
        }
        _ => Cow::Borrowed(raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(id: &'static str) -> New<'static> {
        New {
            id,
            token: Some("1"),
            stream_ok: true,
            log_level: false,
            queue: Arc::new(Queue::new(10, 10)),
        }
    }

    #[test]
    fn the_same_value_written_otherwise_is_the_same_id() {
        for (one, other) in [
            (r#""\u0041b""#, r#""Ab""#),
            (r#""a\/b""#, r#""a/b""#),
            ("1", "1.0"),
            ("100", "1e2"),
            ("0", "-0"),
            ("0", "-0.0"),
            (r#""\ud800""#, r#""\ud800""#),
        ] {
            assert_eq!(key(one), key(other), "{one} {other}");
        }
    }

    #[test]
    fn a_number_and_its_text_are_two_ids() {
        assert_ne!(key("1"), key("\"1\""));
        assert_ne!(key("9007199254740993.0"), key("9007199254740992.0"));
        assert_ne!(key(r#""a\"b""#), key(r#""ab""#));
    }

    #[test]
    fn an_id_in_flight_is_refused_even_when_abandoned() {
        let mut table = Table::new(Sharing::Private);
        let number = table.insert(new("7")).expect("the first");
        assert_eq!(table.insert(new("7.0")), Err(Refusal::Duplicate("7.0".into())));
        assert_eq!(table.abandon(number), None);
        assert_eq!(table.len(), 0);
        assert_eq!(table.insert(new("7")), Err(Refusal::Duplicate("7".into())));
        assert!(table.remove(number).is_none(), "nobody waits for it");
        assert!(table.insert(new("7")).is_ok());
    }

    #[test]
    fn abandoned_calls_are_forgotten_in_the_end() {
        let mut table = Table::new(Sharing::Private);
        let first = table.insert(new("\"first\"")).expect("the first");
        table.abandon(first);
        for id in 0..ABANDONED {
            let id: &'static str = Box::leak(id.to_string().into_boxed_str());
            let number = table.insert(new(id)).expect("another");
            table.abandon(number);
        }
        assert_eq!(table.calls.len(), ABANDONED);
        assert!(table.insert(new("\"first\"")).is_ok());
    }

    #[test]
    fn a_token_taken_again_stays_with_the_later_call() {
        let mut table = Table::new(Sharing::Private);
        let first = table.insert(new("1")).expect("the first");
        let second = table.insert(new("2")).expect("the second");
        assert_eq!(table.by_token("1"), Some(second));
        table.remove(first);
        assert_eq!(table.by_token("1"), Some(second));
    }

    #[test]
    fn shared_calls_may_have_the_same_id() {
        let mut table = Table::new(Sharing::Shared);
        let one = table.insert(new("1")).expect("one");
        let two = table.insert(new("1")).expect("two");
        assert_eq!((table.by_id("1"), table.by_id("\"2\"")), (Some(one), Some(two)));
        assert_eq!(table.abandon(two), Some("2".to_owned()));
        assert_eq!(table.abandon(one), Some("1".to_owned()));
        assert_eq!(table.abandon(one), None);
    }

    #[test]
    fn nothing_starts_after_the_end() {
        let mut table = Table::new(Sharing::Shared);
        table.insert(new("1")).expect("one");
        assert_eq!(table.close("gone").len(), 1);
        assert_eq!(table.insert(new("2")), Err(Refusal::Closed("gone".to_owned())));
    }
}
