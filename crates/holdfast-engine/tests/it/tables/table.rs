//! A table of `docs/state-machines.md`, to be carried out cell by cell.
//!
//! It names the events in its first column and the states in its first row. A test brings its own lists of both, and a
//! function that puts a machine into a state and lets an event happen.

use std::collections::BTreeSet;
use std::fmt::Debug;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/state-machines.md");

/// A table: the names of its columns, and its rows.
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

/// The table number `at` under the heading `## heading`, from 0 on.
pub(crate) fn table(heading: &str, at: usize) -> Table {
    let text = std::fs::read_to_string(DOCUMENT).expect("docs/state-machines.md");
    let section = text
        .split("\n## ")
        .find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'))
        .unwrap_or_else(|| panic!("docs/state-machines.md has no section {heading:?}"));
    let mut tables = section.split("\n\n").filter(|block| block.trim_start().starts_with('|'));
    let block = tables.nth(at).unwrap_or_else(|| panic!("{heading} has no table {at}"));
    let mut lines = block.lines().filter(|line| line.starts_with('|')).map(cells);
    let columns = lines.next().expect("a first row")[1..].to_vec();
    let rows = lines.skip(1).map(|cells| (cells[0].clone(), cells[1..].to_vec())).collect();
    Table { title: format!("{heading}, table {at}"), columns, rows }
}

fn cells(line: &str) -> Vec<String> {
    line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

impl Table {
    /// Carries every cell out. `happens` gives the cell's first words: what is before its comma.
    pub(crate) fn check<S: Copy + Debug, E: Copy + Debug>(
        &self,
        states: &[(S, &str)],
        events: &[(E, &str)],
        happens: impl Fn(S, E) -> String,
    ) {
        let names = |all: Vec<&str>| all.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        let columns: BTreeSet<String> = self.columns.iter().cloned().collect();
        assert_eq!(columns, names(states.iter().map(|it| it.1).collect()), "{}", self.title);
        let rows: BTreeSet<String> = self.rows.iter().map(|row| row.0.clone()).collect();
        assert_eq!(rows, names(events.iter().map(|it| it.1).collect()), "{}", self.title);
        let mut wrong = Vec::new();
        for (row, cells) in &self.rows {
            assert_eq!(
                cells.len(),
                self.columns.len(),
                "{}: a cell is missing in {row:?}",
                self.title
            );
            let (event, _) = events.iter().find(|it| it.1 == row).expect("compared above");
            for (column, cell) in self.columns.iter().zip(cells) {
                let (state, _) = states.iter().find(|it| it.1 == column).expect("compared above");
                let says = cell.split(',').next().unwrap_or_default().trim();
                let is = happens(*state, *event);
                if says != is || says.is_empty() {
                    wrong.push(format!("{row} × {column}: the table says {says:?}, it is {is:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}:\n{}", self.title, wrong.join("\n"));
    }
}
