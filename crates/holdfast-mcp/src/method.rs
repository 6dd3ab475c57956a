//! The methods that the gateway has a name for.
//!
//! An unknown method is [`Method::Other`] and passes like any other; the type exists for branches
//! and metric labels, which must come from a closed set and never from what a client sent.
//!
//! Spec: the schemas of 2024-11-05 to 2026-07-28 and the Tasks extension (SEP-2663).

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A method of the protocol, any revision.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Method {
            $($(#[$doc])* $variant,)*
            /// Everything else: extensions, future revisions, nonsense.
            Other,
        }

        impl Method {
            /// Every method, in the order of [`Method::index`].
            pub const ALL: &[Self] = &[$(Self::$variant,)* Self::Other];

            /// The method of that exact name. Names are case-sensitive.
            #[must_use]
            pub fn parse(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    _ => Self::Other,
                }
            }

            /// The method's name on the wire, `other` for [`Method::Other`].
            #[must_use]
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other => "other",
                }
            }

            /// The method's place in [`Method::ALL`]: an index for tables of counters.
            #[must_use]
            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}

methods! {
    /// Legacy handshake.
    Initialize => "initialize",
    /// Legacy, either direction.
    Ping => "ping",
    /// Modern: what the server is and speaks.
    Discover => "server/discover",
    /// One page of tools.
    ToolsList => "tools/list",
    /// Runs a tool.
    ToolsCall => "tools/call",
    /// One page of resources.
    ResourcesList => "resources/list",
    /// One page of resource templates.
    ResourcesTemplatesList => "resources/templates/list",
    /// Reads a resource.
    ResourcesRead => "resources/read",
    /// Legacy: updates of one resource.
    ResourcesSubscribe => "resources/subscribe",
    /// Legacy: no more of them.
    ResourcesUnsubscribe => "resources/unsubscribe",
    /// One page of prompts.
    PromptsList => "prompts/list",
    /// Renders a prompt.
    PromptsGet => "prompts/get",
    /// Suggests an argument's value.
    CompletionComplete => "completion/complete",
    /// Legacy: the session's log level.
    LoggingSetLevel => "logging/setLevel",
    /// Modern: a stream of what changes.
    SubscriptionsListen => "subscriptions/listen",
    /// A task's state, in both forms of tasks.
    TasksGet => "tasks/get",
    /// Answers a task's questions.
    TasksUpdate => "tasks/update",
    /// Stops a task.
    TasksCancel => "tasks/cancel",
    /// 2025-11-25's experimental tasks only.
    TasksList => "tasks/list",
    /// 2025-11-25's experimental tasks only; waits for the end.
    TasksResult => "tasks/result",
    /// Legacy: the handshake's third step.
    Initialized => "notifications/initialized",
    /// A request is no longer wanted.
    Cancelled => "notifications/cancelled",
    /// How far a request is.
    Progress => "notifications/progress",
    /// Legacy: the client's roots are others now.
    RootsListChanged => "notifications/roots/list_changed",
    /// Server to client.
    SamplingCreateMessage => "sampling/createMessage",
    /// Server to client.
    ElicitationCreate => "elicitation/create",
    /// Server to client.
    RootsList => "roots/list",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_go_both_ways() {
        for (place, method) in Method::ALL.iter().enumerate() {
            assert_eq!(method.index(), place);
            assert_eq!(Method::parse(method.label()), *method);
        }
        assert_eq!(Method::ALL.last(), Some(&Method::Other));
        assert_eq!(Method::ALL.len(), Method::Other.index() + 1);
    }

    #[test]
    fn what_is_not_exactly_a_method_is_other() {
        for name in ["", "TOOLS/CALL", "tools/call ", "tools/call/x", "notifications/message", "x"]
        {
            assert_eq!(Method::parse(name), Method::Other, "{name}");
        }
    }
}
