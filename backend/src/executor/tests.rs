//! The executor on tiny models: what bad steps get, and that every way to cut, replay or batch a
//! generation gives the same tokens.

use std::sync::LazyLock;

use proptest::prelude::*;

mod constraints;
mod scores;

use super::admission::RowTokens;
use super::micro_batch::{Wanted, cut};
use super::*;
use crate::config::ModelConfig;
use crate::model::tiny::{Kind, NTK_SEQ_LENGTH, Tiny};
use crate::ops::reference::ReferenceOps;
use crate::sampler::SamplingParameters;

const BUDGET: Budget =
    Budget { max_step_tokens: 64, max_step_rows: 4, max_batch_total_tokens: 512, max_total_tokens: 128 };
const PENALIZED: SamplingParameters = SamplingParameters {
    do_sample: true,
    temperature: 1.3,
    top_p: 0.9,
    repetition_penalty: 1.4,
    frequency_penalty: 0.3,
    seed: 5,
    top_n_tokens: 3,
    ..SamplingParameters::GREEDY
};

type Outcomes = Vec<(u64, Result<Sampled, String>)>;

/// An executor that numbers its steps.
struct Fixture {
    executor: Executor<ReferenceOps>,
    step_id: u64,
    vocab: u32,
}

impl Fixture {
    fn new(kind: Kind, budget: &Budget) -> Fixture {
        let tiny = Tiny::new(kind);
        let mut executor = Executor::new(tiny.decoder(ReferenceOps::default()));
        executor.plan(budget, || 1 << 30).unwrap();
        Fixture { executor, step_id: 0, vocab: tiny.config.vocab as u32 }
    }

    fn step(&mut self, rows: Vec<Row>) -> Outcomes {
        self.step_id += 1;
        let step = Step { step_id: self.step_id, forget: vec![], rows };
        let outcome = self.executor.step(step).unwrap();
        assert_eq!(outcome.step_id, self.step_id);
        outcome.results.into_iter().map(|r| (r.sequence_id, r.result)).collect()
    }

    fn prompt(&self, length: usize, salt: u32) -> Vec<u32> {
        (0..length as u32).map(|i| (i * i * 5 + i * 13 + salt * 29) % self.vocab).collect()
    }

    fn forget(&mut self, id: u64) {
        self.step_id += 1;
        self.executor.step(Step { step_id: self.step_id, forget: vec![id], rows: vec![] }).unwrap();
    }

    /// Generates `n` tokens after `ids`, whose first `prompt_length` are the prompt, `chunk` input
    /// tokens a step.
    fn generate(
        &mut self,
        id: u64,
        ids: &[u32],
        prompt_length: usize,
        n: usize,
        chunk: usize,
    ) -> Vec<Sampled> {
        let mut sampled = Vec::new();
        for (index, piece) in ids.chunks(chunk).enumerate() {
            let position = index * chunk;
            let mut row = first_row(id, piece);
            row.position = position;
            row.sample = position + piece.len() == ids.len();
            match index {
                0 => row.start.as_mut().unwrap().prompt_length = prompt_length,
                _ => (row.start, row.new_blocks) = (None, vec![]),
            }
            sampled.extend(self.step(vec![row]).into_iter().map(|(_, result)| result.unwrap()));
        }
        while sampled.len() < n {
            let row = next_row(id, ids.len() + sampled.len() - 1);
            sampled.extend(self.step(vec![row]).into_iter().map(|(_, result)| result.unwrap()));
        }
        self.forget(id);
        sampled
    }
}

/// A sequence's first row, with four blocks of its own.
fn first_row(id: u64, tokens: &[u32]) -> Row {
    let start = Start { sampling: Some(PENALIZED), prompt_length: tokens.len(), ..Start::default() };
    Row {
        sequence_id: id,
        start: Some(start),
        position: 0,
        new_blocks: (0..4).map(|b| (id as u32 % 4) * 4 + 3 - b).collect(),
        input: Some(Input::Tokens(tokens.to_vec())),
        sample: true,
        score_ids: vec![],
        allowed: vec![],
    }
}

fn next_row(id: u64, position: usize) -> Row {
    let input = Some(Input::LastSampled);
    Row { sequence_id: id, position, input, sample: true, ..Row::default() }
}

