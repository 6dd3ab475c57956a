//! Clients on all nodes read, write and compare-and-set a few keys while leaders are cut off and killed;
//! what they saw has to be what a single copy would have shown.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_cluster::{Cluster, ProposeError};
use holdfast_engine::replicated::{Expect, KvEntry, Reply};

use crate::checker::{Action, Operation, Value, is_linearizable};
use crate::harness::{Group, put, until, write};

const KEYS: usize = 4;
const CLIENTS_PER_NODE: usize = 3;
/// Some clients are patient and mostly learn what became of their writes; others mostly do not.
const DEADLINES: [Duration; 2] = [Duration::from_secs(3), Duration::from_millis(300)];

/// What all clients share.
struct Run {
    began: Instant,
    next: AtomicU64,
    over: AtomicBool,
    /// By key.
    histories: [Mutex<Vec<Operation>>; KEYS],
    /// The node of each client's name, while it lives.
    nodes: Mutex<Vec<Option<Arc<Cluster>>>>,
}

impl Run {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    fn record(&self, key: usize, began: u64, action: Action, known: bool) {
        let ended = known.then(|| self.now());
        self.histories[key].lock().unwrap().push(Operation { action, began, ended });
    }

    fn operations(&self) -> usize {
        self.histories.iter().map(|it| it.lock().unwrap().len()).sum()
    }
}

fn value(entry: Option<&KvEntry>) -> Option<Value> {
    let entry = entry?;
    Some(std::str::from_utf8(&entry.value).unwrap().parse().unwrap())
}

/// One client: picks a key and an operation by a generator of its own, one after the other.
async fn client(run: Arc<Run>, at: usize, seed: u64) {
    let deadline = DEADLINES[usize::from(seed % 2 == 1)];
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while !run.over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(8)).await;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let Some(node) = run.nodes.lock().unwrap()[at].clone() else { continue };
        let key = usize::try_from(random % KEYS as u64).unwrap();
        let name = format!("key{key}");
        let began = run.now();
        match random >> 32 & 3 {
            0 => {
                let value = run.next.fetch_add(1, Ordering::Relaxed);
                let body = put(&name, &value.to_string(), Expect::Any);
                let action = Action::Write { value };
                match node.propose(body, deadline).await {
                    Ok(Reply::Done { .. }) => run.record(key, began, action, true),
                    Ok(reply) => panic!("{reply:?}"),
                    Err(ProposeError::Unknown) => run.record(key, began, action, false),
                    // Certainly not done: it is as if it had never been asked for.
                    Err(ProposeError::Unavailable | ProposeError::Fenced) => {}
                }
            }
            1 => {
                if node.read_index(deadline).await.is_ok() {
                    let found = value(node.get(name.as_bytes()).as_ref());
                    run.record(key, began, Action::Read { found }, true);
                }
            }
            // From what is here, which may be old: then it must be refused.
            _ => {
                let entry = node.get(name.as_bytes());
                let expect = value(entry.as_ref());
                let revision = entry.map_or(Expect::Absent, |it| Expect::Revision(it.revision));
                let new = run.next.fetch_add(1, Ordering::Relaxed);
                let body = put(&name, &new.to_string(), revision);
                let swap = |found| Action::Swap { expect, value: new, found };
                match node.propose(body, deadline).await {
                    Ok(Reply::Done { .. }) => run.record(key, began, swap(Ok(())), true),
                    Ok(Reply::Mismatch { found }) => {
                        run.record(key, began, swap(Err(value(found.as_ref()))), true);
                    }
                    Ok(reply) => panic!("{reply:?}"),
                    Err(ProposeError::Unknown) => run.record(key, began, swap(Ok(())), false),
                    Err(ProposeError::Unavailable | ProposeError::Fenced) => {}
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_and_set_is_linearizable_while_leaders_are_cut_and_killed() {
    let names = ["a", "b", "c"];
    let mut group = Group::of(&names).await;
    let run = Arc::new(Run {
        began: Instant::now(),
        next: AtomicU64::new(1),
        over: AtomicBool::new(false),
        histories: Default::default(),
        nodes: Mutex::new(names.iter().map(|it| Some(group.node(it).clone())).collect()),
    });
    let mut clients = Vec::new();
    for at in 0..names.len() {
        for client_at in 0..CLIENTS_PER_NODE {
            let seed = (at * CLIENTS_PER_NODE + client_at + 1) as u64;
            clients.push(tokio::spawn(client(Arc::clone(&run), at, seed)));
        }
    }
    for round in 0..6 {
        // Some quiet between the faults, measured in what was done.
        let done = run.operations();
        until("operations between faults", || run.operations() > done + 250).await;
        let leader = group.leader().await;
        let at = names.iter().position(|it| *it == leader).unwrap();
        match round % 3 {
            0 => group.switch.isolate(&leader),
            1 => group.switch.silence(&leader),
            _ => {
                run.nodes.lock().unwrap()[at] = None;
                group.kill(&leader).await;
            }
        }
        let next = group.leader_without(Some(&leader)).await;
        write(group.node(&next), "goes on", &round.to_string()).await;
        if round % 3 == 2 {
            let node = group.restart(&leader).await;
            run.nodes.lock().unwrap()[at] = Some(node);
        }
        group.switch.heal();
    }
    let done = run.operations();
    until("operations after the last fault", || run.operations() > done + 250).await;
    run.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let mut unknown = 0;
    for (key, history) in run.histories.iter().enumerate() {
        let history = history.lock().unwrap();
        unknown += history.iter().filter(|it| it.ended.is_none()).count();
        if !is_linearizable(&history) {
            for operation in &*history {
                println!("{operation:?}");
            }
            panic!("key{key} is not linearizable ({} operations)", history.len());
        }
    }
    println!("{} operations, {unknown} of unknown outcome: linearizable", run.operations());
    run.nodes.lock().unwrap().clear();
    group.stop().await;
}
