//! What people write, and when it is due.

use super::*;
use proptest::prelude::*;

fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone")
}

/// Wednesday, 2026-07-15 10:30 in Berlin.
const NOW_MS: i64 = 1_784_104_200_000;

#[test]
fn what_people_write() {
    let zone = berlin();
    let check = |argument: &str, expect: Result<(&str, &str), &str>| {
        let read = read_written(argument, NOW_MS, &zone);
        match (&read, expect) {
            (Ok(written), Ok((when, text))) => {
                let say = if written.fixed { "say: " } else { "" };
                let skip = if written.catch_up == CatchUp::Skip { "skip " } else { "" };
                assert_eq!(
                    (written.timing.shown(&zone), format!("{skip}{say}{}", written.text)),
                    (when.to_owned(), text.to_owned()),
                    "{argument}"
                );
            }
            (Err(error), Err(expect)) => assert!(error.contains(expect), "{argument}: {error}"),
            _ => panic!("{argument}: {read:?}"),
        }
    };
    check("\"every 2h\" water the plants", Ok(("every 2h", "water the plants")));
    check("every 2h water the plants", Ok(("every 2h", "water the plants")));
    check("every 90 minutes stretch", Ok(("every 1h30m", "stretch")));
    check("every hour look", Ok(("every 1h", "look")));
    check("“every 1h 30m” look", Ok(("every 1h30m", "look")));
    check("„every day 9:00“ look", Ok(("0 9 * * *", "look")));
    check("every day at 09:05 look", Ok(("5 9 * * *", "look")));
    check("every day look", Ok(("every 1d", "look")));
    check("every Monday 9:00 look", Ok(("0 9 * * 1", "look")));
    check("every fri at 18:30 look", Ok(("30 18 * * 5", "look")));
    check("every weekday 8:30 look", Ok(("30 8 * * 1-5", "look")));
    check("in 20m tea", Ok(("at 2026-07-15 10:50", "tea")));
    check("in 2 hours tea", Ok(("at 2026-07-15 12:30", "tea")));
    check("at 2026-12-01 09:00 say: good morning", Ok(("at 2026-12-01 09:00", "say: good morning")));
    check("\"at 2026-12-01T09:00\" SAY:good morning", Ok(("at 2026-12-01 09:00", "say: good morning")));
    check("at 11:00 tea", Ok(("at 2026-07-15 11:00", "tea")));
    check("at 9:00 tea", Ok(("at 2026-07-16 09:00", "tea")));
    check("tomorrow at 9:00 tea", Ok(("at 2026-07-16 09:00", "tea")));
    check("30 8 * * 1-5 the news\nin two lines", Ok(("30 8 * * 1-5", "the news\nin two lines")));
    check("skip '30  8 * * mon-fri' the news", Ok(("30 8 * * mon-fri", "skip the news")));
    check("@daily tidy", Ok(("0 0 * * *", "tidy")));
    check("at 2026-03-29 02:30 x", Err("has passed"));
    check("at 2027-03-28 02:30 x", Ok(("at 2027-03-28 03:30", "x")));
    check("", Err("no time"));
    check("every 2h", Err("what is to be done"));
    check("every 30s x", Err("shortest interval is 1m"));
    check("every x y", Err("how often"));
    check("every monday x", Err("at what time"));
    check("in a while x", Err("how long"));
    check("at noon x", Err("no date or time"));
    check("at 2026-12-01 x", Err("time of the day"));
    check("at 2026-07-15 10:00 x", Err("has passed; here it is 2026-07-15 10:30"));
    check("at 2999-01-01 10:00 x", Err("too far ahead"));
    check("in 9999999d x", Err("too far ahead"));
    check("61 8 * * * x", Err("`61` is no minute"));
    check("30 8 * * look", Err("day of the week"));
    check("\"every 2h x", Err("not closed"));
    check("\"every 2h now\" x", Err("`now` is not part of a time"));
    check("in 20m /new", Err("cannot give commands"));
    check("in 20m say: /new is a command", Ok(("at 2026-07-15 10:50", "say: /new is a command")));
    check(&format!("in 20m {}", "x".repeat(limits::JOB_TEXT_BYTES_MAX + 1)), Err("longer than"));
}

