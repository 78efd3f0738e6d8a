//! Calendar dates in UTC, for certificates and for what Kamailio's tools expect.

/// A date and time of day in UTC, proleptic Gregorian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Utc {
    pub(crate) year: i64,
    /// 1 to 12.
    pub(crate) month: u8,
    /// 1 to 31.
    pub(crate) day: u8,
    /// 0 is Sunday.
    weekday: usize,
    /// Of the day.
    second: u64,
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const DAY: u64 = 86_400;

impl Utc {
    /// The date of a unix time in seconds.
    pub(crate) fn from_unix(secs: u64) -> Self {
        let days = secs / DAY;
        let (year, month, day) = civil(i64::try_from(days).unwrap_or(i64::MAX / 2));
        let weekday = usize::try_from((days + 4) % 7).unwrap_or(0);
        Self { year, month, day, weekday, second: secs % DAY }
    }

    /// `Mon Nov 23 12:45:40 2026`, as C's `ctime`.
    pub(crate) fn ctime(self) -> String {
        let month = MONTHS[usize::from(self.month - 1)];
        format!("{} {month} {:>2} {} {}", DAYS[self.weekday], self.day, self.time(), self.year)
    }

    /// `2026-11-23 12:45:40`.
    pub(crate) fn date_time(self) -> String {
        format!("{:04}-{:02}-{:02} {}", self.year, self.month, self.day, self.time())
    }

    fn time(self) -> String {
        let s = self.second;
        format!("{:02}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60)
    }
}

/// Days since 1970-01-01 to year, month and day, counting in 400-year eras that begin on the first of March.
fn civil(days: i64) -> (i64, u8, u8) {
    const ERA: i64 = 146_097;
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(ERA), shifted.rem_euclid(ERA));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, u8::try_from(month).unwrap_or(1), u8::try_from(day).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_have_their_dates() {
        assert_eq!(Utc::from_unix(0).ctime(), "Thu Jan  1 00:00:00 1970");
        assert_eq!(Utc::from_unix(1_795_437_940).ctime(), "Mon Nov 23 12:45:40 2026");
        assert_eq!(Utc::from_unix(951_782_400).date_time(), "2000-02-29 00:00:00");
        assert_eq!(Utc::from_unix(4_107_542_399).date_time(), "2100-02-28 23:59:59");
    }
}
