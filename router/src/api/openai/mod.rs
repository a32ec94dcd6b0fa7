//! OpenAI's routes: POST /v1/chat/completions and /v1/completions.
//!
//! `types` has the JSON both share, `stream` their server-sent events; `chat` and `completions` are the
//! routes. Requests are read as OpenAI defines them, answers are a superset of TGI's and OpenAI's.

pub mod chat;
mod chat_types;
pub mod completions;
mod completions_types;
mod stream;
mod types;

use axum::http::HeaderMap;

use super::record::{Times, compute_headers};
use super::sequence::Finished;
use super::state::Serving;
use crate::validation::{Draft, Refusal};

/// Headers of a whole answer: times summed over its sequences.
fn headers(serving: &Serving, characters: usize, prompt_tokens: u32, done: &[Finished]) -> HeaderMap {
    let times = done.iter().fold(Times::default(), |sum, one| sum.plus(one.times));
    let mut headers = compute_headers(&serving.compute_type, characters);
    headers.extend(times.headers(prompt_tokens));
    headers
}

/// `n` answers to each prompt: copies of its draft, with seeds that differ.
fn repeat(drafts: Vec<Draft>, n: usize) -> Vec<Draft> {
    let copy = |draft: &Draft, i: usize| {
        let mut draft = draft.clone();
        draft.random_seed = draft.random_seed.wrapping_add(i as u64);
        draft.choice.seed = draft.choice.seed.map(|seed| seed.wrapping_add(i as u64));
        draft
    };
    drafts.iter().flat_map(|draft| (0..n).map(move |i| copy(draft, i))).collect()
}

/// `n` between 1 and the most sequences that one request may hold.
fn check_n(serving: &Serving, n: Option<usize>) -> Result<usize, Refusal> {
    let (n, max) = (n.unwrap_or(1), serving.info.max_client_batch_size);
    if (1..=max).contains(&n) {
        return Ok(n);
    }
    Err(Refusal(format!("`n` must be > 0 and <= {max}. Given: {n}")))
}
