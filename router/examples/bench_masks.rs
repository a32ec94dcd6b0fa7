//! What constraints cost: compiling, and the mask of each token, on one thread with a model's real vocabulary.
//!
//! `cargo run --release --example bench_masks -- DIR` where DIR holds a tokenizer. Answers are random: each
//! token is one that the mask before it allows, so masks are met that a model would seldom ask for.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error};
use clap::Parser;
use serde_json::json;
use text_generation_router::constraint::{Compiler, ConstraintSpec, TokenMask};
use text_generation_router::text::Tokenizer;

#[derive(Debug, Parser)]
struct Args {
    /// Folder with the tokenizer.
    dir: PathBuf,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 100)]
    tokens: usize,
    /// Answers to each constraint.
    #[arg(long, default_value_t = 20)]
    answers: usize,
}

fn specs() -> Vec<(&'static str, ConstraintSpec)> {
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 5},
            "address": {"type": "object", "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}},
        },
        "required": ["name", "age"],
    });
    vec![
        ("json object", ConstraintSpec::JsonObject),
        ("json schema", ConstraintSpec::JsonSchema(person)),
        ("regex", ConstraintSpec::Regex("[a-z ]{0,2000}".into())),
        ("choice", ConstraintSpec::Choice((0..1000).map(|i| format!("choice number {i}")).collect())),
        ("lark", ConstraintSpec::Lark("start: e\ne: e \"+\" e | \"(\" e \")\" | /[0-9]+/".into())),
    ]
}

/// Of one constraint's masks.
#[derive(Default)]
struct Times {
    masks: Vec<Duration>,
    first: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let tokenizer = Arc::new(Tokenizer::from_dir(&args.dir)?);
    let vocab_size =
        u32::try_from(tokenizer.vocab_size()).context("a vocabulary of less than 2^32 tokens")?;
    let compiler = Compiler::new(tokenizer.clone(), vocab_size, 1);
    let begun = Instant::now();
    compiler.compile(ConstraintSpec::Regex("x".into())).await.map_err(Error::msg)?;
    println!("vocabulary of {vocab_size}: {:.0?}, once", begun.elapsed());
    println!("{:12} {:>10} {:>12} {:>10} {:>10} {:>10}", "", "compile", "first token", "mean", "p99", "max");
    for (name, spec) in specs() {
        let begun = Instant::now();
        let constraint = compiler.compile(spec).await.map_err(Error::msg)?;
        let compile = begun.elapsed();
        let mut times = Times::default();
        for answer in 0..args.answers as u64 {
            let (mut progress, mut mask) = (constraint.begin(), constraint.first_mask().clone());
            for n in 0..args.tokens as u64 {
                let Some(token) = some_token(&tokenizer, &mask, answer * 7919 + n) else { break };
                let begun = Instant::now();
                mask = progress.advance(token).map_err(Error::msg)?;
                match n {
                    0 => times.first = times.first.max(begun.elapsed()),
                    _ => times.masks.push(begun.elapsed()),
                }
            }
        }
        times.print(name, compile);
    }
    Ok(())
}

impl Times {
    fn print(mut self, name: &str, compile: Duration) {
        self.masks.sort_unstable();
        let n = self.masks.len().max(1);
        let mean = self.masks.iter().sum::<Duration>() / n as u32;
        let at = |share: usize| self.masks.get((n * share / 100).min(n - 1)).copied().unwrap_or_default();
        println!(
            "{name:12} {compile:>10.1?} {:>12.1?} {mean:>10.1?} {:>10.1?} {:>10.1?}",
            self.first,
            at(99),
            at(100)
        );
    }
}

/// One of the allowed tokens that do not end the text.
fn some_token(tokenizer: &Tokenizer, mask: &TokenMask, salt: u64) -> Option<u32> {
    let n = tokenizer.vocab_size() as u32;
    let start = (salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 % n;
    let from_start = (start..n).chain(0..start);
    from_start.into_iter().find(|&id| mask.allows(id) && !tokenizer.eos_ids().contains(&id))
}
