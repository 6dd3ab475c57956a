//! The cluster's metrics, in the Prometheus text format, behind those of the data plane.

use std::fmt::Write as _;

use crate::cluster::Figures;

/// Appends what a clustered node says of its cluster.
pub(crate) fn render(figures: &Figures, out: &mut String) {
    let flag = u64::from;
    gauge(
        out,
        "holdfast_cluster_is_leader",
        "Whether this node is the coordinator.",
        flag(figures.leader),
    );
    gauge(
        out,
        "holdfast_cluster_has_lease",
        "Whether this node holds a lease of the group.",
        flag(figures.lease),
    );
    gauge(
        out,
        "holdfast_cluster_term",
        "The term of the group that this node is in.",
        figures.term,
    );
    gauge(
        out,
        "holdfast_cluster_generation",
        "How often this node has joined.",
        figures.generation,
    );
    head(out, "holdfast_cluster_members", "gauge", "Members of the group, by state.");
    for (state, members) in [
        ("ready", figures.ready),
        ("draining", figures.draining),
        ("suspect", figures.suspect),
        ("dead", figures.dead),
    ] {
        let _ = writeln!(out, "holdfast_cluster_members{{state=\"{state}\"}} {members}");
    }
    let name = "holdfast_cluster_refused_total";
    head(out, name, "counter", "Connections to the cluster port that did not prove the secret.");
    let _ = writeln!(out, "{name} {}", figures.refused);
}

fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    head(out, name, "gauge", help);
    let _ = writeln!(out, "{name} {value}");
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documentation_names_what_is_rendered_and_no_more() {
        let mut text = String::new();
        render(&Figures { leader: true, suspect: 2, refused: 7, ..Figures::default() }, &mut text);
        assert!(text.contains("\nholdfast_cluster_is_leader 1\n"), "{text}");
        assert!(text.contains("\nholdfast_cluster_has_lease 0\n"), "{text}");
        assert!(text.contains("\nholdfast_cluster_members{state=\"suspect\"} 2\n"), "{text}");
        assert!(text.ends_with("holdfast_cluster_refused_total 7\n"), "{text}");
        let rendered: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let docs = std::fs::read_to_string(path).unwrap();
        let documented: BTreeSet<&str> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
            .filter(|name| name.starts_with("holdfast_cluster_"))
            .collect();
        assert_eq!(documented, rendered);
    }
}
