//! `log`: what is written to standard error and in which form.

use crate::nearest::nearest;
use crate::section::Section;

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// A `tracing` filter: `info`, or `info,holdfast_proxy=debug`.
    pub level: String,
}

/// One event is one line in either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `ts=… level=info msg="…" key=value`
    Logfmt,
    /// `{"ts":"…","level":"info","msg":"…","key":"value"}`
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Logfmt, level: "info".into() }
    }
}

// === impl Log ===

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Log {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut log = Self::default();
        let formats = [("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)];
        if let Some(format) = section.field("format").and_then(|field| field.choice(&formats)) {
            log.format = format;
        }
        if let Some(field) = section.field("level")
            && let Some(level) = field.text()
        {
            match check_level(&level) {
                Ok(()) => log.level = level,
                Err((found, cure)) => field.problem(found, LEVEL, &cure),
            }
        }
        section.finish();
        log
    }
}

/// What a level may be.
pub(crate) const LEVEL: &str =
    "off, error, warn, info, debug or trace, or a list as info,holdfast_proxy=debug";

/// Whether a filter says what its writer probably meant. `tracing` takes `inof` for the name of a
/// module and then logs nothing else.
pub(crate) fn check_level(filter: &str) -> Result<(), (String, String)> {
    for directive in filter.split(',').map(str::trim) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        let level = level.to_ascii_lowercase();
        if !LEVELS.contains(&level.as_str()) {
            let found = format!("{} is not a level", crate::field::quoted(directive));
            let cure = match nearest(&level, &LEVELS) {
                Some(level) => format!("did you mean {level}?"),
                None => "write info".to_owned(),
            };
            return Err((found, cure));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_level_is_not_taken_for_a_module() {
        assert!(check_level("info").is_ok());
        assert!(check_level("info,holdfast_proxy=debug").is_ok());
        assert!(check_level("WARN, hyper=off").is_ok());
        let (_, cure) = check_level("inof").unwrap_err();
        assert_eq!(cure, "did you mean info?");
        assert!(check_level("").is_err());
        assert!(check_level("info,").is_err());
        assert!(check_level("hyper=loud").is_err());
    }
}
