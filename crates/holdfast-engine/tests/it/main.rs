//! The engine's decisions from outside: tables, properties, and nodes that share them.

mod breaker;
mod bulkhead;
mod nodes;
mod tables;
