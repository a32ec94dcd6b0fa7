//! The parts of the comparison: which requests both shards get, and how they are put into steps.
//!
//! Called by `main` with two planned shards; `judge` has the rules. The first shard always runs one sequence at a time,
//! so whatever company the second one's rows have, the expected tokens are the same.

use crate::judge::{MARGIN_OF_TWO, Verdict};
use crate::shard_client::batch::{Batch, Request, Run};
use crate::shard_client::connection::{Connection, Token};
use crate::shard_client::greedy;
use text_generation_proto::shard::SamplingParameters;

/// Sequences that run together in the last part, and rows of a step.
pub const TOGETHER: usize = 64;
/// Tokens that a step takes of prompts that are cut.
const CHUNK: usize = 48;
const TOP: u32 = 5;
/// Prompt tokens of a step where prompts are not cut.
const WHOLE: usize = 2048;
/// Tokens that follow a prompt whose own logprobs are compared: some decode beside prompts that are scored.
const SCORED: usize = 8;
/// Tokens that each of the sequences running together samples.
const SHORT: usize = 24;

/// Two planned shards and what they are asked.
pub struct Pair {
    pub first: Connection,
    pub second: Connection,
    pub prompts: Vec<Vec<u32>>,
    pub new_tokens: usize,
}

/// How a shard's steps are made up.
#[derive(Clone, Copy)]
struct Company {
    sequences: usize,
    prompt_budget: usize,
}

const ALONE: Company = Company { sequences: 1, prompt_budget: WHOLE };

pub async fn all(pair: &mut Pair) -> anyhow::Result<Vec<Verdict>> {
    let greedy_requests = pair.requests(greedy(TOP));
    let right = tokens(Batch::run(&mut pair.first, &greedy_requests, 1, WHOLE).await?);
    let mut verdicts = vec![pair.greedy(&greedy_requests, &right).await?];
    verdicts.push(pair.one_by_one(&right).await?);
    verdicts.push(pair.as_one_chunk(&right).await?);
    verdicts.push(pair.mixed(&greedy_requests, &right).await?);
    verdicts.push(pair.prompts(WHOLE, "prompts, whole").await?);
    verdicts.push(pair.prompts(CHUNK, "prompts, in chunks").await?);
    verdicts.push(pair.penalties().await?);
    verdicts.push(pair.sampled().await?);
    verdicts.push(pair.together().await?);
    Ok(verdicts)
}

impl Pair {
    fn requests(&self, sampling: SamplingParameters) -> Vec<Request> {
        let request = |prompt: &Vec<u32>| Request::new(prompt.clone(), self.new_tokens, sampling.clone());
        self.prompts.iter().map(request).collect()
    }

    /// Every prompt alone.
    async fn greedy(&mut self, requests: &[Request], right: &[Vec<Token>]) -> anyhow::Result<Verdict> {
        let other = run(&mut self.second, requests, ALONE).await?;
        Ok(judge(Verdict::new("greedy"), right, &other))
    }

    /// The first shard's tokens, given to the second one at a time.
    async fn one_by_one(&mut self, right: &[Vec<Token>]) -> anyhow::Result<Verdict> {
        let mut requests = self.requests(greedy(TOP));
        for (request, tokens) in requests.iter_mut().zip(right) {
            request.forced = Some(tokens.iter().map(|token| token.id).collect());
        }
        let other = run(&mut self.second, &requests, ALONE).await?;
        let mut verdict = Verdict::new("forced, one by one");
        for (i, (right, other)) in right.iter().zip(&other).enumerate() {
            verdict.forced(&format!("prompt {i}"), right, other);
        }
        Ok(verdict)
    }

    /// Prompt and the first shard's first k tokens as one prompt, for every k: the second shard's next token.
    async fn as_one_chunk(&mut self, right: &[Vec<Token>]) -> anyhow::Result<Verdict> {
        let mut verdict = Verdict::new("forced, as one chunk");
        for (i, (prompt, right)) in self.prompts.iter().zip(right).enumerate() {
            let request = |k: usize| {
                let ids = prompt.iter().copied().chain(right[..k].iter().map(|token| token.id));
                let request = Request::new(ids.collect(), 1, greedy(TOP));
                Request { prompt_length: Some(prompt.len()), ..request }
            };
            let requests: Vec<Request> = (0..right.len()).map(request).collect();
            let other = run(&mut self.second, &requests, ALONE).await?;
            verdict.forced(&format!("prompt {i}"), right, &other.concat());
        }
        Ok(verdict)
    }

