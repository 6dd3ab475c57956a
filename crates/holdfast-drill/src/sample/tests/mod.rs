//! The sample server over real sockets, looked at with a client that understands nothing by itself.

mod client;
mod connections;
mod faults;
mod legacy;
mod modern;
