//! What a call costs. Measured, not asserted:
//!
//! ```text
//! cargo test --release -p holdfast-engine --test it -- --ignored --nocapture cost
//! ```

use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use holdfast_engine::breaker::{Breaker, Outcome, Params};
use holdfast_engine::limits::bulkhead::{Bulkheads, ClassId, ClassParams, Entry, ToolKey};
use holdfast_engine::retry_budget::{self, RetryBudget};

const CALLS: u32 = 5_000_000;

#[expect(clippy::print_stdout, reason = "what it measures is its result")]
fn measure(what: &str, mut call: impl FnMut(u64)) {
    let begun = Instant::now();
    for number in 0..u64::from(CALLS) {
        call(number);
    }
    println!("{what}: {:.1} ns", begun.elapsed().as_nanos() as f64 / f64::from(CALLS));
}

#[test]
#[ignore = "a measurement"]
fn of_a_call_through_a_closed_breaker() {
    measure("two readings of the clock", |_| {
        black_box((Instant::now(), Instant::now()));
    });
    let breaker = Mutex::new(Breaker::new(Params::default(), Instant::now()));
    measure(
        "admit and settle, each behind an uncontended mutex, one reading of the clock each",
        |n| {
            let now = Instant::now();
            let permit = breaker.lock().expect("not poisoned").admit(now, n).expect("closed");
            let now = Instant::now();
            let mut breaker = breaker.lock().expect("not poisoned");
            breaker.settle(black_box(permit), Outcome::Success, now, n);
            assert!(breaker.take_transition().is_none());
        },
    );
    let mut breaker = Breaker::new(Params::default(), Instant::now());
    let now = Instant::now();
    measure("admit and settle alone, the clock read before", |n| {
        let permit = breaker.admit(black_box(now), n).expect("closed");
        breaker.settle(black_box(permit), Outcome::Success, black_box(now), n);
    });
    let mut budget = RetryBudget::new(retry_budget::Params::default(), Instant::now());
    measure("a call in the retry budget", |_| {
        budget.began(black_box(now));
        budget.ended();
    });
    let class = ClassParams {
        concurrency: 100,
        queue: 100,
        queue_timeout: Duration::from_secs(5),
        priority: 1,
    };
    let mut all = Bulkheads::new([class; 4], None, Duration::from_secs(30));
    measure("enter and leave a bulkhead, fifty servers", |n| {
        let server = ToolKey(u32::try_from(n % 50).expect("small"));
        assert_eq!(all.enter(ClassId(1), server, black_box(now)), Entry::Entered);
        all.leave(ClassId(1), server, None);
    });
    println!("a breaker: {} bytes", size_of::<Breaker>());
}
