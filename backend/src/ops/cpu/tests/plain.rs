//! Linear layers stored as floats.

use super::*;
use crate::ops::ActKind;
use crate::weights::{LinearSource, LinearWeight};

pub(super) fn source(dtype: DType, k: usize, n: usize, values: &[f32]) -> LinearSource {
    let weight = LinearWeight::Plain(float_tensor(dtype, &[n, k], values));
    LinearSource { name: "layer".into(), in_features: k, out_features: n, weight, bias: None }
}

fn forward(ops: &mut CpuOps, source: &LinearSource, x: &[f32]) -> Vec<f32> {
    let linear = ops.load_linear(std::slice::from_ref(source)).unwrap();
    let x = act(ops, source.in_features, x);
    let mut out = ops.new_act(ActKind::Hidden, x.rows(), source.out_features).unwrap();
    ops.set_rows(&mut out, x.rows());
    ops.linear(&x, &linear, &mut out).unwrap();
    out.values().to_vec()
}

fn check(dtype: DType, k: usize, n: usize, rows: usize) {
    let what = format!("{dtype:?}, K {k}, N {n}, {rows} rows");
    let mut random = Random((k * 31 + n * 7 + rows) as u64);
    let source = source(dtype, k, n, &random.floats(n * k));
    let LinearWeight::Plain(weight) = &source.weight else { unreachable!() };
    let (weight, x) = (weight.to_f32(), random.activations(rows * k));
    let terms =
        |r: usize, c: usize| (0..k).map(move |i| (r * k + i, c * k + i)).map(|(i, j)| (x[i], weight[j]));
    let product = |(a, b): (f32, f32)| f64::from(a) * f64::from(b);
    let outputs = || (0..rows).flat_map(|r| (0..n).map(move |c| (r, c)));
    let want: Vec<f64> = outputs().map(|(r, c)| terms(r, c).map(product).sum()).collect();
    let magnitude: Vec<f64> = outputs().map(|(r, c)| terms(r, c).map(|t| product(t).abs()).sum()).collect();
    let mut first: Option<Vec<u32>> = None;
    for ops in &mut all_ops() {
        let got = forward(ops, &source, &x);
        assert_close(&got, &want, &magnitude, 4e-7, &what);
        assert!(*first.get_or_insert_with(|| bits(&got)) == bits(&got), "{what}: {}", ops.level().name());
    }
}

#[test]
fn matches_float64_on_every_level() {
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        for (k, n) in [(1, 1), (15, 3), (16, 4), (17, 9), (64, 13), (200, 33)] {
            for rows in [1, 2, 3, 4, 5, 7, 70] {
                check(dtype, k, n, rows);
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let mut random = Random(5);
    let source = source(DType::F16, 100, 37, &random.floats(3700));
    let x = random.floats(100 * 131);
    let ops = &mut CpuOps::new(3);
    let together = forward(ops, &source, &x);
    let mut first = 0;
    for n in [1, 2, 3, 4, 5, 8, 65, 43] {
        let alone = forward(ops, &source, &x[first * 100..(first + n) * 100]);
        assert_eq!(bits(&alone), bits(&together[first * 37..(first + n) * 37]), "{n} rows from {first}");
        first += n;
    }
}

#[test]
fn reads_tensors_at_any_alignment() {
    let mut random = Random(9);
    let aligned = source(DType::F16, 48, 8, &random.floats(384));
    let LinearWeight::Plain(weight) = &aligned.weight else { unreachable!() };
    let mut shifted = aligned.clone();
    let mut moved = weight.clone();
    moved.data = Arc::new([&[0u8][..], weight.bytes()].concat());
    moved.range = 1..1 + weight.bytes().len();
    shifted.weight = LinearWeight::Plain(moved);
    let x = random.floats(48);
    for ops in &mut all_ops() {
        assert_eq!(forward(ops, &aligned, &x), forward(ops, &shifted, &x));
    }
}

#[test]
fn refuses_shapes_that_do_not_match() {
    let values = [0.5; 12];
    for (k, n) in [(5, 3), (4, 2), (0, 3)] {
        let mut wrong = source(DType::F32, 4, 3, &values);
        (wrong.in_features, wrong.out_features) = (k, n);
        let error = CpuOps::new(1).load_linear(&[wrong]).err().unwrap().to_string();
        assert!(error.contains(&format!("[{n}, {k}]")), "{error}");
    }
}
