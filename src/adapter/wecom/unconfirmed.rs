//! Messages that were handed over and are not committed yet. WeCom repeats none, so they are kept here until they are, within
//! bounds. Pure.

use crate::core::types::{Inbound, Receipt};
use crate::limits;
use std::collections::VecDeque;
use std::time::Instant;

#[derive(Debug)]
struct Waiting {
    inbound: Inbound,
    receipt: Receipt,
    since: Instant,
    tried: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    last_id: u64,
    waiting: VecDeque<Waiting>,
}

impl Unconfirmed {
    /// The number of the next receipt.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// `false`: there are too many already.
    pub fn insert(&mut self, inbound: &Inbound, receipt: &Receipt, now: Instant) -> bool {
        if self.waiting.len() >= limits::WECOM_UNCONFIRMED_MAX {
            return false;
        }
        self.waiting.push_back(Waiting { inbound: inbound.clone(), receipt: receipt.clone(), since: now, tried: now });
        true
    }

    pub fn committed(&mut self, id: u64) {
        self.waiting.retain(|waiting| waiting.receipt.id != id);
    }

    /// What is to be handed over once more, and the ids of messages that are given up.
    pub fn due(&mut self, now: Instant) -> (Vec<(Inbound, Receipt)>, Vec<String>) {
        let (mut due, mut lost) = (Vec::new(), Vec::new());
        self.waiting.retain_mut(|waiting| {
            if now.saturating_duration_since(waiting.since) >= limits::WECOM_COMMIT_MAX {
                lost.push(waiting.inbound.message_id.clone());
                return false;
            }
            if now.saturating_duration_since(waiting.tried) >= limits::WECOM_COMMIT {
                waiting.tried = now;
                due.push((waiting.inbound.clone(), waiting.receipt.clone()));
            }
            true
        });
        (due, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::core::types::ChatRef;

    fn message(id: &str) -> Inbound {
        Inbound {
            chat: ChatRef { adapter: "wecom".to_owned(), chat: "zhangsan".to_owned(), thread: None },
            message_id: id.to_owned(),
            sender: "zhangsan".to_owned(),
            sender_name: "zhangsan".to_owned(),
            text: "hello".to_owned(),
            attachments: Vec::new(),
            quote: None,
            private: true,
            addressed: true,
            sent_ms: 0,
        }
    }

    #[test]
    fn what_is_not_committed_is_tried_again_and_at_last_given_up() {
        let (mut unconfirmed, now) = (Unconfirmed::default(), clock::now());
        for id in ["a", "b"] {
            let receipt = Receipt { id: unconfirmed.next_id(), ..Receipt::default() };
            assert!(unconfirmed.insert(&message(id), &receipt, now));
        }
        unconfirmed.committed(1);
        assert_eq!(unconfirmed.due(now), (vec![], vec![]));
        let later = now + limits::WECOM_COMMIT;
        let ids: Vec<u64> = unconfirmed.due(later).0.into_iter().map(|(_, receipt)| receipt.id).collect();
        assert_eq!(ids, [2]);
        assert_eq!(unconfirmed.due(later), (vec![], vec![]), "not in a flood");
        assert_eq!(unconfirmed.due(now + limits::WECOM_COMMIT_MAX), (vec![], vec!["b".to_owned()]));
        assert!(unconfirmed.waiting.is_empty());
    }

    #[test]
    fn it_is_bounded() {
        let (mut unconfirmed, now) = (Unconfirmed::default(), clock::now());
        let kept = (0..200).filter(|_| {
            let receipt = Receipt { id: unconfirmed.next_id(), ..Receipt::default() };
            unconfirmed.insert(&message("x"), &receipt, now)
        });
        assert_eq!(kept.count(), limits::WECOM_UNCONFIRMED_MAX);
    }
}
