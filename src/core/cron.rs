//! Five-field cron expressions: parsing, and the next time that one matches. Pure: the zone is handed in.
//!
//! Fields as in crontab(5): minute, hour, day of the month, month, day of the week; lists, ranges, steps, names of months
//! and weekdays, Sunday as 0 or 7. If both days are restricted, a date matches when either of them does.
//!
//! Where the clock of a zone jumps: a time that is left out fires at the moment of the jump, once for all times that are
//! left out; a time that comes twice fires at its first coming. An expression for every hour goes by real time instead:
//! it neither pauses nor doubles, and times that are left out are left out.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// How far ahead a match is looked for: 29 February comes every four years, and around 2100 every eight.
const YEARS_MAX: i16 = 9;

/// A parsed expression. Serialized as its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expression {
    /// Normalized: one space between the fields.
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Sunday is bit 0.
    weekdays: u64,
    days_restricted: bool,
    weekdays_restricted: bool,
}

/// One of the five fields.
struct Field {
    name: &'static str,
    low: u8,
    high: u8,
    /// For `low`, `low + 1` …
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 8] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, names: &[] },
    Field { name: "hour", low: 0, high: 23, names: &[] },
    Field { name: "day of the month", low: 1, high: 31, names: &[] },
    Field { name: "month", low: 1, high: 12, names: &MONTHS },
    Field { name: "day of the week", low: 0, high: 7, names: &WEEKDAYS },
];
const ALL_HOURS: u64 = (1 << 24) - 1;

impl Field {
    fn parse(&self, text: &str) -> Result<u64, String> {
        let mut bits = 0;
        for item in text.split(',') {
            bits |= self.item(item)?;
        }
        Ok(bits)
    }

    /// `*`, `5`, `5-9`, each with `/step`; `5/10` goes on to the end.
    fn item(&self, item: &str) -> Result<u64, String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (self.low, self.high),
            Some((low, high)) => (self.number(low)?, self.number(high)?),
            None if step.is_some() => (self.number(range)?, self.high),
            None => (self.number(range)?, self.number(range)?),
        };
        // "fri-sun": Sunday is also the end of the week.
        let high = if self.high == 7 && high == 0 && low > 0 { 7 } else { high };
        if low > high {
            return Err(format!("`{range}` begins after its end"));
        }
        let step = step.map_or(Ok(1), |step| step.parse::<u8>().ok().filter(|step| *step > 0).ok_or(format!("`/{step}` is not a step")))?;
        Ok((low..=high).step_by(usize::from(step)).fold(0, |bits, value| bits | 1 << value))
    }

    fn number(&self, text: &str) -> Result<u8, String> {
        let named = self.names.iter().position(|name| text.eq_ignore_ascii_case(name)).and_then(|at| u8::try_from(at).ok());
        let number = named.map(|at| at + self.low).or_else(|| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit())));
        number
            .filter(|number| (self.low..=self.high).contains(number))
            .ok_or_else(|| format!("`{text}` is no {} ({} to {})", self.name, self.low, self.high))
    }
}

impl Expression {
    /// # Errors
    /// A sentence for people; also for an expression that never matches (31 February).
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = words.as_slice() else {
            return Err(format!("a cron expression has five fields (minute, hour, day, month, weekday), not {}", words.len()));
        };
        let weekdays = FIELDS[4].parse(weekday)?;
        let expression = Self {
            text: words.join(" ").to_lowercase(),
            minutes: FIELDS[0].parse(minute)?,
            hours: FIELDS[1].parse(hour)?,
            days: FIELDS[2].parse(day)?,
            months: FIELDS[3].parse(month)?,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            days_restricted: !day.starts_with('*'),
            weekdays_restricted: !weekday.starts_with('*'),
        };
        match expression.next(0, &TimeZone::UTC) {
            Some(_) => Ok(expression),
            None => Err(format!("`{}` never comes", expression.text)),
        }
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first match that is later than `after_ms`, in Unix milliseconds. `None` at the end of the calendar.
    #[must_use]
    pub fn next(&self, after_ms: i64, zone: &TimeZone) -> Option<i64> {
        let after = Timestamp::from_millisecond(after_ms).ok()?;
        let next = if self.hours == ALL_HOURS { self.next_by_instant(after, zone) } else { self.next_by_calendar(after, zone) };
        next.map(Timestamp::as_millisecond)
    }

    /// Times of the day in the order of the calendar. [`instant`] keeps that order, so the first later one is the next.
    fn next_by_calendar(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let mut date = Some(start.date());
        while let Some(day) = self.next_date(date?, start.date()) {
            for hour in bits(self.hours) {
                for minute in bits(self.minutes) {
                    let local = day.at(hour, minute, 0, 0);
                    if local < start && (local.hour(), local.minute()) != (start.hour(), start.minute()) {
                        continue;
                    }
                    if let Some(instant) = instant(local, zone).filter(|instant| *instant > after) {
                        return Some(instant);
                    }
                }
            }
            date = day.tomorrow().ok();
        }
        None
    }

    /// Minute by minute of real time, day by day where the date does not match.
    fn next_by_instant(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = zone.to_datetime(after);
        let into_minute = SignedDuration::new(i64::from(local.second()), local.subsec_nanosecond());
        let mut at = after.checked_add(SignedDuration::from_secs(60) - into_minute).ok()?;
        let first = local.date();
        loop {
            let local = zone.to_datetime(at);
            if !self.matches_date(local.date()) {
                let day = self.next_date(local.date(), first)?;
                at = instant(day.at(0, 0, 0, 0), zone)?.max(at.checked_add(SignedDuration::from_secs(60)).ok()?);
            } else if self.minutes & (1 << local.minute()) != 0 {
                return Some(at);
            } else {
                at = at.checked_add(SignedDuration::from_secs(60)).ok()?;
            }
        }
    }

    /// The first date that matches, from `date` on.
    fn next_date(&self, mut date: Date, first: Date) -> Option<Date> {
        while date.year() <= first.year().saturating_add(YEARS_MAX) {
            if self.months & (1 << date.month()) == 0 {
                date = date.first_of_month().checked_add(1.month()).ok()?;
            } else if self.matches_date(date) {
                return Some(date);
            } else {
                date = date.tomorrow().ok()?;
            }
        }
        None
    }

    fn matches_date(&self, date: Date) -> bool {
        let day = self.days & (1 << date.day()) != 0;
        let weekday = self.weekdays & (1 << date.weekday().to_sunday_zero_offset()) != 0;
        let days = if self.days_restricted && self.weekdays_restricted { day || weekday } else { day && weekday };
        days && self.months & (1 << date.month()) != 0
    }
}

/// The moment of a time of the calendar; see the head of this file. A later time never has an earlier moment.
fn instant(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => offset.to_timestamp(local).ok(),
        AmbiguousOffset::Gap { before, .. } => {
            // By the offset before the jump, the time lies at or after the jump, and no other jump lies between.
            let beyond = before.to_timestamp(local).ok()?;
            let jump = zone.preceding(beyond.checked_add(SignedDuration::from_nanos(1)).ok()?).next();
            Some(jump.map_or(beyond, |jump| jump.timestamp()))
        }
    }
}

fn bits(set: u64) -> impl Iterator<Item = i8> {
    (0..60).filter(move |bit| set & (1 << bit) != 0)
}

impl TryFrom<String> for Expression {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.text
    }
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;
