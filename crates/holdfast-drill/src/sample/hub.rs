//! Who is told when something changes: modern `subscriptions/listen` streams and legacy sessions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::message::notification;
use super::modern::META_SUBSCRIPTION;
use super::session::Session;
use super::stream::Stream;

/// Something that clients can ask to be told of.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Tools,
    Prompts,
    Resources,
    Updated(String),
}

/// What one `subscriptions/listen` asked for, as far as the server honours it.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Hub {
    listens: Mutex<Vec<Arc<Listen>>>,
    /// Sessions that live as long as a connection; those of the HTTP endpoint are kept elsewhere.
    connected: Mutex<Vec<Arc<Session>>>,
    next: AtomicU64,
}

/// One open `subscriptions/listen`.
#[derive(Debug)]
pub(super) struct Listen {
    number: u64,
    /// The request's id as JSON text.
    id: String,
    filter: Filter,
    stream: Arc<Stream>,
}

/// Removes what it stands for from the hub when it is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    hub: Arc<Hub>,
    what: Registered,
}

#[derive(Debug)]
enum Registered {
    Listen(u64),
    Session(String),
}

// === impl Filter ===

impl Filter {
    /// From `params.notifications`.
    pub(super) fn parse(asked: &Value) -> Self {
        let flag = |name: &str| asked[name].as_bool().unwrap_or(false);
        let uris = asked["resourceSubscriptions"].as_array().into_iter().flatten();
        Self {
            tools: flag("toolsListChanged"),
            prompts: flag("promptsListChanged"),
            resources: flag("resourcesListChanged"),
            uris: uris.filter_map(|uri| uri.as_str().map(str::to_owned)).collect(),
        }
    }

    /// What the acknowledgement says.
    pub(super) fn honoured(&self) -> Value {
        let mut honoured = serde_json::Map::new();
        for (name, wanted) in [
            ("toolsListChanged", self.tools),
            ("promptsListChanged", self.prompts),
            ("resourcesListChanged", self.resources),
        ] {
            if wanted {
                honoured.insert(name.to_owned(), true.into());
            }
        }
        if !self.uris.is_empty() {
            honoured.insert("resourceSubscriptions".to_owned(), json!(self.uris));
        }
        honoured.into()
    }

    fn wants(&self, change: &Change) -> bool {
        match change {
            Change::Tools => self.tools,
            Change::Prompts => self.prompts,
            Change::Resources => self.resources,
            Change::Updated(uri) => self.uris.contains(uri),
        }
    }
}

// === impl Change ===

impl Change {
    pub(super) fn method(&self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources => "notifications/resources/list_changed",
            Self::Updated(_) => "notifications/resources/updated",
        }
    }

    /// The change that a notification announces, if it announces one.
    pub(super) fn parse(method: &str, params: &Value) -> Option<Self> {
        let all = [Self::Tools, Self::Prompts, Self::Resources];
        if let Some(change) = all.into_iter().find(|change| change.method() == method) {
            return Some(change);
        }
        let updated = Self::Updated(params["uri"].as_str()?.to_owned());
        (updated.method() == method).then_some(updated)
    }

    pub(super) fn tell(&self, session: &Session) {
        match self {
            Self::Updated(uri) => session.tell_updated(uri),
            Self::Tools | Self::Prompts | Self::Resources => {
                session.tell(notification(self.method(), &Value::Null));
            }
        }
    }
}

// === impl Hub ===

impl Hub {
    /// Acknowledges on `stream`, then tells it of what `filter` asks for until the registration is
    /// dropped. `id` is the request's id as JSON text.
    pub(super) fn listen(
        self: &Arc<Self>,
        id: &str,
        filter: Filter,
        stream: Arc<Stream>,
    ) -> Registration {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let listen = Arc::new(Listen { number, id: id.to_owned(), filter, stream });
        // Under the lock, so that the acknowledgement comes before any notification.
        let mut listens = lock(&self.listens);
        let acknowledged = json!({ "notifications": listen.filter.honoured() });
        listen.push("notifications/subscriptions/acknowledged", acknowledged);
        listens.push(listen);
        drop(listens);
        Registration { hub: self.clone(), what: Registered::Listen(number) }
    }

