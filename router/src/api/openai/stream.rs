//! Server-sent events of OpenAI's routes: chunks of all sequences as they come, then `[DONE]`.
//!
//! A failure after the first token is an error event, then `[DONE]`; before it, an HTTP status.

use std::collections::VecDeque;

use axum::response::Response;
use axum::response::sse::Event;
use futures::StreamExt;
use futures::stream::{self, SelectAll};

use super::job::Choices;
use crate::api::error::{ApiError, Style};
use crate::api::record::{RequestCount, compute_headers};
use crate::api::sequence::{IndexedPieces, Piece, Sequence};
use crate::api::sse;
use crate::api::state::Serving;

/// How a route writes its chunks.
pub trait Chunks: Send + 'static {
    /// The chunk of one piece of the choice `index`, unless there is nothing to say yet.
    fn chunk(&mut self, index: usize, piece: &Piece) -> Option<Event>;
    /// After all choices ended: the usage chunk, if it was asked for.
    fn usage(&mut self) -> Option<Event>;
}

/// Waits for the first token of every sequence, so that failures before it are HTTP statuses.
pub async fn first_tokens(sequences: &mut [Sequence]) -> Result<(), ApiError> {
    futures::future::try_join_all(sequences.iter_mut().map(Sequence::first)).await?;
    Ok(())
}

pub fn respond(serving: &Serving, choices: Choices, chunks: impl Chunks, count: RequestCount) -> Response {
    let headers = compute_headers(&serving.compute_type, choices.characters);
    let pieces = stream::select_all(choices.sequences.into_iter().enumerate().map(Sequence::indexed_pieces));
    let state = ChunkStream { pieces, chunks, count, last: None };
    sse::response(headers, serving.longest_silence, Style::OpenAi, stream::unfold(state, next))
}

/// A stream that failed before it began: the error and the end, as TGI sends them.
pub fn failed(serving: &Serving, error: &ApiError) -> Response {
    let headers = compute_headers(&serving.compute_type, 0);
    let events = [sse::json(&error.body(Style::OpenAi)), sse::done()];
    sse::response(headers, serving.longest_silence, Style::OpenAi, stream::iter(events))
}

struct ChunkStream<C> {
    pieces: SelectAll<IndexedPieces>,
    chunks: C,
    count: RequestCount,
    /// Events still to send once the pieces ended.
    last: Option<VecDeque<Event>>,
}

async fn next<C: Chunks>(mut state: ChunkStream<C>) -> Option<(Event, ChunkStream<C>)> {
    while state.last.is_none() {
        match state.pieces.next().await {
            Some((index, Ok(piece))) => {
                if let Some(event) = state.chunks.chunk(index, &piece) {
                    return Some((event, state));
                }
            }
            Some((_, Err(error))) => state.fail(&error),
            None => state.succeed(),
        }
    }
    let event = state.last.as_mut()?.pop_front()?;
    Some((event, state))
}

impl<C: Chunks> ChunkStream<C> {
    fn fail(&mut self, error: &ApiError) {
        self.pieces.clear(); // cancels the other choices
        self.count.fail(error);
        self.last = Some(VecDeque::from([sse::json(&error.body(Style::OpenAi)), sse::done()]));
    }

    fn succeed(&mut self) {
        self.count.succeed();
        self.last = Some(self.chunks.usage().into_iter().chain([sse::done()]).collect());
    }
}
