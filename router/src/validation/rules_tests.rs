//! Every validation text, in a table, and the order of the checks.

use super::super::Input;
use super::*;

const RULES: Rules = Rules { max_best_of: 2, max_stop_sequences: 4, max_top_n_tokens: 5 };
const LIMITS: Limits = Limits {
    max_input_tokens: 100,
    max_total_tokens: 120,
    max_batch_prefill_tokens: 100,
    max_batch_total_tokens: 1000,
    max_batch_size: 8,
    prefix_caching: true,
};

fn draft(edit: impl FnOnce(&mut Draft)) -> Draft {
    let mut draft = Draft::new(Input::Text("x".into()), 99);
    edit(&mut draft);
    draft
}

/// The result of one change to a valid request: its refusal, or "".
fn check_one(edit: impl FnOnce(&mut Draft)) -> String {
    match check(&draft(edit), &RULES, 100) {
        Ok(_) => String::new(),
        Err(refusal) => refusal.0,
    }
}

#[test]
fn texts() {
    type Edit = fn(&mut Draft);
    let cases: &[(Edit, &str)] = &[
        (|_| {}, ""),
        (|d| d.best_of = Some(2), "you must use sampling when `best_of` is > 1"),
        (|d| (d.best_of, d.choice.top_k) = (Some(2), Some(3)), ""),
        (|d| d.choice.temperature = Some(0.0), "`temperature` must be strictly positive"),
        (|d| d.choice.temperature = Some(-1.0), "`temperature` must be strictly positive"),
        (|d| d.choice.temperature = Some(f32::INFINITY), "`temperature` must be strictly positive"),
        (|d| d.choice.temperature = Some(f32::NAN), "`temperature` must be strictly positive"),
        (|d| d.choice.repetition_penalty = Some(0.0), "`repetition_penalty` must be strictly positive"),
        (|d| d.choice.frequency_penalty = Some(2.1), "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        (|d| d.choice.frequency_penalty = Some(-2.0), ""),
        (|d| d.choice.presence_penalty = Some(-2.1), "`presence_penalty` must be >= -2.0 and <= 2.0"),
        (|d| d.choice.top_p = Some(1.0), "`top_p` must be > 0.0 and < 1.0"),
        (|d| d.choice.top_p = Some(0.0), "`top_p` must be > 0.0 and < 1.0"),
        (|d| d.choice.typical_p = Some(1.0), "`typical_p` must be > 0.0 and < 1.0"),
        (|d| d.choice.top_k = Some(0), "`top_k` must be strictly positive"),
        (|d| d.choice.top_k = Some(-1), "`top_k` must be strictly positive"),
        (|d| d.max_new_tokens = Some(0), "`max_new_tokens` must be strictly positive"),
        (|d| d.stop = vec!["a".into(); 5], "`stop` supports up to 4 stop sequences. Given: 5"),
        (
            |d| (d.best_of, d.choice.do_sample, d.choice.seed) = (Some(2), true, Some(1)),
            "`seed` must not be set when `best_of` > 1",
        ),
        (|d| d.top_n_tokens = 6, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        (|d| d.input = Input::Text(String::new()), "`inputs` cannot be empty"),
        (|d| d.truncate = Some(0), "`truncate` must be strictly positive and less than 100. Given: 0"),
        (|d| d.truncate = Some(101), "`truncate` must be strictly positive and less than 100. Given: 101"),
        (|d| d.truncate = Some(100), ""),
    ];
    for (index, (edit, expected)) in cases.iter().enumerate() {
        assert_eq!(&check_one(edit), expected, "case {index}");
    }
}

/// Each step breaks the next rule before those already broken: the earliest one is the answer.
#[test]
fn order() {
    let mut broken = draft(|d| d.truncate = Some(0));
    type Edit = fn(&mut Draft);
    let steps: &[(Edit, &str)] = &[
        (|d| d.input = Input::Ids(vec![]), "`inputs`"),
        (|d| d.top_n_tokens = 6, "`top_n_tokens`"),
        (|d| (d.best_of, d.choice.do_sample, d.choice.seed) = (Some(2), true, Some(1)), "`seed`"),
        (|d| d.stop = vec!["a".into(); 5], "`stop`"),
        (|d| d.max_new_tokens = Some(0), "`max_new_tokens`"),
        (|d| d.choice.top_k = Some(0), "`top_k`"),
        (|d| d.choice.typical_p = Some(0.0), "`typical_p`"),
        (|d| d.choice.top_p = Some(0.0), "`top_p`"),
        (|d| d.choice.frequency_penalty = Some(3.0), "`frequency_penalty`"),
        (|d| d.choice.repetition_penalty = Some(0.0), "`repetition_penalty`"),
        (|d| d.choice.temperature = Some(0.0), "`temperature`"),
    ];
    for (edit, expected) in steps {
        edit(&mut broken);
        let text = check(&broken, &RULES, 100).unwrap_err().0;
        assert!(text.starts_with(expected), "{text} instead of {expected}");
    }
}

#[test]
fn lengths() {
    let sum = "`inputs` tokens + `max_new_tokens` must be <= 120. Given: ";
    for (n_input, max_new, expected) in [
        (100, Some(20), Ok(20)),
        (100, None, Ok(20)),
        (1, None, Ok(119)),
        (1, Some(119), Ok(119)),
        (1, Some(120), Err(format!("{sum}1 `inputs` tokens and 120 `max_new_tokens`"))),
        (101, Some(1), Err("`inputs` must have less than 100 tokens. Given: 101".into())),
        (101, Some(20), Err(format!("{sum}101 `inputs` tokens and 20 `max_new_tokens`"))),
        (200, None, Err(format!("{sum}200 `inputs` tokens and 0 `max_new_tokens`"))),
        (5, Some(u32::MAX), Err(format!("{sum}5 `inputs` tokens and {} `max_new_tokens`", u32::MAX))),
    ] {
        assert_eq!(check_lengths(n_input, max_new, &LIMITS).map_err(|e| e.0), expected, "{n_input}");
    }
}

#[test]
fn biases_are_bounded() {
    let many = (0..1025).map(|id| (id, 1.0)).collect::<Vec<_>>();
    for (biases, expected) in [
        (&[][..], ""),
        (&[(0, -100.0), (7, 100.0)], ""),
        (&many[..1024], ""),
        (&many, "`logit_bias` supports up to 1024 tokens. Given: 1025"),
        (&[(1, 100.5)], "`logit_bias` values must be >= -100.0 and <= 100.0. Given: 100.5"),
        (&[(1, f32::NAN)], "`logit_bias` values must be >= -100.0 and <= 100.0. Given: NaN"),
    ] {
        assert_eq!(check_bias(biases).map_or_else(|e| e.0, |()| String::new()), expected);
    }
}

#[test]
fn best_of_and_streaming() {
    let one = Rules { max_best_of: 1, ..RULES };
    let text = |result: Result<(), Refusal>| result.map_or_else(|e| e.0, |()| String::new());
    assert_eq!(text(check_best_of(None, &RULES)), "");
    assert_eq!(text(check_best_of(Some(2), &RULES)), "");
    assert_eq!(text(check_best_of(Some(3), &RULES)), "`best_of` must be > 0 and <= 2. Given: 3");
    assert_eq!(text(check_best_of(Some(0), &RULES)), "`best_of` must be > 0 and <= 2. Given: 0");
    assert_eq!(text(check_best_of(Some(2), &one)), "`best_of` != 1 is not allowed for this endpoint");
    assert_eq!(
        text(check_streaming(Some(2), false)),
        "`best_of` != 1 is not supported when streaming tokens"
    );
    assert_eq!(
        text(check_streaming(None, true)),
        "`decoder_input_details` == true is not supported when streaming tokens"
    );
}

#[test]
fn sampling_is_on_only_when_something_asks_for_it() {
    type Edit = fn(&mut SamplingChoice);
    let cases: &[(Edit, bool)] = &[
        (|_| {}, false),
        (|c| c.temperature = Some(1.0), false),
        (|c| c.temperature = Some(0.7), true),
        (|c| c.do_sample = true, true),
        (|c| c.top_k = Some(5), true),
        (|c| c.top_p = Some(0.9), true),
        (|c| c.typical_p = Some(0.9), true),
        (|c| c.repetition_penalty = Some(1.2), false),
        (|c| c.seed = Some(3), false),
    ];
    for (index, (edit, expected)) in cases.iter().enumerate() {
        let mut choice = SamplingChoice::default();
        edit(&mut choice);
        assert_eq!(choice.resolve(99, 0).do_sample, *expected, "case {index}");
    }
    assert_eq!(SamplingChoice::default().resolve(99, 0).seed, 99);
    assert_eq!(SamplingChoice { seed: Some(3), ..Default::default() }.resolve(99, 0).seed, 3);
}