#[test]
fn chunks_and_replays_give_the_same_tokens() {
    for kind in [Kind::Qwen, Kind::Llama] {
        let mut fixture = Fixture::new(kind, &BUDGET);
        let prompt = fixture.prompt(NTK_SEQ_LENGTH + 5, 1);
        let expected = fixture.generate(0, &prompt, prompt.len(), 12, 64);
        assert_eq!(expected.len(), 12);
        assert!(expected.iter().all(|sampled| sampled.top.len() <= 3 && !sampled.top.is_empty()));
        for chunk in [1, 4, 20] {
            assert_eq!(fixture.generate(1, &prompt, prompt.len(), 12, chunk), expected, "chunks of {chunk}");
        }
        // The shard was lost after seven tokens: prompt and tokens come again, as one input.
        let mut ids = prompt.clone();
        ids.extend(expected[..7].iter().map(|sampled| sampled.token.id));
        assert_eq!(fixture.generate(2, &ids, prompt.len(), 5, 64), expected[7..], "{kind:?} replayed");
    }
}

#[test]
fn batch_mates_change_nothing() {
    let mut fixture = Fixture::new(Kind::Qwen, &BUDGET);
    let prompts: Vec<_> = (0..4).map(|i| fixture.prompt(3 + 7 * i, i as u32)).collect();
    let alone: Vec<_> =
        prompts.iter().zip(0..).map(|(p, id)| fixture.generate(id, p, p.len(), 6, 64)).collect();
    let rows = prompts.iter().zip(0..).map(|(p, id)| first_row(id, p)).collect();
    let mut together = vec![fixture.step(rows)];
    for n in 0..5 {
        let rows = prompts.iter().zip(0..).map(|(p, id)| next_row(id, p.len() + n)).collect();
        together.push(fixture.step(rows));
    }
    for (n, outcomes) in together.into_iter().enumerate() {
        let ids: Vec<u64> = outcomes.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [0, 1, 2, 3]);
        for (id, result) in outcomes {
            assert_eq!(result, Ok(alone[id as usize][n].clone()), "sequence {id} token {n}");
        }
    }
}

/// More rows than one forward pass takes, and more samples than are computed at once.
#[test]
fn large_steps_give_what_small_ones_give() {
    let n = LOGITS_ROWS as u64 + 10;
    let rows: Vec<Row> = (0..n)
        .map(|id| {
            let tokens: Vec<u32> = (0..5).map(|i| (id as u32 * 7 + i * 3) % 72).collect();
            Row { new_blocks: vec![id as u32], ..first_row(id, &tokens) }
        })
        .collect();
    assert!(rows.len() * 5 > MICRO_BATCH_ROWS);
    let budget = Budget {
        max_step_tokens: rows.len() * 5,
        max_step_rows: rows.len(),
        max_batch_total_tokens: rows.len() * BLOCK_SIZE,
        max_total_tokens: BLOCK_SIZE,
    };
    let mut fixture = Fixture::new(Kind::Llama, &budget);
    let one_by_one: Outcomes = rows.iter().flat_map(|row| fixture.step(vec![row.clone()])).collect();
    assert!(one_by_one.iter().all(|(_, result)| result.is_ok()));
    (0..n).for_each(|id| fixture.forget(id));
    assert_eq!(fixture.step(rows), one_by_one);
}

#[test]
fn cached_tokens_are_not_computed_again() {
    let mut fixture = Fixture::new(Kind::Llama, &BUDGET);
    let prompt = fixture.prompt(40, 3);
    let expected = fixture.step(vec![first_row(0, &prompt)]);
    let mut row = first_row(1, &prompt);
    // The first block of sequence 0 holds the first 32 tokens.
    row.new_blocks = vec![first_row(0, &prompt).new_blocks[0], 6];
    row.position = 32;
    row.input = Some(Input::Tokens(prompt[32..].to_vec()));
    row.start.as_mut().unwrap().prompt_length = prompt.len();
    row.start.as_mut().unwrap().cached_ids = prompt[..32].to_vec();
    assert_eq!(fixture.step(vec![row])[0].1, expected[0].1);
}

