//! What the flags ask for against what the model folder says about itself: quantisation method and
//! the number of positions. Whether the architecture is supported, and whether tensors are whole,
//! is the shard's to say.

use crate::args::{LimitArgs, Quantization};
use crate::error::LauncherError;
use crate::model::{ModelFacts, Positions, QuantizationFact};

/// Methods whose checkpoints the shard reads.
const SERVED: [&str; 2] = ["awq", "gptq"];

/// Checks `--quantize` and the token limits against the checkpoint.
///
/// # Errors
/// [`LauncherError::ArgumentValidation`] for the first contradiction.
pub fn check_model(
    facts: &ModelFacts,
    quantize: Option<Quantization>,
    limits: &LimitArgs,
) -> Result<(), LauncherError> {
    let violation = quantization(facts.quantization.as_ref(), quantize)
        .or_else(|| facts.positions.as_ref().and_then(|positions| too_long(positions, limits)));
    violation.map_or(Ok(()), |message| Err(LauncherError::argument(message)))
}

fn quantization(found: Option<&QuantizationFact>, asked: Option<Quantization>) -> Option<String> {
    match (asked, found) {
        (Some(asked), Some(found)) if asked.to_string() != found.method => Some(format!(
            "`quantize` is {asked} but the checkpoint is quantised with {} ({}). \
             Leave --quantize out to follow the checkpoint; this release serves awq and gptq",
            found.method, found.source
        )),
        (Some(asked @ (Quantization::Awq | Quantization::Gptq)), None) => Some(format!(
            "`quantize` is {asked} but the checkpoint is not quantised: neither config.json (`quantization_config`) nor \
             quant_config.json nor quantize_config.json names a method. Leave --quantize out to serve it as it is"
        )),
        (Some(asked), _) if !SERVED.contains(&asked.to_string().as_str()) => Some(format!(
            "`quantize` = {asked} is not supported in this release. Supported: awq, gptq, or no --quantize for \
             float16, bfloat16 and float32 checkpoints"
        )),
        (None, Some(found)) if !SERVED.contains(&found.method.as_str()) => Some(format!(
            "the checkpoint is quantised with {} ({}), which this release does not serve. Supported: awq, gptq, float16, \
             bfloat16, float32",
            found.method, found.source
        )),
        _ => None,
    }
}

fn too_long(positions: &Positions, limits: &LimitArgs) -> Option<String> {
    if positions.extendable {
        return None;
    }
    let (name, asked) = match (limits.max_total_tokens, limits.max_input()) {
        (Some(total), _) => ("max_total_tokens", total),
        (None, Some(input)) => ("max_input_tokens", input),
        (None, None) => return None,
    };
    (u64::from(asked) > positions.limit).then(|| {
        format!(
            "`{name}` must be <= the model's {} positions (`{}` in config.json). Given: {asked}",
            positions.limit, positions.field
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse_from;

    fn facts(method: Option<&str>, extendable: bool) -> ModelFacts {
        ModelFacts {
            positions: Some(Positions { limit: 8192, field: "max_position_embeddings", extendable }),
            quantization: method.map(|method| QuantizationFact {
                method: method.to_owned(),
                source: "config.json".to_owned(),
            }),
        }
    }

    fn check(flags: &str, facts: &ModelFacts) -> Option<String> {
        let argv = std::iter::once("launcher").chain(flags.split_whitespace());
        let args = parse_from(argv).expect("flags parse").cli.args;
        let error = check_model(facts, args.model.quantize, &args.limits).err()?;
        Some(error.to_string())
    }

    #[test]
    fn quantisation() {
        let accepted = [
            ("", None),
            ("", Some("awq")),
            ("--quantize awq", Some("awq")),
            ("", Some("gptq")),
            ("--quantize gptq", Some("gptq")),
        ];
        for (flags, method) in accepted {
            assert_eq!(check(flags, &facts(method, false)), None, "{flags} {method:?}");
        }
        let refused = [
            ("--quantize gptq", Some("awq"), "`quantize` is gptq but the checkpoint is quantised with awq"),
            ("--quantize awq", Some("gptq"), "`quantize` is awq but the checkpoint is quantised with gptq"),
            ("--quantize awq", None, "the checkpoint is not quantised"),
            ("--quantize bitsandbytes-nf4", None, "`quantize` = bitsandbytes-nf4 is not supported"),
            ("--quantize gptq", None, "`quantize` is gptq but the checkpoint is not quantised"),
            ("--quantize exl2", Some("exl2"), "`quantize` = exl2 is not supported"),
            ("", Some("exl2"), "the checkpoint is quantised with exl2 (config.json), which this release"),
        ];
        for (flags, method, part) in refused {
            let message = check(flags, &facts(method, false)).unwrap_or_default();
            assert!(message.contains(part), "{flags} {method:?}: {message}");
        }
    }

    #[test]
    fn positions() {
        let cases = [
            ("--max-total-tokens 8192", false, None),
            (
                "--max-total-tokens 8193",
                false,
                Some("`max_total_tokens` must be <= the model's 8192 positions"),
            ),
            (
                "--max-input-tokens 9000",
                false,
                Some("`max_input_tokens` must be <= the model's 8192 positions"),
            ),
            ("--max-total-tokens 8193", true, None),
            ("", false, None),
        ];
        for (flags, extendable, part) in cases {
            let message = check(flags, &facts(None, extendable));
            match part {
                None => assert_eq!(message, None, "{flags}"),
                Some(part) => {
                    assert!(message.as_deref().unwrap_or_default().contains(part), "{flags}: {message:?}")
                }
            }
        }
    }
}
