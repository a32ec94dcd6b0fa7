//! Norms, SiLU, embedding, gathering, and the exponential under them.

use super::*;
use crate::batch::Batch;
use crate::ops::cpu::math::exp;
use crate::ops::cpu::simd::{Kernel, Simd};

struct Exp([f32; 16]);

impl Kernel for Exp {
    type Output = [f32; 16];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; 16] {
        let mut out = [0.0; 16];
        s.store(exp(s, s.load(&self.0)), &mut out);
        out
    }
}

#[test]
fn exp_is_accurate_and_the_same_everywhere() {
    let mut random = Random(1);
    for round in 0..20_000 {
        let width = [0.4, 5.0, 87.0][round % 3];
        let x: [f32; 16] = std::array::from_fn(|_| random.float() * width);
        let got = Level::best().run(Exp(x));
        for (x, y) in x.iter().zip(got) {
            let want = f64::from(*x).exp();
            assert!((f64::from(y) - want).abs() <= 1.2e-7 * want, "exp({x}) = {y}, expected {want}");
        }
        for level in Level::available() {
            assert_eq!(bits(&got), bits(&level.run(Exp(x))), "{}", level.name());
        }
    }
}

#[test]
fn exp_at_the_edges() {
    for level in Level::available() {
        let edges = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -1e30, 1e30, -0.0, 88.0];
        let y = level.run(Exp(std::array::from_fn(|i| edges[i % 8])));
        assert!(y[0].is_nan());
        assert!(y[1] > 1e38 && y[5] > 1e38 && y[7] > 1e38 && y[..8].iter().all(|y| !y.is_infinite()));
        assert!(y[2] < 2e-38 && y[4] < 2e-38);
        assert_eq!((y[3], y[6]), (1.0, 1.0));
    }
}

/// Runs `op` on every level and number of threads: close to `want`, and the same bits.
fn check(want: &[f64], relative: f64, what: &str, op: impl Fn(&mut CpuOps) -> Vec<f32>) {
    let magnitude: Vec<_> = want.iter().map(|w| w.abs() + 1e-6).collect();
    let mut first: Option<Vec<u32>> = None;
    for ops in &mut all_ops() {
        let got = op(ops);
        assert_close(&got, want, &magnitude, relative, what);
        assert!(*first.get_or_insert_with(|| bits(&got)) == bits(&got), "{what}: {}", ops.level().name());
    }
}

fn out(ops: &mut CpuOps, rows: usize, cols: usize) -> CpuAct {
    act(ops, cols, &vec![f32::NAN; rows * cols])
}

#[test]
fn norms() {
    let mut random = Random(2);
    for (rows, cols) in [(1, 16), (3, 20), (2, 576), (40, 900), (5, 7)] {
        let (x, delta, weight) =
            (random.activations(rows * cols), random.floats(rows * cols), random.floats(cols));
        let norm = |x: &[f64]| -> Vec<f64> {
            x.chunks(cols)
                .flat_map(|x| {
                    let mean = x.iter().map(|x| x * x).sum::<f64>() / cols as f64;
                    let root = (mean + f64::from(1e-5f32)).sqrt();
                    x.iter().zip(&weight).map(move |(x, &w)| x / root * f64::from(w)).collect::<Vec<_>>()
                })
                .collect()
        };
        let exact: Vec<_> = x.iter().map(|&x| f64::from(x)).collect();
        let sum: Vec<_> = x.iter().zip(&delta).map(|(x, d)| f64::from(x + d)).collect();
        let weight = float_tensor(DType::F32, &[cols], &weight);
        check(&norm(&exact), 1e-6, "rms_norm", |ops| {
            let (x, weight, mut y) =
                (act(ops, cols, &x), ops.load_norm(&weight).unwrap(), out(ops, rows, cols));
            ops.rms_norm(&x, &weight, 1e-5, &mut y).unwrap();
            y.values().to_vec()
        });
        let unit: Vec<f32> = (0..cols * cols).map(|i| f32::from(i / cols == i % cols)).collect();
        let unit = plain::source(DType::F32, cols, cols, &unit);
        let want = [norm(&sum), sum].concat();
        check(&want, 1e-6, "linear_add_rms_norm", |ops| {
            let layer = ops.load_linear(std::slice::from_ref(&unit)).unwrap();
            let (mut x, delta, mut scratch) =
                (act(ops, cols, &x), act(ops, cols, &delta), out(ops, rows, cols));
            let (weight, mut y) = (ops.load_norm(&weight).unwrap(), out(ops, rows, cols));
            ops.linear_add_rms_norm((&delta, &layer), &mut scratch, &mut x, (&weight, 1e-5), &mut y).unwrap();
            [y.values(), x.values()].concat()
        });
    }
}

