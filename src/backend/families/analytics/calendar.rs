//! Time in UTC for statistics: hours, days, weeks from Monday, calendar months. In: Unix ms, from 1970 to the end of 9999. Out:
//! spans of whole hours, and the buckets in them. Pure: the current time is an argument.

pub(super) const HOUR_MS: i64 = 3_600_000;
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;
/// The start of the year 10000: the end of the supported time.
pub(super) const END_UNIX_MS: i64 = 253_402_300_800_000;

/// The ends of the months of a common year, in days from its start.
const MONTH_ENDS: [i64; 12] = [31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];

/// The length of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Granularity {
    Hour,
    Day,
    Week,
    Month,
}

impl Granularity {
    pub(super) const ALL: [Granularity; 4] =
        [Granularity::Hour, Granularity::Day, Granularity::Week, Granularity::Month];
    /// Their names, in the same order.
    pub(super) const NAMES: [&str; 4] = ["hour", "day", "week", "month"];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Granularity::Hour => "hour",
            Granularity::Day => "day",
            Granularity::Week => "week",
            Granularity::Month => "month",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Granularity> {
        Granularity::ALL.into_iter().find(|granularity| granularity.as_str() == name)
    }

    /// Returns the start of the bucket that contains a time. For the first week of 1970 it is before 1970.
    pub(super) fn start(self, at: i64) -> i64 {
        match self {
            Granularity::Hour => at - at.rem_euclid(HOUR_MS),
            Granularity::Day => at - at.rem_euclid(DAY_MS),
            Granularity::Week => {
                // The first day of 1970 was a Thursday.
                let day = at.div_euclid(DAY_MS);
                (day - (day + 3).rem_euclid(7)) * DAY_MS
            }
            Granularity::Month => {
                let (year, month, _) = civil(at.div_euclid(DAY_MS));
                first_day(year, month) * DAY_MS
            }
        }
    }

    /// Returns the end of the bucket that starts at a time.
    pub(super) fn end(self, start: i64) -> i64 {
        match self {
            Granularity::Hour => start + HOUR_MS,
            Granularity::Day => start + DAY_MS,
            Granularity::Week => start + 7 * DAY_MS,
            Granularity::Month => {
                let (year, month, _) = civil(start.div_euclid(DAY_MS));
                first_day(year, month + 1) * DAY_MS
            }
        }
    }
}

/// A span of whole hours. Its end is not before its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Span {
    /// The whole supported time.
    pub(super) const EVER: Span = Span { from: 0, to: END_UNIX_MS };

    /// Returns the hours that `from..to` touches.
    pub(super) fn around(from: i64, to: i64) -> Span {
        Span { from: Granularity::Hour.start(from), to: Granularity::Hour.start(to + HOUR_MS - 1) }
    }

    /// Returns the whole days in it; an empty span at its start if there are none.
    pub(super) fn whole_days(self) -> Span {
        let from = Granularity::Day.start(self.from + DAY_MS - 1);
        let to = Granularity::Day.start(self.to);
        if from < to { Span { from, to } } else { Span { from: self.from, to: self.from } }
    }

    /// Returns the starts of the buckets that it touches; `None` if there are more than `max`.
    pub(super) fn buckets(self, granularity: Granularity, max: usize) -> Option<Vec<i64>> {
        let mut starts = Vec::new();
        let mut start = granularity.start(self.from);
        while start < self.to {
            if starts.len() == max {
                return None;
            }
            starts.push(start);
            start = granularity.end(start);
        }
        Some(starts)
    }
}

/// The range of time that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeRange {
    /// A number of hours before now.
    Last(i64),
    /// From the first record to the last, or to now.
    All,
    Between {
        from: i64,
        to: i64,
    },
}

impl TimeRange {
    /// The ranges with a name.
    pub(super) const NAMED: [(&str, TimeRange); 5] = [
        ("24h", TimeRange::Last(24)),
        ("7d", TimeRange::Last(7 * 24)),
        ("30d", TimeRange::Last(30 * 24)),
        ("90d", TimeRange::Last(90 * 24)),
        ("all", TimeRange::All),
    ];

