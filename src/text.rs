//! Text from files and peers, made safe to show: bounded, and without characters that a terminal or a
//! log would obey.
//!
//! Decides nothing about what a valid name is.

use std::fmt::{self, Display, Write as _};

/// Characters of a text that are shown.
const MAX_CHARS: usize = 160;

/// Shows a text from elsewhere, or an error that quotes one: control characters and those that change
/// the direction of text are escaped, and what is longer than 160 characters ends with `…`.
pub fn shown<T: Display>(text: T) -> Shown<T> {
    Shown(text)
}

/// The same between quotation marks.
pub fn quoted(text: &str) -> Quoted<'_> {
    Quoted(text)
}

/// See [`quoted`].
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "\"{}\"", shown(self.0))
    }
}

/// See [`shown`].
#[derive(Clone, Copy, Debug)]
pub struct Shown<T>(T);

impl<T: Display> Display for Shown<T> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bounded = Bounded { to, left: MAX_CHARS };
        match write!(bounded, "{}", self.0) {
            // The text was cut here, which ends its formatting early.
            Err(_) if bounded.left == 0 => to.write_char('…'),
            result => result,
        }
    }
}

/// Passes so many characters on, escaped, and then fails.
struct Bounded<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    left: usize,
}

impl fmt::Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            write_escaped(self.to, character)?;
        }
        Ok(())
    }
}

/// Escapes what a terminal would obey in a text of several lines.
pub fn escape_lines(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        // Writing to a string does not fail.
        let _ = match character {
            '\n' => escaped.write_char(character),
            _ => write_escaped(&mut escaped, character),
        };
    }
    escaped
}

fn write_escaped(to: &mut impl fmt::Write, character: char) -> fmt::Result {
    let turns_text = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    if character.is_control() || turns_text {
        write!(to, "{}", character.escape_unicode())
    } else {
        to.write_char(character)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_the_rest_is_not() {
        let hostile = "a\u{1b}[2J\u{9b}1m\u{202e}\n\"ü\"";
        assert_eq!(shown(hostile).to_string(), "a\\u{1b}[2J\\u{9b}1m\\u{202e}\\u{a}\"ü\"");
        assert_eq!(quoted("\u{7}").to_string(), "\"\\u{7}\"");
        assert_eq!(escape_lines("one\ntwo\u{7}"), "one\ntwo\\u{7}");
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let exact = "ü".repeat(MAX_CHARS);
        assert_eq!(shown(&exact).to_string(), exact);
        let long = "ü".repeat(10_000_000);
        assert_eq!(shown(&long).to_string(), format!("{exact}…"));
    }
}
