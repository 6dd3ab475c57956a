//! Groups of nodes in one process, over the real transport, with a switch that cuts them apart.

#![expect(clippy::unwrap_used, reason = "in a test an error is a failure")]

mod checker;
mod election;
mod faults;
mod harness;
mod linearizable;
mod members;
mod writes;
