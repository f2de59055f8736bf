//! Scheduled jobs as data: what a person may write, when a job is due, how it is shown. Pure: the time and the zone are
//! handed in. [`super::jobs`] decides with it.

use super::cron::Expression;
use super::types::{ChatRef, Inbound, JobId};
use crate::config::duration;
use crate::limits;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When a job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// Once.
    At { ms: i64 },
    /// Counted from when the job was made.
    Every { interval_ms: i64 },
    /// By the calendar of the gateway's zone.
    Cron(Expression),
}

/// What becomes of a time that was missed because the gateway did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// The job runs once, for the latest of the missed times.
    #[default]
    Run,
    Skip,
}

/// A job, as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub chat: ChatRef,
    /// The platform's id of who made it; must still be allowed when it runs. `None`: the owner of the gateway.
    pub maker: Option<String>,
    pub maker_name: String,
    /// The chat is a private one, or a group.
    pub private: bool,
    pub timing: Timing,
    pub text: String,
    /// The text itself is sent; otherwise it is said to the agent.
    pub fixed: bool,
    pub catch_up: CatchUp,
    pub created_ms: i64,
}

/// What a client of the control socket asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Wish {
    List,
    Add {
        chat: ChatRef,
        when: String,
        text: String,
        #[serde(default)]
        fixed: bool,
        #[serde(default)]
        catch_up: CatchUp,
    },
    Remove {
        job: JobId,
    },
    Pause {
        job: JobId,
    },
    Resume {
        job: JobId,
    },
    Run {
        job: JobId,
    },
}

/// What was written behind `/cron add`.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub timing: Timing,
    pub text: String,
    pub fixed: bool,
    pub catch_up: CatchUp,
}

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Later than that is a slip of the finger.
const AHEAD_DAYS_MAX: i64 = 20 * 366;
/// A clock that went back further than this was wrong before: calendars are followed anew from the present.
const JUMP_BACK_MS: i64 = DAY_MS;

impl Timing {
    /// The first time later than `last_ms`, the last one that was decided upon. `None`: none comes any more.
    #[must_use]
    pub fn next(&self, created_ms: i64, last_ms: i64, now_ms: i64, zone: &TimeZone) -> Option<i64> {
        match self {
            Self::At { ms } => (*ms > last_ms).then_some(*ms),
            Self::Every { interval_ms } => {
                let interval_ms = (*interval_ms).max(MINUTE_MS);
                let whole = last_ms.saturating_sub(created_ms).max(0) / interval_ms;
                Some(created_ms.saturating_add(whole.saturating_add(1).saturating_mul(interval_ms)))
            }
            // Otherwise a job would be dead for as long as the clock had been wrong. Its slots still grow: see `slot`.
            Self::Cron(expression) if last_ms.saturating_sub(now_ms) > JUMP_BACK_MS => expression.next(now_ms, zone),
            Self::Cron(expression) => expression.next(last_ms, zone),
        }
    }

    /// The latest time that has come by `now_ms`, given the first that was not decided upon.
    #[must_use]
    pub fn latest(&self, first_ms: i64, now_ms: i64, zone: &TimeZone) -> i64 {
        let late_ms = now_ms.saturating_sub(first_ms);
        if late_ms <= 0 {
            return first_ms;
        }
        match self {
            Self::At { .. } => first_ms,
            Self::Every { interval_ms } => first_ms + late_ms / (*interval_ms).max(MINUTE_MS) * (*interval_ms).max(MINUTE_MS),
            Self::Cron(expression) => {
                // Back in growing steps until a time is found, so that years of missed minutes are not walked through.
                let mut back_ms = 2 * MINUTE_MS;
                while back_ms < late_ms {
                    let found = expression.next(now_ms - back_ms, zone).filter(|found| *found <= now_ms);
                    if let Some(found) = found {
                        return last_of(expression, found, now_ms, zone);
                    }
                    back_ms = back_ms.saturating_mul(4);
                }
                last_of(expression, first_ms, now_ms, zone)
            }
        }
    }

