//! Which tokens a sequence holds, and the penalties that follow from it (the first processors of a
//! step). Updated by the executor as tokens enter the sequence, read by `Sampler`. Counts concern
//! one sequence only, never its batch mates.

use std::collections::HashMap;

use super::SamplingParameters;

/// Every distinct token of a sequence, with how often it was generated.
#[derive(Debug, Clone, Default)]
pub struct TokenCounts {
    /// Token to number of times generated; 0 for tokens of the prompt only.
    generated: HashMap<u32, u32>,
}

impl TokenCounts {
    pub fn add_prompt(&mut self, token: u32) {
        self.generated.entry(token).or_insert(0);
    }

    pub fn add_generated(&mut self, token: u32) {
        *self.generated.entry(token).or_insert(0) += 1;
    }

    /// Applies the repetition penalty to every distinct token, then the frequency and presence
    /// penalties to those that were generated. Tokens are independent: the order is free.
    pub fn apply(&self, parameters: &SamplingParameters, logits: &mut [f32]) {
        for (&token, &count) in &self.generated {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = match *logit < 0.0 {
                true => *logit * parameters.repetition_penalty,
                false => *logit / parameters.repetition_penalty,
            };
            if count > 0 {
                *logit -= parameters.frequency_penalty * count as f32 + parameters.presence_penalty;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_penalty_does_what_it_says() {
        // Prompt 0 1 1, generated 1 2 2 2; token 3 never seen.
        let mut counts = TokenCounts::default();
        [0, 1, 1].into_iter().for_each(|t| counts.add_prompt(t));
        [1, 2, 2, 2].into_iter().for_each(|t| counts.add_generated(t));
        let off = SamplingParameters::GREEDY;
        let cases = [
            ("off", off, [4.0, -4.0, 4.0, -4.0]),
            ("repetition", SamplingParameters { repetition_penalty: 2.0, ..off }, [2.0, -8.0, 2.0, -4.0]),
            ("frequency", SamplingParameters { frequency_penalty: 0.5, ..off }, [4.0, -4.5, 2.5, -4.0]),
            ("presence", SamplingParameters { presence_penalty: 0.25, ..off }, [4.0, -4.25, 3.75, -4.0]),
            (
                "negative frequency",
                SamplingParameters { frequency_penalty: -1.0, ..off },
                [4.0, -3.0, 7.0, -4.0],
            ),
            (
                "repetition before frequency",
                SamplingParameters { repetition_penalty: 2.0, frequency_penalty: 1.0, ..off },
                [2.0, -9.0, -1.0, -4.0],
            ),
        ];
        for (name, parameters, expected) in cases {
            let mut logits = [4.0, -4.0, 4.0, -4.0];
            counts.apply(&parameters, &mut logits);
            assert_eq!(logits, expected, "{name}");
        }
    }
}
