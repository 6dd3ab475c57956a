//! A command that asks an admin port, and all that it prints.

#[path = "../transcript/mod.rs"]
mod transcript;

use std::net::SocketAddr;
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
    let text = transcript::of(&format!("{} --admin ADDRESS", arguments.join(" ")), &output);
    transcript::compare(name, &text.replace(&address, "ADDRESS"));
}