    /// Reads a time from the beginning of `text`. → it, and what follows.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn read<'a>(text: &'a str, now_ms: i64, zone: &TimeZone) -> Result<(Self, &'a str), String> {
        let (word, rest) = next_word(text);
        match word.to_lowercase().as_str() {
            "every" => read_every(rest),
            "in" => {
                let (wait_ms, rest) = read_duration(rest).ok_or("say how long, e.g. `in 20m` or `in 2 hours`")?;
                if wait_ms > AHEAD_DAYS_MAX * DAY_MS {
                    return Err("that is too far ahead".to_owned());
                }
                Ok((Self::At { ms: now_ms.saturating_add(wait_ms) }, rest))
            }
            "at" => read_at(rest, now_ms, zone),
            "tomorrow" | "today" => read_at(text, now_ms, zone),
            "@hourly" => Ok((Self::Cron(Expression::parse("0 * * * *")?), rest)),
            "@daily" | "@midnight" => Ok((Self::Cron(Expression::parse("0 0 * * *")?), rest)),
            "@weekly" => Ok((Self::Cron(Expression::parse("0 0 * * 0")?), rest)),
            "@monthly" => Ok((Self::Cron(Expression::parse("0 0 1 * *")?), rest)),
            "@yearly" | "@annually" => Ok((Self::Cron(Expression::parse("0 0 1 1 *")?), rest)),
            _ if word.starts_with(|c: char| c.is_ascii_digit() || c == '*') => read_cron(text),
            _ => Err(format!("`{word}` is no time; {EXPECTED}")),
        }
    }

    /// As a person reads it.
    #[must_use]
    pub fn shown(&self, zone: &TimeZone) -> String {
        match self {
            Self::At { ms } => format!("at {}", local_time(*ms, zone)),
            Self::Every { interval_ms } => format!("every {}", spoken(*interval_ms)),
            Self::Cron(expression) => expression.text().to_owned(),
        }
    }
}

/// What to write instead.
pub const EXPECTED: &str =
    "write e.g. \"every 2h\", \"every day 9:00\", \"in 20m\", \"at 2026-12-01 09:00\" or a cron expression like \"30 8 * * 1-5\"";

fn last_of(expression: &Expression, first_ms: i64, now_ms: i64, zone: &TimeZone) -> i64 {
    let mut last_ms = first_ms;
    while let Some(next_ms) = expression.next(last_ms, zone).filter(|next_ms| *next_ms <= now_ms) {
        last_ms = next_ms;
    }
    last_ms
}

/// The number under which a time is written down: it grows with each, even where a clock was set back far.
#[must_use]
pub fn slot(time_ms: i64, last_ms: i64) -> i64 {
    time_ms.max(last_ms.saturating_add(1))
}

/// `2026-12-01 09:00`.
#[must_use]
pub fn local_time(ms: i64, zone: &TimeZone) -> String {
    let Ok(stamp) = Timestamp::from_millisecond(ms) else { return "never".to_owned() };
    zone.to_datetime(stamp).strftime("%Y-%m-%d %H:%M").to_string()
}

fn spoken(interval_ms: i64) -> String {
    duration::format(Duration::from_millis(u64::try_from(interval_ms).unwrap_or(0)))
}

fn next_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim_start()))
}

/// `2h`, `1h30m`, `2 hours`, `1 h 30 min`: milliseconds, and what follows.
fn read_duration(text: &str) -> Option<(i64, &str)> {
    let (mut total_ms, mut rest) = (0_i64, text);
    let mut found = false;
    loop {
        let (word, after) = next_word(rest);
        let (unit, behind) = next_word(after);
        if let Ok(part) = duration::parse(word).map(|part| i64::try_from(part.as_millis()).unwrap_or(i64::MAX))
            && word != "0"
        {
            (total_ms, rest) = (total_ms.saturating_add(part), after);
        } else if let Ok(number) = word.parse::<u32>()
            && let Some(unit_ms) = unit_ms(unit)
        {
            (total_ms, rest) = (total_ms.saturating_add(i64::from(number).saturating_mul(unit_ms)), behind);
        } else {
            return found.then_some((total_ms, rest));
        }
        found = true;
    }
}

fn unit_ms(word: &str) -> Option<i64> {
    Some(match word.trim_end_matches([',', '.']).to_lowercase().as_str() {
        "s" | "sec" | "second" | "seconds" => 1000,
        "m" | "min" | "mins" | "minute" | "minutes" => MINUTE_MS,
        "h" | "hour" | "hours" => 60 * MINUTE_MS,
        "d" | "day" | "days" => DAY_MS,
        "w" | "week" | "weeks" => 7 * DAY_MS,
        _ => return None,
    })
}

