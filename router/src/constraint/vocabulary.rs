//! The tokenizer's vocabulary as llguidance wants it: a trie of the tokens' bytes. Made once, by the first
//! constraint that is compiled, because it takes tenths of a second.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};

use crate::text::Tokenizer;

/// Longer tokens are never allowed: the trie is walked recursively, byte by byte.
const MAX_TOKEN_BYTES: usize = 1024;

/// What bounds the time and memory of one constraint, in the library's units.
fn set_limits(factory: &mut ParserFactory) {
    let limits = factory.limits_mut();
    limits.max_grammar_size = 100_000;
    limits.max_lexer_states = 50_000;
    limits.initial_lexer_fuel = 1_000_000;
    limits.step_lexer_fuel = 200_000;
    limits.verbose_errors = false;
}

/// A factory for `vocab_size` tokens, those that the model has logits for.
///
/// # Errors
/// A vocabulary without a token that ends a text.
pub fn factory(tokenizer: &Tokenizer, vocab_size: usize) -> Result<ParserFactory, String> {
    let eos: Vec<u32> =
        tokenizer.eos_ids().iter().copied().filter(|&id| (id as usize) < vocab_size).collect();
    let Some(&first) = eos.first() else {
        return Err("the model has no token that ends a text".into());
    };
    let words: Vec<Vec<u8>> = (0..vocab_size as u32).map(|id| word(tokenizer, id)).collect();
    let info = TokRxInfo::new(vocab_size as u32, first);
    let trie = TokTrie::from(&info, &words).with_eos_tokens(&eos);
    // Approximate: texts are never tokenized here, as no token is ever forced.
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let slices = SlicedBiasComputer::general_slices();
    let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices);
    let mut factory = factory.map_err(|error| error.to_string())?;
    factory.quiet();
    set_limits(&mut factory);
    Ok(factory)
}

/// A token's bytes; special tokens begin with a byte that no text has.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    if bytes.is_empty() || bytes.len() > MAX_TOKEN_BYTES {
        return Vec::new();
    }
    match tokenizer.is_special(id) {
        true => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
        false => bytes.to_vec(),
    }
}
