//! What a process bars of the journal, and what runs in it.

use super::*;

const KEY: CallKey = CallKey([7; 32]);

#[test]
fn a_process_bars_what_it_has_not_had_and_is_sure_of() {
    let open = Open::default();
    let (young, old) = (open.born, open.born + RECENT);
    assert!(!open.bar(KEY, young), "the process before it may have had the call");
    assert!(!open.is_barred(&KEY));
    assert!(open.bar(KEY, old));
    assert!(open.is_barred(&KEY));
    assert!(open.bar(KEY, old), "two nodes may ask");
}

#[test]
fn what_runs_or_has_just_run_is_not_barred_for_others() {
    let open = Open::default();
    let old = open.born + RECENT;
    open.keys.lock().unwrap().insert(KEY, (1, open.born));
    assert!(!open.bar(KEY, old));
    open.past.lock().unwrap().insert(KEY, old);
    open.keys.lock().unwrap().clear();
    assert!(!open.bar(KEY, old));
}

#[test]
fn of_what_has_run_only_that_is_remembered_which_a_balancer_has_named() {
    let open = Open::default();
    for (key, by_balancer) in [(KEY, true), (CallKey([8; 32]), false)] {
        open.hold(key);
        open.hold(key);
        open.let_go(&key, by_balancer);
        assert!(open.is_open(&key), "another sending has it");
        open.let_go(&key, by_balancer);
        assert!(!open.is_open(&key));
        assert_eq!(open.past.lock().unwrap().has(&key), by_balancer);
    }
}

#[test]
fn keys_are_remembered_for_a_while_and_then_forgotten() {
    let born = Instant::now();
    let key = |number| CallKey([number; 32]);
    let mut recent = Recent::since(born);
    recent.insert(key(1), born);
    recent.insert(key(2), born + RECENT);
    assert!(recent.has(&key(1)) && recent.has(&key(2)));
    recent.insert(key(3), born + RECENT * 2);
    assert!(!recent.has(&key(1)) && recent.has(&key(2)) && recent.has(&key(3)));
    recent.insert(key(4), born + RECENT * 5);
    assert!(!recent.has(&key(2)) && !recent.has(&key(3)) && recent.has(&key(4)));
}
