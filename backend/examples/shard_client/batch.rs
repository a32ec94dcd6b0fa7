//! Requests through a shard with the router's policy: every running sequence gets a row, prompts are cut to the step's
//! budget, waiting requests are admitted in order while rows and blocks allow. Lengths are fixed: no token ends a sequence.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use anyhow::{Context, bail};
use text_generation_proto::shard as proto;

use super::connection::{Connection, Reply, Token};

/// What one sequence is to do.
#[derive(Debug, Clone)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// Tokens to sample.
    pub new_tokens: usize,
    pub sampling: proto::SamplingParameters,
    /// Given instead of what was sampled: `forced[i]` follows the i-th sampled token.
    pub forced: Option<Vec<u32>>,
    /// What `prompt` continues, if it holds generated tokens already: the length of the prompt proper.
    pub prompt_length: Option<usize>,
    /// Whether the prompt's own log-probabilities are wanted.
    pub scored: bool,
}

impl Request {
    pub fn new(prompt: Vec<u32>, new_tokens: usize, sampling: proto::SamplingParameters) -> Self {
        Self { prompt, new_tokens, sampling, forced: None, prompt_length: None, scored: false }
    }
}

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When it got its blocks; its first row was sent then, or as soon as the prompt budget allowed.
    pub admitted: Instant,
    pub tokens: Vec<Token>,
    /// When each token arrived.
    pub at: Vec<Instant>,
    /// Log-probabilities of the prompt's tokens from the second on, if they were wanted.
    pub scores: Vec<f32>,
}

/// A finished step.
#[derive(Debug, Clone, Copy)]
pub struct StepRecord {
    pub at: Instant,
    pub rows: usize,
    /// Those of them that decode; the others hold parts of prompts.
    pub decode_rows: usize,
}

/// What became of all requests, in their order, and the steps that it took.
pub struct Run {
    pub outcomes: Vec<Outcome>,
    pub steps: Vec<StepRecord>,
}

struct Sequence {
    /// Place in the list of requests.
    index: usize,
    blocks: Vec<u32>,
    /// Input tokens sent.
    n_sent: usize,
    /// Rows sent that sample.
    n_asked: usize,
}

/// A run in progress. Sequences and blocks are its own: nothing of it is left in the shard when it ends.
pub struct Batch<'a> {
    shard: &'a mut Connection,
    requests: &'a [Request],
    /// Sequences at a time.
    concurrency: usize,
    /// Prompt tokens of a step.
    prompt_budget: usize,
    waiting: VecDeque<usize>,
    running: BTreeMap<u64, Sequence>,
    free: Vec<u32>,
    forget: Vec<u64>,
    /// Of each unanswered step, oldest first: id, rows, rows that decode.
    in_flight: VecDeque<(u64, usize, usize)>,
    first_id: u64,
    run: Run,
}

impl<'a> Batch<'a> {
    /// Runs all `requests`, at most `concurrency` at a time, prompts in chunks of at most `prompt_budget` tokens a step.
    ///
    /// # Errors
    /// When the shard fails, refuses a row, or could never hold one of the requests.
    pub async fn run(
        shard: &'a mut Connection,
        requests: &'a [Request],
        concurrency: usize,
        prompt_budget: usize,
    ) -> anyhow::Result<Run> {
        let n_blocks = shard.plan.n_blocks;
        let batch = Self {
            concurrency: concurrency.min(shard.request.max_step_rows as usize),
            prompt_budget,
            waiting: (0..requests.len()).collect(),
            running: BTreeMap::new(),
            free: (0..n_blocks).rev().collect(),
            forget: Vec::new(),
            in_flight: VecDeque::new(),
            first_id: shard.new_sequences(requests.len() as u64),
            run: Run { outcomes: Vec::with_capacity(requests.len()), steps: Vec::new() },
            shard,
            requests,
        };
        batch.finish().await
    }

    async fn finish(mut self) -> anyhow::Result<Run> {
        loop {
            while self.in_flight.len() < self.shard.info.max_steps_in_flight as usize && self.send()? {}
            if self.in_flight.is_empty() {
                break;
            }
            let reply = self.shard.receive().await?;
            self.apply(reply)?;
        }
        if !self.waiting.is_empty() {
            bail!(
                "{} requests do not fit the shard's {} blocks",
                self.waiting.len(),
                self.shard.plan.n_blocks
            );
        }
        let forget = std::mem::take(&mut self.forget);
        self.shard.send(Vec::new(), forget)?;
        self.shard.receive().await?;
        Ok(self.run)
    }

