//! Messages of the step protocol to the backend's own types and back. Called by `service` only.
//! Checks nothing: what a message leaves out stays out, and the executor says so.

use std::time::Duration;

use text_generation_proto::shard as proto;
use tonic::Status;

use crate::config::RopeConfig;
use crate::device_thread::{PlanReply, ShardInfo, StepReply};
use crate::error::StepError;
use crate::executor::{Budget, Input, Row, RowOutcome, RowScores, Start, Step, StepOutcome};
use crate::memory_plan::BLOCK_SIZE;
use crate::sampler::{Sampled, SamplingParameters, TokenLogprob};

pub(super) fn info(info: &ShardInfo) -> proto::InfoReply {
    let config = &info.config;
    proto::InfoReply {
        architecture: config.architecture.clone(),
        dtype: info.device.dtype.to_owned(),
        quantize: config.quantization.method().unwrap_or_default().to_owned(),
        device_type: info.device.device_type.to_owned(),
        vocab_size: config.vocab as u32,
        max_positions: config.max_positions as u32,
        block_size: BLOCK_SIZE as u32,
        kv_bytes_per_token: info.kv_bytes_per_token as u64,
        max_steps_in_flight: info.device.max_steps_in_flight,
        ntk_seq_length: ntk_seq_length(&config.rope),
        rank: 0,
        world_size: 1,
    }
}

fn ntk_seq_length(rope: &RopeConfig) -> u32 {
    let positions = rope.dynamic_ntk.map(|ntk| ntk.positions);
    rope.ntk_seq_length.or(positions).unwrap_or(0) as u32
}

pub(super) fn budget(request: &proto::PlanRequest) -> Budget {
    Budget {
        max_step_tokens: request.max_step_tokens as usize,
        max_step_rows: request.max_step_rows as usize,
        max_batch_total_tokens: usize::try_from(request.max_batch_total_tokens).unwrap_or(usize::MAX),
        max_total_tokens: request.max_total_tokens as usize,
    }
}

pub(super) fn step(request: proto::StepRequest) -> Step {
    let proto::StepRequest { step_id, forget, rows } = request;
    Step { step_id, forget, rows: rows.into_iter().map(row).collect() }
}

fn row(row: proto::Row) -> Row {
    Row {
        sequence_id: row.sequence_id,
        start: row.start.map(|start| Start {
            sampling: start.sampling.as_ref().map(sampling),
            prompt_length: start.prompt_length as usize,
            cached_ids: start.cached_ids,
            bias_ids: start.sampling.as_ref().map(|message| message.bias_ids.clone()).unwrap_or_default(),
            bias_values: start.sampling.map(|message| message.bias_values).unwrap_or_default(),
        }),
        position: row.position as usize,
        new_blocks: row.new_blocks,
        input: row.input.map(|input| match input {
            proto::row::Input::TokenIds(tokens) => Input::Tokens(tokens.ids),
            proto::row::Input::LastSampled(_) => Input::LastSampled,
        }),
        sample: row.sample,
        score_ids: row.score_ids,
        allowed: row.allowed_tokens,
    }
}

fn sampling(message: &proto::SamplingParameters) -> SamplingParameters {
    SamplingParameters {
        do_sample: message.do_sample,
        temperature: message.temperature,
        top_k: message.top_k as usize,
        top_p: message.top_p,
        typical_p: message.typical_p,
        repetition_penalty: message.repetition_penalty,
        frequency_penalty: message.frequency_penalty,
        presence_penalty: message.presence_penalty,
        seed: message.seed,
        top_n_tokens: message.top_n_tokens as usize,
    }
}

pub(super) fn plan_reply(PlanReply { plan, startup }: &PlanReply, info: &ShardInfo) -> proto::PlanReply {
    let phase = |(name, seconds): (&str, f64)| proto::StartupPhase { name: name.to_owned(), seconds };
    proto::PlanReply {
        startup: startup.phases().map(phase).to_vec(),
        n_blocks: plan.n_blocks as u32,
        max_batch_total_tokens: plan.max_batch_total_tokens as u64,
        weight_bytes: info.weight_bytes as u64,
        kv_bytes: plan.kv_bytes as u64,
        workspace_bytes: (plan.workspace_bytes + plan.graph_bytes) as u64,
    }
}

pub(super) fn step_reply(reply: StepReply) -> Result<proto::StepReply, Status> {
    match reply {
        Ok((StepOutcome { step_id, results, scores }, took)) => Ok(proto::StepReply {
            step_id,
            results: results.into_iter().map(row_result).collect(),
            compute_ns: nanos(took),
            scores: scores.into_iter().map(row_scores).collect(),
        }),
        Err(error @ StepError::BadStep { .. }) => Err(Status::invalid_argument(error.to_string())),
        Err(error @ StepError::Device { .. }) => Err(Status::internal(error.to_string())),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn row_result(outcome: RowOutcome) -> proto::RowResult {
    let RowOutcome { sequence_id, result } = outcome;
    let outcome = match result {
        Ok(Sampled { token: chosen, top }) => proto::row_result::Outcome::Sampled(proto::Sampled {
            token: Some(token(chosen)),
            top: top.into_iter().map(token).collect(),
        }),
        Err(error) => proto::row_result::Outcome::Error(error),
    };
    proto::RowResult { sequence_id, outcome: Some(outcome) }
}

fn row_scores(scores: RowScores) -> proto::RowScores {
    let RowScores { sequence_id, scores } = scores;
    proto::RowScores {
        sequence_id,
        logprobs: scores.iter().map(|score| score.logprob).collect(),
        best: scores.into_iter().map(|score| token(score.best)).collect(),
    }
}

fn token(token: TokenLogprob) -> proto::TokenLogprob {
    proto::TokenLogprob { id: token.id, logprob: token.logprob }
}
