//! So many calls and no more, one after another: the script for counting what one call costs.

use std::io;

use super::load::{LoadError, open};
use super::plan::LoadPlan;

/// Makes exactly `calls` calls of `plan` on one connection, each after the answer to the one before,
/// and closes it. Pace, durations and the number of connections of the plan play no part. Blocks.
///
/// # Errors
/// When the connection cannot be opened, and with the first call that is not answered with a result
/// within the plan's grace.
pub fn call_in_turn(plan: &LoadPlan, calls: usize) -> Result<(), LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failed = |source| LoadError::Connect { address: plan.address, source };
    runtime.block_on(async {
        let within = |what: String| io::Error::new(io::ErrorKind::TimedOut, what);
        let opened = tokio::time::timeout(plan.grace, open(plan)).await;
        let (mut client, session) = opened
            .unwrap_or_else(|_| Err(within("the session was not opened in time".to_owned())))
            .map_err(failed)?;
        let mut call = plan.call(session.as_deref());
        for number in 1..=calls {
            call.next_id();
            let answered = tokio::time::timeout(plan.grace, client.exchange(call.bytes(), false));
            let answer = answered
                .await
                .unwrap_or_else(|_| Err(within(format!("call {number} was not answered in time"))))
                .map_err(failed)?;
            if answer.status != 200 || !answer.has_result || answer.closing && number < calls {
                let text = answer.excerpt.unwrap_or_default();
                let text = format!("call {number} got status {} {text}", answer.status);
                return Err(failed(io::Error::other(text)));
            }
        }
        Ok(())
    })
}
