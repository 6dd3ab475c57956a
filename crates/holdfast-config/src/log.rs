//! `log`: what is written to standard error and in which form.

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