    /// Tells a session over a connection of list changes, until the registration is dropped.
    pub(super) fn connect(self: &Arc<Self>, session: Arc<Session>) -> Registration {
        let what = Registered::Session(session.id.clone());
        lock(&self.connected).push(session);
        Registration { hub: self.clone(), what }
    }

    pub(super) fn connected(&self) -> Vec<Arc<Session>> {
        lock(&self.connected).clone()
    }

    /// Tells every listener that asked; returns how many.
    pub(super) fn publish(&self, change: &Change) -> usize {
        let listens = lock(&self.listens);
        let wanting = listens.iter().filter(|listen| listen.filter.wants(change));
        wanting
            .map(|listen| {
                let params = match change {
                    Change::Updated(uri) => json!({ "uri": uri }),
                    Change::Tools | Change::Prompts | Change::Resources => json!({}),
                };
                listen.push(change.method(), params);
            })
            .count()
    }

    /// Ends every listen: with its result, or without a word.
    pub(super) fn end_listens(&self, gracefully: bool) -> usize {
        let listens = std::mem::take(&mut *lock(&self.listens));
        for listen in &listens {
            if gracefully {
                let id = &listen.id;
                let text = format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"{META_SUBSCRIPTION}":{id}}}}}}}"#
                );
                listen.stream.push(text, true);
            }
            listen.stream.end();
        }
        listens.len()
    }

    pub(super) fn report(&self) -> Value {
        let listens = lock(&self.listens);
        listens
            .iter()
            .map(|listen| json!({ "id": listen.id, "notifications": listen.filter.honoured() }))
            .collect()
    }
}

impl Listen {
    /// The id is spliced in as text, so that it keeps its digits.
    fn push(&self, method: &str, params: Value) {
        let mut params = params.to_string();
        let separator = if params == "{}" { "" } else { "," };
        params.truncate(params.len() - 1);
        let id = &self.id;
        self.stream.push(
            format!(
                r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}{separator}"_meta":{{"{META_SUBSCRIPTION}":{id}}}}}}}"#
            ),
            false,
        );
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        match &self.what {
            Registered::Listen(number) => {
                lock(&self.hub.listens).retain(|listen| listen.number != *number);
            }
            Registered::Session(id) => {
                lock(&self.hub.connected).retain(|session| session.id != *id);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_is_told_of_what_it_asked_for_and_nothing_else() {
        let hub = Arc::new(Hub::default());
        let stream = Stream::new(true);
        let asked = json!({ "toolsListChanged": true, "resourceSubscriptions": ["drill://a"] });
        let registration = hub.listen("1.50", Filter::parse(&asked), stream.clone());
        assert_eq!(hub.publish(&Change::Prompts), 0);
        assert_eq!(hub.publish(&Change::Updated("drill://b".to_owned())), 0);
        assert_eq!(hub.publish(&Change::Tools), 1);
        assert_eq!(hub.publish(&Change::Updated("drill://a".to_owned())), 1);
        drop(registration);
        assert_eq!(hub.publish(&Change::Tools), 0);
        stream.end();
        let mut methods = Vec::new();
        while let Some(item) = stream.next(methods.len() as u64).await {
            assert!(item.text.contains(r#""io.modelcontextprotocol/subscriptionId":1.50}"#));
            let message: Value = serde_json::from_str(&item.text).unwrap();
            methods.push(message["method"].as_str().unwrap().to_owned());
            if methods.len() == 1 {
                assert_eq!(message["params"]["notifications"], asked);
            }
        }
        assert_eq!(
            methods,
            [
                "notifications/subscriptions/acknowledged",
                "notifications/tools/list_changed",
                "notifications/resources/updated",
            ]
        );
    }

    #[tokio::test]
    async fn a_graceful_end_carries_the_result() {
        let hub = Arc::new(Hub::default());
        let stream = Stream::new(true);
        let _registration = hub.listen("\"s\"", Filter::default(), stream.clone());
        assert_eq!(hub.end_listens(true), 1);
        let result: Value = serde_json::from_str(&stream.next(1).await.unwrap().text).unwrap();
        assert_eq!(result["id"], "s");
        assert_eq!(result["result"]["resultType"], "complete");
        assert!(stream.next(2).await.is_none());
    }
}
