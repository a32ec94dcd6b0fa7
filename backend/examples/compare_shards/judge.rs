//! The rules by which two shards are the same model, applied to the tokens of one sequence at a time. Pure.
//!
//! Greedy: equal tokens, until a step at which the first shard's two best logprobs are closer than `MARGIN`; what follows
//! a difference there is free, since the texts have parted. Every logprob compared is within `TOLERANCE`.

use std::fmt;

use crate::shard_client::connection::Token;

/// Closer than this, either of the two best tokens is right.
pub const MARGIN: f32 = 0.02;
/// The same where both runs are inexact: their errors add up.
pub const MARGIN_OF_TWO: f32 = 2.0 * MARGIN;
/// Between the logprobs that two shards give one token.
pub const TOLERANCE: f32 = 0.05;
const SHOWN: usize = 5;

/// What one part of the comparison found.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub part: &'static str,
    /// Warpers and draws have boundaries, and either side of one is right: what differs is counted, not held against it.
    pub is_drawn: bool,
    /// Between the two best logprobs, below which either token is right.
    pub margin: f32,
    pub n_sequences: usize,
    /// Tokens compared.
    pub n_tokens: usize,
    /// Sequences that parted, or drew, within the margin.
    pub n_parted: usize,
    /// Logprobs that differ at all.
    pub n_inexact: usize,
    pub worst: f32,
    /// What breaks the rules.
    pub violations: Vec<String>,
}

impl Verdict {
    pub fn new(part: &'static str) -> Self {
        Self {
            part,
            is_drawn: false,
            margin: MARGIN,
            n_sequences: 0,
            n_tokens: 0,
            n_parted: 0,
            n_inexact: 0,
            worst: 0.0,
            violations: Vec::new(),
        }
    }

    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }

    /// Compares what two shards made of one prompt.
    pub fn free(&mut self, name: &str, right: &[Token], other: &[Token]) {
        self.n_sequences += 1;
        if right.len() != other.len() {
            self.violations.push(format!("{name}: {} tokens, expected {}", other.len(), right.len()));
        }
        for (i, (right, other)) in right.iter().zip(other).enumerate() {
            self.n_tokens += 1;
            if right.id == other.id {
                self.logprob(name, i, right.logprob, other.logprob);
                continue;
            }
            self.n_parted += 1;
            let margin = margin(right);
            if !self.is_drawn && margin >= self.margin {
                let message =
                    format!("{name}, token {i}: {}, expected {} (margin {margin:.4})", other.id, right.id);
                self.violations.push(message);
            }
            return;
        }
    }

    /// Compares the logprobs that `other` gives to the tokens of `right`, position by position.
    pub fn forced(&mut self, name: &str, right: &[Token], other: &[Token]) {
        self.n_sequences += 1;
        for (i, (right, other)) in right.iter().zip(other).enumerate() {
            self.n_tokens += 1;
            match logprob_of(other, right.id) {
                Some(logprob) => self.logprob(name, i, right.logprob, logprob),
                None => {
                    self.violations.push(format!("{name}, token {i}: {} is not among the best", right.id))
                }
            }
        }
    }

    /// Compares the logprobs of a prompt's own tokens, of which there are `n`.
    pub fn scores(&mut self, name: &str, n: usize, right: &[f32], other: &[f32]) {
        self.n_sequences += 1;
        self.n_tokens += n;
        if right.len() != n || other.len() != n {
            let message = format!("{name}: {} logprobs and {}, expected {n} each", right.len(), other.len());
            self.violations.push(message);
        }
        for (i, (right, other)) in right.iter().zip(other).enumerate() {
            self.logprob(name, i, *right, *other);
        }
    }

    fn logprob(&mut self, name: &str, i: usize, right: f32, other: f32) {
        let difference = (right - other).abs();
        self.n_inexact += usize::from(difference != 0.0);
        let is_near = difference <= TOLERANCE; // a NaN is not
        if !self.is_drawn && !is_near {
            self.violations.push(format!("{name}, token {i}: logprob {other:.4}, expected {right:.4}"));
        }
        self.worst = if difference.is_nan() { f32::INFINITY } else { self.worst.max(difference) };
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "part": self.part,
            "holds": self.holds(),
            "sequences": self.n_sequences,
            "tokens": self.n_tokens,
            "parted": self.n_parted,
            "inexact_logprobs": self.n_inexact,
            "worst_logprob_difference": self.worst,
            "violations": self.violations.len(),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<22} {:>4} sequences {:>5} tokens, {:>3} parted, {:>5} logprobs differ, at most by {:.5}: {}",
            self.part,
            self.n_sequences,
            self.n_tokens,
            self.n_parted,
            self.n_inexact,
            self.worst,
            if self.holds() { "holds".to_owned() } else { format!("{} VIOLATIONS", self.violations.len()) }
        )?;
        self.violations.iter().take(SHOWN).try_for_each(|violation| write!(f, "\n    {violation}"))
    }
}

