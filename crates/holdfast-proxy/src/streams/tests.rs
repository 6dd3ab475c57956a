//! Stories about a log and its readers, on a paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_mcp::event_id::{Sealer, StreamKind};
use holdfast_mcp::sse::{Decoder, Event};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Given, LogState, NewLog, Origin, Reader, ReaderOptions, StreamLog, Streams};
use crate::metrics::Metrics;

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(1, [7; 32]))
}

pub(crate) fn log(queue: usize, retain: usize, prime: bool) -> Arc<StreamLog> {
    StreamLog::new(new_log(queue, retain, prime))
}

fn new_log(queue: usize, retain: usize, prime: bool) -> NewLog {
    NewLog {
        id: crate::random::u128(),
        progress: None,
        origin: Origin {
            principal: 1,
            kind: StreamKind::Call,
            request_id: Some("1".into()),
            class: 3,
            instance: 0,
            generation: 1,
            server_session: None,
        },
        sealer: Some(sealer()),
        prime,
        shared: false,
        queue,
        retain,
        cancel_after: None,
        metrics: Metrics::new(&[]),
    }
}

fn options(after: Option<u64>) -> ReaderOptions {
    ReaderOptions {
        after,
        keepalive: Duration::from_secs(15),
        rotate_after: None,
        retry: Duration::from_millis(500),
        in_use: None,
        gauge: Metrics::new(&[]).streams.enter(),
        connection: None,
    }
}

pub(crate) fn reader(log: &Arc<StreamLog>, after: Option<u64>) -> Reader {
    Reader::new(Arc::clone(log), options(after))
}

/// All events until the body ends.
async fn read_all(mut reader: Reader) -> Vec<Event> {
    let mut decoder = Decoder::new(1 << 20);
    let mut events = Vec::new();
    while let Some(Ok(frame)) = reader.frame().await {
        decoder.push(frame.into_data().unwrap());
        while let Ok(Some(event)) = decoder.next() {
            events.push(event);
        }
    }
    events
}

fn texts(events: &[Event]) -> Vec<Bytes> {
    events.iter().filter_map(|event| event.data.clone()).filter(|data| !data.is_empty()).collect()
}

