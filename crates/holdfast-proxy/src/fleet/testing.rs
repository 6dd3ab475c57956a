//! Fleets of a configuration, for tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Fleet;

/// A deadline that no test comes to.
pub(crate) fn late() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// The fleet of this configuration.
pub(crate) fn fleet(yaml: &str) -> Arc<Fleet> {
    let config = holdfast_config::parse(yaml, "test", &|_| None).unwrap();
    Fleet::new(&config, None, |_| Arc::default(), Instant::now())
}