/// Every fault a row can have, and a word of what it is told.
#[test]
fn a_bad_row_fails_alone() {
    let mut fixture = Fixture::new(Kind::Llama, &BUDGET);
    let vocab = fixture.vocab;
    let healthy = fixture.prompt(6, 1);
    let expected = fixture.generate(1, &healthy, healthy.len(), 2, 64);
    fixture.step(vec![first_row(2, &[1, 2, 3])]);
    let start = |change: &dyn Fn(&mut Start)| {
        let mut row = first_row(3, &[1, 2]);
        change(row.start.as_mut().unwrap());
        row
    };
    let with = |mut row: Row, change: &dyn Fn(&mut Row)| {
        change(&mut row);
        row
    };
    let faults = [
        ("unknown sequence", next_row(77, 0), "no such sequence"),
        ("started twice", first_row(2, &[1]), "started already"),
        ("wrong position", next_row(2, 4), "row at position 4, expected 3"),
        (
            "first row not at its start",
            with(first_row(3, &[1]), &|row| row.position = 1),
            "position 1, expected 0",
        ),
        ("token out of range", first_row(3, &[1, vocab]), "token id"),
        ("cached token out of range", start(&|s| s.cached_ids = vec![vocab]), "token id"),
        ("no input", with(next_row(2, 3), &|row| row.input = None), "without input"),
        (
            "empty input",
            with(first_row(3, &[1]), &|row| row.input = Some(Input::Tokens(vec![]))),
            "without input",
        ),
        (
            "nothing sampled before",
            with(first_row(3, &[1]), &|row| row.input = Some(Input::LastSampled)),
            "last_sampled",
        ),
        (
            "block out of range",
            with(next_row(2, 3), &|row| row.new_blocks = vec![16]),
            "block 16, expected less than 16",
        ),
        ("no blocks", with(first_row(3, &[1]), &|row| row.new_blocks = vec![]), "block table of 0"),
        ("too many blocks", with(next_row(2, 3), &|row| row.new_blocks = vec![0; 9]), "block table of 13"),
        (
            "sequence too long",
            with(first_row(3, &[1]), &|row| row.input = Some(Input::Tokens(vec![1; 129]))),
            "at most 128",
        ),
        (
            "step too long",
            with(first_row(3, &[1]), &|row| row.input = Some(Input::Tokens(vec![1; 64]))),
            "at most 64 input tokens",
        ),
        (
            "position at the end of numbers",
            with(next_row(2, 3), &|row| row.position = usize::MAX),
            "expected 3",
        ),
        ("no sampling parameters", start(&|s| s.sampling = None), "without sampling"),
        (
            "bad temperature",
            start(&|s| s.sampling = Some(SamplingParameters { temperature: 0.0, ..PENALIZED })),
            "temperature",
        ),
        ("empty prompt", start(&|s| s.prompt_length = 0), "prompt_length"),
        ("endless prompt", start(&|s| s.prompt_length = 129), "prompt_length"),
        ("second row in a step", next_row(1, 6), "second row"),
    ];
    for (name, bad, message) in faults {
        for sample in [true, false] {
            let bad = Row { sample, ..bad.clone() };
            let first = fixture.step(vec![first_row(1, &healthy), bad]);
            assert_eq!(first[0], (1, Ok(expected[0].clone())), "{name}");
            let error = first[1].1.as_ref().unwrap_err();
            assert!(error.contains(message), "{name}: {error}");
            let second = fixture.step(vec![next_row(1, healthy.len())]);
            assert_eq!(second, [(1, Ok(expected[1].clone()))], "{name}");
            fixture.forget(1);
        }
    }
    // Sequence 2 had many bad rows and goes on; sequence 3 never began.
    assert!(fixture.step(vec![next_row(2, 3)])[0].1.is_ok());
    assert!(fixture.step(vec![first_row(3, &[1])])[0].1.is_ok());
}

#[test]
fn rows_beyond_the_limit_fail() {
    let mut fixture = Fixture::new(Kind::Llama, &BUDGET);
    let outcomes = fixture.step((0..6).map(|id| first_row(id, &[1, 2])).collect());
    let good: Vec<bool> = outcomes.iter().map(|(_, result)| result.is_ok()).collect();
    assert_eq!(good, [true, true, true, true, false, false]);
    assert!(outcomes[5].1.as_ref().unwrap_err().contains("at most 4 rows"));
}

