//! Events that come in several frames: put together again, in whatever order the slices arrive. Pure.
//!
//! A set that never becomes complete is dropped after a while: it is not acknowledged, so the platform sends it again.

use crate::limits;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// Why a slice cannot be. The peer breaks its own protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceError {
    /// No slices, or more than [`limits::FEISHU_SLICES_MAX`].
    Sum(u64),
    /// Not one of the slices there are.
    Seq { seq: u64, sum: u64 },
    /// Another number of slices than the first one of this event said.
    SumChanged { before: u64, now: u64 },
    /// All slices together have more than [`limits::FEISHU_EVENT_BYTES_MAX`].
    TooLarge,
}

impl std::fmt::Display for SliceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sum(sum) => write!(f, "an event in {sum} slices"),
            Self::Seq { seq, sum } => write!(f, "slice {seq} of an event in {sum} slices"),
            Self::SumChanged { before, now } => write!(f, "an event that has {before} slices and then {now}"),
            Self::TooLarge => write!(f, "an event of more than {} bytes", limits::FEISHU_EVENT_BYTES_MAX),
        }
    }
}

impl std::error::Error for SliceError {}

struct Set {
    sum: u64,
    slices: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
    last: Instant,
}

/// The events of which only a part has arrived.
#[derive(Default)]
pub struct Assembler {
    sets: HashMap<String, Set>,
    bytes: usize,
}

impl Assembler {
    /// Takes slice `seq` (from 0) of `sum` of the event `id`. → the event, if this was the last one that was missing.
    ///
    /// A slice that comes twice counts once. One without content counts as missing, as in the official clients.
    ///
    /// # Errors
    /// [`SliceError`]; nothing is kept of that event then.
    pub fn add(&mut self, id: &str, sum: u64, seq: u64, slice: Vec<u8>, now: Instant) -> Result<Option<Vec<u8>>, SliceError> {
        let result = self.check_and_add(id, sum, seq, slice, now);
        if result.is_err() {
            self.forget(id);
        }
        result
    }

    fn check_and_add(&mut self, id: &str, sum: u64, seq: u64, slice: Vec<u8>, now: Instant) -> Result<Option<Vec<u8>>, SliceError> {
        if sum == 0 || sum > limits::FEISHU_SLICES_MAX {
            return Err(SliceError::Sum(sum));
        }
        if seq >= sum {
            return Err(SliceError::Seq { seq, sum });
        }
        if slice.len() > limits::FEISHU_EVENT_BYTES_MAX {
            return Err(SliceError::TooLarge);
        }
        if sum == 1 {
            self.forget(id);
            return Ok(Some(slice));
        }
        if slice.is_empty() {
            return Ok(None);
        }
        self.make_room(id, slice.len());
        let set = self.sets.entry(id.to_owned()).or_insert_with(|| Set { sum, slices: BTreeMap::new(), bytes: 0, last: now });
        if set.sum != sum {
            return Err(SliceError::SumChanged { before: set.sum, now: sum });
        }
        if let std::collections::btree_map::Entry::Vacant(place) = set.slices.entry(seq) {
            set.bytes += slice.len();
            self.bytes += slice.len();
            set.last = now;
            place.insert(slice);
        }
        if set.bytes > limits::FEISHU_EVENT_BYTES_MAX {
            return Err(SliceError::TooLarge);
        }
        if set.slices.len() as u64 != sum {
            return Ok(None);
        }
        Ok(self.forget(id).map(|set| set.slices.into_values().flatten().collect()))
    }

