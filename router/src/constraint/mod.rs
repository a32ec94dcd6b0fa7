//! Constrained answers: what a text must look like, and which tokens keep it so.
//!
//! `api` makes a `ConstraintSpec` of a request's fields; `validation` has the `Compiler` make a `Constraint`
//! of it, with the mask of the first token; the driver sends each sampled token to a worker, whose `Progress`
//! gives the mask of the next; the engine sends masks to the shard. Grammars and automata are llguidance's.

mod compiler;
mod ebnf;
mod grammar;
mod json_schema;
mod mask;
mod progress;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod vocabulary;

use serde_json::Value;

pub use compiler::Compiler;
pub use json_schema::close;
pub use mask::TokenMask;
pub use progress::{Constraint, Progress};

/// A constraint on the whole generated text. Nothing in it is checked yet: that is the compiler's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstraintSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid under this schema; its objects are closed (see [`close`]).
    JsonSchema(Value),
    /// Text that matches the regular expression from its first to its last character.
    Regex(String),
    /// Text of the language of a grammar: Lark's notation with start symbol `start`, or EBNF with `::=` and
    /// start symbol `root`.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
}
