//! Room for one read, the thread's own.
//!
//! What is read is copied into a buffer of just its size: a connection that waits has no buffer, and what is
//! kept of what was read keeps nothing else.

use std::cell::RefCell;

/// Bytes that are read at a time.
pub(crate) const ROOM: usize = 16 * 1024;

/// Reads into it. `read` reads nothing else meanwhile.
pub(crate) fn with<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into_boxed_slice());
    }
    SCRATCH.with_borrow_mut(|scratch| read(scratch))
}