    /// Drops the oldest sets, but not that of `id`, until another slice fits.
    fn make_room(&mut self, id: &str, bytes: usize) {
        let is_full = |this: &Self| {
            let new = usize::from(!this.sets.contains_key(id));
            this.sets.len() + new > limits::FEISHU_SETS_MAX || this.bytes + bytes > limits::FEISHU_SETS_BYTES_MAX
        };
        while is_full(self) {
            let oldest = self.sets.iter().filter(|(known, _)| known.as_str() != id).min_by_key(|(_, set)| set.last);
            let Some(oldest) = oldest.map(|(known, _)| known.clone()) else { return };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, id: &str) -> Option<Set> {
        let set = self.sets.remove(id)?;
        self.bytes -= set.bytes;
        Some(set)
    }

    /// Drops what has been incomplete for [`limits::FEISHU_SLICES_WAIT`]. → how many events
    pub fn expire(&mut self, now: Instant) -> usize {
        let late = |set: &Set| now.saturating_duration_since(set.last) >= limits::FEISHU_SLICES_WAIT;
        let old: Vec<String> = self.sets.iter().filter(|(_, set)| late(set)).map(|(id, _)| id.clone()).collect();
        old.iter().for_each(|id| drop(self.forget(id)));
        old.len()
    }

    /// When [`Assembler::expire`] has something to do next.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.sets.values().map(|set| set.last + limits::FEISHU_SLICES_WAIT).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn slices_that_cannot_be_are_refused() {
        let (mut sets, now) = (Assembler::default(), clock::now());
        let mut add = |sum, seq, bytes: usize| sets.add("m", sum, seq, vec![7; bytes], now);
        assert_eq!(add(0, 0, 1), Err(SliceError::Sum(0)));
        assert_eq!(add(limits::FEISHU_SLICES_MAX + 1, 0, 1), Err(SliceError::Sum(limits::FEISHU_SLICES_MAX + 1)));
        assert_eq!(add(2, 2, 1), Err(SliceError::Seq { seq: 2, sum: 2 }));
        assert_eq!(add(1, 0, limits::FEISHU_EVENT_BYTES_MAX + 1), Err(SliceError::TooLarge));
        assert_eq!(add(3, 0, 1), Ok(None));
        assert_eq!(add(2, 1, 1), Err(SliceError::SumChanged { before: 3, now: 2 }));
        // Nothing is left of it.
        assert_eq!(add(2, 1, 1), Ok(None));
        assert_eq!(add(2, 0, 0), Ok(None), "an empty slice is a missing one");
        assert_eq!(add(2, 0, 2), Ok(Some(vec![7; 3])));
        assert_eq!(add(2, 0, limits::FEISHU_EVENT_BYTES_MAX), Ok(None));
        assert_eq!(add(2, 1, 1), Err(SliceError::TooLarge));
        assert_eq!((sets.sets.len(), sets.bytes), (0, 0));
    }

    #[test]
    fn what_stays_incomplete_is_dropped() {
        let (mut sets, now) = (Assembler::default(), clock::now());
        assert_eq!(sets.due(), None);
        let later = now + Duration::from_secs(1);
        sets.add("a", 2, 0, vec![1], now).expect("kept");
        sets.add("b", 2, 0, vec![1], later).expect("kept");
        assert_eq!(sets.due(), Some(now + limits::FEISHU_SLICES_WAIT));
        assert_eq!(sets.expire(now + limits::FEISHU_SLICES_WAIT), 1);
        assert_eq!(sets.add("b", 2, 1, vec![2], later), Ok(Some(vec![1, 2])));
        assert_eq!((sets.due(), sets.bytes), (None, 0));
    }

    #[test]
    fn what_is_incomplete_is_bounded_in_number_and_size() {
        let (mut sets, now) = (Assembler::default(), clock::now());
        for number in 0..10 * limits::FEISHU_SETS_MAX {
            sets.add(&number.to_string(), 2, 0, vec![1], now + Duration::from_millis(number as u64)).expect("kept");
        }
        assert_eq!(sets.sets.len(), limits::FEISHU_SETS_MAX);
        for number in 0..10 {
            let half = vec![1; limits::FEISHU_EVENT_BYTES_MAX / 2];
            sets.add(&number.to_string(), 2, 0, half, now + Duration::from_secs(60 + number)).expect("kept");
            assert!(sets.bytes <= limits::FEISHU_SETS_BYTES_MAX);
        }
    }

    proptest! {
        /// Cut anywhere, delivered in any order, some of it twice, mixed with another event: it comes out as it went in, once.
        #[test]
        fn any_order_gives_the_event(
            event in proptest::collection::vec(any::<u8>(), 2..400),
            cuts in proptest::collection::btree_set(1_usize..399, 1..12),
            order in proptest::collection::vec(any::<u32>(), 13),
            twice in any::<proptest::sample::Index>(),
        ) {
            let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < event.len()).collect();
            prop_assume!(!cuts.is_empty());
            let edges: Vec<usize> = [vec![0], cuts, vec![event.len()]].concat();
            let mut slices: Vec<(u64, Vec<u8>)> = edges.windows(2).zip(0..).map(|(pair, seq)| (seq, event[pair[0]..pair[1]].to_vec())).collect();
            let sum = slices.len() as u64;
            slices.sort_by_key(|(seq, _)| order[usize::try_from(*seq).expect("small")]);
            let repeated = slices[twice.index(slices.len() - 1)].clone();
            let last = slices.len() - 1;
            slices.insert(last, repeated);
            let (mut sets, now) = (Assembler::default(), clock::now());
            let mut out = Vec::new();
            for (seq, slice) in slices {
                prop_assert_eq!(sets.add("other", 99, seq, vec![0], now), Ok(None));
                out.extend(sets.add("event", sum, seq, slice, now).expect("good slices"));
            }
            prop_assert_eq!(out, vec![event]);
        }
    }
}
