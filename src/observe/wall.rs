//! The time of day, for people and for other machines' records. Nothing is decided by it.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// Microseconds since 1970, by a clock that may be set. 0 before that.
pub(super) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

/// A moment, in microseconds since 1970, as `2026-04-14T07:08:09.123456Z`.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The time of day alone, in UTC: `07:08:09.123`.
    pub fn clock(self) -> impl fmt::Display {
        let [hours, minutes, seconds] = self.hms();
        let ms = self.0 / 1000 % 1000;
        format!("{hours:02}:{minutes:02}:{seconds:02}.{ms:03}")
    }

    fn hms(self) -> [u64; 3] {
        let seconds = self.0 / 1_000_000;
        [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60]
    }

    /// Year, month and day, counted as if years began in March: leap days then come last.
    fn date(self) -> [u64; 3] {
        const DAYS_OF_400_YEARS: u64 = 146_097;
        // Since the first of March of the year 0.
        let days = self.0 / 86_400_000_000 + 719_468;
        let (cycle, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        [cycle * 400 + year + later, month, day]
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([year, month, day], [hours, minutes, seconds]) = (self.date(), self.hms());
        let us = self.0 % 1_000_000;
        write!(to, "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{us:06}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_as_calendars_have_them() {
        let told = |seconds: u64| Stamp(seconds * 1_000_000 + 42).to_string();
        assert_eq!(told(0), "1970-01-01T00:00:00.000042Z");
        assert_eq!(told(951_782_399), "2000-02-28T23:59:59.000042Z");
        assert_eq!(told(951_782_400), "2000-02-29T00:00:00.000042Z");
        assert_eq!(told(1_709_164_800), "2024-02-29T00:00:00.000042Z");
        assert_eq!(told(1_709_251_200), "2024-03-01T00:00:00.000042Z");
        assert_eq!(told(4_107_542_399), "2100-02-28T23:59:59.000042Z");
        assert_eq!(told(4_107_542_400), "2100-03-01T00:00:00.000042Z");
        assert_eq!(Stamp(1_709_251_199_987_654).clock().to_string(), "23:59:59.987");
    }
}
