//! The sampler against its definitions, written out naively in float64.

use proptest::prelude::*;

use super::*;

const OFF: SamplingParameters = SamplingParameters::GREEDY;

fn sample(logits: &[f32], parameters: &SamplingParameters, position: usize) -> Sampled {
    let counts = TokenCounts::default();
    Sampler::default().sample(logits, &plain(parameters, &counts, position)).unwrap()
}

fn plain<'a>(parameters: &'a SamplingParameters, counts: &'a TokenCounts, position: usize) -> Draw<'a> {
    Draw { parameters, counts, bias: &[], allowed: &[], position }
}

/// Probabilities of a list of logits, -inf included.
fn softmax_f64(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// Removes all tokens after the shortest prefix of `order` whose mass reaches `p`, unless `tied`
/// with its last. `None` when the mass comes so close to `p` that rounding decides.
fn cut(logits: &mut [f64], order: &[usize], p: f64, tied: impl Fn(usize, usize) -> bool) -> Option<()> {
    let probabilities = softmax_f64(logits);
    let (mut mass, mut last) = (0.0, None);
    for &id in order {
        if mass < p {
            last = Some(id);
        } else if !last.is_some_and(|last| tied(id, last)) {
            logits[id] = f64::NEG_INFINITY;
        }
        mass += probabilities[id];
        if (mass - p).abs() < 1e-5 {
            return None;
        }
    }
    Some(())
}

/// The warped distribution by definition: `None` when rounding decides.
fn naive(logits: &[f32], parameters: &SamplingParameters) -> Option<Vec<f64>> {
    let mut x: Vec<f64> = logits.iter().map(|&x| f64::from(x) / f64::from(parameters.temperature)).collect();
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    if parameters.top_k > 0 && parameters.top_k < x.len() {
        let threshold = x[order[parameters.top_k - 1]];
        x.iter_mut().filter(|x| **x < threshold).for_each(|x| *x = f64::NEG_INFINITY);
    }
    order.retain(|&id| x[id].is_finite());
    if parameters.top_p < 1.0 {
        cut(&mut x, &order, parameters.top_p.into(), |_, _| false)?;
    }
    order.retain(|&id| x[id].is_finite());
    if parameters.typical_p < 1.0 {
        let probabilities = softmax_f64(&x);
        let surprisal: Vec<f64> = probabilities.iter().map(|p| -p.ln()).collect();
        let entropy: f64 = order.iter().map(|&id| probabilities[id] * surprisal[id]).sum();
        let distance: Vec<f64> = surprisal.iter().map(|s| (s - entropy).abs()).collect();
        order.sort_by(|&a, &b| distance[a].total_cmp(&distance[b]).then(a.cmp(&b)));
        for pair in order.windows(2) {
            let gap = distance[pair[1]] - distance[pair[0]];
            if gap < 1e-4 && logits[pair[0]] != logits[pair[1]] {
                return None;
            }
        }
        cut(&mut x, &order, parameters.typical_p.into(), |a, b| logits[a] == logits[b])?;
    }
    Some(softmax_f64(&x))
}

fn warpers() -> impl Strategy<Value = SamplingParameters> {
    let share = prop_oneof![Just(1.0f32), 0.05f32..1.0];
    (0.2f32..3.0, 0usize..40, share.clone(), share, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, typical_p, seed)| SamplingParameters {
            do_sample: true,
            temperature,
            top_k,
            top_p,
            typical_p,
            seed,
            ..OFF
        },
    )
}

/// Logits with equals among them.
fn some_logits(max_len: usize) -> impl Strategy<Value = Vec<f32>> {
    let coarse = (-20i32..20).prop_map(|x| x as f32 * 0.5);
    prop::collection::vec(prop_oneof![1 => coarse, 3 => -10.0f32..10.0], 1..max_len)
}

