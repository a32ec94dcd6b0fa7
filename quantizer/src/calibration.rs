//! The text that activations are measured on, as windows of token ids.
//!
//! Called once by `run`. The built-in text is prose, code and dialogue in several languages, written for this purpose;
//! it decides nothing but which input features count as important.

use std::fs;
use std::path::Path;

use text_generation_router::text::Tokenizer;

use crate::error::QuantizeError;

/// Tokens of a window: enough for attention to look back on, few enough to keep windows many.
const WINDOW: usize = 512;
/// Fewer tokens say too little about a model's activations.
const FEWEST: usize = 256;
const LARGEST_TEXT: u64 = 256 << 20;
const BUILT_IN: &str = include_str!("calibration.txt");

/// The text of `file`, or the built-in one.
pub(crate) fn text(file: Option<&Path>) -> Result<String, QuantizeError> {
    let Some(path) = file else { return Ok(BUILT_IN.to_owned()) };
    let length = fs::metadata(path).map_err(QuantizeError::io(path))?.len();
    if length > LARGEST_TEXT {
        return Err(QuantizeError::Argument(format!(
            "--calibration: {} is {length} bytes long, expected at most {LARGEST_TEXT}",
            path.display()
        )));
    }
    fs::read_to_string(path).map_err(QuantizeError::io(path))
}

/// Cuts the text into windows of at most [`WINDOW`] tokens, `n_tokens` in all, spread evenly over it. Each begins as
/// the tokenizer begins a text (with a BOS where the model has one).
pub(crate) fn windows(model: &Path, text: &str, n_tokens: usize) -> Result<Vec<Vec<u32>>, QuantizeError> {
    let tokenizer = Tokenizer::from_dir(model)?;
    let ids = tokenizer.encode(text, false)?.ids;
    let prefix = tokenizer.encode("", true)?.ids;
    let cut = cut(&ids, n_tokens);
    let n_used: usize = cut.iter().map(|window| window.len()).sum();
    if n_used < FEWEST {
        return Err(QuantizeError::Argument(format!(
            "the calibration text gives {n_used} tokens, expected at least {FEWEST}; give a longer text or more \
             --calibration-tokens"
        )));
    }
    Ok(cut.into_iter().map(|window| prefix.iter().chain(window).copied().collect()).collect())
}

fn cut(ids: &[u32], n_tokens: usize) -> Vec<&[u32]> {
    let whole: Vec<&[u32]> = ids.chunks(WINDOW).collect();
    let wanted = n_tokens.div_ceil(WINDOW).min(whole.len());
    // The first of each of `wanted` equal stretches.
    (0..wanted).map(|i| whole[i * whole.len() / wanted]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_spread_over_the_text() {
        let ids: Vec<u32> = (0..(WINDOW as u32 * 10 + 7)).collect();
        assert_eq!(cut(&ids, usize::MAX).concat(), ids);
        let few = cut(&ids, 2 * WINDOW);
        assert_eq!(few.iter().map(|window| window[0]).collect::<Vec<_>>(), [0, 5 * WINDOW as u32]);
        assert!(cut(&[], 100).is_empty());
        assert_eq!(cut(&ids[..100], 1).concat(), ids[..100]);
    }

    #[test]
    fn the_built_in_text_is_long_enough_and_varied() {
        let text = text(None).expect("built in");
        assert!(text.len() > 30_000, "{} bytes", text.len());
        for part in ["<|im_start|>user", "def ", "fn ", "。", "SELECT", "#include"] {
            assert!(text.contains(part), "{part}");
        }
    }
}
