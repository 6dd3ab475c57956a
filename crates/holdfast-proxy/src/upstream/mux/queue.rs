//! What waits for one caller, bounded.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::CallEvent;

/// One writer (the dispatcher), one reader (the call).
pub(super) struct Queue {
    limit_bytes: usize,
    limit_messages: usize,
    waiting: Mutex<Waiting>,
    /// Something to read, or the end.
    ready: Notify,
    /// Something was read, or the reader left.
    room: Notify,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<CallEvent>,
    bytes: usize,
    /// The last event is in, or was read.
    finished: bool,
    /// The reader has gone.
    left: bool,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Push {
    /// Queued, or of no use any more because the reader has gone or the call is over.
    Done,
    /// No room: here it is again.
    Full(Bytes),
}

impl Queue {
    pub(super) fn new(limit_bytes: usize, limit_messages: usize) -> Self {
        Self {
            limit_bytes,
            limit_messages: limit_messages.max(1),
            waiting: Mutex::default(),
            ready: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Queues a message if there is room. An empty queue has room for any message.
    pub(super) fn push(&self, message: Bytes) -> Push {
        let mut waiting = self.lock();
        if waiting.left || waiting.finished {
            return Push::Done;
        }
        let full = waiting.events.len() >= self.limit_messages
            || waiting.bytes + message.len() > self.limit_bytes;
        if full && !waiting.events.is_empty() {
            return Push::Full(message);
        }
        waiting.bytes += message.len();
        waiting.events.push_back(CallEvent::Message(message));
        drop(waiting);
        self.ready.notify_one();
        Push::Done
    }

    /// Waits until something was read, or the reader left, since the last time.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn room(&self) {
        self.room.notified().await;
    }

    /// Queues the last event; it always has room.
    pub(super) fn finish(&self, event: CallEvent) {
        let mut waiting = self.lock();
        if !waiting.left && !waiting.finished {
            waiting.finished = true;
            waiting.events.push_back(event);
        }
        drop(waiting);
        self.ready.notify_one();
    }

    /// Throws away what waits and ends the call.
    pub(super) fn overflow(&self) {
        {
            let mut waiting = self.lock();
            waiting.events.clear();
            waiting.bytes = 0;
        }
        self.finish(CallEvent::Unread);
    }

    /// The next event; `None` after the last.
    ///
    /// # Cancel safety
    /// Cancel safe: an event that is not returned stays.
    pub(super) async fn next(&self) -> Option<CallEvent> {
        loop {
            {
                let mut waiting = self.lock();
                if let Some(event) = waiting.events.pop_front() {
                    if let CallEvent::Message(message) = &event {
                        waiting.bytes -= message.len();
                    }
                    drop(waiting);
                    self.room.notify_one();
                    return Some(event);
                }
                if waiting.finished {
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }

    /// The reader goes.
    pub(super) fn leave(&self) {
        let mut waiting = self.lock();
        waiting.left = true;
        waiting.events = VecDeque::new();
        waiting.bytes = 0;
        drop(waiting);
        self.room.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn bytes_and_messages_are_bounded_and_reading_makes_room() {
        let queue = Queue::new(4, 10);
        assert_eq!(queue.push(text("ab")), Push::Done);
        assert_eq!(queue.push(text("cd")), Push::Done);
        assert_eq!(queue.push(text("e")), Push::Full(text("e")));
        assert_eq!(queue.next().await, Some(CallEvent::Message(text("ab"))));
        queue.room().await;
        assert_eq!(queue.push(text("e")), Push::Done);

        let queue = Queue::new(100, 1);
        assert_eq!(queue.push(text("a")), Push::Done);
        assert_eq!(queue.push(text("b")), Push::Full(text("b")));
    }

    #[tokio::test]
    async fn a_message_over_the_limit_passes_alone() {
        let queue = Queue::new(2, 10);
        assert_eq!(queue.push(text("large")), Push::Done);
        assert_eq!(queue.push(text("x")), Push::Full(text("x")));
    }

    #[tokio::test]
    async fn the_answer_has_room_and_is_the_last() {
        let queue = Queue::new(1, 1);
        assert_eq!(queue.push(text("a")), Push::Done);
        queue.finish(CallEvent::Response(text("answer")));
        queue.finish(CallEvent::Lost("late".to_owned()));
        assert_eq!(queue.push(text("b")), Push::Done);
        assert_eq!(queue.next().await, Some(CallEvent::Message(text("a"))));
        assert_eq!(queue.next().await, Some(CallEvent::Response(text("answer"))));
        assert_eq!(queue.next().await, None);
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test]
    async fn overflow_ends_the_call_with_nothing_before() {
        let queue = Queue::new(1, 1);
        assert_eq!(queue.push(text("a")), Push::Done);
        queue.overflow();
        assert_eq!(queue.next().await, Some(CallEvent::Unread));
        assert_eq!(queue.next().await, None);
    }
}
