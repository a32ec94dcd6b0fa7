//! Random histories: whatever happens in whatever order, the engine's promises hold.
//!
//! The world beside the engine is naive: it keeps every request for ever and recomputes what must be
//! true after each operation.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Instant;

use proptest::prelude::*;

use super::naive_shard::{NaiveShard, token_at};
use crate::engine::testing::request;
use crate::engine::{Engine, EngineConfig, Events, PlannedStep, RowInput, SeqId};
use crate::request::{FinishReason, GenerationEvent};

#[derive(Debug, Clone)]
enum Op {
    Submit {
        n_prompt: u32,
        max_new: u32,
        eos: bool,
    },
    Plan,
    /// The shard answers the oldest step; the row of this index fails, if there is one.
    Reply {
        fail: usize,
    },
    /// Of the request with this index modulo their number.
    Cancel(usize),
    ShardLost,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u32..30, 1u32..10, any::<bool>())
            .prop_map(|(n_prompt, max_new, eos)| Op::Submit { n_prompt, max_new, eos }),
        8 => Just(Op::Plan),
        8 => prop_oneof![9 => Just(usize::MAX), 1 => 0usize..4].prop_map(|fail| Op::Reply { fail }),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => prop_oneof![9 => Just(Op::Plan), 1 => Just(Op::ShardLost)],
    ]
}

fn engine_config() -> impl Strategy<Value = EngineConfig> {
    // The longest request needs 29 + 9 - 1 positions: always within the pool.
    (1u32..6, 1u32..20, 1u32..6, 0u32..20, 1u32..3).prop_map(
        |(rows, prefill, block_size, spare, in_flight)| EngineConfig {
            max_batch_size: rows,
            max_batch_prefill_tokens: prefill,
            block_size,
            n_blocks: 37u32.div_ceil(block_size) + spare,
            max_steps_in_flight: in_flight,
        },
    )
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Running,
    Finished(FinishReason),
    Failed,
    Cancelled,
}

#[derive(Debug)]
struct Request {
    n_prompt: u32,
    max_new: u32,
    eos: bool,
    state: State,
    got: Vec<u32>,
    n_samples_planned: u32,
    blocks: Vec<u32>,
}

impl Request {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Waiting | State::Running)
    }

    /// All tokens it gets if nothing goes wrong, and why they end.
    fn expected(&self, seq_id: SeqId) -> (Vec<u32>, FinishReason) {
        let mut tokens = Vec::new();
        for i in 0..self.max_new {
            tokens.push(token_at(seq_id, self.n_prompt + i));
            if self.eos && tokens.last() == Some(&0) && i + 1 < self.max_new {
                return (tokens, FinishReason::Eos);
            }
        }
        (tokens, FinishReason::Length)
    }
}

struct World {
    config: EngineConfig,
    engine: Engine,
    shard: NaiveShard,
    requests: BTreeMap<SeqId, Request>,
    in_flight: VecDeque<PlannedStep>,
    now: Instant,
}