    /// Sends the next step; false if there is none to send now.
    fn send(&mut self) -> anyhow::Result<bool> {
        let mut budget = self.prompt_budget;
        let mut rows = Vec::new();
        let mut decode_rows = 0;
        self.admit();
        for (&id, sequence) in &mut self.running {
            let request = &self.requests[sequence.index];
            let Some(row) = sequence.row(id, request, budget) else { continue };
            match sequence.n_sent > request.prompt.len() {
                true => decode_rows += 1,
                false => budget -= row_tokens(&row),
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Ok(false);
        }
        let n_rows = rows.len();
        let step_id = self.shard.send(rows, std::mem::take(&mut self.forget))?;
        self.in_flight.push_back((step_id, n_rows, decode_rows));
        Ok(true)
    }

    fn admit(&mut self) {
        while self.running.len() < self.concurrency {
            let Some(&index) = self.waiting.front() else { return };
            let request = &self.requests[index];
            let n_tokens = request.prompt.len() + request.new_tokens;
            let n_blocks = n_tokens.div_ceil(self.shard.info.block_size as usize);
            let Some(rest) = self.free.len().checked_sub(n_blocks) else { return };
            let blocks = self.free.split_off(rest);
            self.waiting.pop_front();
            self.run.outcomes.push(Outcome {
                admitted: Instant::now(),
                tokens: Vec::new(),
                at: Vec::new(),
                scores: Vec::new(),
            });
            self.running
                .insert(self.first_id + index as u64, Sequence { index, blocks, n_sent: 0, n_asked: 0 });
        }
    }

    fn apply(&mut self, reply: Reply) -> anyhow::Result<()> {
        let (step_id, rows, decode_rows) = self.in_flight.pop_front().context("a reply to no step")?;
        if reply.step_id != step_id {
            bail!("a reply to step {}, expected step {step_id}", reply.step_id);
        }
        self.run.steps.push(StepRecord { at: reply.at, rows, decode_rows });
        for (id, logprobs) in reply.scores {
            let sequence =
                self.running.get(&id).with_context(|| format!("scores of unknown sequence {id}"))?;
            self.run.outcomes[sequence.index].scores.extend(logprobs);
        }
        for (id, token) in reply.tokens {
            let sequence =
                self.running.get(&id).with_context(|| format!("a token of unknown sequence {id}"))?;
            let outcome = &mut self.run.outcomes[sequence.index];
            outcome.tokens.push(token);
            outcome.at.push(reply.at);
            if outcome.tokens.len() == self.requests[sequence.index].new_tokens {
                self.free.extend(self.running.remove(&id).map(|ended| ended.blocks).unwrap_or_default());
                self.forget.push(id);
            }
        }
        Ok(())
    }
}

impl Sequence {
    /// The next row, with at most `budget` tokens if it is a part of the prompt; nothing left to send is none.
    fn row(&mut self, sequence_id: u64, request: &Request, budget: usize) -> Option<proto::Row> {
        let prompt = &request.prompt;
        let position = self.n_sent;
        let input = if position < prompt.len() {
            let end = prompt.len().min(position + budget);
            (end > position).then(|| ids(&prompt[position..end]))?
        } else if self.n_asked < request.new_tokens {
            match &request.forced {
                Some(forced) => ids(&[*forced.get(self.n_asked - 1)?]),
                None => proto::row::Input::LastSampled(proto::LastSampled {}),
            }
        } else {
            return None;
        };
        let start = (position == 0).then(|| proto::StartSequence {
            sampling: Some(request.sampling.clone()),
            prompt_length: request.prompt_length.unwrap_or(prompt.len()) as u32,
            cached_ids: Vec::new(),
        });
        let new_blocks = if position == 0 { self.blocks.clone() } else { Vec::new() };
        let mut row = proto::Row {
            sequence_id,
            start,
            position: position as u32,
            new_blocks,
            input: Some(input),
            sample: false,
            ..Default::default()
        };
        self.n_sent += row_tokens(&row);
        if request.scored {
            let until = prompt.len().min(self.n_sent + 1);
            row.score_ids = prompt.get(position + 1..until).unwrap_or_default().to_vec();
        }
        row.sample = self.n_sent >= prompt.len();
        self.n_asked += usize::from(row.sample);
        Some(row)
    }
}

fn ids(tokens: &[u32]) -> proto::row::Input {
    proto::row::Input::TokenIds(proto::TokenIds { ids: tokens.to_vec() })
}

fn row_tokens(row: &proto::Row) -> usize {
    match &row.input {
        Some(proto::row::Input::TokenIds(tokens)) => tokens.ids.len(),
        _ => 1,
    }
}
