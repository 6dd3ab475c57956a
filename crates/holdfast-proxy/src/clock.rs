//! The node's clock: time since the node started, read at the edges and handed inwards; and the present of
//! what happens at once.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// A copyable handle on the time since start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub(crate) fn now(self) -> Duration {
        recent().saturating_duration_since(self.started)
    }
}

/// How far this thread has looked at the time.
#[derive(Clone, Copy)]
enum Look {
    /// It is in no turn: each look counts for itself.
    Free,
    /// It has not looked in its turn.
    Due,
    At(Instant),
}

thread_local! {
    static LOOK: Cell<Look> = const { Cell::new(Look::Free) };
}

/// Does what is done in one go, without waiting for anything, and for which one look at the time is enough:
/// [`recent`] is the same from its first use in it to the last.
pub(crate) fn turn<T>(work: impl FnOnce() -> T) -> T {
    /// Ends the turn, whatever becomes of it.
    struct Ends(Look);
    impl Drop for Ends {
        fn drop(&mut self) {
            LOOK.set(self.0);
        }
    }
    let _ends = Ends(LOOK.replace(Look::Due));
    work()
}

/// The present, as exactly as it matters to whoever measures waits: in a [`turn`] that of the turn, which
/// lasts for some microseconds, and anywhere else the clock's. A call had looked at the clock ten times,
/// each of some twenty nanoseconds. What depends on the very moment, as a lease does, looks by itself.
pub(crate) fn recent() -> Instant {
    match LOOK.get() {
        Look::At(at) => at,
        Look::Due => {
            let at = Instant::now();
            LOOK.set(Look::At(at));
            at
        }
        Look::Free => Instant::now(),
    }
}

/// Milliseconds since the Unix epoch, for what other nodes read too.
pub(crate) fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// When something was, by this node's clock, that another node dated `unix` by its own: before what came of it
/// `here`.
pub(crate) fn seen_at(unix: u64, here: Instant) -> Instant {
    let ago = Duration::from_millis(unix_millis().saturating_sub(unix));
    let at = Instant::now().checked_sub(ago).filter(|_| ago <= LONGEST);
    at.map_or(here, |at| at.min(here))
}

/// No call waits for its server for longer (`timeout`): what seems to be older is of a clock that is wrong.
const LONGEST: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_taken_over_is_as_old_as_its_entry() {
        let here = Instant::now();
        let ago = here.saturating_duration_since(seen_at(unix_millis() - 30_000, here));
        assert!(ago > Duration::from_secs(29) && ago < Duration::from_secs(31), "{ago:?}");
        assert_eq!(seen_at(unix_millis() + 5_000, here), here, "not later than its repetition");
        assert_eq!(seen_at(0, here), here, "a clock that is wrong says nothing");
    }

    /// Looks again until the clock has moved on.
    fn later_than(before: Instant) {
        while Instant::now() <= before {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn in_a_turn_it_is_as_late_as_at_its_first_look_and_outside_as_late_as_it_is() {
        let before = recent();
        later_than(before);
        let first = turn(|| {
            let first = recent();
            later_than(first);
            assert_eq!(recent(), first);
            first
        });
        assert!(before < first && first < recent());
        turn(|| assert!(first < recent(), "each turn looks for itself"));
    }

    #[test]
    fn a_turn_ends_with_a_panic_too_and_one_within_another_ends_only_itself() {
        let caught = std::panic::catch_unwind(|| turn(|| panic!("a call that fails")));
        assert!(caught.is_err());
        assert!(matches!(LOOK.get(), Look::Free));
        turn(|| {
            let outer = recent();
            later_than(outer);
            assert!(turn(recent) > outer);
            assert_eq!(recent(), outer);
        });
    }
}
