//! The rig's options, as `cargo xtask bench --help` lists them.

use std::time::Duration;

/// What to measure and how long.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    /// Names of cases; empty: all of them.
    pub(crate) cases: Vec<String>,
    /// Open so many sessions instead of making load.
    pub(crate) sessions: Option<usize>,
    /// Measure what failing servers cost instead: these parts; empty: all of them.
    pub(crate) resilience: Option<Vec<String>>,
    pub(crate) note: Option<String>,
    pub(crate) dry_run: bool,
}

impl Options {
    /// # Errors
    /// An unknown option or an unfit value, as a sentence.
    pub(crate) fn from_args(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rounds: 5,
            duration: Duration::from_secs(3),
            cases: Vec::new(),
            sessions: None,
            resilience: None,
            note: None,
            dry_run: false,
        };
        let mut args = args.peekable();
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
            let number = |text: String| {
                let parsed = text.parse().ok().filter(|number| *number > 0);
                parsed.ok_or_else(|| format!("{name} {text}: a number above 0 is needed"))
            };
            match name.as_str() {
                "--rounds" => options.rounds = number(value()?)?,
                "--seconds" => options.duration = Duration::from_secs(number(value()?)? as u64),
                "--case" => options.cases.extend(value()?.split(',').map(str::to_owned)),
                "--resilience" => {
                    options.resilience.get_or_insert_default();
                }
                "--part" => {
                    let parts = options.resilience.get_or_insert_default();
                    parts.extend(value()?.split(',').map(str::to_owned));
                }
                "--sessions" => options.sessions = Some(number(value()?)?),
                "--note" => options.note = Some(value()?),
                "--dry-run" => options.dry_run = true,
                // What cargo adds for a bench target.
                "--bench" => {}
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}
