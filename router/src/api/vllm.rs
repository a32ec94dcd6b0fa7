//! The request shape of vLLM's first server, POST /generate with `prompt` and sampling parameters: people
//! who follow a model card written for it reach this server unchanged.
//!
//! Answers `{"text": [prompt and answer, ...]}`; a stream is one such object a line, each with the text so
//! far. Parameters that change the answer and are not supported are refused, never ignored.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::compat::Compat;
use super::constraint_fields::{StructuredOutputs, only_one};
use super::error::{ApiError, Style};
use super::lists::{one_or_many, one_or_many_schema};
use super::logit_bias::logit_bias;
use super::named::named;
use super::random;
use super::record::RequestCount;
use super::sequence::Sequence;
use super::sse;
use super::state::Serving;
use super::tgi::GenerateReply;
use super::vllm_fields::{RouteFacts, VllmFields, refuse_any, seed};
use crate::constraint::ConstraintSpec;
use crate::validation::rules::SamplingChoice;
use crate::validation::{Draft, Input, Refusal};

/// vLLM's default.
const MAX_TOKENS: u32 = 16;

/// Body of POST /generate in vLLM's shape.
#[derive(Debug, Deserialize, ToSchema)]
pub struct VllmRequest {
    prompt: String,
    stream: Option<bool>,
    n: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    /// -1 is none.
    #[serde(default, deserialize_with = "seed")]
    #[schema(value_type = Option<i64>)]
    seed: Option<u64>,
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(schema_with = one_or_many_schema)]
    stop: Vec<String>,
    max_tokens: Option<u32>,
    #[serde(default, deserialize_with = "logit_bias")]
    #[schema(value_type = Option<std::collections::HashMap<String, f32>>)]
    logit_bias: Vec<(u32, f32)>,
    structured_outputs: Option<StructuredOutputs>,
    /// Older name of `structured_outputs`.
    guided_decoding: Option<StructuredOutputs>,
    /// Refused unless it is `n`.
    best_of: Option<usize>,
    #[serde(flatten, deserialize_with = "named")]
    vllm: VllmFields,
}

/// The answer, or one line of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct VllmTexts {
    /// Prompt and answer, one for each of `n`.
    text: Vec<String>,
}

impl VllmRequest {
    fn constraint(&self) -> Result<Option<ConstraintSpec>, Refusal> {
        let fields = [&self.structured_outputs, &self.guided_decoding].into_iter().flatten();
        let all = fields.map(StructuredOutputs::constraint).collect::<Result<Vec<_>, _>>()?;
        only_one(all.into_iter().flatten())
    }

    fn drafts(&self, serving: &Serving) -> Result<Vec<Draft>, Refusal> {
        let n = serving.n_answers(self.n)?;
        refuse_any(&[("best_of", self.best_of.is_none_or(|best_of| best_of == n))])?;
        let constraint = self.constraint()?;
        let greedy = self.temperature == Some(0.0);
        let draft = |i: usize| Draft {
            choice: SamplingChoice {
                do_sample: !greedy,
                temperature: self.temperature.filter(|_| !greedy),
                top_k: None,
                top_p: self.top_p.filter(|p| !greedy && *p != 1.0),
                typical_p: None,
                repetition_penalty: self.repetition_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                seed: self.seed.map(|seed| seed.wrapping_add(i as u64)),
            },
            max_new_tokens: Some(self.max_tokens.unwrap_or(MAX_TOKENS)),
            stop: self.stop.clone(),
            constraint: constraint.clone(),
            logit_bias: self.logit_bias.clone(),
            ..Draft::new(Input::Text(self.prompt.clone()), random::seed())
        };
        // TGI never had this shape.
        let route = RouteFacts { compat: Compat::Fixed, ..serving.field_route(true) };
        (0..n).map(|i| self.vllm.apply(draft(i), &route)).collect()
    }
}

/// Answers a request that POST /generate recognised.
pub async fn generate(serving: Arc<Serving>, request: VllmRequest) -> Result<Response, ApiError> {
    let mut count = RequestCount::begin(&serving.metrics);
    match respond(&serving, &request).await {
        Ok(Answer::Whole(response)) => {
            count.succeed();
            Ok(response)
        }
        Ok(Answer::Stream(sequences)) => {
            let lines = lines(sequences, request.prompt, count);
            let lines = sse::until_panic(lines, || line(&ApiError::Internal.body(Style::Tgi)));
            let body = Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
            let content_type = HeaderValue::from_static("application/x-ndjson");
            Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
        }
        Err(error) => {
            count.fail(&error);
            Err(error)
        }
    }
}

enum Answer {
    Whole(Response),
    Stream(Vec<Sequence>),
}

async fn respond(serving: &Serving, request: &VllmRequest) -> Result<Answer, ApiError> {
    let drafts = request.drafts(serving)?;
    let style = request.vllm.style(Compat::Fixed);
    let mut sequences = serving.open_all(drafts, style, Instant::now()).await?;
    if request.stream.unwrap_or(false) {
        try_join_all(sequences.iter_mut().map(Sequence::first)).await?;
        return Ok(Answer::Stream(sequences));
    }
    let done = try_join_all(sequences.into_iter().map(|one| one.collect(false))).await?;
    let text = done.iter().map(|one| format!("{}{}", request.prompt, one.answer)).collect();
    Ok(Answer::Whole(axum::Json(GenerateReply::Vllm(VllmTexts { text })).into_response()))
}

/// One line for each token of any sequence, with all texts so far; an error object as the last when it fails.
fn lines(
    sequences: Vec<Sequence>,
    prompt: String,
    count: RequestCount,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let texts = VllmTexts { text: vec![prompt; sequences.len()] };
    let pieces = stream::select_all(sequences.into_iter().enumerate().map(Sequence::indexed_pieces));
    stream::unfold(Some((pieces, texts, count)), |state| async move {
        let (mut pieces, mut texts, mut count) = state?;
        match pieces.next().await {
            Some((index, Ok(piece))) => {
                texts.text[index] += &piece.text;
                Some((line(&texts), Some((pieces, texts, count))))
            }
            Some((_, Err(error))) => {
                count.fail(&error);
                Some((line(&error.body(Style::Tgi)), None))
            }
            None => {
                count.succeed();
                None
            }
        }
    })
}

fn line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