#[test]
fn the_next_time_and_the_latest() {
    let zone = berlin();
    let every = Timing::Every { interval_ms: 600_000 };
    assert_eq!(every.next(1000, 1000, 0, &zone), Some(601_000));
    assert_eq!(every.next(1000, 601_000, 0, &zone), Some(1_201_000));
    assert_eq!(every.next(1000, 700_000, 0, &zone), Some(1_201_000));
    assert_eq!(every.latest(601_000, 601_000, &zone), 601_000);
    assert_eq!(every.latest(601_000, 100_000_000, &zone), 99_601_000);
    let cron = |text: &str| Timing::Cron(Expression::parse(text).expect("valid"));
    let daily = cron("0 9 * * *");
    let first = daily.next(0, NOW_MS - 10 * DAY_MS, NOW_MS, &zone).expect("comes");
    assert_eq!(local_time(first, &zone), "2026-07-06 09:00");
    assert_eq!(local_time(daily.latest(first, NOW_MS, &zone), &zone), "2026-07-15 09:00");
    // Twenty years of missed minutes are not walked through.
    let minutely = cron("* * * * *");
    assert_eq!(local_time(minutely.latest(NOW_MS - 20 * 366 * DAY_MS, NOW_MS, &zone), &zone), "2026-07-15 10:30");
    let once = Timing::At { ms: 5000 };
    assert_eq!((once.next(0, 0, 0, &zone), once.next(0, 5000, 0, &zone)), (Some(5000), None));
}

#[test]
fn a73_a_clock_set_back_neither_repeats_a_time_nor_kills_a_job() {
    let zone = berlin();
    let daily = Timing::Cron(Expression::parse("0 9 * * *").expect("valid"));
    let ran = daily.latest(NOW_MS - 5 * DAY_MS, NOW_MS, &zone);
    // An hour or some hours back: what ran does not run again.
    let next = daily.next(0, ran, ran - 3 * 60 * MINUTE_MS, &zone).expect("comes");
    assert_eq!(local_time(next, &zone), "2026-07-16 09:00");
    // A year back: the clock had been wrong, and the job goes on; the number it gets is a new one.
    let now = ran - 365 * DAY_MS;
    let next = daily.next(0, ran, now, &zone).expect("comes");
    assert!(next > now && next - now <= DAY_MS);
    assert_eq!(slot(next, ran), ran + 1);
}

proptest! {
    #[test]
    fn reading_never_panics(text in "(skip )?(every|in|at|tomorrow|[0-9*]|\"|“)?\\PC{0,40}", now in any::<i64>()) {
        let _ = read_written(&text, now, &berlin());
    }

    #[test]
    fn next_times_grow(created in 0_i64..4_000_000_000_000, last in 0_i64..4_000_000_000_000, interval in 60_000_i64..10_000_000_000) {
        let every = Timing::Every { interval_ms: interval };
        let next = every.next(created, last.max(created), 0, &berlin()).expect("comes");
        prop_assert!(next > last.max(created) && next <= last.max(created) + interval);
        prop_assert_eq!((next - created) % interval, 0);
    }

    #[test]
    fn the_latest_time_is_the_last_that_has_come(minute in 0_u8..60, hour in 0_u8..24, back in 1_i64..4_000_000_000) {
        let zone = berlin();
        let timing = Timing::Cron(Expression::parse(&format!("{minute} {hour},{} * * *", 23 - hour)).expect("valid"));
        let first = timing.next(0, NOW_MS - back, NOW_MS, &zone).expect("comes");
        let latest = timing.latest(first, NOW_MS, &zone);
        if first <= NOW_MS {
            prop_assert!(latest >= first && latest <= NOW_MS);
            prop_assert!(timing.next(0, latest, NOW_MS, &zone).expect("comes") > NOW_MS);
        } else {
            prop_assert_eq!(latest, first);
        }
    }
}