#[test]
fn steps_are_refused_before_a_plan_and_out_of_order() {
    let mut executor = Executor::new(Tiny::new(Kind::Llama).decoder(ReferenceOps::default()));
    let step = |step_id| Step { step_id, forget: vec![], rows: vec![] };
    assert!(executor.step(step(1)).unwrap_err().to_string().contains("call Plan first"));
    executor.plan(&BUDGET, || 1 << 30).unwrap();
    assert!(executor.step(step(7)).is_ok());
    for wrong in [7, 9, 6, 0] {
        assert!(executor.step(step(wrong)).unwrap_err().to_string().contains("step after 7"), "{wrong}");
    }
    assert!(executor.step(step(8)).is_ok());
    executor.reset();
    assert!(executor.step(step(1)).is_ok());
}

#[test]
fn a_failed_plan_leaves_none() {
    let mut fixture = Fixture::new(Kind::Llama, &BUDGET);
    for (budget, available) in [
        (Budget { max_total_tokens: 100_000, ..BUDGET }, 1 << 30),
        (Budget { max_step_rows: 0, ..BUDGET }, 1 << 30),
        (BUDGET, 1000),
    ] {
        assert!(fixture.executor.plan(&budget, || available).is_err(), "{budget:?}");
        assert!(fixture.executor.step(Step::default()).is_err());
    }
    assert_eq!(fixture.executor.plan(&BUDGET, || 1 << 30).unwrap().n_blocks, 16);
}

#[test]
fn a_new_plan_forgets_all_sequences() {
    let mut fixture = Fixture::new(Kind::Llama, &BUDGET);
    fixture.step(vec![first_row(0, &[1, 2])]);
    fixture.executor.plan(&BUDGET, || 1 << 30).unwrap();
    assert!(fixture.step(vec![next_row(0, 2)])[0].1.as_ref().unwrap_err().contains("no such sequence"));
}

proptest! {
    /// However the rows are cut, each token runs once, in order, at its position.
    #[test]
    fn cutting_loses_nothing(lengths in prop::collection::vec(1usize..30, 1..8), max_rows in 1usize..40) {
        static CONFIG: LazyLock<ModelConfig> = LazyLock::new(|| Tiny::new(Kind::Llama).config);
        let limits = Limits { max_step_tokens: 256, max_step_rows: 8, max_total_tokens: 128, n_blocks: 16 };
        let mut admission = Admission::new(&CONFIG, &limits);
        let table = &mut SequenceTable::default();
        let mut admit = |(&length, id): (&usize, u64)| {
            let tokens: Vec<u32> = (0..length as u32).map(|i| (i + id as u32) % 70).collect();
            table.admit(Row { sample: length % 3 > 0, ..first_row(id, &tokens) }, &mut admission).unwrap()
        };
        let admitted: Vec<AdmittedRow> = lengths.iter().zip(0..).map(&mut admit).collect();
        let mut seen: Vec<Vec<u32>> = vec![vec![]; lengths.len()];
        let mut sampled = vec![];
        for MicroBatch { batch, wanted } in cut(&admitted, table, max_rows) {
            prop_assert!(batch.n_rows() > 0 && batch.n_rows() <= max_rows);
            let mut next_row = 0;
            for span in &batch.spans {
                prop_assert_eq!(span.first_row, next_row);
                let owner = admitted.iter().position(|row| table.get(row.sequence_id).unwrap().blocks == span.blocks);
                // Sequences 4 apart share their blocks here: take the one that is not finished.
                let owner = (owner.unwrap()..lengths.len()).step_by(4).find(|&i| seen[i].len() < lengths[i]).unwrap();
                prop_assert_eq!(span.position, seen[owner].len());
                seen[owner].extend_from_slice(&batch.tokens[span.first_row..][..span.n_rows]);
                next_row += span.n_rows;
                if let Some(at) = batch.logits_rows.iter().position(|&row| row + 1 == next_row) {
                    prop_assert_eq!(wanted[at], Wanted { row: owner, sample: true, score: None });
                    prop_assert_eq!(seen[owner].len(), lengths[owner]);
                    sampled.push(owner);
                }
            }
            prop_assert_eq!(next_row, batch.n_rows());
            prop_assert_eq!(batch.logits_rows.len(), wanted.len());
        }
        for (row, seen) in admitted.iter().zip(&seen) {
            prop_assert_eq!(&row.tokens, &RowTokens::Ids(seen.clone()));
        }
        let expected: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] % 3 > 0).collect();
        prop_assert_eq!(sampled, expected);
    }
}
