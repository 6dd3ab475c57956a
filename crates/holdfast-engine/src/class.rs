//! Call classes: what may be done with a call when something fails.
//!
//! A call's class is fixed at its receipt and decides everything later: whether it may be sent
//! again, to another instance, or not at all ([`crate::repeat`]).
//!
//! | class | methods | after it was sent |
//! |---|---|---|
//! | Lifecycle | `initialize`, `ping`, `server/discover`, `notifications/*` | repeated by whoever owns the handshake |
//! | Read | `*/list`, `resources/read`, `prompts/get`, `completion/complete`, `tasks/get`, `tasks/result`, `subscriptions/listen`, `tools/call` of a read-only tool | may be repeated |
//! | Idempotent | `logging/setLevel`, `resources/subscribe`, `resources/unsubscribe`, `tools/call` of an idempotent tool | may be repeated while its client waits |
//! | Write | `tools/call` of any other tool, `tasks/update`, `tasks/cancel`, every other method | never repeated |
//!
//! What is not known is a Write. A tool is known by the operator's configuration, or by its own
//! annotations where the server is trusted with them (they are hints, and a wrong one runs something
//! twice).

use std::collections::BTreeMap;

/// What a call does, weakest first: a batch has the strongest class of its calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum CallClass {
    /// Opens, keeps or ends a conversation; no effect outside it.
    Lifecycle = 0,
    /// No effect.
    Read = 1,
    /// Has an effect; the same one if done twice in a row.
    Idempotent = 2,
    /// May have an effect each time.
    Write = 3,
}

/// What a tool does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ToolClass {
    /// No effect.
    Read,
    /// The same effect if done twice in a row.
    Idempotent,
    /// May have an effect each time.
    Write,
}

/// What is known about one server's tools.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ToolTable {
    trust_annotations: bool,
    overrides: BTreeMap<String, ToolClass>,
    learnt: BTreeMap<String, ToolClass>,
}

/// The class of a call. `tool` is the tool's name for `tools/call`.
#[must_use]
pub fn classify(method: &str, tool: Option<&str>, tools: &ToolTable) -> CallClass {
    match method {
        "initialize" | "ping" | "server/discover" => CallClass::Lifecycle,
        "tools/list"
        | "resources/list"
        | "resources/templates/list"
        | "resources/read"
        | "prompts/list"
        | "prompts/get"
        | "completion/complete"
        | "roots/list"
        | "tasks/get"
        | "tasks/list"
        | "tasks/result"
        | "subscriptions/listen" => CallClass::Read,
        "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {
            CallClass::Idempotent
        }
        "tools/call" => tool.map_or(CallClass::Write, |tool| CallClass::from(tools.class_of(tool))),
        method if method.starts_with("notifications/") => CallClass::Lifecycle,
        _ => CallClass::Write,
    }
}

// === impl CallClass ===

impl CallClass {
    /// The class as a number, for event ids and records.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// The class of that number. What is not known is a Write.
    #[must_use]
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Lifecycle,
            1 => Self::Read,
            2 => Self::Idempotent,
            _ => Self::Write,
        }
    }

    /// The class in words, for logs and errors.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Read => "read",
            Self::Idempotent => "idempotent",
            Self::Write => "write",
        }
    }
}

impl From<ToolClass> for CallClass {
    fn from(class: ToolClass) -> Self {
        match class {
            ToolClass::Read => Self::Read,
            ToolClass::Idempotent => Self::Idempotent,
            ToolClass::Write => Self::Write,
        }
    }
}

// === impl ToolTable ===

impl ToolTable {
    /// A table with what the operator says. Without `trust_annotations` nothing is ever learnt.
    #[must_use]
    pub fn new(trust_annotations: bool, overrides: BTreeMap<String, ToolClass>) -> Self {
        Self { trust_annotations, overrides, learnt: BTreeMap::new() }
    }

    /// Goes on with what the operator says now. What was learnt stays, unless nothing is to be learnt.
    pub fn reconfigure(&mut self, trust_annotations: bool, overrides: BTreeMap<String, ToolClass>) {
        (self.trust_annotations, self.overrides) = (trust_annotations, overrides);
        if !trust_annotations {
            self.learnt.clear();
        }
    }

