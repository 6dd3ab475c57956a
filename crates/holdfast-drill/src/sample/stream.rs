//! A queue of messages to one client, with positions: what event streams and connections are fed from.
//!
//! A call writes to a stream without knowing who reads it, when, or from where: a response body, the
//! GET that resumes it, a WebSocket. Where streams are resumable, messages stay after they were read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Of messages that stay after they were read, the newest so many stay.
const MAX_RETAINED: usize = 10_000;

/// One message, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// 1 for the first message of the stream.
    pub(super) position: u64,
    pub(super) text: Arc<str>,
    /// Is it the response to a request of this stream?
    pub(super) last: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// Unique in this process and unlikely to be met again in the next.
    pub(super) id: String,
    retain: bool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    pushed: u64,
    writers: usize,
    ended: bool,
}

/// A part in writing a stream; the stream ends when the last one is dropped, however it is dropped.
#[derive(Debug)]
pub(super) struct StreamWriter(Arc<Stream>);

// === impl Stream ===

impl Stream {
    /// With `retain`, what was read can be read again.
    pub(super) fn new(retain: bool) -> Arc<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
        Arc::new(Self { id, retain, state: Mutex::default(), changed: Notify::new() })
    }

    /// Adds a message; after the end it is dropped.
    pub(super) fn push(&self, text: impl Into<Arc<str>>, last: bool) {
        let mut state = self.lock();
        if !state.ended {
            state.pushed += 1;
            let item = Item { position: state.pushed, text: text.into(), last };
            state.items.push_back(item);
            if self.retain && state.items.len() > MAX_RETAINED {
                state.items.pop_front();
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_waiters();
    }

    pub(super) fn writer(self: &Arc<Self>) -> StreamWriter {
        self.lock().writers += 1;
        StreamWriter(self.clone())
    }

    /// The first message after `position`, once there is one; `None` when the stream has ended before.
    ///
    /// # Cancel safety
    /// A message counts as read when it is returned, so nothing is lost by dropping the future.
    pub(super) async fn next(&self, position: u64) -> Option<Item> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that a push in between is not missed.
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                let at = state.items.partition_point(|item| item.position <= position);
                if let Some(item) = state.items.get(at).cloned() {
                    if !self.retain {
                        state.items.drain(..=at);
                    }
                    return Some(item);
                }
                if state.ended {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Waits until the stream has ended or a message is there that is not a response. True in the
    /// first case. Reads nothing.
    pub(super) async fn settles_without_messages(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                if state.items.iter().any(|item| !item.last) {
                    return false;
                }
                if state.ended {
                    return true;
                }
            }
            changed.await;
        }
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().ended {
                return;
            }
            changed.await;
        }
    }

    /// The responses that are there.
    pub(super) fn responses(&self) -> Vec<Arc<str>> {
        let state = self.lock();
        state.items.iter().filter(|item| item.last).map(|item| item.text.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        let last = {
            let mut state = self.0.lock();
            state.writers -= 1;
            state.writers == 0
        };
        if last {
            self.0.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_retained_stream_can_be_read_again_from_anywhere() {
        let stream = Stream::new(true);
        for text in ["a", "b", "c"] {
            stream.push(text, text == "c");
        }
        stream.end();
        stream.push("late", false);
        for start in [0, 1, 2] {
            let mut position = start;
            while let Some(item) = stream.next(position).await {
                assert_eq!(item.position, position + 1);
                position = item.position;
            }
            assert_eq!(position, 3, "what comes after the end is dropped");
        }
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_last_writer() {
        let stream = Stream::new(false);
        let (first, second) = (stream.writer(), stream.writer());
        drop(first);
        stream.push("x", true);
        assert_eq!(&*stream.next(0).await.unwrap().text, "x");
        let reader = tokio::spawn({
            let stream = stream.clone();
            async move { stream.next(1).await.is_none() }
        });
        drop(second);
        assert!(reader.await.unwrap());
    }

    #[tokio::test]
    async fn it_is_known_whether_anything_comes_before_the_response() {
        let quiet = Stream::new(false);
        quiet.push("response", true);
        quiet.end();
        assert!(quiet.settles_without_messages().await);
        let loud = Stream::new(false);
        loud.push("progress", false);
        assert!(!loud.settles_without_messages().await);
    }
}
