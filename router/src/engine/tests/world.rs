//! The naive world beside the engine: it keeps every request for ever, plays the shard, and recomputes
//! what must be true after each operation. Driven by `histories`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::naive_shard::{NaiveShard, token_after};
use crate::constraint::{Constraint, TokenMask};
use crate::engine::testing::request;
use crate::engine::{Counters, Engine, EngineConfig, Events, PlannedRow, PlannedStep, RowInput, SeqId};
use crate::request::{Caller, FinishReason, GenerationError, GenerationEvent, Tenant, ValidRequest};

/// What a history can do.
#[derive(Debug, Clone)]
pub enum Op {
    Submit(Wish),
    Plan,
    /// The shard answers the oldest step; the row of this index fails, if there is one.
    Reply {
        fail: usize,
    },
    /// Of the request with this index modulo their number.
    Cancel(usize),
    /// The shard is killed from outside; the next one has this many spare blocks.
    Kill {
        spare_blocks: u32,
    },
    /// So many milliseconds pass.
    Wait(u64),
    /// The mask comes that a constrained request waits for: the one with this index among those that do.
    Mask(usize),
}

/// A request that a history makes.
#[derive(Debug, Clone)]
pub struct Wish {
    pub n_prompt: u32,
    pub max_new: u32,
    pub eos: bool,
    pub tenant: u8,
    /// Prompts of one family begin alike.
    pub family: u32,
    pub timeout_ms: Option<u64>,
    /// The step that brings it to so many tokens kills the shard.
    pub poison: Option<u32>,
    /// Every sample needs a mask.
    pub constrained: bool,
}

/// Room for the longest wish, in tokens.
pub const LONGEST: u32 = 38;

#[derive(Debug, Clone, PartialEq)]
enum State {
    Waiting,
    Running,
    Finished(FinishReason),
    Failed(GenerationError),
    Cancelled,
}

#[derive(Debug)]
struct Request {
    valid: ValidRequest,
    wish: Wish,
    state: State,
    got: Vec<u32>,
    /// Its table, as the shard was told.
    blocks: Vec<u32>,
    /// Has sampled, and will again, since the shard was told of it last.
    decoding: bool,
    n_samples_in_flight: u32,
    /// Fatal steps in which it was alone.
    n_fatal_alone: u32,
    /// Its last token's mask has not come.
    lacks_mask: bool,
}

/// The mask of the token after `n` others.
fn mask_after(n: usize) -> TokenMask {
    TokenMask::new(&[n as u32 + 1], 32)
}

impl Request {
    /// True when it can have no row that samples.
    fn waits_for_mask(&self) -> bool {
        self.wish.constrained && (self.lacks_mask || self.n_samples_in_flight > 0)
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Waiting | State::Running)
    }

    /// All tokens it gets if nothing goes wrong, and why they end.
    fn expected(&self, ntk_seq_length: u32) -> (Vec<u32>, FinishReason) {
        let mut ids = self.valid.prompt_ids.to_vec();
        let n_prompt = ids.len();
        loop {
            ids.push(token_after(&ids, ntk_seq_length, n_prompt as u32));
            let tokens = &ids[n_prompt..];
            if tokens.len() == self.wish.max_new as usize {
                return (tokens.to_vec(), FinishReason::Length);
            }
            if self.wish.eos && ids.last() == Some(&0) {
                return (tokens.to_vec(), FinishReason::Eos);
            }
        }
    }

    /// True when a row that brings it to `n_tokens` kills the shard.
    fn kills_at(&self, n_tokens: usize) -> bool {
        self.wish.poison.is_some_and(|poison| n_tokens >= poison as usize)
    }
}

pub struct World {
    config: EngineConfig,
    pub engine: Engine,
    shard: NaiveShard,
    requests: BTreeMap<SeqId, Request>,
    in_flight: VecDeque<PlannedStep>,
    /// Whose tokens each block holds.
    writers: HashMap<u32, u8>,
    now: Instant,
    n_kills: u32,
}

