//! What a session keeps of its record: a million of them are held, so it keeps nothing that it knows from
//! elsewhere, and apart what few have. The whole record is made when somebody needs it, which no call does.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_engine::replicated::Origin;
use holdfast_mcp::version::Version;
use holdfast_store::{Announces, Binding, Notice, SessionKey, SessionRecord};

/// The newest record of a session that this node has, without what the session says itself.
#[derive(Debug)]
pub(super) struct Kept {
    initialize: Bytes,
    /// The same as the binding's that is in use, where that is the record's.
    server_session: Option<Arc<str>>,
    instance: u32,
    generation: u32,
    created: u64,
    deadline: Option<u64>,
    pub(super) revision: u64,
    initialized: bool,
    announces: Announces,
    rest: Option<Box<Rest>>,
}

/// What the records of few sessions say.
#[derive(Debug, Default, PartialEq)]
struct Rest {
    log_level: Option<Bytes>,
    subscriptions: BTreeMap<Box<str>, Bytes>,
    node: Option<Origin>,
    notice: Option<Notice>,
    holder: Option<Origin>,
}

impl Kept {
    pub(super) fn of(record: SessionRecord) -> Self {
        // Each field by its name: one that is new has to be kept somewhere.
        let SessionRecord {
            key: _,
            principal: _,
            server: _,
            version: _,
            initialize,
            initialized,
            log_level,
            subscriptions,
            announces,
            binding: Binding { instance, server_session, generation, node },
            notice,
            holder,
            created,
            deadline,
            revision,
        } = record;
        let rest = Rest { log_level, subscriptions, node, notice, holder };
        let rest = (rest != Rest::default()).then(|| Box::new(rest));
        Self {
            initialize,
            server_session,
            instance,
            generation,
            created,
            deadline,
            revision,
            initialized,
            announces,
            rest,
        }
    }

    pub(super) fn notice(&self) -> Option<Notice> {
        self.rest.as_ref()?.notice
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// The whole record. What is not kept: the session's key, its owner's digest, the name of its server, and
    /// what that agreed to speak.
    pub(super) fn record(
        &self,
        key: SessionKey,
        principal: u64,
        server: Arc<str>,
        version: Version,
    ) -> SessionRecord {
        let rest = self.rest.as_deref();
        SessionRecord {
            key,
            principal,
            server,
            version,
            initialize: self.initialize.clone(),
            initialized: self.initialized,
            log_level: rest.and_then(|it| it.log_level.clone()),
            subscriptions: rest.map(|it| it.subscriptions.clone()).unwrap_or_default(),
            announces: self.announces,
            binding: Binding {
                instance: self.instance,
                server_session: self.server_session.clone(),
                generation: self.generation,
                node: rest.and_then(|it| it.node),
            },
            notice: self.notice(),
            holder: rest.and_then(|it| it.holder),
            created: self.created,
            deadline: self.deadline,
            revision: self.revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> SessionRecord {
        SessionRecord {
            key: SessionKey(7),
            principal: 8,
            server: Arc::from("files"),
            version: Version::V2025_06_18,
            initialize: Bytes::from_static(b"{}"),
            initialized: true,
            log_level: None,
            subscriptions: BTreeMap::new(),
            announces: Announces { tools: true, prompts: false, resources: true },
            binding: Binding {
                instance: 3,
                server_session: Some(Arc::from("s-1")),
                generation: 4,
                node: None,
            },
            notice: None,
            holder: None,
            created: 5,
            deadline: Some(6),
            revision: 9,
        }
    }

    fn comes_back(record: &SessionRecord) -> bool {
        let kept = Kept::of(record.clone());
        let SessionRecord { key, principal, server, version, .. } = record.clone();
        kept.record(key, principal, server, version) == *record
    }

    #[test]
    fn a_record_comes_back_whole() {
        let plain = plain();
        assert!(comes_back(&plain));
        assert!(Kept::of(plain.clone()).rest.is_none(), "most records have nothing more");
        let (log_level, origin) =
            (Some(Bytes::from_static(b"1")), Origin { node: 1, generation: 2 });
        let uri = Box::from("file:///a");
        let notice = Notice { from: 3, generation: 4, by_log: true, by_answer: false };
        for record in [
            SessionRecord { log_level, ..plain.clone() },
            SessionRecord {
                subscriptions: BTreeMap::from([(uri, Bytes::from_static(b"2"))]),
                ..plain.clone()
            },
            SessionRecord {
                binding: Binding { node: Some(origin), ..plain.binding.clone() },
                ..plain.clone()
            },
            SessionRecord { notice: Some(notice), ..plain.clone() },
            SessionRecord { holder: Some(origin), ..plain },
        ] {
            assert!(comes_back(&record), "{record:?}");
        }
    }
}
