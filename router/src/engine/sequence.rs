//! One sequence for its whole life: its request, the tokens it has got, the replies still to come.
//!
//! It holds no blocks: while it runs a `Running` wraps it, and when it is preempted or its shard dies it
//! goes back to the queue as it is, to be replayed from its token ids.

use std::ops::Range;
use std::time::Instant;

use super::config::EngineConfig;
use super::counters::Counters;
use super::prefix_cache::{BlockKey, ntk_doublings};
use super::step::SampledToken;
use super::suspicion::Suspicion;
use crate::constraint::TokenMask;
use crate::request::{FinishReason, GenerationEvent, Tenant, Timing, ValidRequest};

/// Names a sequence for its whole life; never reused. A smaller id came earlier and so is senior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

#[derive(Debug)]
pub struct Sequence {
    pub seq_id: SeqId,
    pub request: ValidRequest,
    queued: Instant,
    /// When it was admitted first.
    started: Option<Instant>,
    generated: Vec<u32>,
    /// Planned rows whose reply has not come.
    n_rows_in_flight: u32,
    /// Those of them that sample.
    n_samples_in_flight: u32,
    /// Of its first full blocks, as far as they were asked for.
    block_keys: Vec<BlockKey>,
    /// Prompt tokens that were counted as cached or computed.
    n_prompt_counted: usize,
    /// Blocks given to juniors while it waited for its own.
    pub n_blocks_overtaken: usize,
    pub suspicion: Suspicion,
    /// What may be sampled next, if it is constrained; `None` from a token to the mask that follows from it.
    mask: Option<TokenMask>,
}

impl Sequence {
    pub fn new(seq_id: SeqId, request: ValidRequest, queued: Instant) -> Self {
        Self {
            mask: request.constraint.as_ref().map(|constraint| constraint.first_mask().clone()),
            seq_id,
            request,
            queued,
            started: None,
            generated: Vec::new(),
            n_rows_in_flight: 0,
            n_samples_in_flight: 0,
            block_keys: Vec::new(),
            n_prompt_counted: 0,
            n_blocks_overtaken: 0,
            suspicion: Suspicion::default(),
        }
    }

    pub fn tenant(&self) -> Tenant {
        self.request.caller.tenant
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

    /// Tokens at `range`, which lies within `len()`: those of the prompt, those generated.
    fn parts(&self, Range { start, end }: Range<usize>) -> [&[u32]; 2] {
        let (prompt, n) = (&self.request.prompt_ids, self.prompt_len());
        let generated = start.saturating_sub(n)..end.saturating_sub(n);
        [&prompt[start.min(n)..end.min(n)], &self.generated[generated]]
    }

    pub fn ids(&self, range: Range<usize>) -> Vec<u32> {
        self.parts(range).concat()
    }

    pub fn has_ids(&self, range: Range<usize>, ids: &[u32]) -> bool {
        self.parts(range).into_iter().flatten().eq(ids)
    }

    /// The key of full block `block_idx` (all of it within `len()`).
    pub fn block_key(&mut self, block_idx: usize, config: &EngineConfig) -> BlockKey {
        let block_size = config.block_size as usize;
        let doublings = ntk_doublings(self.prompt_len(), config.ntk_seq_length);
        for i in self.block_keys.len()..=block_idx {
            let before = self.block_keys.last().copied();
            let before = before.unwrap_or_else(|| BlockKey::root(&self.tenant(), doublings));
            self.block_keys.push(before.next(&self.ids(i * block_size..(i + 1) * block_size)));
        }
        self.block_keys[block_idx]
    }

    fn wants_scores(&self) -> bool {
        self.request.prompt_logprobs && self.generated.is_empty()
    }

    /// Full blocks that it may take from the prefix cache. The last token is computed in any case: what
    /// follows it is to be sampled.
    pub fn n_shareable_blocks(&self, block_size: usize) -> usize {
        if self.wants_scores() { 0 } else { (self.len() - 1) / block_size }
    }

    /// Prompt tokens that follow the positions `inputs`, if their log-probabilities are wanted. Once there
    /// is a token, all of them have been told, and a replay does not tell them again.
    pub fn ids_to_score(&self, inputs: Range<usize>) -> Vec<u32> {
        if !self.wants_scores() {
            return Vec::new();
        }
        let n = self.prompt_len();
        self.request.prompt_ids[(inputs.start + 1).min(n)..(inputs.end + 1).min(n)].to_vec()
    }

    /// True when as many samples are planned or received as the request wants.
    pub fn is_fully_planned(&self) -> bool {
        let n_samples = self.generated.len() as u64 + u64::from(self.n_samples_in_flight);
        n_samples >= u64::from(self.request.max_new_tokens)
    }

    /// False while a reply can still add a token, or a mask is missing, so that a replay would begin too early.
    pub fn is_settled(&self) -> bool {
        self.n_rows_in_flight == 0 && !self.awaits_mask()
    }

    pub fn mask(&self) -> Option<&TokenMask> {
        self.mask.as_ref()
    }

    /// What may follow the token that came last.
    pub fn set_mask(&mut self, mask: TokenMask) {
        self.mask = Some(mask);
    }

    /// True while it is constrained and what may be sampled next is not known: its last token, or the mask
    /// that follows from it, has not come.
    pub fn awaits_mask(&self) -> bool {
        self.request.constraint.is_some() && (self.mask.is_none() || self.n_samples_in_flight > 0)
    }

    /// True when nothing but a mask keeps it from its next token.
    pub fn lacks_only_mask(&self) -> bool {
        self.awaits_mask() && self.n_samples_in_flight == 0
    }

    /// It gets blocks, of which the first hold `n_cached` tokens already.
    pub fn admitted(&mut self, n_cached: usize, now: Instant, counters: &mut Counters) {
        self.started.get_or_insert(now);
        self.n_blocks_overtaken = 0;
        counters.prompt_tokens_cached += self.count_prompt(n_cached);
    }

    /// A row brings it to `end` tokens, `n_tokens` of them explicit inputs.
    pub fn row_planned(&mut self, end: usize, n_tokens: usize, sample: bool, counters: &mut Counters) {
        self.n_rows_in_flight += 1;
        self.n_samples_in_flight += u32::from(sample);
        let n_first = self.count_prompt(end);
        counters.prompt_tokens_computed += n_first;
        counters.replayed_tokens += n_tokens as u64 - n_first;
    }

    /// Prompt tokens before `end` that were not counted yet.
    fn count_prompt(&mut self, end: usize) -> u64 {
        let before = self.n_prompt_counted;
        self.n_prompt_counted = before.max(end.min(self.prompt_len()));
        (self.n_prompt_counted - before) as u64
    }

    pub fn row_replied(&mut self, sample: bool) {
        self.n_rows_in_flight -= 1;
        self.n_samples_in_flight -= u32::from(sample);
    }

    /// The shard is lost: no reply will come to the rows in flight, and the next one's blocks may differ.
    pub fn shard_lost(&mut self) {
        self.n_rows_in_flight = 0;
        self.n_samples_in_flight = 0;
        self.block_keys.clear();
    }

    /// Takes the next sampled token; the sequence ends where TGI's does: at `max_new_tokens` first
    /// (even when that token is an end-of-sequence token), then at an end-of-sequence token.
    pub fn accept(&mut self, sampled: SampledToken, now: Instant) -> (GenerationEvent, bool) {
        self.generated.push(sampled.token.id);
        self.mask = None;
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
                assert!(sequence.has_ids(start..end, &all[start..end]));
                assert!(!sequence.has_ids(start..end, &[0]));
            }
        }
    }
}
