//! An engine played by hand, for tests by example: requests of tenants in, steps out, all in short.

use std::time::Instant;

use crate::engine::testing::{Row, answer, request, rows};
use crate::engine::{Engine, EngineConfig, PlannedStep, SeqId};
use crate::request::{GenerationEvent, Tenant, ValidRequest};

pub struct Play {
    pub engine: Engine,
    pub now: Instant,
    n_requests: u64,
    /// Tokens that came: sequence, token.
    pub got: Vec<(u64, u32)>,
}

impl Play {
    pub fn new(config: EngineConfig) -> Self {
        Self { engine: Engine::new(config), now: Instant::now(), n_requests: 0, got: Vec::new() }
    }

    pub fn submit(&mut self, request: ValidRequest) -> SeqId {
        self.n_requests += 1;
        let seq_id = SeqId(self.n_requests);
        assert!(self.engine.submit(seq_id, request, self.now).is_empty());
        seq_id
    }

    /// Requests of a tenant, each with so many tokens in its prompt and of its answer.
    pub fn ask(&mut self, tenant: u8, requests: &[(u32, u32)]) {
        for &(n_prompt, max_new) in requests {
            self.submit(of(tenant, request(n_prompt, max_new, false)));
        }
    }

    pub fn plan(&mut self) -> PlannedStep {
        self.engine.plan_step(self.now).expect("a step")
    }

    /// The shard answers with `token` for every row that samples.
    pub fn reply(&mut self, step: &PlannedStep, token: u32) {
        for (SeqId(id), event) in self.engine.apply(answer(step, token), self.now).expect("complete") {
            let GenerationEvent::Token { token, .. } = event else { panic!("{event:?}") };
            self.got.push((id, token.id));
        }
    }

    /// Plans a step and answers it; returns its rows.
    pub fn step(&mut self) -> Vec<Row> {
        let step = self.plan();
        self.reply(&step, 7);
        rows(&step)
    }
}

pub fn of(tenant: u8, mut request: ValidRequest) -> ValidRequest {
    request.caller.tenant = Tenant([tenant; 32]);
    request
}
