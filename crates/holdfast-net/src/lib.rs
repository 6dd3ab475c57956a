//! What the client ports of a node and of the edge have in common: how they are bound, what a client may
//! take its time over, and how a machine that has vanished is noticed.
//!
//! Both ports read HTTP/1.1 with hyper, which leaves three things to whoever holds the socket. They are done
//! here once, so that the two ports cannot differ in what they take for an attack:
//!
//! * how long the head of a request, idleness, and a client that takes nothing may last ([`Impatient`]);
//! * whether a request is framed in two ways, which hyper hides ([`Requests::next_has_both`]);
//! * bytes that were read before hyper was given the connection ([`Prefixed`]).
//!
//! [`Counted`] is what keeps a connection that streams from being taken for an idle one.

mod counted;
mod patience;
mod port;
mod prefixed;

pub use counted::Counted;
pub use patience::{Impatient, InService, Patience, Requests, Sending};
pub use port::{bind, refuse_full, watch_over};
pub use prefixed::Prefixed;