const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// `2h`, `hour`, `day 9:00`, `monday at 9:00`, `weekday 9:00`.
fn read_every(text: &str) -> Result<(Timing, &str), String> {
    let (word, rest) = next_word(text);
    let lower = word.to_lowercase();
    let days = match lower.as_str() {
        "day" => Some("*".to_owned()),
        "weekday" => Some("1-5".to_owned()),
        name => WEEKDAYS.iter().position(|day| *day == name || (name.len() == 3 && day.starts_with(name))).map(|day| day.to_string()),
    };
    let (next, after) = next_word(rest);
    let (next, after) = if next.eq_ignore_ascii_case("at") { next_word(after) } else { (next, after) };
    match (days, time_of_day(next)) {
        (Some(days), Some(time)) => {
            return Ok((Timing::Cron(Expression::parse(&format!("{} {} * * {days}", time.minute(), time.hour()))?), after));
        }
        (Some(_), None) if lower != "day" => return Err(format!("say at what time, e.g. `every {lower} 9:00`")),
        _ => {}
    }
    let (interval_ms, rest) = match (read_duration(text), unit_ms(word)) {
        (Some(read), _) => read,
        (None, Some(unit_ms)) => (unit_ms, rest),
        (None, None) => return Err("say how often, e.g. `every 2h` or `every day 9:00`".to_owned()),
    };
    if interval_ms < limits::JOB_INTERVAL_MS_MIN {
        return Err(format!("the shortest interval is {}", spoken(limits::JOB_INTERVAL_MS_MIN)));
    }
    if interval_ms > AHEAD_DAYS_MAX * DAY_MS {
        return Err("that interval is too long".to_owned());
    }
    Ok((Timing::Every { interval_ms }, rest))
}

/// `2026-12-01 09:00`, `2026-12-01T09:00`, `tomorrow 9:00`, `9:00`.
fn read_at<'a>(text: &'a str, now_ms: i64, zone: &TimeZone) -> Result<(Timing, &'a str), String> {
    let now = Timestamp::from_millisecond(now_ms).map_err(|_| "the clock of this machine is wrong")?;
    let today = zone.to_datetime(now).date();
    let (word, rest) = next_word(text);
    let (local, rest) = if let Some(time) = time_of_day(word) {
        let local = DateTime::from_parts(today, time);
        let passed = moment(local, zone)? <= now_ms;
        (if passed { local.checked_add(1.day()).map_err(|error| error.to_string())? } else { local }, rest)
    } else if let Some((date, time)) =
        word.split_once(['T', 't']).and_then(|(date, time)| Some((date.parse::<Date>().ok()?, time_of_day(time)?)))
    {
        (DateTime::from_parts(date, time), rest)
    } else {
        let date = match word.to_lowercase().as_str() {
            "today" => today,
            "tomorrow" => today.tomorrow().map_err(|error| error.to_string())?,
            word => word.parse::<Date>().map_err(|_| format!("`{word}` is no date or time; write e.g. `at 2026-12-01 09:00`"))?,
        };
        let (word, rest) = next_word(rest);
        let (word, rest) = if word.eq_ignore_ascii_case("at") { next_word(rest) } else { (word, rest) };
        let time = time_of_day(word).ok_or("say at what time of the day, e.g. `at 2026-12-01 09:00`")?;
        (DateTime::from_parts(date, time), rest)
    };
    let ms = moment(local, zone)?;
    if ms <= now_ms {
        return Err(format!("{} has passed; here it is {}", local_time(ms, zone), local_time(now_ms, zone)));
    }
    if ms - now_ms > AHEAD_DAYS_MAX * DAY_MS {
        return Err(format!("{} is too far ahead", local_time(ms, zone)));
    }
    Ok((Timing::At { ms }, rest))
}

/// A time that is left out is the one after the jump; of one that comes twice, the first.
fn moment(local: DateTime, zone: &TimeZone) -> Result<i64, String> {
    zone.to_ambiguous_timestamp(local).compatible().map(Timestamp::as_millisecond).map_err(|_| format!("{local} is not in the calendar"))
}

/// `9:00`, `09:00:30`.
fn time_of_day(text: &str) -> Option<Time> {
    let mut parts = text.split(':').map(|part| part.parse::<i8>().ok().filter(|_| (1..=2).contains(&part.len())));
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    if parts.next().is_some() { None } else { Time::new(hour, minute, second, 0).ok() }
}

