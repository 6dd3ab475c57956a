//! Asks before a command changes something, where there is somebody to ask.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::Failure;

#[derive(Args)]
pub(crate) struct ConfirmArgs {
    /// Do not ask; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
}

impl ConfirmArgs {
    /// Returns if it may be done. `does`: what the command does, as in `drain takes n1 out of the
    /// cluster`; `question`: ends before `[y/N]`.
    ///
    /// # Errors
    /// Nobody can be asked, or whoever was asked said no.
    pub(crate) fn confirm(&self, does: &str, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Failure::Usage(format!(
                "holdfast: {does}; without a terminal to ask at, say so with --yes"
            )));
        }
        let mut out = io::stderr().lock();
        write!(out, "{question} [y/N] ")?;
        out.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).context("no answer can be read")?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::Failed(anyhow!("nothing was changed"))),
        }
    }
}
