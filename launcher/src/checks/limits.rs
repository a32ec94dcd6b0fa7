//! The relations between the limits on tokens, batches and requests.
//!
//! One ordered list of conditions, TGI's texts first and in TGI's order. A prompt longer than
//! `max_batch_prefill_tokens` is no error: it is computed in chunks.

use crate::args::LimitArgs;
use crate::error::LauncherError;

/// The first relation that the limits violate.
///
/// # Errors
/// [`LauncherError::ArgumentValidation`] with the values that contradict each other.
pub fn check_limits(limits: &LimitArgs) -> Result<(), LauncherError> {
    let violation = relation(limits).or_else(|| not_positive(limits)).or_else(|| bad_ratio(limits));
    violation.map_or(Ok(()), |message| Err(LauncherError::argument(message)))
}

fn relation(limits: &LimitArgs) -> Option<String> {
    if let (Some(tokens), Some(length)) = (limits.max_input_tokens, limits.max_input_length) {
        return Some(format!(
            "Both `max_input_tokens` ({tokens}) and `max_input_length` ({length}) are set. \
             They are two names of one limit: set only `max_input_tokens`"
        ));
    }
    if let (Some(input), Some(total)) = (limits.max_input(), limits.max_total_tokens)
        && input >= total
    {
        return Some(format!("`max_input_tokens`({input}) must be < `max_total_tokens`({total})"));
    }
    if limits.validation_workers == 0 {
        return Some("`validation_workers` must be > 0".to_owned());
    }
    let batch_total = limits.max_batch_total_tokens?;
    if let Some(total) = limits.max_total_tokens
        && total > batch_total
    {
        return Some(format!(
            "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: {total} and {batch_total}"
        ));
    }
    match limits.max_batch_prefill_tokens {
        Some(prefill) if prefill > batch_total => Some(format!(
            "`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: {prefill} and {batch_total}"
        )),
        _ => None,
    }
}

fn not_positive(limits: &LimitArgs) -> Option<String> {
    let is_zero = [
        ("max_batch_size", limits.max_batch_size == Some(0)),
        ("max_input_tokens", limits.max_input() == Some(0)),
        ("max_total_tokens", limits.max_total_tokens == Some(0)),
        ("max_batch_prefill_tokens", limits.max_batch_prefill_tokens == Some(0)),
        ("max_batch_total_tokens", limits.max_batch_total_tokens == Some(0)),
        ("max_concurrent_requests", limits.max_concurrent_requests == 0),
        ("max_best_of", limits.max_best_of == 0),
        ("max_client_batch_size", limits.max_client_batch_size == 0),
        ("payload_limit", limits.payload_limit == 0),
    ];
    is_zero.iter().find(|(_, zero)| *zero).map(|(name, _)| format!("`{name}` must be > 0"))
}

fn bad_ratio(limits: &LimitArgs) -> Option<String> {
    let ratio = limits.waiting_served_ratio;
    let usable = ratio.is_finite() && ratio >= 0.0;
    (!usable).then(|| format!("`waiting_served_ratio` must be a number >= 0. Given: {ratio}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse_from;

    fn check(flags: &str) -> Result<(), String> {
        let argv = std::iter::once("launcher").chain(flags.split_whitespace());
        let limits = parse_from(argv).expect("flags parse").cli.args.limits;
        check_limits(&limits).map_err(|error| error.to_string())
    }

    #[test]
    fn accepts_limits_that_agree() {
        for flags in [
            "",
            "--max-input-length 3696 --max-total-tokens 4096 --max-batch-prefill-tokens 4096",
            "--max-input-tokens 3696 --max-total-tokens 4096 --max-batch-prefill-tokens 512",
            "--max-total-tokens 4096 --max-batch-total-tokens 4096 --max-batch-prefill-tokens 4096",
            "--max-batch-size 1 --max-waiting-tokens 0 --waiting-served-ratio 0 --max-top-n-tokens 0",
        ] {
            assert_eq!(check(flags), Ok(()), "{flags}");
        }
    }

    #[test]
    fn refuses_limits_that_contradict() {
        let cases = [
            (
                "--max-input-tokens 10 --max-input-length 20",
                "Both `max_input_tokens` (10) and `max_input_length` (20) are set. \
                 They are two names of one limit: set only `max_input_tokens`",
            ),
            (
                "--max-input-tokens 4096 --max-total-tokens 4096",
                "`max_input_tokens`(4096) must be < `max_total_tokens`(4096)",
            ),
            (
                "--max-input-length 5000 --max-total-tokens 4096",
                "`max_input_tokens`(5000) must be < `max_total_tokens`(4096)",
            ),
            ("--validation-workers 0", "`validation_workers` must be > 0"),
            (
                "--max-total-tokens 4096 --max-batch-total-tokens 2048",
                "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 4096 and 2048",
            ),
            (
                "--max-batch-prefill-tokens 4096 --max-batch-total-tokens 2048",
                "`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: 4096 and 2048",
            ),
            ("--max-batch-size 0", "`max_batch_size` must be > 0"),
            ("--max-input-tokens 0", "`max_input_tokens` must be > 0"),
            ("--max-total-tokens 0", "`max_total_tokens` must be > 0"),
            ("--max-batch-prefill-tokens 0", "`max_batch_prefill_tokens` must be > 0"),
            ("--max-batch-total-tokens 0", "`max_batch_total_tokens` must be > 0"),
            ("--max-concurrent-requests 0", "`max_concurrent_requests` must be > 0"),
            ("--max-best-of 0", "`max_best_of` must be > 0"),
            ("--max-client-batch-size 0", "`max_client_batch_size` must be > 0"),
            ("--payload-limit 0", "`payload_limit` must be > 0"),
            ("--waiting-served-ratio=-1", "`waiting_served_ratio` must be a number >= 0. Given: -1"),
            ("--waiting-served-ratio NaN", "`waiting_served_ratio` must be a number >= 0. Given: NaN"),
        ];
        for (flags, message) in cases {
            assert_eq!(check(flags), Err(format!("ArgumentValidation(\"{message}\")")), "{flags}");
        }
    }
}