/// The first five words.
fn read_cron(text: &str) -> Result<(Timing, &str), String> {
    let mut rest = text;
    for _ in 0..5 {
        rest = next_word(rest).1;
    }
    let expression = text.trim_start();
    let fields = &expression[..expression.len() - rest.len()];
    Expression::parse(fields).map(|parsed| (Timing::Cron(parsed), rest)).map_err(|error| format!("{error}; {EXPECTED}"))
}

const QUOTES: [(char, &[char]); 6] = [('"', &['"']), ('\'', &['\'']), ('“', &['”', '“']), ('„', &['“', '”']), ('«', &['»']), ('”', &['”'])];

/// What stands behind `/cron add`: `[skip] "WHEN" TEXT`, with or without the quotes. Phones make curly ones of them.
///
/// # Errors
/// A sentence for people.
pub fn read_written(argument: &str, now_ms: i64, zone: &TimeZone) -> Result<Written, String> {
    let (word, rest) = next_word(argument);
    let (catch_up, rest) = match word.to_lowercase().as_str() {
        "skip" => (CatchUp::Skip, rest),
        "run" => (CatchUp::Run, rest),
        _ => (CatchUp::Run, argument.trim_start()),
    };
    let closing = rest.chars().next().and_then(|first| QUOTES.iter().find(|(open, _)| *open == first)).map(|(open, close)| (*open, *close));
    let (timing, text) = match closing {
        Some((open, close)) => {
            let inside = &rest[open.len_utf8()..];
            let (at, end) = inside.char_indices().find(|(_, c)| close.contains(c)).ok_or("the quotation mark is not closed")?;
            (read_whole(&inside[..at], now_ms, zone)?, &inside[at + end.len_utf8()..])
        }
        None => Timing::read(rest, now_ms, zone)?,
    };
    let text = text.trim();
    let fixed = text.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("say:"));
    let text = checked_text(if fixed { text[4..].trim_start() } else { text }, fixed)?;
    Ok(Written { timing, text, fixed, catch_up })
}

/// A time with nothing behind it.
///
/// # Errors
/// A sentence for people.
pub fn read_whole(text: &str, now_ms: i64, zone: &TimeZone) -> Result<Timing, String> {
    match Timing::read(text, now_ms, zone)? {
        (timing, rest) if rest.trim().is_empty() => Ok(timing),
        (_, rest) => Err(format!("`{}` is not part of a time; {EXPECTED}", rest.trim())),
    }
}

/// # Errors
/// A sentence for people.
pub fn checked_text(text: &str, fixed: bool) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("say what is to be done then, behind the time".to_owned());
    }
    if text.len() > limits::JOB_TEXT_BYTES_MAX {
        return Err(format!("the text is longer than {} bytes", limits::JOB_TEXT_BYTES_MAX));
    }
    if !fixed && super::command::Command::parse(text).is_some() {
        return Err("a job cannot give commands; write what I am to do".to_owned());
    }
    Ok(text.trim().to_owned())
}

const MESSAGE_ID: &str = "schedule:";

/// The id of the message with which a run begins. No platform gives such ids.
#[must_use]
pub fn message_id(job: JobId, slot: &str) -> String {
    format!("{MESSAGE_ID}{job}:{slot}")
}

/// The job that a message comes from.
#[must_use]
pub fn job_of(message_id: &str) -> Option<JobId> {
    message_id.strip_prefix(MESSAGE_ID)?.split(':').next()?.parse().ok()
}

impl Job {
    /// The message that begins a run, as if its maker had sent it.
    #[must_use]
    pub fn inbound(&self, job: JobId, slot: &str, now_ms: i64, zone: &TimeZone) -> Inbound {
        Inbound {
            chat: self.chat.clone(),
            message_id: message_id(job, slot),
            sender: self.maker.clone().unwrap_or_default(),
            sender_name: self.maker_name.clone(),
            text: format!("(scheduled, job {job}, {})\n{}", self.timing.shown(zone), self.text),
            attachments: Vec::new(),
            quote: None,
            // There is no message to answer, and no name to put before the text.
            private: true,
            addressed: true,
            sent_ms: now_ms,
        }
    }

    /// The first line, shortened.
    #[must_use]
    pub fn first_line(&self) -> String {
        let line = self.text.lines().next().unwrap_or_default();
        let cut: String = line.chars().take(80).collect();
        let cut = if cut.len() < self.text.len() { format!("{cut}…") } else { cut };
        if self.fixed { format!("say: {cut}") } else { cut }
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
