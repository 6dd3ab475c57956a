//! `cargo xtask bench`: the gateway beside nginx on the same machine, in the same minutes.
//!
//! This part makes sure that there is something to measure (nginx, Redis, the gateway in its release
//! profile, the rig) and hands over to the rig in `tests/bench`, which needs a runtime. Nothing here
//! runs in CI: two shared cores tell nothing about a single run.

use anyhow::{Result, bail};

use crate::args::Args;
use crate::{release, shell, tools};

const USAGE: &str = "\
Usage: cargo xtask bench [OPTIONS]

  --rounds N        rounds of every case, the targets interleaved (default 5)
  --seconds N       length of one measurement (default 1)
  --short           one round of 0.3 s: whether everything runs; its figures are hints
  --case NAME       only this case (several by commas); an unknown one lists them
  --sessions N      instead: the memory of N sessions, without and with a GET stream
  --resilience      instead: what failing servers, overload and decisions cost; appends to
                    docs/reliability.md
  --part NAME       of those only this part (repeatable by commas); an unknown one lists them
  --trained         measure what `cargo xtask release` has built, instead of a plain release
  --note TEXT       a remark that goes into docs/performance.md with the figures
  --dry-run         print the table, do not append it to docs/performance.md
";

pub(crate) fn run(mut args: Args) -> Result<()> {
    if args.flag("--help") || args.flag("-h") {
        print!("{USAGE}");
        return Ok(());
    }
    tools::system(&[tools::NGINX, tools::REDIS])?;
    let gateway = if args.flag("--trained") {
        let trained = release::trained()?;
        if !trained.is_file() {
            bail!("there is no {}: build it with `cargo xtask release`", trained.display());
        }
        trained
    } else {
        shell::run(shell::cargo().args(["build", "--release", "--package", "holdfast"]))?;
        shell::target_dir()?.join("release/holdfast")
    };
    let mut rig = shell::cargo();
    rig.args(["bench", "--quiet", "--package", "holdfast-tests", "--bench", "rig", "--"]);
    rig.args(args.everything());
    shell::run(rig.env("HOLDFAST_BIN", gateway))
}
