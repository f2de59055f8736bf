//! Expressions against tables, and against a search minute by minute.

use super::*;
use proptest::prelude::*;

/// Central Europe: 02:00 → 03:00 on 2026-03-29, 03:00 → 02:00 on 2026-10-25.
fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone")
}

fn at(local: &str, zone: &TimeZone) -> i64 {
    let local: DateTime = local.parse().expect("a time");
    zone.to_ambiguous_timestamp(local).compatible().expect("in the calendar").as_millisecond()
}

fn shown(ms: i64, zone: &TimeZone) -> String {
    Timestamp::from_millisecond(ms).expect("in the calendar").to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M %z").to_string()
}

/// The next matches, one after the other.
fn check(expression: &str, from: &str, zone: &TimeZone, expect: &[&str]) {
    let parsed = Expression::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let mut after = at(from, zone);
    for expect in expect {
        after = parsed.next(after, zone).unwrap_or_else(|| panic!("{expression}: nothing after {from}"));
        assert_eq!(shown(after, zone), *expect, "{expression} from {from}");
    }
}

#[test]
fn expressions_and_their_next_matches() {
    let utc = TimeZone::UTC;
    let from = "2026-07-15T08:30"; // A Wednesday.
    check("30 8 * * 1-5", from, &utc, &["2026-07-16 08:30 +0000", "2026-07-17 08:30 +0000", "2026-07-20 08:30 +0000"]);
    check("* * * * *", from, &utc, &["2026-07-15 08:31 +0000", "2026-07-15 08:32 +0000"]);
    check("*/20 * * * *", from, &utc, &["2026-07-15 08:40 +0000", "2026-07-15 09:00 +0000"]);
    check(
        "5/25 9,22 * * *",
        from,
        &utc,
        &["2026-07-15 09:05 +0000", "2026-07-15 09:30 +0000", "2026-07-15 09:55 +0000", "2026-07-15 22:05 +0000"],
    );
    check("0 0 29 2 *", from, &utc, &["2028-02-29 00:00 +0000", "2032-02-29 00:00 +0000"]);
    check("0 0 29 2 *", "2096-03-01T00:00", &utc, &["2104-02-29 00:00 +0000"]);
    check("0 12 1 jan,JUL *", from, &utc, &["2027-01-01 12:00 +0000", "2027-07-01 12:00 +0000"]);
    check("0 12 * * 7", from, &utc, &["2026-07-19 12:00 +0000", "2026-07-26 12:00 +0000"]);
    check(
        "0 12 * * fri-sun",
        from,
        &utc,
        &["2026-07-17 12:00 +0000", "2026-07-18 12:00 +0000", "2026-07-19 12:00 +0000", "2026-07-24 12:00 +0000"],
    );
    // Both days restricted: either of them.
    check("0 12 20 * thu", from, &utc, &["2026-07-16 12:00 +0000", "2026-07-20 12:00 +0000", "2026-07-23 12:00 +0000"]);
    // A step on a star does not restrict.
    check("0 12 */2 * thu", from, &utc, &["2026-07-23 12:00 +0000", "2026-08-13 12:00 +0000"]);
}

#[test]
fn clocks_that_jump() {
    let zone = berlin();
    // Left out: at the jump, once.
    check("30 2 * * *", "2026-03-28T12:00", &zone, &["2026-03-29 03:00 +0200", "2026-03-30 02:30 +0200"]);
    check("*/10 2,3 * * *", "2026-03-29T00:00", &zone, &["2026-03-29 03:00 +0200", "2026-03-29 03:10 +0200"]);
    // Comes twice: the first time.
    check("30 2 * * *", "2026-10-24T12:00", &zone, &["2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"]);
    // Every hour: by real time.
    check("30 * * * *", "2026-03-29T01:00", &zone, &["2026-03-29 01:30 +0100", "2026-03-29 03:30 +0200"]);
    check("30 * * * *", "2026-10-25T01:45", &zone, &["2026-10-25 02:30 +0200", "2026-10-25 02:30 +0100", "2026-10-25 03:30 +0100"]);
    // The second coming does not bring back what was due in the first.
    let expression = Expression::parse("45 2 * * *").expect("valid");
    let second = at("2026-10-25T03:00", &zone) - 30 * 60_000;
    assert_eq!(shown(second, &zone), "2026-10-25 02:30 +0100");
    assert_eq!(shown(expression.next(second, &zone).expect("next"), &zone), "2026-10-26 02:45 +0100");
}

