//! Requests that wait for blocks and a place in the batch, first come first served.
//!
//! Called by the engine and its scheduler. Holds no blocks and knows no budget.

use std::collections::VecDeque;
use std::time::Instant;

use super::sequence::SeqId;
use crate::request::ValidRequest;

#[derive(Debug)]
pub struct Waiting {
    pub seq_id: SeqId,
    pub request: ValidRequest,
    pub queued: Instant,
}

#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Waiting>,
}

impl Queue {
    pub fn push(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// The request to admit next.
    pub fn front(&self) -> Option<&Waiting> {
        self.waiting.front()
    }

    pub fn pop(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
    }

    /// Takes a request out wherever it stands; false when it does not wait.
    pub fn remove(&mut self, seq_id: SeqId) -> bool {
        let place = self.waiting.iter().position(|waiting| waiting.seq_id == seq_id);
        place.and_then(|i| self.waiting.remove(i)).is_some()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
