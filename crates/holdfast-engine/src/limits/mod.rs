//! Limits on what runs at once: [`bulkhead`].

pub mod bulkhead;
