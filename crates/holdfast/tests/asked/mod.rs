//! A command that asks an admin port, and all that it prints, against `tests/golden/*.out`.
//! `UPDATE_GOLDEN=1` writes those files anew.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a command against the admin port at `address` and compares all that it prints, and its exit code,
/// with the golden file.
#[track_caller]
pub(crate) fn golden(name: &str, address: SocketAddr, arguments: &[&str]) {
    let address = address.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(arguments)
        .args(["--admin", &address])
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    let mut text = format!("$ holdfast {} --admin ADDRESS\n", arguments.join(" "));
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    if !output.stderr.is_empty() {
        text.push_str("--- standard error\n");
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    text.push_str(&format!("--- exit code {}\n", output.status.code().unwrap_or(-1)));
    let text = text.replace(&address, "ADDRESS");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let file = folder.join(format!("{name}.out"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).expect("the golden file is written");
    }
    let expected = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; run with UPDATE_GOLDEN=1", file.display()));
    assert_eq!(text, expected, "{name} differs; if it should, run with UPDATE_GOLDEN=1");
}
