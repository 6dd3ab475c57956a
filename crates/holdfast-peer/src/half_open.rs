//! Connections between TCP and their proof, of which there are only so many.
//!
//! Refusing the newest when all places are taken would let anybody lock the peers out by holding
//! them. Here the newest always gets in and somebody else has to go: the oldest of the address that
//! has the most. A peer needs its place for a few milliseconds.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// All places.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    most: usize,
    places: Mutex<Places>,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    evicted: CancellationToken,
    all: Arc<HalfOpen>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// In the order of arrival.
    taken: VecDeque<(u64, IpAddr, CancellationToken)>,
}

// === impl HalfOpen ===

impl HalfOpen {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), places: Mutex::default() })
    }

    /// Takes a place for a connection from `address`, and another's if there is none.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.taken.len() >= self.most
            && let Some((_, _, evicted)) = places.victim().and_then(|at| places.taken.remove(at))
        {
            evicted.cancel();
        }
        let (number, evicted) = (places.next, CancellationToken::new());
        places.next += 1;
        places.taken.push_back((number, address, evicted.clone()));
        Place { number, evicted, all: Arc::clone(self) }
    }
}

impl Places {
    /// The oldest place of the address that has the most.
    fn victim(&self) -> Option<usize> {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for (_, address, _) in &self.taken {
            *counts.entry(*address).or_default() += 1;
        }
        let most = counts.values().max()?;
        self.taken.iter().position(|(_, address, _)| counts.get(address) == Some(most))
    }
}

// === impl Place ===

impl Place {
    /// Returns when somebody else took this place.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.all.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.taken.retain(|(number, ..)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn the_greediest_address_loses_its_oldest() {
        let all = HalfOpen::new(3);
        let peer = all.enter(address(1));
        let flood = [all.enter(address(2)), all.enter(address(2))];
        let newest = all.enter(address(2));
        assert!(flood[0].evicted.is_cancelled());
        assert!(!flood[1].evicted.is_cancelled() && !peer.evicted.is_cancelled());
        let other = all.enter(address(3));
        assert!(flood[1].evicted.is_cancelled() && !newest.evicted.is_cancelled());
        assert!(!peer.evicted.is_cancelled() && !other.evicted.is_cancelled());
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let all = HalfOpen::new(1);
        drop(all.enter(address(1)));
        let second = all.enter(address(1));
        assert!(!second.evicted.is_cancelled());
        let third = all.enter(address(1));
        assert!(second.evicted.is_cancelled() && !third.evicted.is_cancelled());
        drop(second);
        assert_eq!(all.places.lock().unwrap().taken.len(), 1);
    }
}
