//! Masks and biases from a step's rows to its tokens, and what bad ones get.

use super::*;

/// Bits of a mask over `vocab` tokens.
fn mask(vocab: u32, allows: impl Fn(u32) -> bool) -> Vec<u8> {
    let mut bytes = vec![0; 4 * (vocab as usize).div_ceil(32)];
    (0..vocab).filter(|&id| allows(id)).for_each(|id| bytes[id as usize / 8] |= 1 << (id % 8));
    bytes
}

fn biased(id: u64, tokens: &[u32], bias: &[(u32, f32)]) -> Row {
    let mut row = first_row(id, tokens);
    let start = row.start.as_mut().unwrap();
    (start.bias_ids, start.bias_values) = bias.iter().copied().unzip();
    row
}

fn sampled(outcomes: &Outcomes, index: usize) -> &Sampled {
    outcomes[index].1.as_ref().unwrap()
}

#[test]
fn only_allowed_tokens_are_sampled_and_others_of_the_batch_are_free() {
    let mut fixture = Fixture::new(Kind::Llama, &BUDGET);
    let (vocab, prompt) = (fixture.vocab, fixture.prompt(9, 2));
    let free = fixture.generate(0, &prompt, prompt.len(), 4, 64);
    for (n, free) in free.iter().enumerate() {
        let position = prompt.len() + n - 1;
        let row = |id| if n == 0 { first_row(id, &prompt) } else { next_row(id, position) };
        let allowed = mask(vocab, |id| id % 7 == n as u32);
        let outcomes = fixture.step(vec![Row { allowed, ..row(1) }, row(2)]);
        let constrained = sampled(&outcomes, 0);
        assert!(constrained.token.id % 7 == n as u32 && constrained.token.logprob.is_finite());
        assert!(constrained.top.iter().all(|token| token.id % 7 == n as u32), "{constrained:?}");
        assert_eq!(sampled(&outcomes, 1), free, "step {n}");
    }
}

#[test]
fn a_bias_lasts_as_long_as_the_sequence() {
    let mut fixture = Fixture::new(Kind::Llama, &BUDGET);
    let prompt = fixture.prompt(9, 2);
    let wanted = [(11, 1000.0), (12, 1000.5)];
    let mut outcomes = fixture.step(vec![biased(1, &prompt, &wanted), first_row(2, &prompt)]);
    for position in prompt.len()..prompt.len() + 3 {
        assert!([11, 12].contains(&sampled(&outcomes, 0).token.id));
        assert!(![11, 12].contains(&sampled(&outcomes, 1).token.id));
        outcomes = fixture.step(vec![next_row(1, position), next_row(2, position)]);
    }
    fixture.forget(1);
    fixture.forget(2);
    let banned = sampled(&fixture.step(vec![first_row(3, &prompt)]), 0).token.id;
    let outcomes = fixture.step(vec![biased(4, &prompt, &[(banned, -1000.0)])]);
    assert_ne!(sampled(&outcomes, 0).token.id, banned);
}

#[test]
fn bad_masks_and_biases_fail_alone() {
    let mut fixture = Fixture::new(Kind::Llama, &BUDGET);
    let (vocab, prompt) = (fixture.vocab, fixture.prompt(5, 1));
    let words = 4 * (vocab as usize).div_ceil(32);
    let with = |allowed: Vec<u8>| Row { allowed, ..first_row(1, &prompt) };
    let beyond = {
        let mut bytes = vec![0; words];
        bytes[words - 1] = if vocab % 32 == 0 { 0 } else { 0x80 };
        bytes
    };
    let mut uneven = biased(1, &prompt, &[(1, 1.0)]);
    uneven.start.as_mut().unwrap().bias_values.push(2.0);
    for (bad, reason) in [
        (with(vec![1; words - 1]), "bytes of allowed tokens, expected none or"),
        (with(vec![0; words]), "no token is allowed"),
        (with(beyond), "no token is allowed"),
        (
            Row { sample: false, ..with(mask(vocab, |_| true)) },
            "allowed tokens of a row that does not sample",
        ),
        (biased(1, &prompt, &[(vocab, 1.0)]), "token id"),
        (biased(1, &prompt, &[(1, 1.0), (2, 0.0), (1, 1.0)]), "a token with two biases"),
        (biased(1, &prompt, &[(1, f32::NAN)]), "a bias must be finite, got NaN"),
        (biased(1, &prompt, &[(1, 0.0); 1025]), "1025 bias ids and 1025 values"),
        (uneven, "1 bias ids and 2 values"),
    ] {
        let outcomes = fixture.step(vec![bad, first_row(2, &prompt)]);
        let fault = outcomes[0].1.as_ref().unwrap_err();
        assert!(fault.contains(reason), "{fault}");
        sampled(&outcomes, 1);
        fixture.forget(2);
    }
}
