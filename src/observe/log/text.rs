//! Lines for people: time, level, what happened, and what belongs to it. Of an event of the engine
//! the words say it all, and only what it can be found by comes behind; its time is the event's, not
//! that of the line, which comes a little later.

use crate::observe::{
    lines,
    wall::{Stamp, now_us},
};
use std::fmt::{self, Debug, Write as _};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer, time::FormatTime},
    registry::LookupSpan,
};

/// What an event of the engine can be found by.
const FOUND_BY: [&str; 7] =
    ["model", "session", "generation", "request_id", "trace_id", "caller_pid", "caller_uid"];

/// Lines as text.
pub(super) struct Text;

/// The time of day, from the one place that tells it.
pub(super) struct Time;

impl FormatTime for Time {
    fn format_time(&self, to: &mut Writer<'_>) -> fmt::Result {
        write!(to, "{}", Stamp(now_us()))
    }
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let Parts { is_told, time_us, message, fields } = Parts::of(event);
        write!(to, "{} {:>5} ", Stamp(time_us.unwrap_or_else(now_us)), metadata.level())?;
        if !is_told {
            write!(to, "{}: ", metadata.target())?;
        }
        writeln!(to, "{message}{fields}")
    }
}

/// The parts of a line.
pub(super) struct Parts {
    /// Whether the message says it all.
    pub(super) is_told: bool,
    /// When it was, if that is not when its line is written.
    time_us: Option<u64>,
    pub(super) message: String,
    /// What belongs to it, with a blank before each.
    pub(super) fields: String,
}

impl Parts {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let is_told = event.metadata().target() == lines::TARGET;
        let (message, fields) = Default::default();
        let mut parts = Self { is_told, time_us: None, message, fields };
        event.record(&mut parts);
        parts
    }
}

impl Visit for Parts {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if self.is_told && field.name() == "time_us" {
            self.time_us = Some(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let name = field.name();
        // Writing to a string cannot fail.
        let _ = if name == "message" {
            write!(Plain(&mut self.message), "{value:?}")
        } else if !self.is_told || FOUND_BY.contains(&name) {
            write!(Plain(&mut self.fields), " {name}={value:?}")
        } else {
            Ok(())
        };
    }
}

/// Text in which nothing is left that a terminal would obey, or take for the end of a line.
struct Plain<'a>(&'a mut String);

impl fmt::Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_a_line_or_commands_a_terminal() {
        let mut text = String::new();
        write!(Plain(&mut text), "a → b\n\x1b[31mred").unwrap();
        assert_eq!(text, "a → b\\n\\u{1b}[31mred");
    }
}
