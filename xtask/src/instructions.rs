//! `cargo xtask instructions`: what a call costs in instructions of user space, under callgrind.
//!
//! Unlike microseconds it is the same on a machine that is shared. The gateway is built with its release
//! profile, since nothing else says anything; the rig that drives it is not, since it does not count.

use anyhow::Result;

use crate::args::Args;
use crate::{shell, tools};

const USAGE: &str = "\
Usage: cargo xtask instructions [OPTIONS]

  --case TEXT       only the forms whose name has this (several by commas)
  --functions N     also list the N dearest functions, by themselves and with what they call
  --hold            fail if a call costs more than its form may, as CI does
";

/// # Errors
/// A call costs more than it may, or could not be measured.
pub(crate) fn hold() -> Result<()> {
    measure(vec!["--hold".to_owned()])
}

pub(crate) fn run(mut args: Args) -> Result<()> {
    if args.flag("--help") || args.flag("-h") {
        print!("{USAGE}");
        return Ok(());
    }
    measure(args.everything())
}

fn measure(options: Vec<String>) -> Result<()> {
    tools::system(&[tools::VALGRIND])?;
    shell::run(shell::cargo().args(["build", "--release", "--package", "holdfast"]))?;
    let gateway = shell::target_dir()?.join("release/holdfast");
    let mut rig = shell::cargo();
    // As a test of the workspace: with what the tests have built already.
    rig.args(["test", "--quiet", "--workspace", "--bench", "rig", "--"]);
    rig.arg("--instructions").args(options);
    shell::run(rig.env("HOLDFAST_BIN", gateway))
}
