//! One generation as a handler sees it: events of the engine with their text, its place, its record.
//!
//! Made by `Serving::open`; TGI's and OpenAI's routes build their answers from `Piece`s. Dropping a
//! `Sequence` cancels the generation and frees its place.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, stream};
use tokio::time::{timeout, timeout_at};

use super::caller;
use super::error::ApiError;
use super::pieces::{Finish, Pieces, TextStyle};
use super::places::Place;
use super::record::{SequenceRecord, Times};
use super::state::Serving;
use crate::driver::Generation;
use crate::request::{Caller, GenerationError, GenerationEvent, Score, TokenLogprob};
use crate::validation::{Accepted, Draft};

/// One token and what the client sees of it.
#[derive(Debug, Clone)]
pub struct Piece {
    pub token: TokenLogprob,
    /// Best first; empty unless asked for.
    pub top: Vec<TokenLogprob>,
    pub text: String,
    pub finish: Option<Finish>,
    /// With the first token, if it was asked for: what the model thought of the prompt.
    pub prefill: Option<Box<Prefill>>,
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
    /// Until the first token; `None` unless the prompt's log-probabilities were asked for.
    prefill: Option<Box<Prefill>>,
    logprob_sum: f64,
    _place: Arc<Place>,
}

/// A prompt and what the model thought of each token; nothing of the first, as nothing precedes it.
#[derive(Debug, Clone)]
pub struct Prefill {
    pub ids: Arc<[u32]>,
    pub scores: Vec<Option<Score>>,
}

/// Pieces of one of several sequences, as `Sequence::indexed_pieces` gives them.
pub type IndexedPieces = Pin<Box<dyn Stream<Item = (usize, Result<Piece, ApiError>)> + Send>>;

/// A finished generation.
pub struct Finished {
    pub answer: String,
    pub finish: Finish,
    pub pieces: Vec<Piece>,
    pub input_tokens: u32,
    pub seed: Option<u64>,
    pub prefill: Option<Box<Prefill>>,
    /// Of the tokens.
    pub mean_logprob: f64,
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
        let caller = caller::current();
        for draft in drafts {
            let place = self.place(&caller)?;
            accepted.push((place, self.validate(Draft { caller, ..draft }).await?));
        }
        accepted.into_iter().map(|(place, one)| self.submit(place, one, style, arrived)).collect()
    }

    /// Opens `seeds.len()` sequences of one draft that differ in nothing but their seeds; together they
    /// take one place. Only the first reports the prompt's log-probabilities: they are all the same.
    pub async fn open_seeds(
        &self,
        draft: Draft,
        seeds: &[u64],
        arrived: Instant,
    ) -> Result<Vec<Sequence>, ApiError> {
        let caller = caller::current();
        let place = self.place(&caller)?;
        let accepted = self.validate(Draft { caller, ..draft }).await?;
        let open = |(index, &seed): (usize, &u64)| {
            let one = accepted.copy(seed, accepted.request.prompt_logprobs && index == 0);
            self.submit(place.clone(), one, TextStyle::Tgi, arrived)
        };
        seeds.iter().enumerate().map(open).collect()
    }

    /// Until the caller's deadline: other requests' texts and constraints may keep one's own waiting.
    async fn validate(&self, draft: Draft) -> Result<Accepted, ApiError> {
        let deadline = draft.caller.deadline;
        let accepted = self.validator.validate(draft);
        let Some(deadline) = deadline else { return Ok(accepted.await?) };
        let in_time = timeout_at(deadline.into(), accepted).await;
        Ok(in_time.map_err(|_| GenerationError::DeadlinePassed)??)
    }

    fn place(&self, caller: &Caller) -> Result<Arc<Place>, ApiError> {
        let n_waiting = self.engine.status().waiting;
        self.places.take(caller.tenant, n_waiting).map(Arc::new).map_err(ApiError::Overloaded)
    }

    fn submit(
        &self,
        place: Arc<Place>,
        accepted: Accepted,
        style: TextStyle,
        arrived: Instant,
    ) -> Result<Sequence, ApiError> {
        let record = SequenceRecord::new(self.metrics.clone(), arrived, &accepted);
        Ok(Sequence {
            pieces: Pieces::new(&self.tokenizer, &accepted.stop, style),
            input_tokens: accepted.input_tokens,
            seed: accepted.seed,
            prefill: accepted
                .request
                .prompt_logprobs
                .then(|| Box::new(Prefill::new(&accepted.request.prompt_ids))),
            generation: Some(self.engine.submit(accepted.request)?),
            waiting: None,
            logprob_sum: 0.0,
            record,
            longest_silence: self.longest_silence,
            _place: place,
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
        if self.generation.is_none() && self.waiting.is_none() {
            return Ok(None);
        }
        let event = loop {
            let event = match self.waiting.take() {
                Some(event) => Some(event),
                None => self.event().await,
            };
            match (event, &mut self.prefill) {
                (Some(GenerationEvent::PromptScores { position, scores }), Some(prefill)) => {
                    prefill.fill(position, &scores);
                }
                (event, _) => break event,
            }
        };
        match event {
            Some(GenerationEvent::Token { token, top, finish, timing, at }) => {
                self.record.token(timing, at);
                self.logprob_sum += f64::from(token.logprob);
                let text = self.pieces.push(token.id, finish);
                if let Some(finish) = text.finish {
                    self.generation = None; // after a stop string this cancels the rest
                    self.record.finish(finish, self.seed);
                }
                let prefill = self.prefill.take();
                Ok(Some(Piece { token, top, text: text.shown, finish: text.finish, prefill }))
            }
            Some(GenerationEvent::Failed(error)) => {
                self.generation = None;
                Err(error.into())
            }
            None | Some(GenerationEvent::PromptScores { .. }) => {
                self.generation = None;
                Err(ApiError::IncompleteStream)
            }
        }
    }

    /// Everything up to the end; `keep_pieces` = false saves the memory of the tokens.
    pub async fn collect(mut self, keep_pieces: bool) -> Result<Finished, ApiError> {
        let mut pieces = Vec::new();
        let (mut finish, mut prefill) = (None, None);
        while let Some(mut piece) = self.next().await.map_err(whole)? {
            finish = piece.finish;
            prefill = prefill.or(piece.prefill.take());
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
            prefill,
            mean_logprob: self.logprob_sum / f64::from(self.record.n_tokens().max(1)),
            times: self.record.times(),
        })
    }

    /// All pieces, each with the sequence's index; ends after the last piece or the first error.
    pub fn indexed_pieces((index, sequence): (usize, Self)) -> IndexedPieces {
        Box::pin(stream::unfold(Some(sequence), move |sequence| async move {
            let mut sequence = sequence?;
            match sequence.next().await {
                Ok(piece) => piece.map(|piece| ((index, Ok(piece)), Some(sequence))),
                Err(error) => Some(((index, Err(error)), None)),
            }
        }))
    }

    /// The text so far.
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

impl Prefill {
    fn new(ids: &Arc<[u32]>) -> Self {
        Self { ids: ids.clone(), scores: vec![None; ids.len()] }
    }

    /// Takes the scores of the tokens from `position` on.
    fn fill(&mut self, position: usize, scores: &[Score]) {
        for (place, score) in self.scores.iter_mut().skip(position).zip(scores) {
            *place = Some(*score);
        }
    }
}

/// The name of a missing end outside a stream.
fn whole(error: ApiError) -> ApiError {
    if error == ApiError::IncompleteStream { ApiError::Incomplete } else { error }
}
