//! Figures are kept with their date, commit and machine, or they say nothing later.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::Error;

/// What calls cost. Relative to the workspace, as the next.
pub(crate) const PERFORMANCE: &str = "docs/performance.md";
/// What failures cost.
pub(crate) const RELIABILITY: &str = "docs/reliability.md";

const HEADER: &str = "# Performance

What a call costs, measured beside nginx as a plain proxy (two workers, kept connections, no buffering) on the same machine in the same minutes, by `cargo xtask bench`, which appends to this file. Ratios can be compared between entries; microseconds only within one, since the machines are shared and differ. Differences of CPU under 10 % are noise.
";

/// Adds an entry at the end of a document; that about costs is made if it is not there.
pub(crate) fn append(document: &str, text: &str, note: Option<&str>) -> Result<(), Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?;
    let path = root.join(document);
    let mut entry = String::new();
    if !path.is_file() {
        fs::create_dir_all(root.join("docs"))?;
        entry.push_str(HEADER);
    }
    let dirty = if said(root, "git", &["status", "--porcelain", "--", "crates"]).is_empty() {
        ""
    } else {
        " with uncommitted changes"
    };
    entry.push_str(&format!(
        "\n## {}, {}{dirty}\n\n{} cores, Linux {}.{}\n\n{text}",
        said(root, "date", &["-u", "+%F %H:%M UTC"]),
        said(root, "git", &["rev-parse", "--short", "HEAD"]),
        std::thread::available_parallelism().map_or(0, usize::from),
        said(root, "uname", &["-r"]),
        note.map(|note| format!(" {note}")).unwrap_or_default(),
    ));
    Ok(OpenOptions::new().create(true).append(true).open(path)?.write_all(entry.as_bytes())?)
}

fn said(root: &Path, program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(root).output();
    output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default()
}
