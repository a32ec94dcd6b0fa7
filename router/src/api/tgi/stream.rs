//! Server-sent events of /generate_stream: one a token, no `[DONE]`, an error object as the last when it fails.

use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event;
use futures::stream;

use super::Job;
use super::reply::{StreamDetails, StreamEvent, Token};
use crate::api::error::{ApiError, Style};
use crate::api::pieces::TextStyle;
use crate::api::record::RequestCount;
use crate::api::sequence::{Piece, Sequence};
use crate::api::sse;
use crate::api::state::Serving;
use crate::validation::rules;

/// Headers go out with the first token: a failure before it has its own HTTP status (see `Sequence::first`).
pub async fn respond(mut job: Job) -> Result<Response, ApiError> {
    let mut count = RequestCount::begin(&job.serving.metrics);
    let (headers, silence) = (job.headers(), job.serving.longest_silence);
    match open(&mut job).await {
        Ok(sequence) => {
            let Job { serving, prompt, details, .. } = job;
            let events = Events { serving, sequence, count, prompt, details };
            Ok(sse::response(headers, silence, Style::Tgi, stream::unfold(Some(events), next)))
        }
        Err(error) => {
            count.fail(&error);
            if job.serving.compat.streams_every_error() {
                let event = sse::json(&error.body(Style::Tgi));
                return Ok(sse::response(headers, silence, Style::Tgi, stream::iter([event])));
            }
            Err(error)
        }
    }
}

async fn open(job: &mut Job) -> Result<Sequence, ApiError> {
    rules::check_streaming(job.parameters.best_of, job.parameters.decoder_input_details)?;
    let draft = job.draft()?;
    let mut sequence = job.serving.open(draft, TextStyle::Tgi, job.arrived).await?;
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
