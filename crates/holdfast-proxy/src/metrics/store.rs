//! What the store was asked to do, in the Prometheus text.

use std::fmt::{self, Write};

use holdfast_store::Operations;

use super::render::{COUNTER, GAUGE, header};

pub(super) fn render(store: &Operations, out: &mut String) -> fmt::Result {
    let counts = store.counts();
    let name = "holdfast_store_operations_total";
    header(out, name, COUNTER, "What the store that nodes share was asked to do, by kind.")?;
    let kinds = [
        ("read", counts.reads),
        ("durable", counts.durable),
        ("write", counts.writes),
        ("touch", counts.touches),
    ];
    for (kind, many) in kinds {
        writeln!(out, "{name}{{kind=\"{kind}\"}} {many}")?;
    }
    let name = "holdfast_store_groups_total";
    let help = "Groups of writes that Redis was sent together, each waiting once for its replicas.";
    header(out, name, COUNTER, help)?;
    writeln!(out, "{name} {}", counts.groups)?;
    let Some(takes_writes) = store.takes_writes() else { return Ok(()) };
    let name = "holdfast_store_takes_writes";
    let help = "Whether Redis can be reached and takes writes that last: 1 or 0.";
    header(out, name, GAUGE, help)?;
    writeln!(out, "{name} {}", u8::from(takes_writes))
}
