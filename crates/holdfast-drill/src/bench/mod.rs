//! Both ends of a benchmark: a server that costs next to nothing, and a load generator.
//!
//! What stands between them (nginx, the gateway, nothing) is what is measured, so both ends are
//! written for few instructions per call and for honest latencies: the open loop measures from the
//! moment at which a call *should* have started, so that a stall shows in every call it delayed.
//!
//! The server answers in both eras but checks nothing; correctness is the sample server's part.

mod answer;
mod client;
mod fan_out;
mod histogram;
mod hold;
mod in_turn;
mod load;
mod manner;
mod plan;
mod serve;

pub use fan_out::fan_out;
pub use histogram::Histogram;
pub use hold::{Held, Holding, hold};
pub use in_turn::call_in_turn;
pub use load::{LoadError, LoadReport, load};
pub use manner::{Busy, Manner, Manners};
pub use plan::{Dialect, LoadPlan, Pace};
pub use serve::{Serving, serve, serve_with};

/// How many events the tool `events` streams: 19 progress notifications and the answer.
pub const EVENTS_PER_STREAM: usize = 20;

/// The payload of a call that asks for no size, in bytes.
pub const DEFAULT_BYTES: usize = 64;

#[cfg(test)]
mod tests;
