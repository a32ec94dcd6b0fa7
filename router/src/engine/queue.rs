//! Sequences that wait for blocks and a place in the batch, first come first served.
//!
//! Called by the engine and its scheduler. Holds no blocks and knows no budget.

use std::collections::BTreeMap;

use super::sequence::{SeqId, Sequence};

/// Waiting sequences by seniority: one that was preempted is back at its old place.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<SeqId, Sequence>,
}

impl Queue {
    pub fn push(&mut self, sequence: Sequence) {
        self.waiting.insert(sequence.seq_id, sequence);
    }

    /// The sequence to admit next.
    pub fn front(&self) -> Option<&Sequence> {
        self.waiting.values().next()
    }

    pub fn get_mut(&mut self, seq_id: SeqId) -> Option<&mut Sequence> {
        self.waiting.get_mut(&seq_id)
    }

    /// Takes a sequence out wherever it stands.
    pub fn remove(&mut self, seq_id: SeqId) -> Option<Sequence> {
        self.waiting.remove(&seq_id)
    }

    /// Takes out every sequence, seniors first.
    pub fn drain(&mut self) -> impl Iterator<Item = Sequence> + use<> {
        std::mem::take(&mut self.waiting).into_values()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.waiting.values_mut()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
