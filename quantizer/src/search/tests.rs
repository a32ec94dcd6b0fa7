//! The searches on made-up layers: what they choose hurts the outputs less than plain rounding, and is packed as chosen.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use text_generation_checkpoint::awq::{Grid, LinearShape, PACK, PACK_ORDER};

use super::levels::{choose as choose_levels, round_trip};
use super::rounding::Rounded;
use super::{Rounding, Tied, choose_scale};
use crate::statistics::Statistics;

const GROUP: usize = 32;

/// A stream of numbers between -1 and 1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Array2<f32> {
        Array2::from_shape_simple_fn((rows, cols), || self.next())
    }
}

/// A layer `[n, k]` and activations `[tokens, k]` that go together, every 16th feature ten times as large.
fn layer(seed: u64, n: usize, k: usize) -> (Array2<f32>, Array2<f32>) {
    let mut numbers = Numbers(seed);
    let weight = numbers.matrix(n, k) / 10.0;
    let mut x = numbers.matrix(4 * k, k / 4).dot(&numbers.matrix(k / 4, k)) + numbers.matrix(4 * k, k);
    for feature in (0..k).step_by(16) {
        x.column_mut(feature).mapv_inplace(|value| value * 10.0);
    }
    (weight, x)
}

/// Mean squared error of `x wᵀ` when `rounded`, whose input is divided by `scale`, takes the place of `weight`.
fn output_error(x: &Array2<f32>, weight: &Array2<f32>, rounded: &Array2<f32>, scale: &Array1<f32>) -> f32 {
    let difference = rounded / scale - weight;
    x.dot(&difference.t()).mapv(|error| error * error).mean().unwrap_or_default()
}

fn rounded_plainly(weight: &Array2<f32>, scale: &Array1<f32>) -> Array2<f32> {
    let mut rounded = weight * scale;
    rounded.outer_iter_mut().for_each(|mut row| round_trip(row.as_slice_mut().expect("contiguous"), GROUP));
    rounded
}

fn dequantized(rounded: &Rounded) -> Array2<f32> {
    Array2::from_shape_fn(rounded.quants.dim(), |(n, k)| {
        let grid = rounded.grids[[n, k / GROUP]];
        (f32::from(rounded.quants[[n, k]]) - grid.zero) * grid.scale.to_f32()
    })
}

#[test]
fn each_search_lowers_the_error_of_the_outputs() {
    for (seed, n, k) in [(1, 24, 64), (2, 8, 128), (3, 100, 96)] {
        let (weight, x) = layer(seed, n, k);
        let (statistics, ones) = (Statistics::of(&x), Array1::ones(k));
        let scale = choose_scale(&[weight.view()], &statistics, GROUP, None);
        let searched = Rounding::new(&statistics, &scale, GROUP).round(&weight.view());
        let errors = [
            output_error(&x, &weight, &rounded_plainly(&weight, &ones), &ones),
            output_error(&x, &weight, &rounded_plainly(&weight, &scale), &scale),
            output_error(&x, &weight, &dequantized(&searched), &scale),
        ];
        assert!(errors[1] < 0.7 * errors[0] && errors[2] < 0.7 * errors[1], "{errors:?} for {n} x {k}");
    }
}

#[test]
fn the_statistics_error_is_the_outputs() {
    let (weight, x) = layer(4, 16, 320);
    let ones = Array1::ones(320);
    let rounded = rounded_plainly(&weight, &ones);
    let by_outputs = output_error(&x, &weight, &rounded, &ones) * 16.0;
    let by_statistics = Statistics::of(&x).error(&(&rounded - &weight).view()) as f32;
    assert!((by_outputs / by_statistics - 1.0).abs() < 1e-3, "{by_outputs} {by_statistics}");
}

#[test]
fn clipping_gives_up_a_weight_that_nothing_flows_through() {
    let mut weights = Numbers(5).matrix(1, GROUP) / 10.0;
    weights[[0, 3]] = 1.0;
    let mut factor = Array2::<f32>::eye(GROUP);
    let spanning = Grid::spanning(-0.1, 1.0);
    let kept = |factor: &Array2<f32>| choose_levels(&weights.view(), &factor.view())[0].scale;
    assert!(kept(&factor) > spanning.scale * half::f16::from_f32(0.9), "it matters: kept");
    factor[[3, 3]] = 1e-3;
    assert!(kept(&factor) < spanning.scale * half::f16::from_f32(0.7), "it does not: clipped");
}

#[test]
fn heads_that_share_values_share_their_scales() {
    let (weight, x) = layer(6, 32, 64);
    let tied = Tied { n_groups: 2, n_sharing: 2, head_dim: 16 };
    let scale = choose_scale(&[weight.view()], &Statistics::of(&x), GROUP, Some(tied));
    for group in [0, 32] {
        for i in 0..16 {
            assert_eq!(scale[group + i], scale[group + 16 + i]);
        }
    }
    assert!(scale.iter().any(|&s| s != scale[0]), "{scale}");
}

#[test]
fn dead_and_extreme_layers_give_finite_levels() {
    let (k, n) = (64, 8);
    let dead = Array2::zeros((10, k));
    let huge = Array2::from_elem((10, k), 1e15);
    let weights = [Array2::zeros((n, k)), Array2::from_elem((n, k), 6e4), Array2::from_elem((n, k), -1e-7)];
    for (x, weight) in [&dead, &huge].into_iter().flat_map(|x| weights.iter().map(move |w| (x, w))) {
        let statistics = Statistics::of(x);
        let scale = choose_scale(&[weight.view()], &statistics, GROUP, None);
        assert!(scale.iter().all(|s| s.is_finite() && *s > 0.0), "{scale}");
        let rounded = Rounding::new(&statistics, &scale, GROUP).round(&weight.view());
        assert!(rounded.grids.iter().all(|grid| grid.scale.is_finite()));
    }
}

#[test]
fn what_is_packed_is_what_was_rounded() {
    let (weight, x) = layer(7, 16, 64);
    let (statistics, ones) = (Statistics::of(&x), Array1::ones(64));
    let rounded = Rounding::new(&statistics, &ones, GROUP).round(&weight.view());
    let packed = rounded.pack(LinearShape::new(64, 16, GROUP).expect("a shape"));
    let value = |words: &[u32], row: usize, n: usize| {
        let nibble = PACK_ORDER.iter().position(|&column| column == n % PACK).expect("a column");
        (words[row * 16 / PACK + n / PACK] >> (4 * nibble)) as u8 & 15
    };
    for ((n, k), &quant) in rounded.quants.indexed_iter() {
        let grid = rounded.grids[[n, k / GROUP]];
        assert_eq!(value(&packed.qweight, k, n), quant);
        assert_eq!(f32::from(value(&packed.qzeros, k / GROUP, n)), grid.zero);
        assert_eq!(packed.scales[k / GROUP * 16 + n], grid.scale);
    }
}

#[test]
fn threads_and_joining_change_nothing() {
    let (weight, x) = layer(8, 200, 64);
    let run = |n_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
        pool.install(|| {
            let statistics = Statistics::of(&x);
            let halves: Vec<ArrayView2<f32>> = weight.axis_chunks_iter(Axis(0), 100).collect();
            let scale = choose_scale(&halves, &statistics, GROUP, None);
            let quants = Rounding::new(&statistics, &scale, GROUP).round(&weight.view()).quants;
            (scale, quants)
        })
    };
    assert_eq!(run(1), run(5));
}