fn seq(event: &Event) -> u64 {
    sealer().open(event.id.as_deref().unwrap()).unwrap().seq
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_gets_what_it_missed_and_nothing_twice() {
    let log = log(1 << 20, 1 << 20, true);
    for text in ["a", "b", "c"] {
        log.append(&Bytes::from(text), None).await;
    }
    log.finish();
    let first = read_all(reader(&log, None)).await;
    assert_eq!(texts(&first), ["a", "b", "c"]);
    assert_eq!(first[0].retry, Some(500), "the first event primes");
    assert_eq!(seq(&first[0]), 0);
    assert_eq!(seq(&first[1]), 1);
    assert_eq!(texts(&read_all(reader(&log, Some(seq(&first[1])))).await), ["b", "c"]);
    assert_eq!(texts(&read_all(reader(&log, Some(3))).await), [""; 0]);
    assert_eq!(texts(&read_all(reader(&log, None)).await), [""; 0], "nothing is undelivered");
}

#[tokio::test(start_paused = true)]
async fn ids_that_other_nodes_may_have_to_open_are_sealed_whole() {
    for (shared, event, whole) in
        [(true, None, true), (false, Some("server-1"), true), (false, None, false)]
    {
        let log = StreamLog::new(NewLog { shared, ..new_log(1 << 20, 1 << 20, false) });
        log.append(&Bytes::from_static(b"a"), event).await;
        log.finish();
        let events = read_all(reader(&log, None)).await;
        assert_eq!(seq(&events[0]), 1);
        assert_eq!(!events[0].id.as_ref().unwrap().contains(&b'.'), whole, "{shared} {event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_reader_takes_over() {
    let log = log(1 << 20, 1 << 20, false);
    let old = tokio::spawn(read_all(reader(&log, None)));
    tokio::task::yield_now().await;
    log.append(&Bytes::from_static(b"a"), None).await;
    tokio::task::yield_now().await;
    let new = tokio::spawn(read_all(reader(&log, None)));
    assert_eq!(texts(&old.await.unwrap()), ["a"], "the older one ends cleanly");
    log.append(&Bytes::from_static(b"b"), None).await;
    log.finish();
    assert_eq!(texts(&new.await.unwrap()), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_room_and_a_deaf_reader_is_cut() {
    let log = log(8, 1 << 20, false);
    let connection = CancellationToken::new();
    let slow = Reader::new(
        Arc::clone(&log),
        ReaderOptions { connection: Some(connection.clone()), ..options(None) },
    );
    log.append(&Bytes::from_static(b"fills the queue"), None).await;
    let writer = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.append(&Bytes::from_static(b"waits"), None).await }
    });
    connection.cancelled().await;
    assert!(!writer.is_finished());
    drop(slow);
    // It comes back, reads, and the writer goes on.
    let back = tokio::spawn(read_all(reader(&log, Some(0))));
    writer.await.unwrap();
    log.finish();
    assert_eq!(texts(&back.await.unwrap()), ["fills the queue", "waits"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_delivered_is_forgotten_beyond_the_budget_and_the_gap_is_told() {
    let log = log(1 << 20, 0, false);
    log.append(&Bytes::from_static(b"a"), None).await;
    log.append(&Bytes::from_static(b"b"), None).await;
    let mut first = reader(&log, None);
    first.frame().await.unwrap().unwrap();
    drop(first);
    log.append(&Bytes::from_static(b"c"), None).await;
    log.finish();
    let back = reader(&log, Some(0));
    assert!(back.gap);
    assert_eq!(texts(&read_all(back).await), ["c"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_the_response_and_the_next_reader_wakes_the_relay() {
    let log = log(1 << 20, 1 << 20, true);
    let relay = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            log.append(&Bytes::from_static(b"a"), Some("server-1")).await;
            log.pause().await;
            log.append(&Bytes::from_static(b"b"), None).await;
            log.finish();
        }
    });
    let first = read_all(reader(&log, None)).await;
    assert_eq!(texts(&first), ["a"]);
    assert_eq!(log.state(), LogState::Paused);
    assert_eq!(log.server_event().as_deref(), Some("server-1"));
    let rest = read_all(reader(&log, Some(seq(first.last().unwrap())))).await;
    relay.await.unwrap();
    assert_eq!(texts(&rest), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_comments_and_rotation_ends_with_a_fresh_id() {
    let log = log(1 << 20, 1 << 20, true);
    let rotating = Reader::new(
        Arc::clone(&log),
        ReaderOptions { rotate_after: Some(Duration::from_secs(40)), ..options(None) },
    );
    let begun = tokio::time::Instant::now();
    let body = rotating.collect().await.unwrap().to_bytes();
    assert_eq!(begun.elapsed(), Duration::from_secs(40));
    let text = String::from_utf8(body.to_vec()).unwrap();
    let blocks: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(blocks.len(), 4, "{text}");
    assert_eq!((blocks[1], blocks[2]), (":", ":"));
    assert!(blocks[0].contains("id: ") && blocks[3].contains("retry: 500"), "{text}");
    assert_ne!(blocks[0], blocks[3], "each id is new");
}

#[tokio::test(start_paused = true)]
async fn only_a_disconnect_cancels_and_only_where_it_may() {
    let modern = || {
        StreamLog::new(NewLog { cancel_after: Some(Duration::ZERO), ..new_log(1 << 20, 0, false) })
    };
    let legacy = log(1 << 20, 0, false);
    drop(reader(&legacy, None));
    assert!(!legacy.cancel.is_cancelled());
    let hung_up = modern();
    drop(reader(&hung_up, None));
    assert!(hung_up.cancel.is_cancelled());
    let ended = modern();
    ended.finish();
    read_all(reader(&ended, None)).await;
    assert!(!ended.cancel.is_cancelled(), "a stream that the gateway ended is no disconnect");
}

/// Whether it has hung up or only takes nothing.
#[tokio::test(start_paused = true)]
async fn a_modern_client_that_is_away_is_given_its_grace_each_time() {
    let second = Duration::from_secs(1);
    let modern = || {
        let cancel_after = Some(second * 5);
        StreamLog::new(NewLog { cancel_after, ..new_log(1, 1 << 20, false) })
    };
    let hung_up = modern();
    drop(reader(&hung_up, None));
    tokio::time::sleep(second * 2).await;
    let back = reader(&hung_up, None);
    tokio::time::sleep(second * 2).await;
    drop(back);
    // The first time would be over.
    tokio::time::sleep(second * 4).await;
    assert!(!hung_up.cancel.is_cancelled());
    tokio::time::sleep(second * 2).await;
    assert!(hung_up.cancel.is_cancelled());

    let (deaf, saved) = (modern(), modern());
    for log in [&deaf, &saved] {
        log.append(&Bytes::from_static(b"fills the queue"), None).await;
        let log = Arc::clone(log);
        tokio::spawn(async move { log.append(&Bytes::from_static(b"waits"), None).await });
    }
    let _takes_nothing = [&deaf, &saved].map(|log| reader(log, None));
    tokio::time::sleep(super::log::STALL + second * 4).await;
    assert!(!deaf.cancel.is_cancelled() && !saved.cancel.is_cancelled());
    let back = tokio::spawn(read_all(reader(&saved, Some(0))));
    tokio::time::sleep(second * 2).await;
    assert!(deaf.cancel.is_cancelled() && !saved.cancel.is_cancelled());
    saved.finish();
    assert_eq!(texts(&back.await.unwrap()), ["fills the queue", "waits"]);
}

#[tokio::test(start_paused = true)]
async fn the_newest_event_is_kept_however_large_it_is() {
    let log = log(1 << 20, 8, false);
    log.append(&Bytes::from_static(b"progress"), None).await;
    let mut first = reader(&log, None);
    first.frame().await.unwrap().unwrap();
    log.append_last(&vec![b'x'; 4096].into(), None);
    log.finish();
    // Handed to the connection, which breaks before the client has it.
    first.frame().await.unwrap().unwrap();
    drop(first);
    let back = reader(&log, Some(1));
    assert!(!back.gap);
    assert_eq!(texts(&read_all(back).await), [vec![b'x'; 4096]]);
}

#[tokio::test(start_paused = true)]
async fn the_last_event_needs_no_room() {
    let log = log(1, 1 << 20, false);
    log.append(&Bytes::from_static(b"fills the queue"), None).await;
    assert!(!log.try_append(&Bytes::from_static(b"no room")));
    log.append_last(&Bytes::from_static(b"answer"), None);
    log.finish();
    assert_eq!(texts(&read_all(reader(&log, None)).await), ["fills the queue", "answer"]);
}

#[tokio::test(start_paused = true)]
async fn a_relay_does_not_wait_for_a_reader_that_cannot_come_back() {
    let log = StreamLog::new(NewLog { sealer: None, ..new_log(1, 1 << 20, false) });
    let only = reader(&log, None);
    log.append(&Bytes::from_static(b"fills the queue"), None).await;
    let writer = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.append(&Bytes::from_static(b"waits"), None).await }
    });
    tokio::task::yield_now().await;
    assert!(!writer.is_finished());
    drop(only);
    writer.await.unwrap();
    log.append(&Bytes::from_static(b"for nobody"), None).await;
    assert_eq!(log.usage().0, 0, "nothing is kept for nobody");
}

#[tokio::test(start_paused = true)]
async fn a_full_stream_that_nobody_reads_is_cancelled_after_its_time() {
    let retain = Duration::from_secs(60);
    let streams = Streams::new();
    let full = log(1, 1 << 20, false);
    let roomy = log(1 << 20, 1 << 20, false);
    let read = log(1, 1 << 20, false);
    for log in [&full, &roomy, &read] {
        streams.insert(log);
        log.append(&Bytes::from_static(b"waits for a reader"), None).await;
    }
    let mut reading = reader(&read, None);
    let stuck = Arc::new(std::sync::Mutex::new(Vec::new()));
    for (log, name) in [(&full, "full"), (&roomy, "roomy"), (&read, "read")] {
        let stuck = Arc::clone(&stuck);
        log.when_stuck(move || stuck.lock().unwrap().push(name));
    }
    let now = std::time::Instant::now();
    streams.sweep(now, retain);
    assert!(stuck.lock().unwrap().is_empty(), "nobody was given time");
    for _ in 0..2 {
        streams.sweep(now + super::log::STALL + Duration::from_secs(1), retain);
        assert_eq!(*stuck.lock().unwrap(), ["full"], "once");
    }
    assert!(!full.cancel.is_cancelled());
    streams.sweep(now + retain + Duration::from_secs(1), retain);
    assert!(full.cancel.is_cancelled());
    assert!(!roomy.cancel.is_cancelled(), "its relay gets on without a reader");
    assert!(!read.cancel.is_cancelled());
    reading.frame().await.unwrap().unwrap();
}

/// As of an HTTP/2 connection, which carries other calls and is not cut for one of them.
#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_loses_its_stream_even_if_its_connection_stays() {
    let log = log(1, 1 << 20, false);
    let mut reading = reader(&log, None);
    log.append(&Bytes::from_static(b"fills the queue"), None).await;
    let writer = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.append(&Bytes::from_static(b"waits"), None).await }
    });
    tokio::time::sleep(super::log::STALL + Duration::from_secs(1)).await;
    assert!(log.stuck_since().is_some(), "whoever waits for room can be given up");
    assert!(reading.frame().await.is_none(), "nothing more for who lost it");
    // Who comes back gets all of it.
    let mut again = reader(&log, None);
    again.frame().await.unwrap().unwrap();
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_priming_id_says_how_far_the_server_was_for_what_the_client_has_seen() {
    let server_event = |event: &Event| {
        sealer().open(event.id.as_deref().unwrap()).unwrap().server_event.map(String::from)
    };
    let log = log(1 << 20, 1 << 20, true);
    for (text, event) in [("a", "s-1"), ("b", "s-2"), ("c", "s-3")] {
        log.append(&Bytes::from(text), Some(event)).await;
    }
    log.finish();
    let primed = |events: &[Event]| server_event(&events[0]);
    assert_eq!(primed(&read_all(reader(&log, Some(0))).await), None);
    assert_eq!(primed(&read_all(reader(&log, Some(1))).await).as_deref(), Some("s-1"));
    assert_eq!(primed(&read_all(reader(&log, Some(3))).await).as_deref(), Some("s-3"));
}

/// Counts how often a task would have been woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A reader as a task polls it.
struct Task {
    reader: Reader,
    woken: Arc<Woken>,
}

impl Task {
    fn new(reader: Reader) -> Self {
        Self { reader, woken: Arc::default() }
    }

    /// What it gives, and in how many messages.
    fn poll(&mut self) -> (Poll<Given>, usize) {
        let mut out = BytesMut::new();
        let waker = Waker::from(Arc::clone(&self.woken));
        let given = self.reader.poll_onto(&mut Context::from_waker(&waker), &mut out);
        (given, out.windows(7).filter(|window| *window == b"data: {").count())
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

/// Appends what it is sent.
fn writer(
    log: &Arc<StreamLog>,
) -> (mpsc::UnboundedSender<Bytes>, impl Future<Output = ()> + use<>) {
    let (send, mut sent) = mpsc::unbounded_channel::<Bytes>();
    let log = Arc::clone(log);
    let writer = async move {
        while let Some(data) = sent.recv().await {
            log.append(&data, None).await;
        }
        log.finish();
    };
    (send, writer)
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_writer_that_a_reader_drives_wakes_its_task_once() {
    let log = log(1 << 20, 1 << 20, true);
    let (send, writer) = writer(&log);
    send.send("{}".into()).unwrap();
    let mut task = Task::new(reader(&log, None).driving(writer));
    assert_eq!(task.poll(), (Poll::Ready(Given::All), 1));
    assert_eq!((task.poll(), task.woken()), ((Poll::Pending, 0), 0));
    for number in 1..=3 {
        send.send("{}".into()).unwrap();
        assert_eq!(task.woken(), number);
        assert_eq!(task.poll(), (Poll::Ready(Given::All), 1));
    }
    drop(send);
    assert_eq!((task.poll(), task.woken()), ((Poll::Ready(Given::End), 0), 4));
}

#[tokio::test(start_paused = true)]
async fn a_writer_goes_on_by_itself_once_its_reader_is_gone() {
    let log = log(1 << 20, 1 << 20, true);
    let (send, writer) = writer(&log);
    let mut task = Task::new(reader(&log, None).driving(writer));
    assert_eq!(task.poll(), (Poll::Ready(Given::All), 0));
    drop(task);
    send.send("{}".into()).unwrap();
    drop(send);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((log.messages_after(None).0.len(), log.state()), (1, LogState::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_reader_whose_place_is_taken_wakes_the_one_that_has_it() {
    let log = log(1 << 20, 1 << 20, true);
    let (send, writer) = writer(&log);
    let mut older = Task::new(reader(&log, None).driving(writer));
    assert_eq!(older.poll(), (Poll::Ready(Given::All), 0));
    let mut newer = Task::new(reader(&log, None));
    assert_eq!((newer.poll(), newer.woken()), ((Poll::Ready(Given::All), 0), 0));
    send.send("{}".into()).unwrap();
    assert_eq!(older.poll(), (Poll::Ready(Given::End), 0));
    assert_eq!((newer.woken(), newer.poll()), (1, (Poll::Ready(Given::All), 1)));
}

#[tokio::test(start_paused = true)]
async fn what_primes_a_client_first_is_a_number_of_the_series_and_no_event_has_it() {
    let log = log(1 << 20, 1 << 20, true);
    log.append(&"{}".into(), None).await;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..2 {
        let mut decoder = Decoder::new(1 << 20);
        let (mut out, mut reader) = (BytesMut::new(), reader(&log, Some(0)));
        let _ = reader.poll_onto(&mut Context::from_waker(Waker::noop()), &mut out);
        decoder.push(out.freeze());
        while let Ok(Some(event)) = decoder.next() {
            let id = event.id.expect("an id");
            let opened = sealer().open(&id).expect("a genuine id");
            let is_prime = event.data.is_none_or(|data| data.is_empty());
            assert_eq!(opened.seq, if is_prime { 0 } else { 1 });
            ids.insert(id);
        }
    }
    // Two that prime, and one event twice.
    assert_eq!(ids.len(), 3);
}
