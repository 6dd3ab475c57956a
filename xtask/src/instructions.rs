//! `cargo xtask instructions`: what a call costs in instructions of user space, under callgrind.
//!
//! Unlike microseconds it is the same on a machine that is shared. The gateway is built with its release
//! profile, since nothing else says anything; the rig that drives it is not, since it does not count.

use anyhow::Result;

use crate::args::Args;
use crate::{shell, tools};

const USAGE: &str = "\
Usage: cargo xtask instructions [OPTIONS]

  --functions N     also list the N dearest functions, by themselves and with what they call
  --at-most N       fail if a call costs more instructions in any form (docs/performance.md: 57750)
";

pub(crate) fn run(mut args: Args) -> Result<()> {
    if args.flag("--help") || args.flag("-h") {
        print!("{USAGE}");
        return Ok(());
    }
    tools::system(&[tools::VALGRIND])?;
    shell::run(shell::cargo().args(["build", "--release", "--package", "holdfast"]))?;
    let gateway = shell::target_dir()?.join("release/holdfast");
    let mut rig = shell::cargo();
    // As a test: with what the tests have built already.
    rig.args(["test", "--quiet", "--package", "holdfast-tests", "--bench", "rig", "--"]);
    rig.arg("--instructions").args(args.everything());
    shell::run(rig.env("HOLDFAST_BIN", gateway))
}