proptest! {
    #[test]
    fn warped_distribution_is_the_definition(logits in some_logits(900), parameters in warpers()) {
        let Some(expected) = naive(&logits, &parameters) else { return Ok(()) };
        let all = SamplingParameters { top_n_tokens: logits.len(), ..parameters };
        let got = sample(&logits, &all, 3);
        // Far below the largest, a float32 exponential is zero and the definition's is not.
        let possible = expected.iter().filter(|p| **p > 0.0).count();
        prop_assert_eq!(got.top.len(), possible);
        for token in &got.top {
            let expected = expected[token.id as usize].ln();
            prop_assert!((f64::from(token.logprob) - expected).abs() < 1e-4 * expected.abs().max(1.0));
        }
        let chosen = got.top.iter().find(|t| t.id == got.token.id);
        prop_assert_eq!(chosen, Some(&got.token));
        let sorted = got.top.is_sorted_by(|a, b| {
            a.logprob > b.logprob || (logits[a.id as usize] == logits[b.id as usize] && a.id < b.id)
                || (a.logprob == b.logprob && logits[a.id as usize] > logits[b.id as usize])
        });
        prop_assert!(sorted, "{:?}", got.top);
    }

    #[test]
    fn bias_and_mask_leave_the_distribution_of_the_rest(
        logits in some_logits(300), warpers in warpers(), do_sample in any::<bool>(),
        biases in prop::collection::btree_map(0u32..300, -100f32..100.0, 0..5),
        bits in prop::collection::vec(any::<u8>(), 40), keep_all in any::<bool>(),
    ) {
        let bias: Vec<(u32, f32)> = biases.into_iter().collect();
        let allowed = if keep_all { vec![] } else { bits };
        let is_kept = |id: &usize| keep_all || allowed[id / 8] >> (id % 8) & 1 == 1;
        let kept: Vec<usize> = (0..logits.len()).filter(is_kept).collect();
        prop_assume!(!kept.is_empty());
        let added = |id: usize| bias.iter().find(|(token, _)| *token as usize == id).map_or(0.0, |(_, x)| *x);
        let rest: Vec<f32> = kept.iter().map(|&id| logits[id] + added(id)).collect();
        let parameters = if do_sample { warpers } else { OFF };
        let Some(expected) = naive(&rest, &parameters) else { return Ok(()) };
        let all = SamplingParameters { top_n_tokens: logits.len(), ..parameters };
        let counts = TokenCounts::default();
        let draw = Draw { bias: &bias, allowed: &allowed, ..plain(&all, &counts, 3) };
        let got = Sampler::default().sample(&logits, &draw).unwrap();
        for token in &got.top {
            let place = kept.iter().position(|&id| id == token.id as usize);
            let expected = expected[place.unwrap()].ln();
            prop_assert!((f64::from(token.logprob) - expected).abs() < 1e-4 * expected.abs().max(1.0));
        }
        prop_assert!(got.top.contains(&got.token));
        prop_assert!(do_sample || got.top[0] == got.token);
        // What is likely enough to be reported by one is reported by the other.
        let certain = expected.iter().filter(|p| **p > 1e-30).count();
        prop_assert!(got.top.len() >= certain, "{} of {certain}", got.top.len());
    }

    #[test]
    fn greedy_is_the_first_maximum_and_its_softmax(logits in some_logits(300), n in 0usize..8) {
        let got = sample(&logits, &SamplingParameters { top_n_tokens: n, ..OFF }, 0);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        prop_assert_eq!(logits.iter().position(|&x| x == max), Some(got.token.id as usize));
        let exact: Vec<f64> = logits.iter().map(|&x| x.into()).collect();
        let expected = softmax_f64(&exact)[got.token.id as usize].ln();
        prop_assert!((f64::from(got.token.logprob) - expected).abs() < 1e-5);
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        ids.truncate(n);
        prop_assert_eq!(got.top.iter().map(|t| t.id).collect::<Vec<_>>(), ids);
    }

    #[test]
    fn a_used_sampler_gives_what_a_fresh_one_gives(
        first in some_logits(400), second in some_logits(400), parameters in warpers(), position in 0usize..99,
    ) {
        let mut used = Sampler::default();
        let counts = TokenCounts::default();
        let draw = plain(&parameters, &counts, position);
        used.sample(&first, &draw).unwrap();
        prop_assert_eq!(used.sample(&second, &draw).unwrap(), sample(&second, &parameters, position));
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = (0..600).map(|i| ((i * 7919) % 600) as f32 / 100.0).collect();
    for parameters in [
        SamplingParameters { do_sample: true, seed: 11, ..OFF },
        SamplingParameters { do_sample: true, seed: 12, temperature: 0.5, top_k: 20, ..OFF },
        SamplingParameters { do_sample: true, seed: 13, top_p: 0.3, ..OFF },
        SamplingParameters { do_sample: true, seed: 14, typical_p: 0.4, ..OFF },
    ] {
        let expected = naive(&logits, &parameters).unwrap();
        let (draws, buckets) = (20_000, 12);
        let mut difference = vec![0f64; buckets];
        for (id, p) in expected.iter().enumerate() {
            difference[id % buckets] -= p * draws as f64;
        }
        for position in 0..draws {
            difference[sample(&logits, &parameters, position).token.id as usize % buckets] += 1.0;
        }
        for (bucket, d) in difference.iter().enumerate() {
            // Five standard deviations of the fullest possible bucket.
            assert!(d.abs() < 5.0 * (draws as f64 / 4.0).sqrt(), "{parameters:?} bucket {bucket}: {d}");
        }
    }
}

#[test]
fn seed_and_position_decide_the_draw() {
    let logits = vec![0.0; 5000];
    let with = |seed| SamplingParameters { do_sample: true, seed, ..OFF };
    let id = |seed, position| sample(&logits, &with(seed), position).token.id;
    assert_eq!(id(1, 5), id(1, 5));
    assert_ne!(id(1, 5), id(2, 5));
    assert_ne!(id(1, 5), id(1, 6));
}

#[test]
fn extreme_temperatures_stay_finite() {
    let logits = [-3e38, 1.0, 3e38, 2.0];
    for temperature in [f32::MIN_POSITIVE, 1e-30, 1.0, 1e30] {
        let parameters = SamplingParameters { do_sample: true, temperature, top_n_tokens: 4, ..OFF };
        let got = sample(&logits, &parameters, 9);
        assert!(got.token.logprob.is_finite() && got.top.iter().all(|t| t.logprob.is_finite()));
        assert!(temperature > 1.0 || got.token.id == 2);
    }
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for parameters in [
            OFF,
            SamplingParameters { repetition_penalty: 1.1, ..OFF },
            SamplingParameters { do_sample: true, top_k: 2, ..OFF },
        ] {
            let mut counts = TokenCounts::default();
            counts.add_prompt(1);
            let draw = plain(&parameters, &counts, 0);
            // Not even where no token is allowed.
            for draw in [draw, Draw { allowed: &[5, 0, 0, 0], ..draw }, Draw { bias: &[(0, 1.0)], ..draw }] {
                let got = Sampler::default().sample(&[0.0, bad, 1.0], &draw);
                assert_eq!(got, Err(NotFinite), "{bad} {draw:?}");
            }
        }
    }
}

#[test]
fn parameters_are_checked() {
    let sampling = SamplingParameters { do_sample: true, ..OFF };
    let cases = [
        (OFF, true),
        (sampling, true),
        // Greedy ignores the warpers, whatever they hold.
        (SamplingParameters { temperature: 0.0, top_p: 7.0, ..OFF }, true),
        (SamplingParameters { temperature: 0.0, ..sampling }, false),
        (SamplingParameters { temperature: f32::NAN, ..sampling }, false),
        (SamplingParameters { temperature: f32::INFINITY, ..sampling }, false),
        (SamplingParameters { top_p: 0.0, ..sampling }, false),
        (SamplingParameters { top_p: 1.5, ..sampling }, false),
        (SamplingParameters { typical_p: -1.0, ..sampling }, false),
        (SamplingParameters { repetition_penalty: 0.0, ..OFF }, false),
        (SamplingParameters { frequency_penalty: f32::NAN, ..OFF }, false),
        (SamplingParameters { presence_penalty: f32::INFINITY, ..OFF }, false),
    ];
    for (parameters, good) in cases {
        assert_eq!(parameters.check().is_ok(), good, "{parameters:?}: {:?}", parameters.check());
    }
}
