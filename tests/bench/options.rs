//! The rig's options, as `cargo xtask bench --help` lists them.

use std::time::Duration;

/// What to measure and how long.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    /// Names of cases; empty: all of them.
    pub(crate) cases: Vec<String>,
    /// Measure only the memory of so many sessions.
    pub(crate) sessions: Option<usize>,
    /// Measure what failing servers cost instead: these parts; empty: all of them.
    pub(crate) resilience: Option<Vec<String>>,
    /// Only have the gateway serve all cases, for a build that counts.
    pub(crate) train: bool,
    /// Count instructions instead.
    pub(crate) instructions: bool,
    /// Fail if a call costs more of them than it may.
    pub(crate) hold: bool,
    /// How many functions to list.
    pub(crate) functions: usize,
    pub(crate) note: Option<String>,
    pub(crate) dry_run: bool,
}

impl Options {
    /// # Errors
    /// An unknown option or an unfit value, as a sentence.
    pub(crate) fn from_args(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rounds: 5,
            duration: USUAL,
            cases: Vec::new(),
            sessions: None,
            resilience: None,
            train: false,
            instructions: false,
            hold: false,
            functions: 0,
            note: None,
            dry_run: false,
        };
        let mut args = args.peekable();
        let mut length = None;
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
            let number = |text: String| {
                let parsed = text.parse().ok().filter(|number| *number > 0);
                parsed.ok_or_else(|| format!("{name} {text}: a number above 0 is needed"))
            };
            match name.as_str() {
                "--rounds" => options.rounds = number(value()?)?,
                "--seconds" => length = Some(seconds(&value()?)?),
                "--short" => (options.rounds, length) = (1, Some(SHORT)),
                "--case" => options.cases.extend(value()?.split(',').map(str::to_owned)),
                "--resilience" => {
                    options.resilience.get_or_insert_default();
                }
                "--part" => {
                    let parts = options.resilience.get_or_insert_default();
                    parts.extend(value()?.split(',').map(str::to_owned));
                }
                "--sessions" => options.sessions = Some(number(value()?)?),
                "--train" => options.train = true,
                "--instructions" => options.instructions = true,
                "--hold" => options.hold = true,
                "--functions" => options.functions = number(value()?)?,
                "--note" => options.note = Some(value()?),
                "--dry-run" => options.dry_run = true,
                // What cargo adds for a bench target.
                "--bench" => {}
                other => return Err(format!("unknown option {other}")),
            }
        }
        let usual = if options.resilience.is_some() { Duration::from_secs(3) } else { USUAL };
        options.duration = length.unwrap_or(usual);
        Ok(options)
    }
}

/// One measurement of a case: five rounds of all of them take less than ten minutes.
const USUAL: Duration = Duration::from_secs(1);

/// Long enough to show that everything runs; the figures are only hints.
const SHORT: Duration = Duration::from_millis(300);

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().ok().and_then(|it| Duration::try_from_secs_f64(it).ok());
    let wrong = || format!("--seconds {text}: a number of seconds is needed, 0.1 to 3600");
    parsed.filter(|it| (0.1..=3600.0).contains(&it.as_secs_f64())).ok_or_else(wrong)
}
