//! What callgrind writes: who ran how many instructions, and who called whom.
//!
//! Two equally long runs of the same script that differ in the number of calls give what one call costs: the
//! start, the warm-up, what goes by time and the end are in both and fall out of the difference.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use crate::Error;

/// The instructions of one run.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    pub(crate) total: u64,
    functions: HashMap<String, Cost>,
}

/// Of one function: its own, and those of whatever it called too.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    own: u64,
    whole: u64,
}

/// What a call costs in one function, in instructions.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) name: String,
    pub(crate) own: f64,
    /// With what it calls. A function that calls itself is counted more than once.
    pub(crate) whole: f64,
}

/// The program under callgrind, which writes to `out` in the form that [`Profile::read`] takes.
pub(crate) fn command(program: &Path, out: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"]);
    command.arg(format!("--callgrind-out-file={}", out.display())).arg(program);
    command
}

impl Profile {
    /// Reads what callgrind has written.
    ///
    /// # Errors
    /// When there is no such file, or it says nothing.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("callgrind has written no {}: {error}", path.display()))?;
        let profile = Self::parse(&text);
        match profile.total {
            0 => Err(format!("callgrind has counted nothing in {}", path.display()).into()),
            _ => Ok(profile),
        }
    }

    fn parse(text: &str) -> Self {
        let mut profile = Self::default();
        let mut at = String::new();
        let mut is_call = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                name.clone_into(&mut at);
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if let Some(cost) = cost(line) {
                let function = profile.functions.entry(at.clone()).or_default();
                function.whole += cost;
                if !std::mem::take(&mut is_call) {
                    function.own += cost;
                    profile.total += cost;
                }
            }
        }
        profile
    }

    /// What each of `calls` calls costs that this run made and `fewer` did not, the dearest first.
    pub(crate) fn beyond(&self, fewer: &Self, calls: usize) -> Vec<Share> {
        let each = |more: u64, less: u64| (more as f64 - less as f64) / calls as f64;
        let mut shares: Vec<Share> = self
            .functions
            .iter()
            .map(|(name, cost)| {
                let less = fewer.functions.get(name).copied().unwrap_or_default();
                let (own, whole) = (each(cost.own, less.own), each(cost.whole, less.whole));
                Share { name: name.clone(), own, whole }
            })
            .collect();
        shares.sort_by(|a, b| b.own.total_cmp(&a.own).then_with(|| a.name.cmp(&b.name)));
        shares
    }
}

/// The instructions of a line `LINE COST`, the only ones that begin with a digit.
fn cost(line: &str) -> Option<u64> {
    let (position, cost) = line.split_once(' ')?;
    position.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    cost.parse().ok()
}