    /// Returns the hours that it touches. `recorded` is the span from the first record to the last, if there are any.
    pub(super) fn span(self, now: i64, recorded: Option<Span>) -> Span {
        let now = now.clamp(0, END_UNIX_MS - 1);
        let present = Span::around(now, now + 1);
        match self {
            TimeRange::Last(hours) => Span::around((now - hours * HOUR_MS).max(0), now + 1),
            TimeRange::All => recorded.map_or(present, |recorded| Span {
                from: recorded.from.min(present.from),
                to: recorded.to.max(present.to),
            }),
            TimeRange::Between { from, to } => Span::around(from, to),
        }
    }
}

/// Returns the day in the form `2026-11-23`.
pub(super) fn date(at: i64) -> String {
    let (year, month, day) = civil(at.div_euclid(DAY_MS));
    format!("{year:04}-{month:02}-{day:02}")
}

/// Returns year, month and day, both from 1, of a day that is a number of days after 1970-01-01.
fn civil(day: i64) -> (i64, i64, i64) {
    // 400 years have 146 097 days; the estimate is wrong by one year at most.
    let mut year = 1970 + (day * 400).div_euclid(146_097);
    while day < days_before(year) {
        year -= 1;
    }
    while day >= days_before(year + 1) {
        year += 1;
    }
    let in_year = day - days_before(year);
    let month = (1..12).find(|month| in_year < month_end(year, *month)).unwrap_or(12);
    (year, month, in_year - month_end(year, month - 1) + 1)
}

/// Returns the first day of a month; month 13 is the next January.
fn first_day(year: i64, month: i64) -> i64 {
    days_before(year) + month_end(year, month - 1)
}

/// Returns the days from 1970-01-01 to the first of a year.
fn days_before(year: i64) -> i64 {
    let leap_days = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}

