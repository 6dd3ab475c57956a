//! Fleets of a configuration, for tests.

use std::sync::Arc;
use std::time::Instant;

use super::Fleet;

/// The fleet of this configuration.
pub(crate) fn fleet(yaml: &str) -> Arc<Fleet> {
    let config = holdfast_config::parse(yaml, "test", &|_| None).unwrap();
    Fleet::new(&config, None, |_| Arc::default(), Instant::now())
}