impl World {
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config,
            engine: Engine::new(config),
            shard: NaiveShard::new(config.block_size, config.ntk_seq_length),
            requests: BTreeMap::new(),
            in_flight: VecDeque::new(),
            writers: HashMap::new(),
            now: Instant::now(),
            n_kills: 0,
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Submit(wish) => self.submit(wish),
            Op::Plan => self.plan(),
            Op::Reply { fail } => self.reply(*fail),
            Op::Cancel(index) => self.cancel(*index),
            Op::Kill { spare_blocks } => {
                self.n_kills += 1;
                self.lose_shard(*spare_blocks);
            }
            Op::Wait(ms) => self.wait(*ms),
            Op::Mask(index) => self.mask(*index),
        }
        self.check_counts();
    }

    fn submit(&mut self, wish: &Wish) {
        let seq_id = SeqId(self.requests.len() as u64 + 1);
        let prompt = |i: u32| if i < wish.family * 5 { 1 + i % 3 } else { 4 + (wish.family + i) % 5 };
        let deadline = wish.timeout_ms.map(|ms| self.now + Duration::from_millis(ms));
        let mut valid = request(wish.n_prompt, wish.max_new, wish.eos);
        valid.prompt_ids = (0..wish.n_prompt).map(prompt).collect();
        valid.caller = Caller { tenant: Tenant([wish.tenant; 32]), deadline };
        valid.constraint = wish.constrained.then(|| Constraint::with_first_mask(mask_after(0)));
        let events = self.engine.submit(seq_id, valid.clone(), self.now);
        let request = Request {
            valid,
            wish: wish.clone(),
            state: State::Waiting,
            got: Vec::new(),
            blocks: Vec::new(),
            decoding: false,
            n_samples_in_flight: 0,
            n_fatal_alone: 0,
            lacks_mask: false,
        };
        self.requests.insert(seq_id, request);
        self.receive(events);
    }

    fn plan(&mut self) {
        let full = self.in_flight.len() >= self.config.max_steps_in_flight as usize;
        let Some(step) = self.engine.plan_step(self.now) else {
            let waits = !self.in_flight.is_empty() || !self.lacking_masks().is_empty();
            assert!(full || waits || self.engine.is_idle(), "work is left lying");
            return;
        };
        assert!(!full, "more steps in flight than the shard wants");
        for seq_id in &step.forget {
            self.requests.get_mut(seq_id).expect("submitted").decoding = false;
        }
        self.check_budget(&step);
        for row in &step.rows {
            let request = self.requests.get_mut(&row.seq_id).expect("submitted");
            assert!(request.is_open(), "ended sequences get no rows");
            if row.start.is_some() {
                assert_eq!(request.n_samples_in_flight, 0, "replayed before all its tokens are known");
            }
            let mask = (row.sample && request.wish.constrained).then(|| mask_after(request.got.len()));
            assert_eq!(row.allowed, mask, "every sample of a constrained sequence has the mask of its place");
            assert!(!row.sample || !request.waits_for_mask(), "the mask of the last token has not come");
            request.state = State::Running;
            request.decoding = row.sample;
            request.n_samples_in_flight += u32::from(row.sample);
            let n_samples = request.got.len() as u32 + request.n_samples_in_flight;
            assert!(n_samples <= request.wish.max_new, "planned beyond max_new_tokens");
            self.check_tenants(row);
        }
        self.in_flight.push_back(step);
    }

    /// What the row reads was written for its own tenant, since it got the block or by whom it shares it with.
    fn check_tenants(&mut self, row: &PlannedRow) {
        let request = self.requests.get_mut(&row.seq_id).expect("submitted");
        if row.start.is_some() {
            request.blocks.clear();
        }
        request.blocks.extend(&row.new_blocks);
        let (position, n_tokens) = (row.position as usize, row.input.n_tokens());
        for place in 0..position + n_tokens {
            let block = request.blocks[place / self.config.block_size as usize];
            match place < position {
                true => assert_eq!(self.writers[&block], request.wish.tenant, "another tenant's block"),
                false => drop(self.writers.insert(block, request.wish.tenant)),
            }
        }
    }

    fn check_budget(&self, step: &PlannedStep) {
        let prefill = |input: &RowInput| if let RowInput::Tokens(ids) = input { ids.len() } else { 0 };
        let n_prefill: usize = step.rows.iter().map(|row| prefill(&row.input)).sum();
        assert!(n_prefill <= self.config.max_batch_prefill_tokens as usize, "too many prompt tokens");
        assert!(step.rows.len() <= self.config.max_batch_size as usize, "too many rows");
        if self.engine.suspects.is_empty() {
            for (seq_id, request) in &self.requests {
                let n_samples = request.got.len() as u32 + request.n_samples_in_flight;
                let goes_on = request.is_open() && request.decoding && n_samples < request.wish.max_new;
                let waits = request.waits_for_mask();
                let has_row = step.rows.iter().any(|row| row.seq_id == *seq_id);
                assert!(!goes_on || has_row || waits, "{seq_id:?} waits although it could decode");
            }
        }
        for block in step.rows.iter().flat_map(|row| &row.new_blocks) {
            assert!(*block < self.config.n_blocks, "no such block: {block}");
        }
    }

    fn reply(&mut self, fail: usize) {
        let Some(step) = self.in_flight.front() else { return };
        let kills = step
            .rows
            .iter()
            .any(|row| self.requests[&row.seq_id].kills_at(row.position as usize + row.input.n_tokens()));
        if kills {
            return self.lose_shard(0);
        }
        let step = self.in_flight.pop_front().expect("it has a front");
        let outcome = self.shard.execute(&step, Some(fail));
        for row in &step.rows {
            self.requests.get_mut(&row.seq_id).expect("submitted").n_samples_in_flight -=
                u32::from(row.sample);
        }
        let n_most = self.config.max_batch_size as usize * (1 + self.in_flight.len());
        assert!(self.shard.n_known() <= n_most, "the shard is not told who ended");
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
                    request.lacks_mask = request.wish.constrained && finish.is_none();
                    if let Some(reason) = finish {
                        request.state = State::Finished(reason);
                    }
                }
                GenerationEvent::PromptScores { .. } => panic!("nobody asked for them"),
                GenerationEvent::Failed(error) => request.state = State::Failed(error),
            }
        }
    }

    fn cancel(&mut self, index: usize) {
        let seq_id = SeqId(index.checked_rem(self.requests.len()).unwrap_or(0) as u64 + 1);
        self.engine.cancel(seq_id);
        if let Some(request) = self.requests.get_mut(&seq_id).filter(|request| request.is_open()) {
            request.state = State::Cancelled;
        }
    }

    fn lacking_masks(&self) -> Vec<SeqId> {
        let lacking = self.requests.iter().filter(|(_, request)| request.is_open() && request.lacks_mask);
        lacking.map(|(seq_id, _)| *seq_id).collect()
    }

    fn mask(&mut self, index: usize) {
        let lacking = self.lacking_masks();
        let Some(seq_id) = index.checked_rem(lacking.len()).map(|i| lacking[i]) else { return };
        let request = self.requests.get_mut(&seq_id).expect("submitted");
        request.lacks_mask = false;
        self.engine.set_mask(seq_id, mask_after(request.got.len()));
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        let events = self.engine.expire(self.now);
        self.receive(events);
        for request in self.requests.values() {
            let late = request.valid.caller.deadline.is_some_and(|deadline| deadline <= self.now);
            assert!(!late || !request.is_open(), "a deadline was missed");
        }
        let first =
            self.requests.values().filter(|r| r.is_open()).filter_map(|r| r.valid.caller.deadline).min();
        assert_eq!(self.engine.next_deadline(), first);
    }

    /// The shard dies in the steps in flight, and another one takes its place.
    fn lose_shard(&mut self, spare_blocks: u32) {
        let rows = self.in_flight.drain(..).flat_map(|step| step.rows);
        let fatal: BTreeSet<SeqId> = rows.map(|row| row.seq_id).collect();
        for seq_id in &fatal {
            let request = self.requests.get_mut(seq_id).expect("submitted");
            request.n_fatal_alone += u32::from(fatal.len() == 1);
        }
        for request in self.requests.values_mut() {
            (request.decoding, request.n_samples_in_flight) = (false, 0);
        }
        let events = self.engine.shard_lost(self.now);
        self.receive(events);
        assert_eq!(self.engine.n_running(), 0);
        assert!(self.engine.plan_step(self.now).is_none(), "there is no shard");
        let n_blocks = LONGEST.div_ceil(self.config.block_size) + spare_blocks;
        self.config = EngineConfig { n_blocks, ..self.config };
        self.engine.plan_changed(self.config);
        self.shard = NaiveShard::new(self.config.block_size, self.config.ntk_seq_length);
        self.writers.clear();
    }

    fn check_counts(&self) {
        let n_open = self.requests.values().filter(|request| request.is_open()).count();
        assert_eq!(self.engine.n_waiting() + self.engine.n_running(), n_open);
        assert!(self.engine.n_running() <= self.config.max_batch_size as usize);
        assert_eq!(self.engine.n_steps_in_flight(), self.in_flight.len());
        let scheduler = &self.engine.scheduler;
        scheduler.pool.assert_sound(scheduler.running.values().map(|running| &running.blocks));
    }

    /// Lets everything open run to its end, then checks every request's story. Returns what it took.
    pub fn finish(mut self) -> Counters {
        for _ in 0..20_000 {
            self.plan();
            self.plan();
            self.reply(usize::MAX);
            self.lacking_masks().iter().for_each(|_| self.mask(0));
            if self.engine.is_idle() {
                break;
            }
        }
        assert!(self.engine.is_idle(), "something never ended");
        assert_eq!(self.engine.n_reserved_tokens(), 0, "blocks leaked");
        for (seq_id, request) in &self.requests {
            self.check_story(*seq_id, request);
        }
        self.engine.counters()
    }

    fn check_story(&self, seq_id: SeqId, request: &Request) {
        let (tokens, reason) = request.expected(self.config.ntk_seq_length);
        if let State::Finished(got) = request.state {
            assert_eq!((&request.got, got), (&tokens, reason), "{seq_id:?}");
            return;
        }
        assert!(tokens.starts_with(&request.got) && request.got != tokens, "{seq_id:?}");
        match &request.state {
            State::Failed(GenerationError::Quarantined) => {
                let proof = |other: &&Request| {
                    let same = other.valid.prompt_ids == request.valid.prompt_ids
                        && other.wish.tenant == request.wish.tenant;
                    same && other.n_fatal_alone >= 2
                };
                let culprit = self.requests.values().find(proof).expect("no proof");
                assert!(culprit.wish.poison.is_some() || self.n_kills > 0, "{seq_id:?} is innocent");
            }
            State::Failed(GenerationError::DeadlinePassed) => {
                assert!(request.wish.timeout_ms.is_some(), "{seq_id:?}");
            }
            State::Failed(GenerationError::Shard(_)) | State::Cancelled => {}
            other => panic!("{seq_id:?} ended as {other:?}"),
        }
    }
}
