//! Choosing from a distribution: the draw, and the best few tokens. Called by `Sampler` last.
//! Logits are finite or -inf (removed by a warper); a removed token is never chosen or reported.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::softmax::{exp, exp_sum};

/// Tokens whose weights are summed at once while looking for the drawn one.
const BLOCK: usize = 256;

/// Inverse of the cumulative distribution, in order of token id, at `uniform` in [0, 1).
/// The largest logit must be 0.
pub fn draw(logits: &[f32], uniform: f64) -> u32 {
    let total: f64 = logits.chunks(BLOCK).map(|block| exp_sum(block, 0.0)).sum();
    let mut left = uniform * total;
    let mut chosen = 0;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let weight = exp_sum(block, 0.0);
        if left >= weight {
            left -= weight;
            continue;
        }
        for (offset, &logit) in block.iter().enumerate() {
            let weight = f64::from(exp(logit));
            if weight > 0.0 {
                chosen = index * BLOCK + offset;
                if left < weight {
                    return chosen as u32;
                }
                left -= weight;
            }
        }
        // Rounding left a little over at the end of this block: its last possible token it is.
        return chosen as u32;
    }
    // Rounding left a little over at the very end: the last possible token.
    logits.iter().rposition(|&x| exp(x) > 0.0).unwrap_or(0) as u32
}

/// A token ordered by logit, equals by lowest id.
#[derive(PartialEq)]
struct Ranked {
    logit: f32,
    id: u32,
}

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        // Not total_cmp: 0.0 and -0.0 are equal logits.
        let by_logit = self.logit.partial_cmp(&other.logit).unwrap_or(Ordering::Equal);
        by_logit.then(other.id.cmp(&self.id))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Ids of the `n` largest logits, best first; fewer when a warper left fewer.
pub fn best(logits: &[f32], n: usize) -> Vec<u32> {
    let n = n.min(logits.len());
    if n == 0 {
        return Vec::new();
    }
    // The worst of the best so far is on top, and a later equal does not displace it.
    let mut heap = BinaryHeap::with_capacity(n + 1);
    let mut bar = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > bar {
            heap.push(Reverse(Ranked { logit, id: id as u32 }));
            if heap.len() > n {
                heap.pop();
            }
            if heap.len() == n {
                bar = heap.peek().map_or(bar, |Reverse(worst)| worst.logit);
            }
        }
    }
    heap.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked.id).collect()
}