/// Returns the days from the start of a year to the end of a month.
fn month_end(year: i64, month: i64) -> i64 {
    let is_leap = days_before(year + 1) - days_before(year) == 366;
    let index = usize::try_from(month - 1).ok();
    let days = index.and_then(|index| MONTH_ENDS.get(index)).copied().unwrap_or_default();
    days + i64::from(is_leap && month >= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of `date -u -d DATE +%s` for days around every rule of the calendar.
    const DATES: [(&str, i64); 16] = [
        ("1970-01-01", 0),
        ("1970-12-31", 31_449_600),
        ("1972-02-29", 68_169_600),
        ("1972-03-01", 68_256_000),
        ("1999-12-31", 946_598_400),
        ("2000-02-29", 951_782_400),
        ("2000-03-01", 951_868_800),
        ("2024-02-29", 1_709_164_800),
        ("2024-12-31", 1_735_603_200),
        ("2025-02-28", 1_740_700_800),
        ("2025-03-01", 1_740_787_200),
        ("2100-02-28", 4_107_456_000),
        ("2100-03-01", 4_107_542_400),
        ("2399-12-31", 13_569_379_200),
        ("2400-02-29", 13_574_563_200),
        ("9999-12-31", 253_402_214_400),
    ];

    #[test]
    fn days_have_the_names_that_date_gives_them() {
        for (name, seconds) in DATES {
            assert_eq!(date(seconds * 1000), name);
            assert_eq!(date(seconds * 1000 + DAY_MS - 1), name);
        }
    }

    #[test]
    fn every_day_to_the_end_of_time_follows_the_one_before() {
        let mut last = civil(-3);
        assert_eq!(last, (1969, 12, 29));
        for day in -2..=END_UNIX_MS / DAY_MS {
            let next = civil(day);
            let (year, month, in_month) = last;
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                4 | 6 | 9 | 11 => 30,
                2 => 28 + i64::from(is_leap),
                _ => 31,
            };
            let expected = match (month, in_month) {
                (12, 31) => (year + 1, 1, 1),
                (_, last) if last == length => (year, month + 1, 1),
                _ => (year, month, in_month + 1),
            };
            assert_eq!(next, expected);
            last = next;
        }
        assert_eq!(last, (10_000, 1, 1));
    }

    #[test]
    fn buckets_begin_where_the_calendar_says() {
        // A Monday, a Sunday and a leap day, each with its hour, day, week and month, by `date -u`.
        for (at, starts) in [
            (1_795_456_799, [1_795_456_799 / 3600 * 3600, 1_795_392_000, 1_795_392_000, 1_793_491_200]),
            (1_735_516_799, [1_735_513_200, 1_735_430_400, 1_734_912_000, 1_733_011_200]),
            (1_709_164_800, [1_709_164_800, 1_709_164_800, 1_708_905_600, 1_706_745_600]),
            (0, [0, 0, -259_200, 0]),
        ] {
            for (granularity, start) in Granularity::ALL.into_iter().zip(starts) {
                assert_eq!(granularity.start(at * 1000) / 1000, start, "{at} {granularity:?}");
                assert_eq!(granularity.start(start * 1000), start * 1000);
                assert!(granularity.start(start * 1000 - 1) < start * 1000);
            }
        }
    }

    #[test]
    fn buckets_follow_each_other_without_gap() {
        for granularity in Granularity::ALL {
            let mut start = granularity.start(0);
            for _ in 0..20_000 {
                let end = granularity.end(start);
                assert!(start < end);
                assert_eq!(granularity.start(end - 1), start, "{granularity:?}");
                assert_eq!(granularity.start(end), end, "{granularity:?}");
                start = end;
            }
        }
        for (name, granularity) in Granularity::NAMES.into_iter().zip(Granularity::ALL) {
            assert_eq!(Granularity::from_name(name), Some(granularity));
        }
        assert_eq!(Granularity::from_name("Hour"), None);
    }

    #[test]
    fn a_span_is_the_hours_that_a_range_touches() {
        let hours = |from: i64, to: i64| Span { from: from * HOUR_MS, to: to * HOUR_MS };
        for (from, to, span) in [
            (0, 1, hours(0, 1)),
            (0, HOUR_MS, hours(0, 1)),
            (0, HOUR_MS + 1, hours(0, 2)),
            (HOUR_MS - 1, HOUR_MS, hours(0, 1)),
            (HOUR_MS, HOUR_MS + 1, hours(1, 2)),
            (0, END_UNIX_MS, Span::EVER),
        ] {
            assert_eq!(Span::around(from, to), span, "{from}..{to}");
            assert_eq!(TimeRange::Between { from, to }.span(5, None), span);
        }
        for (span, days) in [
            (hours(0, 24), hours(0, 24)),
            (hours(1, 48), hours(24, 48)),
            (hours(1, 49), hours(24, 48)),
            (hours(1, 47), hours(1, 1)),
            (hours(24, 24), hours(24, 24)),
        ] {
            assert_eq!(span.whole_days(), days, "{span:?}");
        }
    }

    #[test]
    fn named_ranges_end_with_the_present_hour() {
        let now = 500_000 * HOUR_MS + 5;
        let hours = |from: i64, to: i64| Span { from: from * HOUR_MS, to: to * HOUR_MS };
        assert_eq!(TimeRange::Last(24).span(now, None), hours(499_976, 500_001));
        assert_eq!(TimeRange::Last(24).span(now - 5, None), hours(499_976, 500_001));
        assert_eq!(TimeRange::Last(24).span(7, None), hours(0, 1));
        assert_eq!(TimeRange::All.span(now, None), hours(500_000, 500_001));
        assert_eq!(TimeRange::All.span(now, Some(hours(7, 8))), hours(7, 500_001));
        assert_eq!(TimeRange::All.span(now, Some(hours(7, 600_000))), hours(7, 600_000));
        assert_eq!(TimeRange::All.span(i64::MAX, None).to, END_UNIX_MS);
    }

    #[test]
    fn buckets_of_a_span_are_counted_before_there_are_too_many() {
        let span = Span { from: 5 * HOUR_MS, to: 29 * HOUR_MS };
        assert_eq!(span.buckets(Granularity::Day, 2), Some(vec![0, DAY_MS]));
        assert_eq!(span.buckets(Granularity::Day, 1), None);
        assert_eq!(span.buckets(Granularity::Hour, 24).map(|buckets| buckets.len()), Some(24));
        assert_eq!(span.buckets(Granularity::Hour, 23), None);
        assert_eq!(span.buckets(Granularity::Month, 1), Some(vec![0]));
        assert_eq!(
            Span::EVER.buckets(Granularity::Month, 100_000).map(|months| months.len()),
            Some(8030 * 12)
        );
    }
}
