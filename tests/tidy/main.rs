//! The architecture's rules as tests: arrows between crates, purity, homes, files and documentation.
//!
//! These read the sources and `cargo metadata`, never the network. A failing rule lists every place
//! that breaks it and says what to do instead.

mod arrows;
mod compose;
mod deployment;
mod documentation;
mod files;
mod machine;
mod purity;
mod workspace;