    /// Takes one tool's annotations in; the latest listing counts.
    pub fn learn(&mut self, name: &str, read_only: bool, idempotent: bool) {
        if !self.trust_annotations {
            return;
        }
        let class = match (read_only, idempotent) {
            (true, _) => ToolClass::Read,
            (false, true) => ToolClass::Idempotent,
            // As good as unknown, and not held, so that a server cannot fill the table with them.
            (false, false) => {
                self.learnt.remove(name);
                return;
            }
        };
        match self.learnt.get_mut(name) {
            Some(known) => *known = class,
            None => {
                if self.learnt.len() < Self::CAPACITY {
                    self.learnt.insert(name.to_owned(), class);
                }
            }
        }
    }

    /// Whether `learn` would change nothing: lets a caller with a shared table avoid a copy.
    #[must_use]
    pub fn knows(&self, name: &str, read_only: bool, idempotent: bool) -> bool {
        let class = match (read_only, idempotent) {
            (true, _) => Some(ToolClass::Read),
            (false, true) => Some(ToolClass::Idempotent),
            (false, false) => None,
        };
        !self.trust_annotations || self.learnt.get(name).copied() == class
    }

    /// Whether anything was said of this tool.
    #[must_use]
    pub fn has(&self, tool: &str) -> bool {
        self.overrides.contains_key(tool) || self.learnt.contains_key(tool)
    }

    /// The tools that were learnt, in the order of their names, and what they do.
    pub fn learnt(&self) -> impl Iterator<Item = (&str, ToolClass)> {
        self.learnt.iter().map(|(name, class)| (name.as_str(), *class))
    }

    /// What a tool does: the operator's word, else what was learnt, else Write.
    #[must_use]
    pub fn class_of(&self, tool: &str) -> ToolClass {
        self.overrides
            .get(tool)
            .or_else(|| self.learnt.get(tool))
            .copied()
            .unwrap_or(ToolClass::Write)
    }

    /// How many tools are learnt at most; those beyond stay Writes.
    pub const CAPACITY: usize = 10_000;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(trust: bool) -> ToolTable {
        let overrides = BTreeMap::from([
            ("configured-read".to_owned(), ToolClass::Read),
            ("configured-write".to_owned(), ToolClass::Write),
        ]);
        let mut tools = ToolTable::new(trust, overrides);
        tools.learn("read", true, false);
        tools.learn("idempotent", false, true);
        tools.learn("both", true, true);
        tools.learn("plain", false, false);
        tools.learn("configured-read", false, false);
        tools.learn("configured-write", true, true);
        tools
    }

    #[test]
    fn every_method_has_its_class() {
        let expected = [
            ("initialize", CallClass::Lifecycle),
            ("ping", CallClass::Lifecycle),
            ("server/discover", CallClass::Lifecycle),
            ("notifications/initialized", CallClass::Lifecycle),
            ("notifications/vendor/thing", CallClass::Lifecycle),
            ("tools/list", CallClass::Read),
            ("resources/list", CallClass::Read),
            ("resources/templates/list", CallClass::Read),
            ("resources/read", CallClass::Read),
            ("prompts/list", CallClass::Read),
            ("prompts/get", CallClass::Read),
            ("completion/complete", CallClass::Read),
            ("roots/list", CallClass::Read),
            ("tasks/get", CallClass::Read),
            ("tasks/list", CallClass::Read),
            ("tasks/result", CallClass::Read),
            ("subscriptions/listen", CallClass::Read),
            ("logging/setLevel", CallClass::Idempotent),
            ("resources/subscribe", CallClass::Idempotent),
            ("resources/unsubscribe", CallClass::Idempotent),
            ("tools/call", CallClass::Write),
            ("tasks/update", CallClass::Write),
            ("tasks/cancel", CallClass::Write),
            ("sampling/createMessage", CallClass::Write),
            ("elicitation/create", CallClass::Write),
            ("vendor/list", CallClass::Write),
            ("Tools/List", CallClass::Write),
            ("tools/list ", CallClass::Write),
            ("notifications", CallClass::Write),
            ("", CallClass::Write),
        ];
        for (method, class) in expected {
            assert_eq!(classify(method, None, &table(true)), class, "{method}");
            // A tool's name counts for tools/call alone.
            if method != "tools/call" {
                assert_eq!(classify(method, Some("read"), &table(true)), class, "{method}");
            }
        }
    }

