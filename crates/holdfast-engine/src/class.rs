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
