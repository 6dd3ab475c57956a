//! Every decision of the gateway, as pure code.
//!
//! Nothing here waits, logs, reads a clock, draws a random number or opens a socket: time and
//! randomness are arguments, and effects are what the caller does with an answer. So each rule can be
//! tested as a table, and the same input gives the same decision on every node.
//!
//! | module | decides | design |
//! |---|---|---|
//! | [`class`] | what a call may do | "Call classes" |
//! | [`repeat`] | whether a failed call is sent again; whether a server lost its session | "Rules of repetition" |
//! | [`bucket`] | whether a principal may call now | limits |
//! | [`breaker`] | whether a call may go to a server, by how those before it went | "Breakers and the cluster" |
//! | [`retry_budget`] | how many calls are sent again beside those that are sent anyway | limits |
//! | [`limits`] | how many calls run at once, and who waits | limits |
//! | [`cascade`] | whom a call waits for; who is hit when a server is away | limits |
//! | [`fallback`] | which answers are kept, and for whom | |
//! | [`backoff`] | how long to wait before a next attempt | |
//! | [`journal`] | what a second arrival of a call does; what becomes of a dead node's calls | "Rules of repetition", "Orphans" |
//! | [`lease`] | who may send a Write now; who is declared dead | "Cluster" |
//! | [`health`] | how well an instance is, by checks, calls and the votes of the nodes | "Cluster" |
//! | [`balance`] | which of several instances gets a call | requirements C6 |
//! | [`failover`] | how a server moves from one instance to another and back | "Cluster" |
//! | [`objectives`] | what an outage took, against what its tier allows | requirements E1 |
//! | [`loss`] | which outage a Write of unknown outcome, or a session that moved, belongs to | requirements E1 |
//! | [`configuration`] | which configuration a node goes by, and proposes | requirements A4 |
//! | [`replicated`] | what every entry of the Raft log does, on every node alike | "Cluster" |
//!
//! # A call that failed
//! ```
//! use std::collections::BTreeMap;
//! use holdfast_engine::{
//!     class::{CallClass, ToolTable, classify},
//!     repeat::{Progress, Repeat, Why, decide},
//! };
//!
//! let mut tools = ToolTable::new(true, BTreeMap::new());
//! tools.learn("read_file", true, false);
//!
//! let read = classify("tools/call", Some("read_file"), &tools);
//! assert_eq!(decide(read, Progress::Sent, 1, true), Repeat::Again);
//!
//! let write = classify("tools/call", Some("write_file"), &tools);
//! assert_eq!(decide(write, Progress::Sent, 1, true), Repeat::Never(Why::MayHaveRun));
//! assert_eq!(decide(write, Progress::NotSent, 1, true), Repeat::Again);
//! ```
//!
//! Spec: 2025-11-25 Transports, "Session Management" (what a 400 and a 404 mean); schema
//! `ToolAnnotations` (`readOnlyHint`, `idempotentHint`).

pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod bucket;
pub mod cascade;
pub mod class;
pub mod configuration;
pub mod failover;
pub mod fallback;
pub mod health;
pub mod journal;
pub mod lease;
pub mod limits;
pub mod loss;
pub mod objectives;
pub mod repeat;
pub mod replicated;
pub mod retry_budget;
