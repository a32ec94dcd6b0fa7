//! From specifications to constraints: on threads of their own, a bounded number at a time, each specification
//! once as long as it is remembered. Used by `validation`; never on the threads of requests or steps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use llguidance::{Matcher, ParserFactory};
use tokio::sync::{Semaphore, oneshot};

use super::progress::{Constraint, brief};
use super::{ConstraintSpec, grammar, vocabulary};
use crate::text::Tokenizer;

/// Constraints remembered.
const MAX_REMEMBERED: usize = 64;
/// Longest wait for a compilation. The library's own limits end one long before, which is what tests rely on.
const MAX_TIME: Duration = Duration::from_secs(if cfg!(test) { 600 } else { 20 });
/// Grammars are nested, and read recursively. Memory is taken as far as it is used.
const STACK_BYTES: usize = 64 << 20;

/// Compiles for one model.
pub struct Compiler {
    shared: Arc<Shared>,
    /// Bounds how many constraints are compiled at once.
    workers: Arc<Semaphore>,
}

struct Shared {
    tokenizer: Arc<Tokenizer>,
    vocab_size: usize,
    /// Made by the first compilation.
    factory: OnceLock<Result<ParserFactory, String>>,
    remembered: Mutex<Remembered>,
}

/// Constraints by digest, with the time of their last use.
#[derive(Default)]
struct Remembered {
    constraints: HashMap<[u8; 32], (Constraint, u64)>,
    n_uses: u64,
}

impl Compiler {
    /// `vocab_size`: rows of the model's logits. `workers` >= 1: constraints compiled at once.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab_size: u32, workers: usize) -> Self {
        let shared = Shared {
            tokenizer,
            vocab_size: vocab_size as usize,
            factory: OnceLock::new(),
            remembered: Mutex::default(),
        };
        Self { shared: Arc::new(shared), workers: Arc::new(Semaphore::new(workers.max(1))) }
    }

    /// # Errors
    /// What is wrong with the specification, or what makes it too complex.
    pub async fn compile(&self, spec: ConstraintSpec) -> Result<Constraint, String> {
        let digest = grammar::digest(&spec);
        if let Some(constraint) = self.shared.remembered(&digest) {
            return Ok(constraint);
        }
        let permit = self.workers.clone().acquire_owned().await;
        let shared = self.shared.clone();
        let (done, result) = oneshot::channel();
        let work = move || {
            let _permit = permit; // held until the work is done, even if the client leaves
            let _ = done.send(shared.compile(spec, digest));
        };
        let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
        thread.spawn(work).map_err(|error| format!("no thread to compile on: {error}"))?;
        match tokio::time::timeout(MAX_TIME, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the compiler stopped at it".into()),
            Err(_) => Err(format!("it was not compiled within {} s", MAX_TIME.as_secs())),
        }
    }
}

impl Shared {
    fn compile(&self, spec: ConstraintSpec, digest: [u8; 32]) -> Result<Constraint, String> {
        if let Some(constraint) = self.remembered(&digest) {
            return Ok(constraint);
        }
        let grammar = grammar::grammar(spec)?;
        let factory = self.factory.get_or_init(|| vocabulary::factory(&self.tokenizer, self.vocab_size));
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let parser = factory.create_parser(grammar).map_err(|error| brief(&format!("{error:#}")))?;
        let constraint = Constraint::new(Matcher::new(Ok(parser)), self.vocab_size, digest)?;
        self.remember(&constraint);
        Ok(constraint)
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Constraint> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.n_uses += 1;
        let now = remembered.n_uses;
        let (constraint, used) = remembered.constraints.get_mut(digest)?;
        *used = now;
        Some(constraint.clone())
    }

    /// Forgets the one that was not used for longest when there are too many.
    fn remember(&self, constraint: &Constraint) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let Remembered { constraints, n_uses } = &mut *remembered;
        if constraints.len() >= MAX_REMEMBERED {
            let oldest = constraints.iter().min_by_key(|(_, (_, used))| *used).map(|(digest, _)| *digest);
            oldest.and_then(|digest| constraints.remove(&digest));
        }
        constraints.insert(*constraint.digest(), (constraint.clone(), *n_uses));
    }
}
