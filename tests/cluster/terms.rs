//! Who was leader in which term, as every node claims: there must never be two.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::stack::node::View;

type Leaders = BTreeMap<u64, BTreeSet<String>>;

/// Asks all nodes, over and over.
pub(crate) struct Terms {
    leaders: Arc<Mutex<Leaders>>,
    tasks: Vec<JoinHandle<()>>,
}

const EVERY: Duration = Duration::from_millis(250);

// === impl Terms ===

impl Terms {
    pub(crate) fn watch(admins: impl Iterator<Item = SocketAddr>) -> Self {
        let leaders = Arc::<Mutex<Leaders>>::default();
        let tasks = admins.map(|admin| tokio::spawn(ask(admin, Arc::clone(&leaders)))).collect();
        Self { leaders, tasks }
    }

    /// How many terms had a leader, and those that had several.
    pub(crate) fn finish(self) -> (usize, Vec<String>) {
        for task in &self.tasks {
            task.abort();
        }
        let leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        let several = leaders
            .iter()
            .filter(|(_, names)| names.len() > 1)
            .map(|(term, names)| format!("term {term}: {names:?}"))
            .collect();
        (leaders.len(), several)
    }
}

async fn ask(admin: SocketAddr, leaders: Arc<Mutex<Leaders>>) {
    loop {
        if let Some(View { leader: Some(leader), term, .. }) = View::ask(admin).await {
            let mut leaders = leaders.lock().unwrap_or_else(PoisonError::into_inner);
            leaders.entry(term).or_default().insert(leader);
        }
        tokio::time::sleep(EVERY).await;
    }
}