#[test]
fn what_is_no_expression_says_why() {
    let check = |text: &str, expect: &str| {
        let error = Expression::parse(text).expect_err(text);
        assert!(error.contains(expect), "{text}: {error}");
    };
    check("", "five fields");
    check("* * * *", "not 4");
    check("61 * * * *", "`61` is no minute (0 to 59)");
    check("* 24 * * *", "`24` is no hour");
    check("* * 0 * *", "day of the month");
    check("* * * foo *", "`foo` is no month");
    check("* * * * 8", "day of the week");
    check("9-5 * * * *", "begins after its end");
    check("*/0 * * * *", "not a step");
    check("+5 * * * *", "`+5`");
    check("1,, * * * *", "``");
    check("0 0 31 2 *", "never comes");
    check("0 0 31 4,6,9,11 *", "never comes");
}

fn field(low: u8, high: u8) -> impl Strategy<Value = String> {
    let item = prop_oneof![
        3 => Just("*".to_owned()),
        2 => (low..=high).prop_map(|number| number.to_string()),
        1 => (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (1_u8..=30).prop_map(|step| format!("*/{step}")),
    ];
    proptest::collection::vec(item, 1..3).prop_map(|items| items.join(","))
}

/// All matches in a span, found minute by minute: the definition at the head of the module in other words.
fn search(expression: &Expression, from_ms: i64, minutes: i64, zone: &TimeZone) -> Option<i64> {
    let every_hour = expression.hours == ALL_HOURS;
    let fits = |local: DateTime| {
        expression.matches_date(local.date())
            && expression.hours & (1 << local.hour()) != 0
            && expression.minutes & (1 << local.minute()) != 0
    };
    let first_ms = from_ms - from_ms.rem_euclid(60_000) + 60_000;
    (0..minutes).map(|minute| first_ms + minute * 60_000).find(|ms| {
        let stamp = Timestamp::from_millisecond(*ms).expect("in the calendar");
        let local = zone.to_datetime(stamp);
        let before = zone.to_datetime(stamp - SignedDuration::from_mins(1));
        let mut left_out = before + 1.minute();
        let mut jumped = false;
        while !every_hour && left_out < local {
            jumped |= fits(left_out);
            left_out += 1.minute();
        }
        let again = match zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Fold { after, .. } => !every_hour && zone.to_offset(stamp) == after,
            _ => false,
        };
        jumped || (fits(local) && !again)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_next_match_is_later_and_the_first(
        minute in field(0, 59), hour in field(0, 23), day in field(1, 31), month in field(1, 12), weekday in field(0, 7),
        from in prop_oneof![
            // Around the jumps, and anywhere.
            1_774_650_000_000_i64..1_774_850_000_000,
            1_792_790_000_000_i64..1_792_990_000_000,
            0_i64..4_000_000_000_000,
        ],
        southern in any::<bool>(),
    ) {
        let Ok(expression) = Expression::parse(&format!("{minute} {hour} {day} {month} {weekday}")) else { return Ok(()) };
        let zone = if southern { TimeZone::posix("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0").expect("a zone") } else { berlin() };
        let next = expression.next(from, &zone);
        prop_assert!(next.is_none_or(|next| next > from));
        const SPAN: i64 = 4000;
        let found = search(&expression, from, SPAN, &zone);
        prop_assert_eq!(found, next.filter(|next| *next <= from - from.rem_euclid(60_000) + SPAN * 60_000), "{}", expression.text);
    }

    #[test]
    fn never_panics(text in "[0-9*/,a-z -]{0,30}", from in any::<i64>()) {
        if let Ok(expression) = Expression::parse(&text) {
            prop_assert_eq!(&Expression::parse(expression.text()).expect("its own text"), &expression);
            prop_assert!(expression.next(from, &berlin()).is_none_or(|next| next > from));
        }
    }
}
