//! 4-bit linear layers.

use super::*;
use crate::ops::ActKind;
use crate::weights::{Inputs, LinearSource, LinearWeight, awq};

/// A random AWQ layer; `plain` is what it stands for, `[N, K]`.
struct Layer {
    source: LinearSource,
    plain: Vec<f64>,
}

fn layer(random: &mut Random, k: usize, n: usize, group: usize, bias: bool) -> Layer {
    let words = |random: &mut Random, count: usize| -> Vec<u8> {
        (0..count).flat_map(|_| (random.next() as u32).to_le_bytes()).collect()
    };
    let qweight = tensor("q", DType::I32, &[k, n / 8], words(random, k * n / 8));
    let qzeros = tensor("z", DType::I32, &[k / group, n / 8], words(random, k / group * n / 8));
    let scales: Vec<_> = random.floats(k / group * n).iter().map(|s| s * 0.02).collect();
    let scales = float_tensor(DType::F16, &[k / group, n], &scales);
    let dequantized = awq::dequantize(&qweight, &qzeros, &scales, group).unwrap();
    let plain = dequantized.iter().map(|&w| f64::from(w)).collect();
    let bias = bias.then(|| float_tensor(DType::F16, &[n], &random.floats(n)));
    let weight = LinearWeight::Awq { qweight, qzeros, scales, group_size: group, inputs: None };
    let source = LinearSource { name: "layer".into(), in_features: k, out_features: n, weight, bias };
    Layer { source, plain }
}

/// `(x W + b, sum of |w| times the largest |x| of the row)` of joined layers in float64: rounding is
/// relative to the largest element of a group.
fn naive(layers: &[Layer], k: usize, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (mut values, mut magnitudes) = (Vec::new(), Vec::new());
    for x in x.chunks(k) {
        let largest = x.iter().fold(0.0, |m: f64, &x| m.max(f64::from(x).abs()));
        for layer in layers {
            let bias = layer.source.bias.as_ref().map(|b| b.to_f32());
            for (n, w) in layer.plain.chunks(k).enumerate() {
                let terms = || x.iter().zip(w).map(|(&x, &w)| f64::from(x) * w);
                let bias = bias.as_ref().map_or(0.0, |b| f64::from(b[n]));
                values.push(terms().sum::<f64>() + bias);
                magnitudes.push(w.iter().map(|w| w.abs() * largest).sum::<f64>() + bias.abs());
            }
        }
    }
    (values, magnitudes)
}

fn forward(ops: &mut CpuOps, layers: &[Layer], k: usize, x: &[f32]) -> Vec<f32> {
    let sources: Vec<_> = layers.iter().map(|l| l.source.clone()).collect();
    let n = layers.iter().map(|l| l.source.out_features).sum();
    let linear = ops.load_linear(&sources).unwrap();
    let x = act(ops, k, x);
    let mut out = ops.new_act(ActKind::Hidden, x.rows(), n).unwrap();
    ops.set_rows(&mut out, x.rows());
    ops.linear(&x, &linear, &mut out).unwrap();
    out.values().to_vec()
}

/// Close to float64, and the same bits for every level and number of threads.
fn check(k: usize, parts: &[usize], group: usize, rows: usize) {
    let what = format!("K {k}, N {parts:?}, group {group}, {rows} rows");
    let mut random = Random((k * 31 + rows * 7 + group) as u64);
    let layers: Vec<_> = parts.iter().map(|&n| layer(&mut random, k, n, group, rows % 2 == 1)).collect();
    let x = random.activations(rows * k);
    let (want, magnitude) = naive(&layers, k, &x);
    let mut first: Option<Vec<u32>> = None;
    for ops in &mut all_ops() {
        let got = forward(ops, &layers, k, &x);
        assert_close(&got, &want, &magnitude, 2e-7, &what);
        let first = first.get_or_insert_with(|| bits(&got));
        assert!(*first == bits(&got), "{what}: {} differs from the best level", ops.level().name());
    }
}

#[test]
fn matches_float64_on_every_level() {
    for rows in (1..=17).chain([31, 33]) {
        check(128, &[40], 64, rows);
    }
    for group in [32, 64, 128] {
        for (k, parts) in [(128, vec![8]), (256, vec![24, 8, 8]), (384, vec![192, 64, 72]), (128, vec![320])]
        {
            check(k, &parts, group, 5);
        }
    }
    check(256, &[64], 64, 127);
    check(128, &[96], 32, 260);
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let mut random = Random(5);
    let layers = [layer(&mut random, 192, 104, 64, false)];
    let x = random.activations(192 * 133);
    let ops = &mut CpuOps::new(2);
    let together = forward(ops, &layers, 192, &x);
    let mut first = 0;
    for n in [1, 2, 3, 4, 5, 8, 64, 46] {
        let alone = forward(ops, &layers, 192, &x[first * 192..(first + n) * 192]);
        assert_eq!(bits(&alone), bits(&together[first * 104..(first + n) * 104]), "{n} rows from {first}");
        first += n;
    }
}

