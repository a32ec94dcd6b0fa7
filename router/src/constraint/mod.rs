//! What a generated text must look like, whichever of the APIs' fields said so.
//!
//! `api` makes a `ConstraintSpec` of a request's fields, `validation` takes it with the `Draft`. Nothing here
//! knows JSON requests or HTTP.

use serde_json::Value;

/// A constraint on the whole generated text. Nothing in it is checked yet: that is the compiler's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstraintSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid under this schema.
    JsonSchema(Value),
    /// Text that matches the regular expression from its first to its last character.
    Regex(String),
    /// Text of the language of a grammar: Lark's notation, start symbol `start`.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
}
