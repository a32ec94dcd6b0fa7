//! Server-sent events of /generate_stream: one a token, no `[DONE]`, an error object as the last when it fails.

use std::sync::Arc;
use std::time::Instant;

use axum::response::Response;
use axum::response::sse::Event;
use futures::stream;

use super::types::{GenerateRequest, StreamDetails, StreamEvent, Token};
use crate::api::error::{ApiError, Style};
use crate::api::record::{RequestCount, compute_headers};
use crate::api::sequence::{Piece, Sequence};
use crate::api::sse;
use crate::api::state::Serving;
use crate::validation::rules;

/// Headers go out with the first token: a failure before it has its own HTTP status (see `Sequence::first`).
pub async fn respond(
    serving: &Arc<Serving>,
    request: GenerateRequest,
    full_text: bool,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let mut count = RequestCount::begin(&serving.metrics);
    let headers = compute_headers(&serving.compute_type, request.inputs.chars().count());
    let details = request.parameters.wants_details();
    let prompt = if full_text { request.inputs.clone() } else { String::new() };
    match open(serving, request, arrived).await {
        Ok(sequence) => {
            let events = Events { serving: serving.clone(), sequence, count, prompt, details };
            Ok(sse::response(headers, serving.longest_silence, stream::unfold(Some(events), next)))
        }
        Err(error) => {
            count.fail(&error);
            Err(error)
        }
    }
}

async fn open(serving: &Serving, request: GenerateRequest, arrived: Instant) -> Result<Sequence, ApiError> {
    rules::check_streaming(request.parameters.best_of, request.parameters.decoder_input_details)?;
    let mut sequence = super::open(serving, request, arrived).await?;
    sequence.first().await?;
    Ok(sequence)
}

struct Events {
    serving: Arc<Serving>,
    sequence: Sequence,
    count: RequestCount,
    prompt: String,
    details: bool,
}

async fn next(state: Option<Events>) -> Option<(Event, Option<Events>)> {
    let mut events = state?;
    match events.sequence.next().await {
        Ok(Some(piece)) => {
            let event = events.event(&piece);
            if piece.finish.is_none() {
                return Some((event, Some(events)));
            }
            events.count.succeed();
            Some((event, None))
        }
        Ok(None) => None,
        Err(error) => {
            events.count.fail(&error);
            Some((sse::json(&error.body(Style::Tgi)), None))
        }
    }
}

impl Events {
    fn event(&self, piece: &Piece) -> Event {
        let tokenizer = &self.serving.tokenizer;
        let text = piece.finish.map(|_| format!("{}{}", self.prompt, self.sequence.answer()));
        let details = piece.finish.filter(|_| self.details).map(|finish| StreamDetails {
            finish_reason: finish.tgi(),
            generated_tokens: self.sequence.n_generated(),
            seed: self.sequence.seed,
            input_length: self.sequence.input_tokens,
        });
        sse::json(&StreamEvent {
            index: self.sequence.n_generated(),
            token: Token::chosen(tokenizer, piece),
            top_tokens: Token::top(tokenizer, &piece.top),
            generated_text: text.as_deref(),
            details,
        })
    }
}
