//! `reload`: how a running node comes to another configuration.

use std::time::Duration;

use crate::section::Section;

/// How a running node comes to another configuration.
#[derive(Clone, Debug)]
pub struct Reload {
    /// Whether a file that changes is read. SIGHUP and `holdfast reload` have it read in any case.
    pub watch: bool,
    /// How often the file is looked at, and how long it must have stayed the same before it is read.
    /// 100ms to 1h.
    pub interval: Duration,
    /// Whether the nodes of a cluster agree on one configuration. Otherwise each goes by its own file.
    pub together: bool,
}

impl Default for Reload {
    fn default() -> Self {
        Self { watch: true, interval: Duration::from_secs(1), together: true }
    }
}

// === impl Reload ===

impl Reload {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut reload = Self::default();
        section.flag("watch", &mut reload.watch);
        let (ms, hour) = (Duration::from_millis(1), Duration::from_secs(3600));
        section.duration("interval", ms * 100..=hour, &mut reload.interval);
        section.flag("together", &mut reload.together);
        section.finish();
        reload
    }
}