#[test]
fn silu() {
    let mut random = Random(3);
    for (rows, cols) in [(1, 16), (3, 20), (9, 1536)] {
        let x: Vec<_> = random.floats(rows * 2 * cols).iter().map(|x| x * 30.0).collect();
        let row = |x: &[f32]| -> Vec<f64> {
            let pairs = x[..cols].iter().zip(&x[cols..]).map(|(&g, &u)| (f64::from(g), f64::from(u)));
            pairs.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
        };
        let want: Vec<_> = x.chunks(2 * cols).flat_map(row).collect();
        check(&want, 1e-6, "silu_mul", |ops| {
            let (x, mut y) = (act(ops, 2 * cols, &x), out(ops, rows, cols));
            ops.silu_mul(&x, &mut y).unwrap();
            y.values().to_vec()
        });
    }
}

#[test]
fn embedding_and_gathering() {
    let mut random = Random(4);
    let (vocab, cols) = (11, 37);
    let values = random.floats(vocab * cols);
    let tokens: Vec<u32> = vec![10, 0, 3, 3, 7];
    let batch = Batch { tokens: tokens.clone(), ..Batch::default() };
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let table = float_tensor(dtype, &[vocab, cols], &values);
        let wide = table.to_f32();
        let row = |t: usize| wide[t * cols..(t + 1) * cols].iter().map(|&x| f64::from(x));
        let want: Vec<_> = tokens.iter().flat_map(|&t| row(t as usize)).collect();
        check(&want, 0.0, "embed", |ops| {
            let (table, mut y) = (ops.load_embedding(&table).unwrap(), out(ops, 5, cols));
            ops.embed(&table, &batch, &mut y).unwrap();
            y.values().to_vec()
        });
        let picked: Vec<_> = [4, 1, 1].iter().flat_map(|&r| row(tokens[r] as usize)).collect();
        check(&picked, 0.0, "gather_rows", |ops| {
            let (table, mut x, mut y) =
                (ops.load_embedding(&table).unwrap(), out(ops, 5, cols), out(ops, 3, cols));
            ops.embed(&table, &batch, &mut x).unwrap();
            ops.gather_rows(&x, &[4, 1, 1], &mut y).unwrap();
            y.values().to_vec()
        });
    }
}

#[test]
fn refuses_rows_and_tokens_out_of_range() {
    let ops = &mut CpuOps::new(1);
    let table = ops.load_embedding(&float_tensor(DType::F32, &[2, 4], &[0.0; 8])).unwrap();
    let mut y = out(ops, 1, 4);
    let batch = Batch { tokens: vec![2], ..Batch::default() };
    assert!(ops.embed(&table, &batch, &mut y).unwrap_err().to_string().contains("token 2"));
    let x = out(ops, 3, 4);
    assert!(ops.gather_rows(&x, &[3], &mut y).unwrap_err().to_string().contains("row 3 of 3"));
    assert!(ops.read_row(&x, 3).is_err());
    assert!(ops.silu_mul(&x, &mut y).is_err());
}
