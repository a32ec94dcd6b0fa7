//! The warpers: top-k, top-p and typical-p, in that order, each on the distribution that the one
//! before it left. Called by `Sampler` on logits that are already divided by the temperature and
//! shifted so that the largest is 0. A removed token's logit becomes -inf; one token always stays.

use std::cmp::Ordering;

use super::softmax::{exp, exp_sum};

/// A token that is still possible, with the key that the warper at hand sorts by (small is good).
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    id: u32,
    /// exp(logit): its probability, not normalised.
    weight: f32,
}

/// Scratch memory of the warpers, kept between steps.
#[derive(Debug, Default)]
pub struct Warpers {
    values: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Warpers {
    /// Keeps the `k` largest logits and whatever equals the k-th; 0 is off.
    pub fn top_k(&mut self, logits: &mut [f32], k: usize) {
        if k == 0 || k >= logits.len() {
            return;
        }
        self.values.clear();
        self.values.extend_from_slice(logits);
        let (_, &mut threshold, _) = self.values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        for logit in logits.iter_mut().filter(|x| **x < threshold) {
            *logit = f32::NEG_INFINITY;
        }
    }

    /// Keeps the most likely tokens until their probabilities reach `p`; equals go by lowest id.
    pub fn top_p(&mut self, logits: &mut [f32], p: f32) {
        if p >= 1.0 {
            return;
        }
        let total = exp_sum(logits, 0.0);
        self.collect(logits, |logit| -logit);
        let kept = shortest_prefix(&mut self.candidates, f64::from(p) * total);
        for candidate in &self.candidates[kept..] {
            logits[candidate.id as usize] = f32::NEG_INFINITY;
        }
    }

    /// Locally typical sampling (Meister et al., 2022): keeps the tokens whose surprisal is nearest
    /// to the entropy until their probabilities reach `p`, and whatever is as near as the last.
    pub fn typical_p(&mut self, logits: &mut [f32], p: f32) {
        if p >= 1.0 {
            return;
        }
        let total = exp_sum(logits, 0.0);
        let possible = logits.iter().filter(|x| x.is_finite());
        let mean: f64 = possible.map(|&x| f64::from(exp(x)) / total * f64::from(x)).sum();
        // Surprisal is ln(total) - x and entropy is ln(total) - mean.
        self.collect(logits, |logit| (mean - f64::from(logit)).abs() as f32);
        let kept = shortest_prefix(&mut self.candidates, f64::from(p) * total);
        let threshold = self.candidates[..kept].last().map_or(f32::INFINITY, |last| last.score);
        for candidate in self.candidates[kept..].iter().filter(|c| c.score > threshold) {
            logits[candidate.id as usize] = f32::NEG_INFINITY;
        }
    }

    /// Gathers the tokens that are still possible.
    fn collect(&mut self, logits: &[f32], score: impl Fn(f32) -> f32) {
        self.candidates.clear();
        let possible = logits.iter().enumerate().filter(|(_, x)| x.is_finite());
        self.candidates.extend(possible.map(|(id, &logit)| Candidate {
            score: score(logit),
            id: id as u32,
            weight: exp(logit),
        }));
    }
}

/// Length of the shortest prefix, in order of score, whose weights reach `mass`; at least one.
/// Only as much as needed is sorted: a nucleus is usually a few tokens of a large vocabulary.
fn shortest_prefix(candidates: &mut [Candidate], mass: f64) -> usize {
    let (mut length, mut sum, mut block) = (0, 0.0, 64);
    while length < candidates.len() {
        let tail = &mut candidates[length..];
        let n = tail.len().min(block);
        if n < tail.len() {
            tail.select_nth_unstable_by(n - 1, by_score);
        }
        tail[..n].sort_unstable_by(by_score);
        for candidate in &tail[..n] {
            length += 1;
            sum += f64::from(candidate.weight);
            if sum >= mass {
                return length;
            }
        }
        block *= 8;
    }
    candidates.len()
}

fn by_score(a: &Candidate, b: &Candidate) -> Ordering {
    a.score.total_cmp(&b.score).then(a.id.cmp(&b.id))
}
