//! One event as one line.
//!
//! Values come from clients and servers too (names of tools, lines of a server's standard error),
//! so whatever they contain, a line stays one line and a field one field.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write as _};

use holdfast_config::LogFormat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Names that every line has; a field of that name gets a `_` behind it.
const OWN: [&str; 4] = ["ts", "level", "msg", "target"];

/// Writes events; the spans that an event is in give it their fields too, outermost first.
pub(super) struct Line {
    pub(super) format: LogFormat,
}

/// Keeps a span's fields as logfmt, which [`Line`] takes apart again for JSON.
pub(super) struct Fields;

/// A field's value: text, or something that JSON writes without quotes.
enum Value {
    Text(String),
    Bare(String),
}

#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(Cow<'static, str>, Value)>,
}

// === impl Line ===

impl<S> FormatEvent<S, Fields> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, Fields>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut collected = Collected::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<Fields>>() {
                collected.fields.extend(spans::read(&fields.fields));
            }
        }
        event.record(&mut collected);

        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let level = level(*metadata.level());
        match self.format {
            LogFormat::Logfmt => {
                write!(out, "ts={time} level={level} msg=")?;
                logfmt::text(&mut out, &collected.message)?;
                write!(out, " target={}", metadata.target())?;
                for (name, value) in &collected.fields {
                    write!(out, " {name}=")?;
                    match value {
                        Value::Text(text) | Value::Bare(text) => logfmt::text(&mut out, text)?,
                    }
                }
            }
            LogFormat::Json => {
                write!(out, "{{\"ts\":\"{time}\",\"level\":\"{level}\",\"msg\":")?;
                json::text(&mut out, &collected.message)?;
                write!(out, ",\"target\":")?;
                json::text(&mut out, metadata.target())?;
                for (name, value) in &collected.fields {
                    out.write_char(',')?;
                    json::text(&mut out, name)?;
                    out.write_char(':')?;
                    match value {
                        Value::Text(text) => json::text(&mut out, text)?,
                        Value::Bare(text) => out.write_str(text)?,
                    }
                }
                out.write_char('}')?;
            }
        }
        writeln!(out)
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

// === impl Fields ===

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'writer>, fields: R) -> fmt::Result {
        let mut collected = Collected::default();
        fields.record(&mut collected);
        for (name, value) in collected.fields {
            spans::write(&mut out, &name, &value)?;
        }
        Ok(())
    }
}

// === impl Collected ===

impl Collected {
    fn push(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            let (Value::Text(text) | Value::Bare(text)) = value;
            self.message = text;
            return;
        }
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        let name =
            if OWN.contains(&name) { Cow::Owned(format!("{name}_")) } else { Cow::Borrowed(name) };
        // An event's field replaces that of its spans, so that no name stands twice.
        self.fields.retain(|(known, _)| *known != name);
        self.fields.push((name, value));
    }
}

impl Visit for Collected {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(value.to_owned()));
    }

    /// An error with its causes: `cannot connect: connection refused`.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.push(field, Value::Text(text));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for what is not finite.
        let text = value.to_string();
        self.push(field, if value.is_finite() { Value::Bare(text) } else { Value::Text(text) });
    }
}

mod logfmt {
    use std::fmt::{self, Write};

    /// Bare where that is unambiguous, else in quotes with everything escaped that could end the
    /// value or the line.
    pub(super) fn text(out: &mut dyn Write, text: &str) -> fmt::Result {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'=' | b'\\');
        if !text.is_empty() && text.bytes().all(plain) {
            return out.write_str(text);
        }
        super::json::text(out, text)
    }
}

mod json {
    use std::fmt::{self, Write};

    pub(super) fn text(out: &mut dyn Write, text: &str) -> fmt::Result {
        out.write_char('"')?;
        for c in text.chars() {
            match c {
                '"' => out.write_str("\\\"")?,
                '\\' => out.write_str("\\\\")?,
                '\n' => out.write_str("\\n")?,
                '\r' => out.write_str("\\r")?,
                '\t' => out.write_str("\\t")?,
                // The last two end a line for some readers.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    write!(out, "\\u{:04x}", u32::from(c))?;
                }
                c => out.write_char(c)?,
            }
        }
        out.write_char('"')
    }
}

/// A span's fields between their recording and the events that carry them.
mod spans {
    use std::borrow::Cow;
    use std::fmt::{self, Write};

    use super::Value;

    const END: char = '\u{1e}';
    const SPLIT: char = '\u{1f}';

    pub(super) fn write(out: &mut dyn Write, name: &str, value: &Value) -> fmt::Result {
        let (kind, text) = match value {
            Value::Text(text) => ('t', text),
            Value::Bare(text) => ('b', text),
        };
        let text = text.replace([END, SPLIT], " ");
        write!(out, "{name}{SPLIT}{kind}{text}{END}")
    }

    pub(super) fn read(text: &str) -> impl Iterator<Item = (Cow<'static, str>, Value)> {
        text.split_terminator(END).filter_map(|field| {
            let (name, value) = field.split_once(SPLIT)?;
            let value = match value.split_at_checked(1)? {
                ("b", text) => Value::Bare(text.to_owned()),
                (_, text) => Value::Text(text.to_owned()),
            };
            Some((Cow::Owned(name.trim_start().to_owned()), value))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `log` writes, without the time.
    fn written(format: LogFormat, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt::fmt()
            .with_max_level(Level::TRACE)
            .with_writer(move || writer.clone())
            .fmt_fields(Fields)
            .event_format(Line { format })
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        match format {
            LogFormat::Logfmt => text.split_once(' ').unwrap().1.to_owned(),
            LogFormat::Json => text,
        }
    }

    fn hostile() {
        let _span = tracing::info_span!("s", session = "a b", port = 7).entered();
        tracing::warn!(
            tool = "x\" level=error\nts=0",
            count = 3,
            ok = true,
            empty = "",
            level = "mine",
            "tool\u{2028}failed"
        );
    }

    #[test]
    fn logfmt_keeps_an_event_on_one_line_and_a_value_in_its_quotes() {
        assert_eq!(
            written(LogFormat::Logfmt, hostile),
            "level=warn msg=\"tool\\u2028failed\" target=holdfast::telemetry::line::tests \
             session=\"a b\" port=7 tool=\"x\\\" level=error\\nts=0\" count=3 ok=true empty=\"\" \
             level_=mine\n"
        );
    }

    #[test]
    fn json_is_one_object_per_line_with_numbers_as_numbers() {
        let text = written(LogFormat::Json, hostile);
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["msg"], "tool\u{2028}failed");
        assert_eq!(value["level"], "warn");
        assert_eq!(value["level_"], "mine");
        assert_eq!(value["port"], 7);
        assert_eq!(value["session"], "a b");
        assert_eq!(value["tool"], "x\" level=error\nts=0");
    }

    #[test]
    fn an_error_is_written_with_its_causes() {
        let cause = io::Error::other("refused");
        let error = anyhow::Error::new(cause).context("cannot connect");
        let text = written(LogFormat::Logfmt, || {
            tracing::error!(error = error.as_ref() as &(dyn Error + 'static), "no");
        });
        assert!(text.contains("error=\"cannot connect: refused\""), "{text}");
    }

    #[test]
    fn a_field_of_the_event_replaces_that_of_its_span() {
        let text = written(LogFormat::Json, || {
            let _span = tracing::info_span!("s", node = "old").entered();
            tracing::info!(node = "new", "x");
        });
        assert_eq!(text.matches("\"node\"").count(), 1, "{text}");
        assert!(text.contains("\"node\":\"new\""), "{text}");
    }
}
