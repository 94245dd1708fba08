//! Figures and names in a given number of columns.

use ratatui::text::Span;

/// Columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text in exactly so many columns, at the left; what is too long ends in an ellipsis.
pub(super) fn left(text: &str, columns: usize) -> String {
    let mut text = shorten(text, columns);
    let missing = columns.saturating_sub(width(&text));
    text.extend(std::iter::repeat_n(' ', missing));
    text
}

/// The same at the right.
pub(super) fn right(text: &str, columns: usize) -> String {
    let text = shorten(text, columns);
    let missing = columns.saturating_sub(width(&text));
    " ".repeat(missing) + &text
}

/// A text in no more than so many columns.
pub(super) fn shorten(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut taken = 0;
    for c in text.chars() {
        taken += width(c.encode_utf8(&mut [0; 4]));
        // One column is the ellipsis'.
        if taken + 1 > columns {
            break;
        }
        short.push(c);
    }
    if columns > 0 {
        short.push('…');
    }
    short
}

/// A dash for nothing.
pub(super) fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// A number with three digits or so.
fn three_digits(value: f64) -> String {
    match value {
        ..9.995 => format!("{value:.2}"),
        9.995..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Microseconds with a unit.
pub(super) fn time(us: u64) -> String {
    let value = us as f64;
    match us {
        ..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{} ms", three_digits(value / 1e3)),
        1_000_000..120_000_000 => format!("{} s", three_digits(value / 1e6)),
        _ => long_time(us / 1_000_000),
    }
}

/// Milliseconds, roughly, in one unit and at most seven columns.
pub(super) fn rough_time(ms: u64) -> String {
    match ms {
        ..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{:.1} s", ms as f64 / 1e3),
        10_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => shorten(&format!("{} d", ms / 86_400_000), 7),
    }
}

/// Seconds in the two largest units that they fill.
pub(super) fn long_time(s: u64) -> String {
    match s {
        ..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// Bytes with a unit.
pub(super) fn size(bytes: f64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes.max(0.0);
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // The next unit is taken where this one would need four digits.
    while value >= 999.5 && units.len() > 0 {
        value /= 1024.0;
        unit = units.next();
    }
    let unit = unit.copied().unwrap_or_default();
    if unit == "B" { format!("{value:.0} B") } else { format!("{} {unit}", three_digits(value)) }
}

/// A number in groups of three digits.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_take_the_columns_they_are_given() {
        assert_eq!(left("city", 6), "city  ");
        assert_eq!(right("city", 6), "  city");
        assert_eq!(left("highway", 4), "hig…");
        assert_eq!(shorten("highway", 0), "");
        assert_eq!(shorten("highway", 1), "…");
        for columns in 0..9 {
            assert_eq!(width(&left("道道道", columns)), columns, "{columns}");
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!((time(0), time(999)), ("0 µs".into(), "999 µs".into()));
        assert_eq!((time(1000), time(12_345)), ("1.00 ms".into(), "12.3 ms".into()));
        assert_eq!((time(999_999), time(61_000_000)), ("1000 ms".into(), "61.0 s".into()));
        assert_eq!((time(180_000_000), long_time(90_000)), ("3 min 0 s".into(), "1 d 1 h".into()));
        let rough = [0, 999, 9_949, 12_345, 125_000, 7_199_999, 90_000_000].map(rough_time);
        assert_eq!(rough, ["0 ms", "999 ms", "9.9 s", "12 s", "2 min", "119 min", "25 h"]);
        assert!([7_199_999, u64::MAX].iter().all(|ms| width(&rough_time(*ms)) <= 7));
        assert_eq!((size(0.0), size(999.0)), ("0 B".into(), "999 B".into()));
        assert_eq!((size(1000.0), size(1.5e6)), ("0.98 KiB".into(), "1.43 MiB".into()));
        assert_eq!(size(f64::MAX).split_once(' ').map(|(_, unit)| unit), Some("EiB"));
        assert_eq!((count(0), count(1_234_567)), ("0".into(), "1 234 567".into()));
        assert_eq!((count(123), count(123_456)), ("123".into(), "123 456".into()));
    }
}
