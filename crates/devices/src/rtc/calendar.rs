//! Days, dates and seconds of the proleptic Gregorian calendar, in UTC, without leap seconds.

pub(super) const SECONDS_PER_DAY: i64 = 86_400;
/// Days of 400 years.
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH: i64 = 719_468;

/// A moment as a clock shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: i64,
    /// 1 to 31.
    pub(super) day: i64,
    /// 0 is Sunday.
    pub(super) weekday: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

impl Moment {
    /// From seconds since 1970. Years are counted from 1 March, so that the leap day is a year's last.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let (days, time) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let shifted = days.saturating_add(EPOCH);
        let (era, day) = (shifted.div_euclid(DAYS_PER_ERA), shifted.rem_euclid(DAYS_PER_ERA));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let january = i64::from(month >= 10);
        Self {
            year: year + era * 400 + january,
            month: if january == 1 { month - 9 } else { month + 3 },
            day: day - (153 * month + 2) / 5 + 1,
            weekday: (days + 4).rem_euclid(7),
            hour: time / 3600,
            minute: time / 60 % 60,
            second: time % 60,
        }
    }

    /// Seconds since 1970, if there is such a moment. The weekday is not looked at.
    pub(super) fn to_seconds(self) -> Option<i64> {
        let in_range = (0..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && (0..24).contains(&self.hour)
            && (0..60).contains(&self.minute)
            && (0..60).contains(&self.second);
        if !in_range {
            return None;
        }
        let january = i64::from(self.month <= 2);
        let (year, month) = (self.year - january, (self.month + 9) % 12);
        let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
        let day = 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5 + self.day - 1;
        let days = era * DAYS_PER_ERA + day - EPOCH;
        let seconds = days * SECONDS_PER_DAY + self.hour * 3600 + self.minute * 60 + self.second;
        // 31 February became a day in March.
        (Self::from_seconds(seconds).day == self.day).then_some(seconds)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments_are_right() {
        let text = |seconds| {
            let m = Moment::from_seconds(seconds);
            format!("{}-{}-{} {}:{}:{} {}", m.year, m.month, m.day, m.hour, m.minute, m.second, m.weekday)
        };
        assert_eq!(text(0), "1970-1-1 0:0:0 4");
        assert_eq!(text(951_782_400), "2000-2-29 0:0:0 2");
        assert_eq!(text(4_107_542_399), "2100-2-28 23:59:59 0");
        assert_eq!(text(4_107_542_400), "2100-3-1 0:0:0 1");
        assert_eq!(text(-1), "1969-12-31 23:59:59 3");
    }

    proptest! {
        #[test]
        fn every_second_is_one_moment(seconds in -62_167_219_200i64..253_402_300_800) {
            prop_assert_eq!(Moment::from_seconds(seconds).to_seconds(), Some(seconds));
        }
    }
}
