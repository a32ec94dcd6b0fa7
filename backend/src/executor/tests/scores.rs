//! Log-probabilities of given tokens: what they are, whatever the chunks, and what a bad row gets.

use super::*;
use crate::sampler::SamplingParameters;

/// Scores `ids` from their second token on, `chunk` input tokens a step.
fn scores(fixture: &mut Fixture, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut logprobs: Vec<f32> = Vec::new();
    for (index, piece) in ids.chunks(chunk).enumerate() {
        let position = index * chunk;
        let end = position + piece.len();
        let mut row = first_row(9, piece);
        (row.position, row.sample) = (position, end == ids.len());
        row.score_ids = ids[position + 1..ids.len().min(end + 1)].to_vec();
        match index {
            0 => row.start.as_mut().unwrap().prompt_length = ids.len(),
            _ => (row.start, row.new_blocks) = (None, vec![]),
        }
        fixture.step_id += 1;
        let step = Step { step_id: fixture.step_id, forget: vec![], rows: vec![row] };
        let outcome = fixture.executor.step(step).unwrap();
        assert_eq!(outcome.results.len(), usize::from(end == ids.len()));
        assert!(outcome.scores.iter().all(|scores| scores.sequence_id == 9));
        let scores = || outcome.scores.iter().flat_map(|row| &row.scores);
        // The likeliest token is at least as likely as any.
        assert!(scores().all(|score| score.best.logprob >= score.logprob));
        logprobs.extend(scores().map(|score| score.logprob));
    }
    fixture.forget(9);
    logprobs
}

/// A greedy continuation, scored as a prompt, has the logprobs that it was generated with.
#[test]
fn scores_are_the_models_own_logprobs() {
    for kind in [Kind::Qwen, Kind::Llama] {
        let mut fixture = Fixture::new(kind, &BUDGET);
        let prompt = fixture.prompt(3, 1);
        let mut row = first_row(1, &prompt);
        row.start.as_mut().unwrap().sampling = Some(SamplingParameters::GREEDY);
        let mut generated = vec![fixture.step(vec![row])[0].1.clone().unwrap().token];
        for position in 3..8 {
            generated.push(fixture.step(vec![next_row(1, position)])[0].1.clone().unwrap().token);
        }
        let ids: Vec<u32> = prompt.iter().copied().chain(generated.iter().map(|token| token.id)).collect();
        // Penalties and warpers of the scored sequence have no part in its scores.
        let expected = scores(&mut fixture, &ids, 64);
        let of_generated: Vec<f32> = generated.iter().map(|token| token.logprob).collect();
        assert_eq!(expected[2..], of_generated);
        assert_eq!(expected.len(), ids.len() - 1);
        for chunk in [1, 2, 4, 8] {
            assert_eq!(scores(&mut fixture, &ids, chunk), expected, "chunks of {chunk}");
        }
    }
}

#[test]
fn more_rows_than_logits_fit_at_once() {
    let few = Budget { max_step_rows: 1, ..BUDGET };
    let (mut one, mut many) = (Fixture::new(Kind::Llama, &few), Fixture::new(Kind::Llama, &BUDGET));
    let ids = many.prompt(60, 3);
    assert_eq!(scores(&mut one, &ids, 60), scores(&mut many, &ids, 60));
}

#[test]
fn bad_scores_fail_their_row_alone() {
    let mut fixture = Fixture::new(Kind::Llama, &BUDGET);
    let too_many = Row { score_ids: vec![1, 2, 3], ..first_row(1, &[1, 2]) };
    let no_token = Row { score_ids: vec![fixture.vocab], ..first_row(2, &[1, 2]) };
    let results = fixture.step(vec![first_row(0, &[1, 2]), too_many, no_token]);
    assert!(results[0].1.is_ok());
    assert!(results[1].1.as_ref().unwrap_err().contains("3 tokens to score after 2 input tokens"));
    assert!(results[2].1.as_ref().unwrap_err().contains("expected less than"), "{:?}", results[2].1);
}
