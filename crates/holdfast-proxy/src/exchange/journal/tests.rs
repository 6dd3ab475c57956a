//! What a call's entry ends with whose time is over while its turn is being written.

use holdfast_engine::replicated::Origin;
use holdfast_store::Store;

use super::*;
use crate::{Options, Proxy};

const KEY: CallKey = CallKey([7; 32]);
const ME: Origin = Origin { node: 1, generation: 1 };

struct Waiting {
    _proxy: Arc<Proxy>,
    gateway: Arc<Gateway>,
    ticket: Ticket,
}

/// A call whose entry says that it waits.
async fn waiting() -> Waiting {
    let yaml =
        "listen: { address: \"127.0.0.1:0\", workers: 1 }\nservers: { docs: { command: cat } }";
    let config = holdfast_config::parse(yaml, "test", &|_| None)
        .unwrap_or_else(|problems| panic!("{problems}"));
    let options = Options { guard: Vec::new(), store: Store::memory(), cluster: None };
    let proxy = Proxy::build(Arc::new(config), options).unwrap();
    let gateway = proxy.current.load_full();
    let entry = Entry {
        owner: ME,
        principal: 1,
        server: "docs".into(),
        class: CallClass::Write.as_u8(),
        instance: 0,
        started: 0,
        by_balancer: true,
        phase: Phase::Waiting,
    };
    let Begin::Mine(revision) = gateway.store.begin(&KEY, &entry).await.unwrap() else {
        panic!("nobody else has the entry");
    };
    let running = gateway.open_entry(KEY, true);
    let ticket = Ticket::new(entry, revision, Instant::now(), running);
    Waiting { _proxy: proxy, gateway, ticket }
}

impl Waiting {
    /// Its turn is written, by this owner, and its call is gone before it hears of that.
    async fn turns_unheard(&self, owner: Origin) {
        self.ticket.turns.store(true, Ordering::Relaxed);
        let entry = Entry { owner, ..self.ticket.turned() };
        let revision = self.ticket.revision.load(Ordering::Relaxed);
        self.gateway.store.settle(&KEY, revision, &entry).await.unwrap();
    }

    /// What the entry says when all has been written.
    async fn ends(self, failure: &Failure) -> Phase {
        let Self { _proxy, gateway, ticket } = self;
        ticket.failed(failure, &Ids::None);
        drop(ticket);
        while gateway.journal.is_open(&KEY) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        gateway.store.entry(&KEY).await.unwrap().0.phase
    }
}

fn not_sent() -> Failure {
    Failure::not_sent_in_time(&Arc::from("docs"), Duration::from_secs(1))
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_time_ends_as_its_turn_is_written_did_not_run() {
    let call = waiting().await;
    call.turns_unheard(ME).await;
    let phase = call.ends(&not_sent()).await;
    assert!(matches!(phase, Phase::Complete { answer: Some(_), .. }), "{phase:?}");
}

/// It may run there, or have run.
#[tokio::test(start_paused = true)]
async fn what_another_node_has_taken_over_is_left_to_it() {
    for other in [Origin { node: 2, ..ME }, Origin { generation: 2, ..ME }] {
        let call = waiting().await;
        call.turns_unheard(other).await;
        assert_eq!(call.ends(&not_sent()).await, Phase::Pending, "{other:?}");
    }
}

/// Else it is not known whose hand wrote it.
#[tokio::test(start_paused = true)]
async fn a_pending_entry_is_replaced_only_by_a_call_whose_turn_was_being_written() {
    let call = waiting().await;
    call.turns_unheard(ME).await;
    call.ticket.turns.store(false, Ordering::Relaxed);
    assert_eq!(call.ends(&not_sent()).await, Phase::Pending);
}