/// Between the two best tokens; infinite where they were not asked for.
fn margin(token: &Token) -> f32 {
    match token.top[..] {
        [(_, best), (_, second), ..] => best - second,
        _ => f32::INFINITY,
    }
}

fn logprob_of(token: &Token, id: u32) -> Option<f32> {
    if token.id == id {
        return Some(token.logprob);
    }
    token.top.iter().find(|(top, _)| *top == id).map(|(_, logprob)| *logprob)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, logprob: f32, second: f32) -> Token {
        Token { id, logprob, top: vec![(id, logprob), (id + 100, second)] }
    }

    fn free(right: &[Token], other: &[Token]) -> Verdict {
        let mut verdict = Verdict::new("test");
        verdict.free("a", right, other);
        verdict
    }

    #[test]
    fn greedy_tokens_may_part_at_a_narrow_margin_only() {
        let clear = token(1, -0.1, -3.0);
        let narrow = token(2, -0.70, -0.71);
        let (wide, last) = (token(2, -0.70, -0.73), token(3, -0.5, -4.0));
        let same = free(&[clear.clone(), narrow.clone()], &[clear.clone(), narrow.clone()]);
        assert!(same.holds() && same.n_tokens == 2 && same.n_inexact == 0);
        let parted = free(
            &[clear.clone(), narrow, last.clone()],
            &[clear.clone(), token(9, -0.6, -0.7), clear.clone()],
        );
        assert!(parted.holds() && parted.n_parted == 1 && parted.n_tokens == 2, "{parted}");
        let wrong = free(&[clear.clone(), wide, last], &[clear.clone(), token(9, -0.6, -0.7), clear.clone()]);
        assert!(!wrong.holds(), "{wrong}");
        assert!(!free(&[clear.clone(), clear.clone()], &[clear]).holds(), "a token is missing");
    }

    #[test]
    fn logprobs_are_held_to_the_tolerance() {
        for (other, holds) in
            [(-0.1, true), (-0.149, true), (-0.151, false), (-0.04, false), (f32::NAN, false)]
        {
            let verdict = free(&[token(1, -0.1, -3.0)], &[token(1, other, -3.0)]);
            assert_eq!(verdict.holds(), holds, "{other}: {verdict}");
        }
    }

    #[test]
    fn a_prompts_logprobs_are_all_there_and_near() {
        let right = [-0.5, -9.0];
        for (other, holds) in [
            (&[-0.46, -9.04][..], true),
            (&[-0.5, -9.06], false),
            (&[-0.5], false),
            (&[-0.5, f32::NAN], false),
        ] {
            let mut verdict = Verdict::new("test");
            verdict.scores("a", 2, &right, other);
            assert_eq!(verdict.holds(), holds, "{other:?}: {verdict}");
        }
    }

    #[test]
    fn forced_tokens_are_looked_up_among_the_best() {
        let right = [token(1, -0.9, -1.0), token(7, -0.2, -2.0)];
        let mut other = [token(101, -0.91, -2.0), token(7, -0.21, -2.0)];
        other[0].top.push((1, -0.93));
        let mut verdict = Verdict::new("test");
        verdict.forced("a", &right, &other);
        assert!(verdict.holds() && (verdict.worst - 0.03).abs() < 1e-6, "{verdict}");
        other[0].top.pop();
        verdict.forced("a", &right, &other);
        assert_eq!(verdict.violations.len(), 1);
    }
}