    #[test]
    fn a_tool_is_what_is_known_of_it() {
        let expected = [
            // tool, where annotations are trusted, where not
            ("read", ToolClass::Read, ToolClass::Write),
            ("idempotent", ToolClass::Idempotent, ToolClass::Write),
            ("both", ToolClass::Read, ToolClass::Write),
            ("plain", ToolClass::Write, ToolClass::Write),
            ("unknown", ToolClass::Write, ToolClass::Write),
            ("Read", ToolClass::Write, ToolClass::Write),
            ("configured-read", ToolClass::Read, ToolClass::Read),
            ("configured-write", ToolClass::Write, ToolClass::Write),
        ];
        for (tool, trusted, untrusted) in expected {
            assert_eq!(table(true).class_of(tool), trusted, "{tool}");
            assert_eq!(table(false).class_of(tool), untrusted, "{tool}");
            assert_eq!(classify("tools/call", Some(tool), &table(true)), trusted.into(), "{tool}");
        }
    }

    #[test]
    fn the_latest_listing_counts() {
        let mut tools = table(true);
        tools.learn("read", false, true);
        assert_eq!(tools.class_of("read"), ToolClass::Idempotent);
        tools.learn("read", false, false);
        assert_eq!(tools.class_of("read"), ToolClass::Write);
    }

    #[test]
    fn the_operators_word_may_change_and_what_was_learnt_is_kept_while_it_is_trusted() {
        let mut tools = table(true);
        let word = BTreeMap::from([("plain".to_owned(), ToolClass::Idempotent)]);
        tools.reconfigure(true, word);
        let class =
            |tools: &ToolTable| ["read", "plain", "configured-read"].map(|it| tools.class_of(it));
        assert_eq!(class(&tools), [ToolClass::Read, ToolClass::Idempotent, ToolClass::Write]);
        tools.reconfigure(false, BTreeMap::new());
        assert_eq!(class(&tools), [ToolClass::Write; 3]);
        tools.reconfigure(true, BTreeMap::new());
        assert_eq!(tools.class_of("read"), ToolClass::Write, "it has to be listed again");
    }

    #[test]
    fn knows_says_whether_learning_would_change_anything() {
        for trust in [true, false] {
            for tool in ["read", "idempotent", "plain", "unknown", "configured-read"] {
                for (read_only, idempotent) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    let before = table(trust);
                    let mut after = before.clone();
                    after.learn(tool, read_only, idempotent);
                    assert_eq!(
                        before.knows(tool, read_only, idempotent),
                        before == after,
                        "{trust} {tool} {read_only} {idempotent}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_server_cannot_make_the_table_grow_without_end() {
        let mut tools = ToolTable::new(true, BTreeMap::new());
        for number in 0..ToolTable::CAPACITY + 10 {
            tools.learn(&number.to_string(), true, false);
        }
        assert_eq!(tools.learnt.len(), ToolTable::CAPACITY);
        let beyond = ToolTable::CAPACITY.to_string();
        assert_eq!(tools.class_of(&beyond), ToolClass::Write);
        // What is known can still change, and what leaves makes room.
        tools.learn("0", false, true);
        assert_eq!(tools.class_of("0"), ToolClass::Idempotent);
        tools.learn("0", false, false);
        tools.learn(&beyond, true, false);
        assert_eq!(tools.class_of(&beyond), ToolClass::Read);
    }

    #[test]
    fn numbers_go_both_ways_and_unknown_ones_are_writes() {
        use CallClass::*;
        assert!([Lifecycle, Read, Idempotent, Write].is_sorted());
        for class in [Lifecycle, Read, Idempotent, Write] {
            assert_eq!(CallClass::from_u8(class.as_u8()), class);
            assert_eq!(class.label(), format!("{class:?}").to_lowercase());
        }
        for number in 4..=255 {
            assert_eq!(CallClass::from_u8(number), Write);
        }
        // A batch is as strong as its strongest call.
        assert_eq!([Read, Write, Lifecycle].into_iter().max(), Some(Write));
    }
}
