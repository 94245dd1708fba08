//! The time of day, for people and for other machines' records. Nothing is decided by it.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The end of the year 9999, which is the last that can be written so.
const LAST_US: u64 = 253_402_300_799_999_999;

/// Microseconds since 1970, by a clock that may be set. 0 before that.
pub(super) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

/// A moment, in microseconds since 1970, as `2026-04-14T07:08:09.123456Z`.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Now.
    pub fn now() -> Self {
        Self(now_us())
    }

    /// What tells it apart from now: on the same day the time alone, `07:08:09.123Z`, else with the
    /// date before.
    pub fn seen_from(self, now: Self) -> String {
        let date = |stamp: Self| stamp.to_string().get(..10).unwrap_or_default().to_owned();
        let clock = self.clock();
        if date(self) == date(now) {
            format!("{clock}Z")
        } else {
            format!("{}T{clock}Z", date(self))
        }
    }

    /// The time of day alone, in UTC: `07:08:09.123`.
    pub fn clock(self) -> impl fmt::Display {
        let whole = self.to_string();
        whole.get(11..23).unwrap_or_default().to_owned()
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_micros(self.0.min(LAST_US));
        humantime::format_rfc3339_micros(time).fmt(to)
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
        assert_eq!(Stamp(u64::MAX).to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Stamp(1_709_251_199_987_654).clock().to_string(), "23:59:59.987");
    }

    #[test]
    fn another_days_moments_have_their_date() {
        let moment = Stamp(1_709_251_199_987_654);
        assert_eq!(moment.seen_from(Stamp(moment.0 - 86_000_000_000)), "23:59:59.987Z");
        assert_eq!(moment.seen_from(Stamp(moment.0 + 12_346)), "2024-02-29T23:59:59.987Z");
    }
}
