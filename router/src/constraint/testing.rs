//! Constraints for the tests of this folder, the engine and the driver. Compiled for tests only.

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;

use super::progress::Constraint;
use super::vocabulary;
use crate::text::testing::tiktoken;

/// Rows of the logits of the model that belongs to `tiktoken()`: more than it has tokens, as in real ones.
pub(crate) const VOCAB_SIZE: u32 = 600;

/// Text over the test vocabulary that matches `regex`.
pub(crate) fn regex(regex: &str) -> Constraint {
    let factory = vocabulary::factory(&tiktoken(), VOCAB_SIZE as usize).expect("a sound vocabulary");
    let matcher = Matcher::new(factory.create_parser(TopLevelGrammar::from_regex(regex)));
    Constraint::new(matcher, VOCAB_SIZE as usize, [7; 32]).expect("a sound expression")
}
