//! The engine's step types to protocol messages and back. Called by `shard::grpc` only.
//!
//! Going out cannot fail; coming in, every message is checked for the fields the protocol promises.

use std::time::Duration;

use text_generation_proto::shard as proto;

use super::ShardError;
use crate::engine::{
    PlannedRow, PlannedStep, RowInput, RowOutcome, RowScores, SampledToken, SeqId, StartSequence, StepOutcome,
};
use crate::request::{Sampling, Score, ShardInfo, TokenLogprob};

pub(super) fn step_to_proto(step: PlannedStep) -> proto::StepRequest {
    proto::StepRequest {
        step_id: step.step_id,
        forget: step.forget.into_iter().map(|seq_id| seq_id.0).collect(),
        rows: step.rows.into_iter().map(row_to_proto).collect(),
    }
}

fn row_to_proto(row: PlannedRow) -> proto::Row {
    let input = match row.input {
        RowInput::Tokens(ids) => proto::row::Input::TokenIds(proto::TokenIds { ids }),
        RowInput::LastSampled => proto::row::Input::LastSampled(proto::LastSampled {}),
    };
    proto::Row {
        sequence_id: row.seq_id.0,
        start: row.start.map(start_to_proto),
        position: row.position,
        new_blocks: row.new_blocks,
        input: Some(input),
        sample: row.sample,
        score_ids: row.score_ids,
        allowed_tokens: row.allowed.map(|mask| mask.bytes().to_vec()).unwrap_or_default(),
    }
}

fn start_to_proto(start: StartSequence) -> proto::StartSequence {
    proto::StartSequence {
        sampling: Some(sampling_to_proto(start.sampling)),
        prompt_length: start.prompt_length,
        cached_ids: start.cached_ids,
    }
}

fn sampling_to_proto(sampling: Sampling) -> proto::SamplingParameters {
    proto::SamplingParameters {
        do_sample: sampling.do_sample,
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        typical_p: sampling.typical_p,
        repetition_penalty: sampling.repetition_penalty,
        frequency_penalty: sampling.frequency_penalty,
        presence_penalty: sampling.presence_penalty,
        seed: sampling.seed,
        top_n_tokens: sampling.top_n_tokens,
        bias_ids: sampling.logit_bias.iter().map(|(id, _)| *id).collect(),
        bias_values: sampling.logit_bias.iter().map(|(_, bias)| *bias).collect(),
    }
}

/// `n_blocks` is left 0 and `startup` empty: only the plan tells them.
pub(super) fn info_from_proto(info: proto::InfoReply) -> Result<ShardInfo, ShardError> {
    if info.world_size != 1 {
        let message = format!("it is one of {} shards, expected a single one", info.world_size);
        return Err(ShardError::Protocol(message));
    }
    Ok(ShardInfo {
        architecture: info.architecture,
        dtype: info.dtype,
        quantize: info.quantize,
        device_type: info.device_type,
        vocab_size: info.vocab_size,
        max_positions: info.max_positions,
        block_size: info.block_size,
        n_blocks: 0,
        kv_bytes_per_token: info.kv_bytes_per_token,
        max_steps_in_flight: info.max_steps_in_flight,
        ntk_seq_length: info.ntk_seq_length,
        startup: Vec::new(),
        memory: [0; 3],
    })
}

pub(super) fn outcome_from_proto(reply: proto::StepReply) -> Result<StepOutcome, ShardError> {
    let results = reply.results.into_iter().map(row_from_proto);
    Ok(StepOutcome {
        step_id: reply.step_id,
        results: results.collect::<Result<_, _>>()?,
        scores: reply.scores.into_iter().map(scores_from_proto).collect::<Result<_, _>>()?,
        compute: Duration::from_nanos(reply.compute_ns),
    })
}

fn scores_from_proto(row: proto::RowScores) -> Result<RowScores, ShardError> {
    let (n, n_best) = (row.logprobs.len(), row.best.len());
    if n != n_best {
        let text = format!("sequence {} has {n} scores, but {n_best} best tokens", row.sequence_id);
        return Err(ShardError::Protocol(text));
    }
    let score =
        |(&logprob, best): (&f32, &proto::TokenLogprob)| Score { logprob, best: token_from_proto(best) };
    let scores = row.logprobs.iter().zip(&row.best).map(score).collect();
    Ok(RowScores { seq_id: SeqId(row.sequence_id), scores })
}

