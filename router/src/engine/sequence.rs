//! One sequence for its whole life: its request, the tokens it has got, the replies still to come.
//!
//! It holds no blocks: while it runs a `Running` wraps it, and when it is preempted or its shard dies it
//! goes back to the queue as it is, to be replayed from its token ids.

use std::ops::Range;
use std::time::Instant;

use super::step::SampledToken;
use super::suspicion::Suspicion;
use crate::request::{FinishReason, GenerationEvent, Timing, ValidRequest};

/// Names a sequence for its whole life; never reused. A smaller id came earlier and so is senior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

#[derive(Debug)]
pub struct Sequence {
    pub seq_id: SeqId,
    pub request: ValidRequest,
    queued: Instant,
    /// When the first step with tokens of it was planned.
    started: Option<Instant>,
    generated: Vec<u32>,
    /// Planned rows whose reply has not come.
    n_rows_in_flight: u32,
    /// Those of them that sample.
    n_samples_in_flight: u32,
    pub suspicion: Suspicion,
}

impl Sequence {
    pub fn new(seq_id: SeqId, request: ValidRequest, queued: Instant) -> Self {
        Self {
            seq_id,
            request,
            queued,
            started: None,
            generated: Vec::new(),
            n_rows_in_flight: 0,
            n_samples_in_flight: 0,
            suspicion: Suspicion::default(),
        }
    }

    pub fn prompt_len(&self) -> usize {
        self.request.prompt_ids.len()
    }

    /// Tokens known: the prompt and what came back.
    pub fn len(&self) -> usize {
        self.prompt_len() + self.generated.len()
    }

    /// Positions whose K and V it can ever need. Every token is the input of some step except the last
    /// one generated: `max_new_tokens` ends the sequence there.
    pub fn max_kv_tokens(&self) -> usize {
        self.prompt_len() + self.request.max_new_tokens as usize - 1
    }

    /// Token ids at `range`, which lies within `len()`.
    pub fn ids(&self, range: Range<usize>) -> Vec<u32> {
        let (prompt, Range { start, end }) = (&self.request.prompt_ids, range);
        let n = prompt.len();
        [&prompt[start.min(n)..end.min(n)], &self.generated[start.saturating_sub(n)..end.saturating_sub(n)]]
            .concat()
    }

    /// Prompt tokens that follow the positions `inputs`, if their log-probabilities are wanted. Once there
    /// is a token, all of them have been told, and a replay does not tell them again.
    pub fn ids_to_score(&self, inputs: Range<usize>) -> Vec<u32> {
        if !self.request.prompt_logprobs || !self.generated.is_empty() {
            return Vec::new();
        }
        let n = self.prompt_len();
        self.request.prompt_ids[(inputs.start + 1).min(n)..(inputs.end + 1).min(n)].to_vec()
    }

    /// True when as many samples are planned or received as the request wants.
    pub fn is_fully_planned(&self) -> bool {
        self.generated.len() as u64 + u64::from(self.n_samples_in_flight)
            >= u64::from(self.request.max_new_tokens)
    }

    /// False while a reply can still add a token, so that a replay would begin too early.
    pub fn is_settled(&self) -> bool {
        self.n_rows_in_flight == 0
    }

    /// The first call counts: later ones are replays.
    pub fn mark_started(&mut self, now: Instant) {
        self.started.get_or_insert(now);
    }

    pub fn row_planned(&mut self, sample: bool) {
        self.n_rows_in_flight += 1;
        self.n_samples_in_flight += u32::from(sample);
    }

    pub fn row_replied(&mut self, sample: bool) {
        self.n_rows_in_flight -= 1;
        self.n_samples_in_flight -= u32::from(sample);
    }

    /// No reply to a row in flight will come any more.
    pub fn forget_rows_in_flight(&mut self) {
        self.n_rows_in_flight = 0;
        self.n_samples_in_flight = 0;
    }

    /// Takes the next sampled token; the sequence ends where TGI's does: at `max_new_tokens` first
    /// (even when that token is an end-of-sequence token), then at an end-of-sequence token.
    pub fn accept(&mut self, sampled: SampledToken, now: Instant) -> (GenerationEvent, bool) {
        self.generated.push(sampled.token.id);
        let finish = if self.generated.len() as u64 >= u64::from(self.request.max_new_tokens) {
            Some(FinishReason::Length)
        } else if self.request.eos_ids.contains(&sampled.token.id) {
            Some(FinishReason::Eos)
        } else {
            None
        };
        let timing = Timing { queued: self.queued, started: self.started.unwrap_or(now) };
        let event =
            GenerationEvent::Token { token: sampled.token, top: sampled.top, finish, timing, at: now };
        (event, finish.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{request, sampled};

    #[test]
    fn ids_run_from_the_prompt_into_what_was_generated() {
        let now = Instant::now();
        let mut sequence = Sequence::new(SeqId(1), request(3, 9, false), now);
        for id in [8, 9] {
            sequence.accept(sampled(id), now);
        }
        let all = [1, 2, 3, 8, 9];
        for start in 0..=all.len() {
            for end in start..=all.len() {
                assert_eq!(sequence.ids(start..end), all[start..end], "{start}..{end}");
            }
        }
    }
}
