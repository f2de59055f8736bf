//! Which updates may be confirmed: the books on one batch. Pure.
//!
//! Telegram deletes an update as soon as `getUpdates` is called with a higher offset (Bot API). So the offset moves only
//! when everything before it is committed or was found not to be for us, and never in the middle of a batch.

use std::collections::BTreeSet;

/// What to do with an update that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    New,
    /// Confirmed before; the server should not have sent it.
    Old,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The next offset; everything below it may be forgotten by the server.
    offset: Option<u64>,
    /// Handed over, and not yet known to be committed.
    pending: BTreeSet<u64>,
    /// The highest update of this batch.
    highest: Option<u64>,
    /// The highest one whose cursor goes with its message into the store.
    stored: Option<u64>,
    /// The numbers may begin anew: nothing was heard for long.
    restart_allowed: bool,
}

impl Ledger {
    /// `offset`: the durable cursor. The server begins anew with any number after a week of silence (Bot API), so
    /// lower numbers are taken in the first batch.
    pub fn new(offset: Option<u64>) -> Self {
        Self { offset, restart_allowed: true, ..Self::default() }
    }

    /// What the next poll says. Confirms everything below it, so nothing may be pending.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// After a long silence the numbers may begin anew.
    pub fn allow_restart(&mut self) {
        self.restart_allowed = true;
    }

    /// An update of the batch, before anything is done with it.
    pub fn arrived(&mut self, id: u64) -> Verdict {
        if self.offset.is_some_and(|offset| id < offset) && !self.restart_allowed {
            return Verdict::Old;
        }
        self.highest = Some(self.highest.map_or(id, |highest| highest.max(id)));
        Verdict::New
    }

    /// It was handed over as a message.
    pub fn handed_over(&mut self, id: u64) {
        self.pending.insert(id);
        self.stored = self.stored.max(Some(id));
    }

    /// Its receipt came back. Receipts of an earlier connection are for updates that are committed just as well.
    pub fn receipt(&mut self, id: u64) {
        self.pending.remove(&id);
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The lowest update that is not known to be committed: where to begin again when the connection ends now.
    pub fn resume_at(&self) -> Option<u64> {
        self.pending.first().copied()
    }

    /// Ends the batch if nothing is pending: the offset moves. → the cursor to be stored, if its last update was not a
    /// message that took it along.
    pub fn settle(&mut self) -> Option<u64> {
        if !self.pending.is_empty() {
            return None;
        }
        let highest = self.highest.take()?;
        let stored = self.stored.take();
        self.restart_allowed = false;
        self.offset = Some(highest.saturating_add(1));
        self.offset.filter(|_| stored < Some(highest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_offset_waits_for_every_receipt() {
        let mut ledger = Ledger::new(Some(10));
        for id in [10, 11, 12] {
            assert_eq!(ledger.arrived(id), Verdict::New);
        }
        ledger.handed_over(10);
        ledger.handed_over(12);
        ledger.receipt(12);
        assert_eq!((ledger.settle(), ledger.offset(), ledger.resume_at()), (None, Some(10), Some(10)));
        ledger.receipt(10);
        // The cursor went with message 12.
        assert_eq!((ledger.settle(), ledger.offset(), ledger.pending()), (None, Some(13), 0));
    }

    #[test]
    fn what_is_ignored_at_the_end_moves_the_cursor_by_itself() {
        let mut ledger = Ledger::new(None);
        ledger.arrived(5);
        ledger.handed_over(5);
        ledger.arrived(6);
        ledger.receipt(5);
        assert_eq!((ledger.settle(), ledger.offset()), (Some(7), Some(7)));
        assert_eq!(ledger.settle(), None);
    }

    #[test]
    fn lower_numbers_are_taken_after_a_silence_only() {
        let mut ledger = Ledger::new(Some(1000));
        assert_eq!(ledger.arrived(3), Verdict::New);
        assert_eq!(ledger.settle(), Some(4));
        assert_eq!(ledger.arrived(2), Verdict::Old);
        ledger.allow_restart();
        assert_eq!(ledger.arrived(2), Verdict::New);
    }

    proptest! {
        /// Whatever is handed over, ignored and committed, in whatever order: a poll never confirms what is not committed.
        #[test]
        fn the_offset_never_exceeds_what_is_committed(
            batches in proptest::collection::vec(proptest::collection::vec((any::<bool>(), 1_u64..4), 0..12), 1..8),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 100),
            stop_after in 0_usize..100,
        ) {
            let (mut ledger, mut id, mut receipts) = (Ledger::new(None), 100, 0);
            let mut order = order.into_iter();
            for batch in batches {
                let mut waiting = Vec::new();
                for (is_message, step) in batch {
                    id += step;
                    prop_assert_eq!(ledger.arrived(id), Verdict::New);
                    if is_message {
                        ledger.handed_over(id);
                        waiting.push(id);
                    }
                }
                loop {
                    ledger.settle();
                    if let Some(lowest) = waiting.iter().min() {
                        prop_assert!(ledger.offset().is_none_or(|offset| offset <= *lowest));
                        prop_assert_eq!(ledger.resume_at(), Some(*lowest));
                    } else {
                        break;
                    }
                    // A crash: the rest is never committed.
                    if receipts == stop_after {
                        return Ok(());
                    }
                    receipts += 1;
                    let index = order.next().map_or(0, |index| index.index(waiting.len()));
                    ledger.receipt(waiting.swap_remove(index));
                }
                prop_assert!(ledger.offset().is_none_or(|offset| offset == id + 1 ));
            }
        }
    }
}
