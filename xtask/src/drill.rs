//! `cargo xtask drill`: three nodes behind a balancer, under load, losing one node after another.
//!
//! This part makes sure that there is something to drill (balancers, Redis, the SDK clients, the gateway) and
//! hands over to `tests/cluster`, which needs a runtime. The short form is a test like any other.

use anyhow::Result;

use crate::args::Args;
use crate::{shell, tools};

pub(crate) fn run(args: Args) -> Result<()> {
    let arguments = args.everything();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if !has("--help") && !has("-h") {
        tools::system(&tools::STACK)?;
        if !has("--no-sdks") {
            tools::system(&tools::CLIENTS)?;
            let setup = shell::root().join("tests/interop/setup.sh");
            shell::run(shell::command("bash").arg(setup))?;
        }
    }
    let gateway = match std::env::var_os("HOLDFAST_BIN") {
        Some(named) => named.into(),
        None => {
            shell::run(shell::cargo().args(["build", "--package", "holdfast"]))?;
            shell::target_dir()?.join("debug/holdfast")
        }
    };
    let mut drill = shell::cargo();
    drill.args(["test", "--quiet", "--package", "holdfast-tests", "--test", "drill", "--"]);
    shell::run(drill.args(arguments).env("HOLDFAST_BIN", gateway))
}
