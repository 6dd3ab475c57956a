//! What befalls the balancer.

use std::time::Duration;

use super::{Incident, What, calm};
use crate::Error;
use crate::load::ledger::Ledger;
use crate::stack::Stack;

/// How long a reloaded or lost balancer is looked on at.
const LASTS: Duration = Duration::from_secs(3);

pub(super) async fn strike(
    what: What,
    stack: &mut Stack,
    ledger: &Ledger,
) -> Result<(Incident, Option<Error>), Error> {
    let mut incident = Incident::new(what, stack.front.kind.name(), ledger);
    if what == What::FrontReload {
        stack.front.reload().await?;
        incident.replaced = Some(ledger.now() - incident.from);
        tokio::time::sleep(LASTS).await;
    } else {
        stack.front.kill()?;
        stack.front.taken_over().await?;
        incident.replaced = Some(ledger.now() - incident.from);
        tokio::time::sleep(LASTS).await;
        // The one that was lost comes back as the standby of the one that took over.
        stack.front.restore().await?;
    }
    Ok(calm(incident, stack, ledger).await)
}
