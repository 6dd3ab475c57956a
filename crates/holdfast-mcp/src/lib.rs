//! MCP as it is on the wire, as pure functions.
//!
//! # What is parsed, and what is not
//! The gateway passes messages on byte for byte. This crate reads the envelope and the few members
//! that a decision hangs on ([`peek`](mod@peek)), replaces a value where it stands
//! ([`splice`](mod@splice)), and frames streams ([`sse`]). It has no model of tools, resources or
//! results, and cannot lose what such a model would not know: unknown methods, members and headers
//! pass.
//!
//! # What it never does
//! It does not wait, log, read a clock, draw a random number, open a socket or panic on input.
//! Nonces are arguments. Everything here parses bytes from outside and is fuzzed (`fuzz/`).
//!
//! | module | holds | specification |
//! |---|---|---|
//! | [`peek`](mod@peek) | envelope, ids, `params`, `result`, `_meta` | JSON-RPC 2.0 sections 4, 5; Base Protocol, "Messages"; 2026-07-28 "General fields" |
//! | [`raw`] | one value's JSON text and its place in the body | |
//! | [`batch`] | cutting an array into messages | 2025-03-26 "Batching" |
//! | [`splice`](mod@splice) | changing bytes in place | |
//! | [`tools`] | a `tools/list` answer's hints | schema `ToolAnnotations` |
//! | [`method`] | names of methods | schemas of all revisions; SEP-2663 |
//! | [`version`] | revisions and eras | "Versioning"; Transports, "Protocol Version Header" |
//! | [`headers`] | names, value encoding, agreement with the body | 2026-07-28 Streamable HTTP, "Request Metadata"; SEP-2243 |
//! | [`sse`] | server-sent events | WHATWG HTML 9.2; Transports |
//! | [`http1`] | servers' answers and clients' plain requests: heads, also those that come again, lengths, chunks | RFC 9112 |
//! | [`event_id`] | sealed event ids | 2025-11-25 "Resumability and Redelivery" |
//! | [`rpc_error`] | errors that the gateway answers with | JSON-RPC 2.0 section 5.1; 2026-07-28 "Error Codes" |
//!
//! # A call through it
//! ```
//! use holdfast_mcp::{method::Method, peek, splice, version::{Era, classify}};
//!
//! let body = br#"{"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"name":"add","x":1}}"#;
//! let message = peek(body)?;
//! assert_eq!(classify(None, &message), Era::Legacy);
//! assert_eq!(Method::parse(&message.method), Method::ToolsCall);
//! assert_eq!(message.params.name.as_deref(), Some("add"));
//!
//! // On a connection that many clients share, the id is replaced and nothing else.
//! let id = message.id.expect("a request has one");
//! let sent = splice(body, &[(id.range_in(body), b"\"7-1\"")]);
//! assert_eq!(
//!     &sent[..],
//!     br#"{"jsonrpc":"2.0","id":"7-1","method":"tools/call","params":{"name":"add","x":1}}"#
//! );
//! # Ok::<(), holdfast_mcp::PeekError>(())
//! ```

pub mod batch;
pub mod event_id;
pub mod headers;
pub mod http1;
mod lenient;
pub mod method;
pub mod peek;
pub mod raw;
pub mod rpc_error;
pub mod splice;
pub mod sse;
pub mod tools;
pub mod version;

pub use batch::{is_batch, split_batch};
pub use peek::{Kind, Outline, Params, Peek, PeekError, ResultPeek, outline, peek, peek_by_serde};
pub use raw::Raw;
pub use splice::splice;
