//! The warpers: top-k, top-p and typical-p, in that order, each on the distribution that the one
//! before it left. Called by `Sampler` on logits that are already divided by the temperature and
//! shifted so that the largest is 0. A removed token's logit becomes -inf; one token always stays.

use std::cmp::Ordering;

use super::choose::best;
use super::softmax::{exp, exp_sum};

/// A token that is still possible, with the key that the warper at hand sorts by (small is good).
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    id: u32,
    /// exp(logit): its probability, not normalised.
    weight: f32,
}

/// Keeps the `k` largest logits and whatever equals the k-th; 0 is off.
pub fn top_k(logits: &mut [f32], k: usize) {
    if k == 0 || k >= logits.len() {
        return;
    }
    let threshold = best(logits, k).last().map_or(f32::NEG_INFINITY, |&id| logits[id as usize]);
    for logit in logits.iter_mut().filter(|x| **x < threshold) {
        *logit = f32::NEG_INFINITY;
    }
}

/// Scratch memory of the warpers that sort, kept between steps.
#[derive(Debug, Default)]
pub struct Warpers {
    candidates: Vec<Candidate>,
}

impl Warpers {
    /// Keeps the most likely tokens until their probabilities reach `p`; equals go by lowest id.
    pub fn top_p(&mut self, logits: &mut [f32], p: f32) {
        if p >= 1.0 {
            return;
        }
        let total = exp_sum(logits, 0.0);
        // All tokens less likely than (1 - p) / vocab together have less than 1 - p, so the others
        // reach p and only they need sorting. Halved, so that no rounding can matter.
        let bar = ((1.0 - f64::from(p)) * total / logits.len() as f64 / 2.0).ln() as f32;
        self.collect(logits, |logit| (logit >= bar).then_some(-logit));
        let kept = shortest_prefix(&mut self.candidates, f64::from(p) * total);
        let Some(last) = self.candidates[..kept].last() else { return };
        for (id, logit) in logits.iter_mut().enumerate() {
            if *logit < -last.score || (*logit == -last.score && id as u32 > last.id) {
                *logit = f32::NEG_INFINITY;
            }
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
        self.collect(logits, |logit| Some((mean - f64::from(logit)).abs() as f32));
        let kept = shortest_prefix(&mut self.candidates, f64::from(p) * total);
        let threshold = self.candidates[..kept].last().map_or(f32::INFINITY, |last| last.score);
        for candidate in self.candidates[kept..].iter().filter(|c| c.score > threshold) {
            logits[candidate.id as usize] = f32::NEG_INFINITY;
        }
    }

    /// Gathers the tokens that are still possible and have a score.
    fn collect(&mut self, logits: &[f32], score: impl Fn(f32) -> Option<f32>) {
        let candidate = |(id, &logit): (usize, &f32)| {
            let score = score(logit)?;
            Some(Candidate { score, id: id as u32, weight: exp(logit) })
        };
        self.candidates.clear();
        let possible = logits.iter().enumerate().filter(|(_, x)| x.is_finite());
        self.candidates.extend(possible.filter_map(candidate));
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
