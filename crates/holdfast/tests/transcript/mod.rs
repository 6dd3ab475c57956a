//! All that a command prints, and its exit code, against `tests/golden/*.out`. `UPDATE_GOLDEN=1` writes those
//! files anew.

use std::path::Path;
use std::process::Output;

/// What `command` printed, in the form of the golden files.
pub(crate) fn of(command: &str, output: &Output) -> String {
    let mut text = format!("$ holdfast {command}\n");
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    if !output.stderr.is_empty() {
        text.push_str("--- standard error\n");
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    text.push_str(&format!("--- exit code {}\n", output.status.code().unwrap_or(-1)));
    text
}

/// Compares with the golden file of this name.
#[track_caller]
pub(crate) fn compare(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let file = folder.join(format!("{name}.out"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, text).expect("the golden file is written");
    }
    let expected = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; run with UPDATE_GOLDEN=1", file.display()));
    assert_eq!(text, expected, "{name} differs; if it should, run with UPDATE_GOLDEN=1");
}
