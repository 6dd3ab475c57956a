//! Checks that decide nothing by themselves: what monitors outside of the cluster say, and what an instance
//! tells of its own resources.
//!
//! They are asked beside the rounds and not in them. A monitor that takes the connection and is silent would
//! have every round last for its time-out, and on all nodes at once, since it is one for all. A round takes
//! what has been answered when it ends; an answer is taken for one word however many rounds it stands.

use std::time::Duration;

use holdfast_config::Check;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::probe::skipped;
use crate::plane::Checked;

/// The checks of one instance that are asked beside its rounds.
pub(crate) struct Beside {
    /// In the order of the configuration.
    asked: Vec<Asked>,
    /// A monitor has answered since that was last asked.
    is_news: bool,
}

struct Asked {
    check: Check,
    /// While it is being asked.
    task: Option<AbortOnDropHandle<Checked>>,
    /// How it last ended.
    last: Option<Checked>,
}

// === impl Beside ===

impl Beside {
    /// Those of an instance's checks that do not score.
    pub(crate) fn new(checks: &[Check]) -> Self {
        let others = checks.iter().filter(|check| !check.scores()).cloned();
        let asked = others.map(|check| Asked { check, task: None, last: None }).collect();
        Self { asked, is_news: false }
    }

    /// Asks all that are not being asked already.
    pub(crate) fn ask<A>(&mut self, ask: impl Fn(Check) -> A)
    where
        A: Future<Output = Checked> + Send + 'static,
    {
        for it in self.asked.iter_mut().filter(|it| it.task.is_none()) {
            it.task = Some(AbortOnDropHandle::new(tokio::spawn(ask(it.check.clone()))));
        }
    }

    /// Waits for those that are being asked, and for no longer than that.
    ///
    /// # Cancel safety
    /// No answer is lost.
    pub(crate) async fn hear(&mut self, within: Duration) {
        let until = Instant::now() + within;
        for it in &mut self.asked {
            let Some(task) = &mut it.task else { continue };
            let Ok(answer) = tokio::time::timeout_at(until, task).await else { continue };
            it.task = None;
            it.last = Some(answer.unwrap_or_else(|_| skipped()));
            self.is_news |= it.check.external;
        }
    }

    /// How each of them last ended, in the order of the configuration; none of one that never has.
    pub(crate) fn last(&self) -> impl Iterator<Item = Option<(Check, Checked)>> {
        self.asked.iter().map(|it| Some((it.check.clone(), it.last.clone()?)))
    }

    /// Whether a monitor has said something, or is found to say nothing, since this was last asked. Without
    /// monitors there is nothing to wait for.
    pub(crate) fn take_news(&mut self) -> bool {
        let none = !self.asked.iter().any(|it| it.check.external);
        std::mem::take(&mut self.is_news) || none
    }
}