fn row_from_proto(row: proto::RowResult) -> Result<RowOutcome, ShardError> {
    let missing = |what| ShardError::Protocol(format!("sequence {}'s result has no {what}", row.sequence_id));
    let result = match row.outcome {
        Some(proto::row_result::Outcome::Sampled(sampled)) => Ok(SampledToken {
            token: token_from_proto(&sampled.token.ok_or_else(|| missing("token"))?),
            top: sampled.top.iter().map(token_from_proto).collect(),
        }),
        Some(proto::row_result::Outcome::Error(message)) => Err(message),
        None => return Err(missing("outcome")),
    };
    Ok(RowOutcome { seq_id: SeqId(row.sequence_id), result })
}

fn token_from_proto(token: &proto::TokenLogprob) -> TokenLogprob {
    TokenLogprob { id: token.id, logprob: token.logprob }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::TokenMask;

    fn sampled(id: u32) -> proto::row_result::Outcome {
        let token = Some(proto::TokenLogprob { id, logprob: -0.5 });
        let top = vec![proto::TokenLogprob { id: 9, logprob: -0.25 }];
        proto::row_result::Outcome::Sampled(proto::Sampled { token, top })
    }

    /// One score with `n_best` best tokens.
    fn scored(n_best: usize) -> proto::RowScores {
        let best = vec![proto::TokenLogprob { id: 9, logprob: -0.25 }; n_best];
        proto::RowScores { sequence_id: 7, logprobs: vec![-1.0], best }
    }

    #[test]
    fn replies_are_checked_for_promised_fields() {
        let reply = |outcome| proto::StepReply {
            step_id: 3,
            results: vec![proto::RowResult { sequence_id: 7, outcome }],
            compute_ns: 1_500,
            scores: vec![scored(1)],
        };
        let good = outcome_from_proto(reply(Some(sampled(4)))).expect("complete");
        let token = TokenLogprob { id: 4, logprob: -0.5 };
        let top = vec![TokenLogprob { id: 9, logprob: -0.25 }];
        let result = Ok(SampledToken { token, top });
        assert_eq!(good.results, [RowOutcome { seq_id: SeqId(7), result }]);
        let score = Score { logprob: -1.0, best: TokenLogprob { id: 9, logprob: -0.25 } };
        assert_eq!(good.scores, [RowScores { seq_id: SeqId(7), scores: vec![score] }]);
        let one_short = proto::StepReply { scores: vec![scored(0)], ..reply(Some(sampled(4))) };
        let error = outcome_from_proto(one_short).expect_err("incomplete").to_string();
        assert!(error.contains("sequence 7 has 1 scores, but 0 best tokens"), "{error}");
        assert_eq!((good.step_id, good.compute), (3, Duration::from_nanos(1_500)));

        let failed = outcome_from_proto(reply(Some(proto::row_result::Outcome::Error("nan".into()))));
        assert_eq!(failed.expect("complete").results[0].result, Err("nan".into()));

        let no_token = proto::row_result::Outcome::Sampled(proto::Sampled::default());
        for (outcome, what) in [(None, "outcome"), (Some(no_token), "token")] {
            let error = outcome_from_proto(reply(outcome)).expect_err("incomplete").to_string();
            assert!(error.ends_with(&format!("sequence 7's result has no {what}")), "{error}");
        }
    }

    #[test]
    fn a_row_carries_its_tokens_or_says_that_the_shard_has_them() {
        let row = |input| PlannedRow {
            seq_id: SeqId(5),
            start: None,
            position: 2,
            new_blocks: vec![8],
            input,
            sample: true,
            score_ids: vec![13, 14],
            allowed: Some(TokenMask::new(&[0x102], 20)),
        };
        let got = row_to_proto(row(RowInput::Tokens(vec![12, 13])));
        let ids = proto::TokenIds { ids: vec![12, 13] };
        assert_eq!(got.input, Some(proto::row::Input::TokenIds(ids)));
        assert_eq!((got.sequence_id, got.position, got.new_blocks, got.sample), (5, 2, vec![8], true));
        assert_eq!(got.score_ids, [13, 14]);
        assert_eq!(got.allowed_tokens, [2, 1, 0, 0]);
        let got = row_to_proto(row(RowInput::LastSampled));
        assert_eq!(got.input, Some(proto::row::Input::LastSampled(proto::LastSampled {})));
    }
}
