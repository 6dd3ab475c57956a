//! What an operator's webhook hears of a failover, across coordinators. On the real clock: there is a
//! real connection.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_engine::replicated::ServerHappened;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::world::{Kill, World};
use super::{PAIR, SECONDS, well};
use crate::operate::{Force, Operated as _, Order};
use crate::plane::Lost;
use crate::shared::lock;

/// What a receiver got.
type Got = Arc<Mutex<Vec<serde_json::Value>>>;

/// Takes whatever comes, and refuses the first of it.
async fn receiver() -> (String, Got) {
    receiver_that(|refused| Some(if refused { "200 OK" } else { "503 Busy" })).await
}

/// Answers by what it is told to: whether it was asked before; and with none, not at all.
async fn receiver_that(
    answers: impl Fn(bool) -> Option<&'static str> + Send + 'static,
) -> (String, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let got = Got::default();
    let taken = Arc::clone(&got);
    tokio::spawn(async move {
        let (mut refused, mut hung) = (false, Vec::new());
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = Vec::new();
            let body = loop {
                if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                    break None;
                }
                let end = text.windows(4).position(|it| it == b"\r\n\r\n");
                let body = end.map(|end| &text[end + 4..]);
                if let Some(body) = body.and_then(|it| serde_json::from_slice(it).ok()) {
                    break Some(body);
                }
            };
            let Some(body) = body else { continue };
            let Some(status) = answers(refused) else {
                hung.push(stream);
                continue;
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
            if status.starts_with('2') {
                lock(&taken).push(body);
            }
            refused = true;
        }
    });
    (format!("http://{address}/hook"), got)
}

#[tokio::test]
async fn a_webhook_hears_of_every_step_also_when_the_coordinator_dies() {
    let (url, got) = receiver().await;
    let notify = format!(
        "notify: [ {{ url: \"{url}\", retries: 5, events: [failover, health], secret: \"0123456789abcdef\" }} ]\n"
    );
    let fast = PAIR.replace("interval: 1s, timeout: 500ms", "interval: 500ms, timeout: 500ms");
    let world = World::start(&format!("{notify}{fast}"), 3);
    well(&world).await;
    world.set_down("a", true);
    world.kill_coordinator(Kill::After(3));
    world.until("moved", 30 * SECONDS, |world| world.all_go_to(0, "b")).await;
    let heard = |kind: &str| lock(&got).iter().filter(|it| it["kind"] == kind).count();
    world
        .until("announced", 30 * SECONDS, |_| {
            heard("switched") > 0 && heard("failover_began") > 0 && heard("verdict") > 0
        })
        .await;
    assert!(world.was_killed());
    world
        .until("at rest", Duration::from_secs(30), |world| {
            world.server("docs").failover.moving().is_none()
        })
        .await;
    // Repetitions carry the same name.
    let all = lock(&got).clone();
    let mut seen = BTreeMap::new();
    for message in &all {
        let id = message["id"].as_str().unwrap().to_owned();
        let first = seen.entry(id).or_insert_with(|| message["text"].clone());
        assert_eq!(*first, message["text"], "two announcements under one name");
        assert_eq!(message["server"], "docs");
    }
    let switched = seen.values().filter(|text| text.as_str().unwrap().starts_with("b is active"));
    assert_eq!(switched.count(), 1, "{all:#?}");
}