    /// Prompts in small chunks beside sequences that decode, a long one among them.
    async fn mixed(&mut self, requests: &[Request], right: &[Vec<Token>]) -> anyhow::Result<Verdict> {
        let mut requests = requests.to_vec();
        let longest = self.first.request.max_total_tokens as usize - self.new_tokens;
        let long = self.prompts.concat().into_iter().cycle().take(longest.min(900)).collect();
        requests.insert(1, Request::new(long, self.new_tokens, greedy(TOP)));
        let mut right = right.to_vec();
        right.insert(1, run(&mut self.first, &requests[1..2], ALONE).await?.concat());
        let run = Batch::run(&mut self.second, &requests, requests.len(), CHUNK).await?;
        let mut verdict = Verdict::new("mixed, in chunks");
        if !run.steps.iter().any(|step| step.decode_rows > 0 && step.rows > step.decode_rows) {
            verdict.violations.push("no step held a part of a prompt beside a row that decodes".to_owned());
        }
        Ok(judge(verdict, &right, &tokens(run)))
    }

    /// Log-probabilities of the prompts' own tokens, the second shard's all together with so many tokens a step.
    async fn prompts(&mut self, prompt_budget: usize, part: &'static str) -> anyhow::Result<Verdict> {
        let mut requests = self.requests(greedy(TOP));
        for request in &mut requests {
            (request.scored, request.new_tokens) = (true, SCORED);
        }
        let right = Batch::run(&mut self.first, &requests, 1, WHOLE).await?;
        let other = Batch::run(&mut self.second, &requests, requests.len(), prompt_budget).await?;
        let mut verdict = Verdict::new(part);
        for (i, request) in requests.iter().enumerate() {
            let (right, other) = (&right.outcomes[i].scores, &other.outcomes[i].scores);
            verdict.scores(&format!("prompt {i}"), request.prompt.len() - 1, right, other);
        }
        Ok(verdict)
    }

    async fn penalties(&mut self) -> anyhow::Result<Verdict> {
        let penalties = SamplingParameters {
            repetition_penalty: 1.3,
            frequency_penalty: 0.4,
            presence_penalty: 0.3,
            ..greedy(TOP)
        };
        self.both(Verdict::new("penalties"), &self.requests(penalties)).await
    }

    async fn sampled(&mut self) -> anyhow::Result<Verdict> {
        let draw =
            SamplingParameters { do_sample: true, temperature: 0.8, top_k: 50, top_p: 0.9, ..greedy(TOP) };
        let mut requests = self.requests(draw);
        for (request, seed) in requests.iter_mut().zip(1..) {
            request.sampling.seed = seed;
        }
        self.both(Verdict { is_drawn: true, ..Verdict::new("sampled, seeded") }, &requests).await
    }

    /// The first shard with each request alone, the second with all together.
    async fn both(&mut self, verdict: Verdict, requests: &[Request]) -> anyhow::Result<Verdict> {
        let right = run(&mut self.first, requests, ALONE).await?;
        let company = Company { sequences: requests.len(), prompt_budget: WHOLE };
        Ok(judge(verdict, &right, &run(&mut self.second, requests, company).await?))
    }

    /// The second shard with itself: many sequences together against each alone.
    async fn together(&mut self) -> anyhow::Result<Verdict> {
        let n = self.prompts.len();
        // The same prompts, each time without a few tokens more of their beginning.
        let prompt = |i: usize| self.prompts[i % n][(i / n).min(self.prompts[i % n].len() - 1)..].to_vec();
        let requests: Vec<Request> =
            (0..TOGETHER).map(|i| Request::new(prompt(i), SHORT, greedy(TOP))).collect();
        let right = run(&mut self.second, &requests, ALONE).await?;
        let company = Company { sequences: TOGETHER, prompt_budget: WHOLE };
        let other = run(&mut self.second, &requests, company).await?;
        // Other kernels compute them: neither run is the exact one.
        let verdict = Verdict { margin: MARGIN_OF_TWO, ..Verdict::new("64 against each alone") };
        Ok(judge(verdict, &right, &other))
    }
}

async fn run(
    shard: &mut Connection,
    requests: &[Request],
    company: Company,
) -> anyhow::Result<Vec<Vec<Token>>> {
    Ok(tokens(Batch::run(shard, requests, company.sequences, company.prompt_budget).await?))
}

fn tokens(run: Run) -> Vec<Vec<Token>> {
    run.outcomes.into_iter().map(|outcome| outcome.tokens).collect()
}

fn judge(mut verdict: Verdict, right: &[Vec<Token>], other: &[Vec<Token>]) -> Verdict {
    for (i, (right, other)) in right.iter().zip(other).enumerate() {
        verdict.free(&format!("prompt {i}"), right, other);
    }
    verdict
}
