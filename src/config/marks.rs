//! Where the values of a YAML text stand: `serde_yaml` does not tell of what it accepts.
//!
//! Says nothing about what values are or whether they are any good: a text that this parser does
//! not take has fewer marks, and messages are told of the nearest thing around.

use super::error::Place;
use saphyr_parser::{Event, Parser};

/// Where a value stands.
pub(super) struct Mark {
    pub(super) place: Place,
    /// Those of a list's items, or of keys and values in turn.
    pub(super) inner: Vec<Self>,
}

impl Mark {
    /// Those of a text's first document.
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut open: Vec<Self> = Vec::new();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.ok()?;
            let place = Place::At { line: span.start.line(), column: span.start.col() + 1 };
            let mark = Self { place, inner: Vec::new() };
            let done = match event {
                Event::SequenceStart(..) | Event::MappingStart(..) => {
                    open.push(mark);
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => open.pop()?,
                Event::Scalar(..) | Event::Alias(_) => mark,
                _ => continue,
            };
            match open.last_mut() {
                Some(around) => around.inner.push(done),
                None => return Some(done),
            }
        }
        None
    }
}
