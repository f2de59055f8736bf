//! What is under way on one connection: frames that are not acknowledged yet, and pings. Pure.

use crate::limits;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Frames by the id that their acknowledgement will have.
#[derive(Debug)]
pub(super) struct Flights<J> {
    jobs: HashMap<String, (J, Instant)>,
}

impl<J> Default for Flights<J> {
    fn default() -> Self {
        Self { jobs: HashMap::new() }
    }
}

impl<J> Flights<J> {
    /// Whether an acknowledgement for this id is still to come.
    pub fn is_open(&self, req_id: &str, now: Instant) -> bool {
        self.jobs.get(req_id).is_some_and(|(_, since)| now.saturating_duration_since(*since) < limits::WECOM_ACK_LATE)
    }

    pub fn insert(&mut self, req_id: String, job: J, now: Instant) {
        if self.jobs.len() >= limits::WECOM_FLIGHTS_MAX {
            let oldest = self.jobs.iter().min_by_key(|(_, (_, since))| *since).map(|(req_id, _)| req_id.clone());
            oldest.map(|oldest| self.jobs.remove(&oldest));
        }
        self.jobs.insert(req_id, (job, now));
    }

    /// The acknowledgement is there.
    pub fn landed(&mut self, req_id: &str) -> Option<J> {
        self.jobs.remove(req_id).map(|(job, _)| job)
    }

    /// Those whose acknowledgement will not come any more.
    pub fn forget_old(&mut self, now: Instant) {
        self.jobs.retain(|_, (_, since)| now.saturating_duration_since(*since) < limits::WECOM_ACK_LATE);
    }
}

/// A ping every interval; two that are not answered mean that the connection is dead.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    due: Instant,
    unanswered: u32,
}

impl Heartbeat {
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, due: now + interval, unanswered: 0 }
    }

    pub fn due(&self) -> Instant {
        self.due
    }

    /// A ping is due. `false`: it is no use, the connection is dead.
    pub fn beat(&mut self, now: Instant) -> bool {
        if self.unanswered >= 2 {
            return false;
        }
        self.unanswered += 1;
        self.due = now + self.interval;
        true
    }

    pub fn answered(&mut self) {
        self.unanswered = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn one_frame_for_a_message_at_a_time() {
        let (mut flights, now) = (Flights::default(), clock::now());
        flights.insert("REQ_cb_01".to_owned(), 1, now);
        assert!(flights.is_open("REQ_cb_01", now) && !flights.is_open("REQ_cb_02", now));
        assert_eq!(flights.landed("REQ_cb_01"), Some(1));
        assert!(!flights.is_open("REQ_cb_01", now) && flights.landed("REQ_cb_01").is_none());
    }

    #[test]
    fn an_acknowledgement_that_never_comes_does_not_block_for_ever() {
        let (mut flights, now) = (Flights::default(), clock::now());
        flights.insert("a".to_owned(), 1, now);
        let late = now + limits::WECOM_ACK_LATE;
        assert!(!flights.is_open("a", late));
        flights.forget_old(late);
        assert_eq!(flights.landed("a"), None);
        for number in 0..2 * limits::WECOM_FLIGHTS_MAX {
            flights.insert(number.to_string(), 2, now);
        }
        assert_eq!(flights.jobs.len(), limits::WECOM_FLIGHTS_MAX);
    }

    #[test]
    fn the_third_ping_is_not_sent_when_two_were_not_answered() {
        let now = clock::now();
        let second = Duration::from_secs(1);
        let mut heartbeat = Heartbeat::new(second, now);
        assert_eq!(heartbeat.due(), now + second);
        assert!(heartbeat.beat(now + second) && heartbeat.beat(now + 2 * second));
        assert!(!heartbeat.beat(now + 3 * second));
        heartbeat.answered();
        assert!(heartbeat.beat(now + 3 * second));
        assert_eq!(heartbeat.due(), now + 4 * second);
    }
}
