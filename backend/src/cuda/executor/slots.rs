//! Places on the device that belong to a sequence for its life: where its sampled token is kept, and, if it
//! has penalties, where its tokens are counted. Called by the executor. Pure: it only gives out numbers.

use std::collections::HashMap;

/// One sequence's places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// In `last_sampled`.
    pub token: i32,
    /// Row of `counts`.
    pub counts: Option<i32>,
}

/// All places, free and taken.
#[derive(Debug)]
pub struct Slots {
    by_sequence: HashMap<u64, Slot>,
    free_tokens: Vec<i32>,
    free_counts: Vec<i32>,
    n_tokens: usize,
    n_counts: usize,
}

impl Slots {
    pub fn new(n_tokens: usize, n_counts: usize) -> Slots {
        let mut slots = Slots {
            by_sequence: HashMap::new(),
            free_tokens: vec![],
            free_counts: vec![],
            n_tokens,
            n_counts,
        };
        slots.clear();
        slots
    }

    pub fn clear(&mut self) {
        self.by_sequence.clear();
        self.free_tokens = (0..self.n_tokens as i32).rev().collect();
        self.free_counts = (0..self.n_counts as i32).rev().collect();
    }

    pub fn forget(&mut self, sequence_ids: &[u64]) {
        for slot in sequence_ids.iter().filter_map(|id| self.by_sequence.remove(id)) {
            self.free_tokens.push(slot.token);
            self.free_counts.extend(slot.counts);
        }
    }

    pub fn get(&self, sequence_id: u64) -> Option<Slot> {
        self.by_sequence.get(&sequence_id).copied()
    }

    /// Gives a new sequence its places; those of a known one stay. The count row that must be cleared, if
    /// there is a new one.
    ///
    /// # Errors
    /// All places are taken: more sequences are running than the plan allows in a step.
    pub fn assign(&mut self, sequence_id: u64, counts: bool) -> Result<Option<i32>, String> {
        if self.by_sequence.contains_key(&sequence_id) {
            return Ok(None);
        }
        if self.free_tokens.is_empty() || (counts && self.free_counts.is_empty()) {
            let (n, which) = match self.free_tokens.is_empty() {
                true => (self.n_tokens, ""),
                false => (self.n_counts, " with penalties"),
            };
            return Err(format!("at most {n} sequences{which} can run at once"));
        }
        let row = if counts { self.free_counts.pop() } else { None };
        let token = self.free_tokens.pop().unwrap_or_default();
        self.by_sequence.insert(sequence_id, Slot { token, counts: row });
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_once_and_come_back() {
        let mut slots = Slots::new(3, 1);
        assert_eq!(slots.assign(7, true), Ok(Some(0)));
        assert_eq!(slots.assign(7, true), Ok(None));
        assert_eq!(slots.assign(8, false), Ok(None));
        assert_eq!(slots.get(8), Some(Slot { token: 1, counts: None }));
        assert!(slots.assign(9, true).unwrap_err().contains("at most 1 sequences with penalties"));
        assert_eq!(slots.get(9), None);
        assert_eq!(slots.assign(9, false), Ok(None));
        assert!(slots.assign(10, false).unwrap_err().contains("at most 3 sequences can"));
        slots.forget(&[7, 99]);
        assert_eq!(slots.assign(10, true), Ok(Some(0)));
        assert_eq!(slots.get(10), Some(Slot { token: 0, counts: Some(0) }));
        slots.clear();
        assert_eq!(slots.get(10), None);
        assert_eq!(slots.assign(1, true), Ok(Some(0)));
    }
}
