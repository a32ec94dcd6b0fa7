//! Requests that killed the shard, so that a client that tries again does not kill the next one. Pure.
//!
//! Called by the engine. Bounded in number and time: a conviction may have been wrong.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::request::ValidRequest;

/// How long a request is refused.
const TERM: Duration = Duration::from_secs(600);
/// Requests remembered at once.
const MAX_REQUESTS: usize = 64;

#[derive(Debug, Default)]
pub struct Quarantine {
    /// Digests and ends, the earliest end first.
    requests: VecDeque<([u8; 32], Instant)>,
}

impl Quarantine {
    pub fn add(&mut self, request: &ValidRequest, now: Instant) {
        if self.requests.len() == MAX_REQUESTS {
            self.requests.pop_front();
        }
        self.requests.push_back((digest(request), now + TERM));
    }

    pub fn holds(&mut self, request: &ValidRequest, now: Instant) -> bool {
        while self.requests.front().is_some_and(|(_, end)| *end <= now) {
            self.requests.pop_front();
        }
        // Nearly always empty, and then a request costs no digest.
        !self.requests.is_empty() && {
            let digest = digest(request);
            self.requests.iter().any(|(held, _)| *held == digest)
        }
    }
}

/// Of all that the shard computes with, but the seed: a client that tries again may leave it to chance.
fn digest(request: &ValidRequest) -> [u8; 32] {
    let sampling = &request.sampling;
    let numbers = [
        sampling.temperature,
        sampling.top_p,
        sampling.typical_p,
        sampling.repetition_penalty,
        sampling.frequency_penalty,
        sampling.presence_penalty,
    ];
    let counts = [u32::from(sampling.do_sample), sampling.top_k, sampling.top_n_tokens];
    let words = numbers.iter().map(|number| number.to_bits()).chain(counts);
    let words = words.chain(request.prompt_ids.iter().copied());
    let biases = sampling.logit_bias.iter().flat_map(|(id, bias)| [*id, bias.to_bits()]);
    let bytes: Vec<u8> = words.chain(biases).flat_map(u32::to_le_bytes).collect();
    let constraint = request.constraint.as_ref().map_or([0; 32], |constraint| *constraint.digest());
    let digest = Sha256::new().chain_update(request.caller.tenant.0).chain_update(constraint);
    digest.chain_update(bytes).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::request;

    #[test]
    fn holds_the_same_request_for_a_while() {
        let now = Instant::now();
        let mut quarantine = Quarantine::default();
        assert!(!quarantine.holds(&request(3, 9, false), now));
        quarantine.add(&request(3, 9, false), now);
        let mut other_seed = request(3, 1, true);
        other_seed.sampling.seed = 77;
        let mut warmer = request(3, 9, false);
        warmer.sampling.temperature = 2.0;
        for (asked, after, held) in [
            (&request(3, 9, false), 0, true),
            (&other_seed, 599, true),
            (&warmer, 0, false),
            (&request(4, 9, false), 0, false),
            (&request(3, 9, false), 600, false),
        ] {
            assert_eq!(quarantine.holds(asked, now + Duration::from_secs(after)), held, "{asked:?}");
        }
    }

    #[test]
    fn is_bounded() {
        let now = Instant::now();
        let mut quarantine = Quarantine::default();
        for n_prompt in 1..=100 {
            quarantine.add(&request(n_prompt, 1, false), now);
        }
        assert_eq!(quarantine.requests.len(), MAX_REQUESTS);
        assert!(
            quarantine.holds(&request(100, 1, false), now) && !quarantine.holds(&request(1, 1, false), now)
        );
    }
}
