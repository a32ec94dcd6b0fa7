//! One generation as a handler sees it: events of the engine with their text, its place, its record.
//!
//! Made by `Serving::open`; TGI's and OpenAI's routes build their answers from `Piece`s. Dropping a
//! `Sequence` cancels the generation and frees its place.

use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::error::ApiError;
use super::pieces::{Finish, Pieces, TextStyle};
use super::record::{SequenceRecord, Times};
use super::state::Serving;
use crate::driver::Generation;
use crate::request::{GenerationEvent, TokenLogprob};
use crate::validation::{Accepted, Draft};

/// One token and what the client sees of it.
#[derive(Debug, Clone)]
pub struct Piece {
    pub token: TokenLogprob,
    /// Best first; empty unless asked for.
    pub top: Vec<TokenLogprob>,
    pub text: String,
    pub finish: Option<Finish>,
}

/// A submitted generation.
pub struct Sequence {
    generation: Option<Generation>,
    /// The first event, once `first` waited for it.
    waiting: Option<GenerationEvent>,
    pieces: Pieces,
    record: SequenceRecord,
    pub input_tokens: u32,
    /// Echoed when the request samples.
    pub seed: Option<u64>,
    longest_silence: Duration,
    _permit: OwnedSemaphorePermit,
}

/// A finished generation.
pub struct Finished {
    pub answer: String,
    pub finish: Finish,
    pub pieces: Vec<Piece>,
    pub input_tokens: u32,
    pub seed: Option<u64>,
    pub times: Times,
}

impl Serving {
    /// Takes a place, validates and submits: 429, 422 or 503 when one of them fails. `arrived` is
    /// when the HTTP request came.
    pub async fn open(&self, draft: Draft, style: TextStyle, arrived: Instant) -> Result<Sequence, ApiError> {
        let mut all = self.open_all(vec![draft], style, arrived).await?;
        all.pop().ok_or(ApiError::Internal)
    }

    /// Opens all drafts or none: nothing is submitted unless every one is valid.
    pub async fn open_all(
        &self,
        drafts: Vec<Draft>,
        style: TextStyle,
        arrived: Instant,
    ) -> Result<Vec<Sequence>, ApiError> {
        let mut accepted = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let permit = self.permits.clone().try_acquire_owned().map_err(|_| ApiError::Overloaded)?;
            accepted.push((permit, self.validator.validate(draft).await?));
        }
        accepted.into_iter().map(|(permit, one)| self.submit(permit, one, style, arrived)).collect()
    }

    fn submit(
        &self,
        permit: OwnedSemaphorePermit,
        accepted: Accepted,
        style: TextStyle,
        arrived: Instant,
    ) -> Result<Sequence, ApiError> {
        let record = SequenceRecord::new(self.metrics.clone(), arrived, &accepted);
        Ok(Sequence {
            pieces: Pieces::new(&self.tokenizer, &accepted.stop, style),
            input_tokens: accepted.input_tokens,
            seed: accepted.seed,
            generation: Some(self.engine.submit(accepted.request)?),
            waiting: None,
            record,
            longest_silence: self.longest_silence,
            _permit: permit,
        })
    }
}

impl Sequence {
    /// Waits for the first event, so that a failure before it can still be an HTTP status; but not for
    /// longer than a stream may be silent, as clients and proxies give up on a server that is.
    pub async fn first(&mut self) -> Result<(), ApiError> {
        let Ok(event) = timeout(self.longest_silence, self.event()).await else { return Ok(()) };
        match event {
            Some(GenerationEvent::Failed(error)) => Err(error.into()),
            Some(event) => {
                self.waiting = Some(event);
                Ok(())
            }
            None => Err(ApiError::Incomplete),
        }
    }

    /// The next piece; `None` after the last. The stream ending without a finish is an error.
    pub async fn next(&mut self) -> Result<Option<Piece>, ApiError> {
        let event = match self.waiting.take() {
            Some(event) => Some(event),
            None if self.generation.is_none() => return Ok(None),
            None => self.event().await,
        };
        match event {
            Some(GenerationEvent::Token { token, top, finish, timing, at }) => {
                self.record.token(timing, at);
                let text = self.pieces.push(token.id, finish);
                if let Some(finish) = text.finish {
                    self.generation = None; // after a stop string this cancels the rest
                    self.record.finish(finish, self.seed);
                }
                Ok(Some(Piece { token, top, text: text.shown, finish: text.finish }))
            }
            Some(GenerationEvent::Failed(error)) => {
                self.generation = None;
                Err(error.into())
            }
            None => {
                self.generation = None;
                Err(ApiError::IncompleteStream)
            }
        }
    }

    /// Everything up to the end; `keep_pieces` = false saves the memory of the tokens.
    pub async fn collect(mut self, keep_pieces: bool) -> Result<Finished, ApiError> {
        let mut pieces = Vec::new();
        let mut finish = None;
        while let Some(piece) = self.next().await.map_err(whole)? {
            finish = piece.finish;
            if keep_pieces {
                pieces.push(piece);
            }
        }
        Ok(Finished {
            finish: finish.ok_or(ApiError::Incomplete)?,
            answer: self.pieces.answer().to_string(),
            pieces,
            input_tokens: self.input_tokens,
            seed: self.seed,
            times: self.record.times(),
        })
    }

    /// The text so far, without special tokens.
    pub fn answer(&self) -> &str {
        self.pieces.answer()
    }

    pub fn n_generated(&self) -> u32 {
        self.record.n_tokens()
    }

    async fn event(&mut self) -> Option<GenerationEvent> {
        self.generation.as_mut()?.next().await
    }
}

/// The name of a missing end outside a stream.
fn whole(error: ApiError) -> ApiError {
    if error == ApiError::IncompleteStream { ApiError::Incomplete } else { error }
}