/// The line of an outage's cost grows for as long as calls are given up: a webhook hears what it came to.
#[tokio::test]
async fn what_an_outage_cost_is_told_when_it_has_grown_and_not_before() {
    let (url, got) = receiver_that(|_| Some("200 OK")).await;
    let notify = format!("notify: [ {{ url: \"{url}\", events: [incident] }} ]\n");
    let fast = PAIR.replace("interval: 1s, timeout: 500ms", "interval: 500ms, timeout: 500ms");
    let world = World::start(&format!("{notify}{fast}"), 3);
    well(&world).await;
    world.set_down("a", true);
    let is_counted = |it: &ServerHappened| matches!(it, ServerHappened::Lost { .. });
    world.until("out", 30 * SECONDS, |world| world.count(is_counted) == 1).await;
    for node in 0..3 {
        let lost = Lost { unknown: vec![(2 * SECONDS, 1)], moved: vec![(0, 10)] };
        lock(&world.nodes[node].plane.lost).insert(0, lost);
    }
    let heard = || {
        let got = lock(&got);
        let lost = got.iter().filter(|it| it["kind"] == "lost");
        lost.map(|it| it["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    world.until("told", 30 * SECONDS, |_| !heard().is_empty()).await;
    assert_eq!(heard(), ["3 Writes in doubt, 30 sessions without their state"]);
    // The next coordinator does not know what was told, and says it under the same name.
    world.kill(0);
    let lost = Lost { unknown: vec![(20 * SECONDS, 1)], moved: Vec::new() };
    lock(&world.nodes[1].plane.lost).insert(0, lost);
    let more = "4 Writes in doubt, 30 sessions without their state";
    world.until("told again", 30 * SECONDS, |_| heard().iter().any(|it| it == more)).await;
    let got = lock(&got).clone();
    let lost = got.iter().filter(|it| it["kind"] == "lost");
    let names: BTreeMap<&str, &str> =
        lost.map(|it| (it["id"].as_str().unwrap(), it["text"].as_str().unwrap())).collect();
    assert_eq!(names.len(), 2, "{got:#?}");
}

#[tokio::test]
async fn what_a_receiver_did_not_take_in_time_is_told_by_the_next_coordinator() {
    let hangs = Arc::new(AtomicBool::new(false));
    let (url, got) = {
        let hangs = Arc::clone(&hangs);
        receiver_that(move |_| (!hangs.load(Ordering::SeqCst)).then_some("200 OK")).await
    };
    let notify = format!(
        "notify: [ {{ url: \"{url}\", retries: 20, timeout: 2s, events: [failover, health] }} ]\n"
    );
    let fast = PAIR.replace("interval: 1s, timeout: 500ms", "interval: 500ms, timeout: 500ms");
    let world = World::start(&format!("{notify}{fast}"), 3);
    well(&world).await;
    let marked = |world: &World| world.state().servers.notified;
    world.until("marked", 10 * SECONDS, |world| marked(world) > 0).await;
    hangs.store(true, Ordering::SeqCst);
    world.set_down("a", true);
    world.until("moved", 30 * SECONDS, |world| world.all_go_to(0, "b")).await;
    // Longer than anybody looks back by the clock.
    tokio::time::sleep(11 * SECONDS).await;
    let force = Force::Open;
    let order = Order::Breaker { server: "docs".into(), instance: Some("a".into()), force };
    world.control(0).order(order).await.unwrap();
    assert!(!lock(&got).iter().any(|it| it["kind"] == "switched"));
    world.kill(0);
    hangs.store(false, Ordering::SeqCst);
    let heard = |kind: &str| lock(&got).iter().any(|it| it["kind"] == kind);
    world.until("told", 30 * SECONDS, |_| heard("failover_began") && heard("switched")).await;
    let last = |world: &World| world.state().servers.events.back().map_or(0, |it| it.index);
    world.until("marked", 30 * SECONDS, |world| marked(world) >= last(world)).await;
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_holds_up_no_other_and_each_hears_in_order() {
    let (dead, heard_there) = receiver_that(|_| None).await;
    let (url, got) = receiver_that(|_| Some("200 OK")).await;
    let notify = format!(
        "notify: [ {{ url: \"{dead}\", retries: 20, timeout: 1m }}, {{ url: \"{url}\", timeout: 1m }} ]\n"
    );
    let fast = PAIR.replace("interval: 1s, timeout: 500ms", "interval: 500ms, timeout: 500ms");
    let world = World::start(&format!("{notify}{fast}"), 3);
    well(&world).await;
    world.set_down("a", true);
    let heard = |kind: &str| lock(&got).iter().any(|it| it["kind"] == kind);
    // Less than the first receiver's first attempt may take.
    world.until("told", 30 * SECONDS, |_| heard("switched")).await;
    assert!(lock(&heard_there).is_empty());
    let number = |message: &serde_json::Value| {
        let id = message["id"].as_str().unwrap();
        let (index, place) = id.split_once('.').unwrap();
        (index.parse::<u64>().unwrap(), place.parse::<u64>().unwrap())
    };
    // An incident is told of besides, with the line that begins or ends it.
    let is_line = |it: &&serde_json::Value| it["event"] != "incident";
    let told: Vec<_> = lock(&got).iter().filter(is_line).map(number).collect();
    assert!(told.is_sorted_by(|one, next| one < next), "{told:?}");
}

#[tokio::test]
async fn each_kind_of_event_is_told_from_its_beginning_to_its_end_to_who_wants_that_one() {
    let mut hooks = Vec::new();
    for kind in ["failover", "failback", "incident", "node"] {
        let (url, got) = receiver_that(|_| Some("200 OK")).await;
        hooks.push((format!("{{ url: \"{url}\", events: [{kind}] }}"), got));
    }
    let list: Vec<&str> = hooks.iter().map(|(hook, _)| hook.as_str()).collect();
    let fast = PAIR.replace("interval: 1s, timeout: 500ms", "interval: 500ms, timeout: 500ms");
    let world = World::start(&format!("notify: [ {} ]\n{fast}", list.join(", ")), 3);
    well(&world).await;
    let told = |at: usize| {
        let said = lock(&hooks[at].1);
        said.iter().map(|it| it["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let rests = |world: &World| world.server("docs").failover.moving().is_none();
    world.set_down("a", true);
    world.until("moved", 30 * SECONDS, |world| world.all_go_to(0, "b") && rests(world)).await;
    world.set_down("a", false);
    well_again(&world).await;
    world.control(0).order(Order::BackAtOnce { server: "docs".into() }).await.unwrap();
    world.until("back", 30 * SECONDS, |world| world.all_go_to(0, "a") && rests(world)).await;
    world.kill(2);
    let ends = [(0, "settled"), (1, "settled"), (2, "incident_ended"), (3, "node_died")];
    let all = |_: &World| ends.iter().all(|(at, kind)| told(*at).iter().any(|it| it == kind));
    world.until("told", 30 * SECONDS, all).await;
    let starts = ["failover_began", "failback_began", "incident_began"];
    for (at, kind) in starts.into_iter().enumerate() {
        assert_eq!(told(at)[0], kind, "{:?}", told(at));
        assert_eq!(told(at).iter().filter(|it| **it == kind).count(), 1, "{:?}", told(at));
    }
    assert_eq!(told(2), ["incident_began", "incident_ended"]);
}

async fn well_again(world: &World) {
    let healthy = |world: &World| {
        use holdfast_engine::health::votes::Opinion::Healthy;
        world.server("docs").verdicts["a"].opinion == Some(Healthy)
    };
    world.until("well again", 30 * SECONDS, healthy).await;
}

/// Keeps the fields of each warning about a webhook.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().ends_with("::notify")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields(BTreeMap<&'static str, String>);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.insert(field.name(), format!("{value:?}"));
            }
        }
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        lock(&self.0).push(fields.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn an_event_that_a_webhook_does_not_take_is_one_line_that_says_all() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let (url, _) = receiver_that(|_| Some("503 Busy")).await;
    let host = url.strip_prefix("http://").and_then(|it| it.split('/').next()).unwrap().to_owned();
    let notify = format!("notify: [ {{ url: \"{url}\", retries: 1, events: [breaker] }} ]\n");
    let world = World::start(&format!("{notify}{PAIR}"), 3);
    well(&world).await;
    let hold = |force| Order::Breaker { server: "docs".into(), instance: Some("a".into()), force };
    world.control(0).order(hold(Force::Open)).await.unwrap();
    world.control(0).order(hold(Force::Clear)).await.unwrap();
    let told = || lock(&warnings.0).clone();
    world
        .until("given up twice", 30 * SECONDS, |_| {
            told()
                .iter()
                .any(|it| it.get("kind").is_some_and(|kind| kind.contains("breaker_released")))
        })
        .await;
    let told = told();
    assert_eq!(told.len(), 2, "{told:#?}");
    let first = &told[0];
    assert_eq!((&*first["host"], &*first["tries"]), (&*format!("{host:?}"), "2"), "{first:#?}");
    assert_eq!(
        (&*first["event"], &*first["kind"]),
        ("\"breaker\"", "\"breaker_forced_open\""),
        "{first:#?}"
    );
    assert_eq!(first["error"], "answered 503 Service Unavailable", "{first:#?}");
}