impl World {
    fn new(config: EngineConfig) -> Self {
        Self {
            config,
            engine: Engine::new(config),
            shard: NaiveShard::new(config.block_size),
            requests: BTreeMap::new(),
            in_flight: VecDeque::new(),
            now: Instant::now(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Submit { n_prompt, max_new, eos } => {
                let seq_id = SeqId(self.requests.len() as u64 + 1);
                self.engine.submit(seq_id, request(n_prompt, max_new, eos), self.now);
                let (state, got, blocks) = (State::Waiting, Vec::new(), Vec::new());
                let request = Request { n_prompt, max_new, eos, state, got, n_samples_planned: 0, blocks };
                self.requests.insert(seq_id, request);
            }
            Op::Plan => self.plan(),
            Op::Reply { fail } => self.reply(fail),
            Op::Cancel(index) => self.cancel(index),
            Op::ShardLost => self.lose_shard(),
        }
        self.check_counts();
    }

    fn plan(&mut self) {
        let full = self.in_flight.len() >= self.config.max_steps_in_flight as usize;
        let Some(step) = self.engine.plan_step(self.now) else {
            assert!(full || !self.in_flight.is_empty() || self.engine.is_idle(), "work is left lying");
            return;
        };
        assert!(!full, "more steps in flight than the shard wants");
        self.check_budget(&step);
        self.check_first_come_first_served(&step);
        self.check_new_blocks(&step);
        for row in &step.rows {
            let request = self.requests.get_mut(&row.seq_id).expect("submitted");
            request.state = if request.state == State::Waiting { State::Running } else { request.state };
            assert_eq!(request.state, State::Running, "ended sequences get no rows");
            request.n_samples_planned += u32::from(row.sample);
            assert!(request.n_samples_planned <= request.max_new, "planned beyond max_new_tokens");
            request.blocks.extend(&row.new_blocks);
        }
        self.in_flight.push_back(step);
    }

    fn check_budget(&self, step: &PlannedStep) {
        let prompt_tokens = step.rows.iter().map(|row| match &row.input {
            RowInput::Prompt { chunk, .. } => chunk.len(),
            RowInput::LastSampled => 0,
        });
        let n_prompt_tokens: usize = prompt_tokens.sum();
        assert!(n_prompt_tokens <= self.config.max_batch_prefill_tokens as usize);
        assert!(step.rows.len() <= self.config.max_batch_size as usize);
        let has_row = |seq_id: &SeqId| step.rows.iter().any(|row| row.seq_id == *seq_id);
        for (seq_id, request) in &self.requests {
            let goes_on = request.state == State::Running && request.n_samples_planned < request.max_new;
            let prefilling = request.n_samples_planned == 0;
            let out_of_budget = n_prompt_tokens == self.config.max_batch_prefill_tokens as usize;
            assert!(!goes_on || has_row(seq_id) || prefilling && out_of_budget, "{seq_id:?} was left out");
        }
    }

    fn check_first_come_first_served(&self, step: &PlannedStep) {
        let admitted = step.rows.iter().filter(|row| row.start.is_some()).map(|row| row.seq_id);
        let waiting = self.requests.iter().filter(|(_, request)| request.state == State::Waiting);
        for (admitted, (first, _)) in admitted.zip(waiting) {
            assert_eq!(admitted, *first, "the head of the queue was overtaken");
        }
    }

    /// New blocks are exactly as many as needed, and nobody can still write to them.
    fn check_new_blocks(&self, step: &PlannedStep) {
        let rows_in_flight = self.in_flight.iter().flat_map(|step| &step.rows);
        let open = self.requests.iter().filter(|(_, request)| request.is_open()).map(|(seq_id, _)| seq_id);
        let holders = rows_in_flight.map(|row| &row.seq_id).chain(open);
        let mut held: HashSet<u32> = holders
            .collect::<HashSet<_>>()
            .into_iter()
            .flat_map(|id| &self.requests[id].blocks)
            .copied()
            .collect();
        for row in &step.rows {
            for block in &row.new_blocks {
                assert!(*block < self.config.n_blocks && held.insert(*block), "block {block} is in use");
            }
            if row.start.is_some() {
                let request = &self.requests[&row.seq_id];
                let n_tokens = request.n_prompt + request.max_new - 1;
                assert_eq!(row.new_blocks.len() as u32, n_tokens.div_ceil(self.config.block_size));
            }
        }
    }

    fn reply(&mut self, fail: usize) {
        let Some(step) = self.in_flight.pop_front() else { return };
        let outcome = self.shard.execute(&step, Some(fail));
        assert!(self.shard.n_known() <= self.config.max_batch_size as usize);
        let events = self.engine.apply(outcome, self.now).expect("the shard answers as the protocol says");
        self.receive(events);
    }

    fn receive(&mut self, events: Events) {
        for (seq_id, event) in events {
            let request = self.requests.get_mut(&seq_id).expect("submitted");
            assert!(request.is_open(), "{seq_id:?} has ended before");
            match event {
                GenerationEvent::Token { token, finish, .. } => {
                    request.got.push(token.id);
                    request.state = finish.map_or(request.state, State::Finished);
                }
                GenerationEvent::Failed(_) => request.state = State::Failed,
            }
        }
    }

    fn cancel(&mut self, index: usize) {
        let n_requests = self.requests.len();
        let seq_id = SeqId(index.checked_rem(n_requests).unwrap_or(0) as u64 + 1);
        self.engine.cancel(seq_id);
        if let Some(request) = self.requests.get_mut(&seq_id).filter(|request| request.is_open()) {
            request.state = State::Cancelled;
        }
    }

    fn lose_shard(&mut self) {
        let n_open = self.requests.values().filter(|request| request.is_open()).count();
        let events = self.engine.shard_lost("gone");
        assert_eq!(events.len(), n_open, "every open request fails");
        self.receive(events);
        assert!(self.engine.is_idle() && self.engine.n_reserved_tokens() == 0);
        // A new shard begins with the next step's number.
        let last_step_id = self.in_flight.back().map(|step| step.step_id);
        self.shard =
            NaiveShard::after(self.config.block_size, last_step_id.unwrap_or(self.shard.last_step_id()));
        self.in_flight.clear();
    }

    fn check_counts(&self) {
        let count = |state| self.requests.values().filter(|request| request.state == state).count();
        assert_eq!(self.engine.n_waiting(), count(State::Waiting));
        assert!(self.engine.n_running() >= count(State::Running));
        assert!(self.engine.n_running() <= self.config.max_batch_size as usize);
        assert_eq!(self.engine.n_steps_in_flight(), self.in_flight.len());
        let blocks = |request: &Request| request.blocks.len() as u64 * u64::from(self.config.block_size);
        let running = self.requests.values().filter(|request| request.state == State::Running);
        assert!(self.engine.n_reserved_tokens() >= running.map(blocks).sum());
    }

    /// Lets everything open run to its end, then checks every request's story.
    fn finish(mut self) {
        for _ in 0..10_000 {
            self.plan();
            self.plan();
            self.reply(usize::MAX);
            if self.engine.is_idle() {
                break;
            }
        }
        assert!(self.engine.is_idle(), "something never ended");
        assert_eq!(self.engine.n_reserved_tokens(), 0, "blocks leaked");
        for (&seq_id, request) in &self.requests {
            let (tokens, reason) = request.expected(seq_id);
            match request.state {
                State::Finished(got) => assert_eq!((&request.got, got), (&tokens, reason), "{seq_id:?}"),
                State::Failed | State::Cancelled => {
                    assert!(tokens.starts_with(&request.got) && request.got != tokens, "{seq_id:?}");
                }
                State::Waiting | State::Running => panic!("{seq_id:?} never ended"),
            }
        }
    }
}

proptest! {
    #[test]
    fn promises_hold(config in engine_config(), ops in proptest::collection::vec(op(), 0..120)) {
        let mut world = World::new(config);
        ops.iter().for_each(|op| world.apply(op));
        world.finish();
    }
}
