//! The breaker's promises, one file each.

mod cluster;
mod cost;
mod evidence;
mod noise;
mod properties;
mod recovery;
pub(crate) mod rig;
mod share;