#[test]
fn extreme_rows() {
    let mut random = Random(6);
    let layers = [layer(&mut random, 128, 16, 64, false)];
    for ops in &mut all_ops() {
        assert!(forward(ops, &layers, 128, &[0.0; 128]).iter().all(|&y| y == 0.0));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = random.activations(256);
            x[70] = bad;
            let y = forward(ops, &layers, 128, &x);
            assert!(y[..16].iter().all(|y| y.is_nan()), "{bad} must show");
            assert!(y[16..].iter().all(|y| y.is_finite()), "{bad} must stay in its row");
        }
        for scale in [1e-45, 1e-38, 1e-31, 1e-29, 1e-20, 1e20, 3e34] {
            let x: Vec<_> = random.floats(128).iter().map(|x| x * scale).collect();
            let (want, magnitude) = naive(&layers, 128, &x);
            // Below 1e-30 a group counts as zero.
            let magnitude: Vec<_> = magnitude.iter().map(|m| m + 1e-22).collect();
            assert_close(&forward(ops, &layers, 128, &x), &want, &magnitude, 2e-7, &format!("{scale}"));
        }
    }
}

#[test]
fn joins_parts_of_different_kinds() {
    let mut random = Random(7);
    let (k, n) = (128, 24);
    let mut layers = vec![layer(&mut random, k, 16, 64, true), layer(&mut random, k, 40, 32, false)];
    let weight = random.floats(n * k);
    let plain = weight.iter().map(|&w| f64::from(w)).collect();
    let weight = LinearWeight::Plain(float_tensor(DType::F32, &[n, k], &weight));
    let name = "plain".into();
    let source = LinearSource { name, in_features: k, out_features: n, weight, bias: None };
    layers.insert(1, Layer { source, plain });
    let x = random.floats(3 * k);
    let (want, magnitude) = naive(&layers, k, &x);
    for ops in &mut all_ops() {
        assert_close(&forward(ops, &layers, k, &x), &want, &magnitude, 2e-7, "mixed parts");
    }
}

/// A layer whose rows are of `inputs` features; `plain` is what it stands for, `[N, K]`.
fn gathering(random: &mut Random, (k, n): (usize, usize), inputs: Vec<u32>, is_own: bool) -> Layer {
    let Layer { mut source, .. } = layer(random, inputs.len(), n, 32, false);
    source.in_features = k;
    if let LinearWeight::Awq { inputs: of_layer, .. } = &mut source.weight {
        *of_layer = Some(Box::new(Inputs { order: inputs.into(), is_own }));
    }
    let plain = source.weight_to_f32().unwrap().iter().map(|&w| f64::from(w)).collect();
    Layer { source, plain }
}

#[test]
fn rows_may_be_of_any_input_features() {
    let mut random = Random(11);
    let (k, rows) = (96, 5);
    let reversed: Vec<u32> = (0..k as u32).rev().collect();
    let twice: Vec<u32> = (0..k as u32).chain(0..k as u32).collect();
    let layers = [
        gathering(&mut random, (k, 24), reversed.clone(), true),
        gathering(&mut random, (k, 40), reversed, true),
        layer(&mut random, k, 8, 32, true),
        gathering(&mut random, (k, 16), twice.clone(), false),
        gathering(&mut random, (k, 8), twice, false),
    ];
    let x = random.activations(rows * k);
    let (want, magnitude) = naive(&layers, k, &x);
    for ops in &mut all_ops() {
        let together = forward(ops, &layers, k, &x);
        assert_close(&together, &want, &magnitude, 2e-7, "gathered inputs");
        let alone: Vec<f32> = x.chunks(k).flat_map(|row| forward(ops, &layers, k, row)).collect();
        assert_eq!(bits(&alone), bits(&together), "a row alone and among others");
    }
    let bad = gathering(&mut random, (k, 8), vec![0; 32], true).source;
    let bad = LinearSource { in_features: 0, ..bad };
    let error = CpuOps::new(1).load_linear(&[bad]).err().expect("refused").to_string();
    assert!(error.contains("a row is of input feature 0, expected one below 0"), "{error}");
}

#[test]
fn refuses_what_it_cannot_pack() {
    let mut random = Random(8);
    let good = layer(&mut random, 128, 16, 64, false).source;
    let spoil = |change: &dyn Fn(&mut LinearSource)| {
        let mut source = good.clone();
        change(&mut source);
        CpuOps::new(1).load_linear(&[source]).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let with = |q: &dyn Fn(&mut Tensor, &mut Tensor, &mut Tensor, &mut usize)| {
        spoil(&|s| {
            if let LinearWeight::Awq { qweight, qzeros, scales, group_size, .. } = &mut s.weight {
                q(qweight, qzeros, scales, group_size);
            }
        })
    };
    let cases = [
        (spoil(&|s| s.in_features = 192), "`q` is I32 [128, 2]; expected I32 [192, 2]"),
        (spoil(&|s| s.in_features = 0), "whole groups"),
        (spoil(&|s| s.out_features = 12), "multiple of 8"),
        (spoil(&|s| s.out_features = 24), "expected I32 [128, 3]"),
        (with(&|_, _, _, g| *g = 48), "group size 48"),
        (with(&|_, _, _, g| *g = 0), "group size 0"),
        (with(&|q, _, _, _| q.range.end -= 4), "expected I32 [128, 2]"),
        (with(&|_, _, s, _| s.dtype = DType::BF16), "expected F16 [2, 16]"),
        (with(&|_, _, s, _| *s = float_tensor(DType::F16, &[2, 16], &[f32::INFINITY; 32])), "finite"),
    ];
    for (got, want) in cases {
        assert!(got.contains(want), "got `{got}`, expected `{want}`");
    }
    assert!(CpuOps::new(1).load_linear(&[]).is_err());
}
