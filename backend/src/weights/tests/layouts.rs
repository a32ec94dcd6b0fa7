//! AutoAWQ's and AutoGPTQ's other layouts: written here by their definitions, they must come back as the same nibbles,
//! zero points, scales and inputs; what is wrong in them is named.

use super::*;
use crate::config::AwqLayout::{Gemv, GemvFast};

/// Levels of a layer, `[K, N]` and `[G, N]`.
struct Levels {
    k: usize,
    n: usize,
    bits: u32,
    q: Vec<u32>,
    z: Vec<u32>,
    s: Vec<f16>,
    /// Group of each row.
    groups: Vec<usize>,
}

impl Levels {
    /// Random ones; with `shuffled`, rows belong to groups in no order.
    fn random(seed: u64, (k, n): (usize, usize), group: usize, bits: u32, shuffled: bool) -> Levels {
        let mut state = seed;
        let mut next = move |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % below
        };
        let mut groups: Vec<usize> = (0..k).map(|row| row / group).collect();
        for i in (1..k).rev().filter(|_| shuffled) {
            groups.swap(i, next(i as u32 + 1) as usize);
        }
        Levels {
            k,
            n,
            bits,
            q: (0..k * n).map(|_| next(1 << bits)).collect(),
            z: (0..k / group * n).map(|_| next(1 << bits)).collect(),
            s: (0..k / group * n).map(|_| f16::from_f32(0.001 + next(1000) as f32 / 4096.0)).collect(),
            groups,
        }
    }

    /// `[N, K]`, by definition.
    fn weight(&self) -> Vec<f32> {
        let at = |n: usize, k: usize| {
            let level = self.groups[k] * self.n + n;
            (self.q[k * self.n + n] as f32 - self.z[level] as f32) * self.s[level].to_f32()
        };
        (0..self.n).flat_map(|n| (0..self.k).map(move |k| at(n, k))).collect()
    }

    fn n_groups(&self) -> usize {
        self.z.len() / self.n
    }

    /// AutoAWQ's room for zero points: words of eight groups, more of them for small groups.
    fn width(&self) -> usize {
        let multiple = 128 / (self.k / self.n_groups()).min(128);
        self.n_groups().div_ceil(8).next_multiple_of(multiple)
    }

    fn as_gemv(&self) -> Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)> {
        let (k, n, width) = (self.k, self.n, self.width());
        let (mut q, mut z, mut s) =
            (vec![0u32; n * k / 8], vec![0u32; n * width], vec![f16::ZERO; n * width * 8]);
        for column in 0..n {
            for row in 0..k {
                q[column * (k / 8) + row / 8] |= self.q[row * n + column] << (4 * (row % 8));
            }
            for g in 0..self.n_groups() {
                z[column * width + g / 8] |= self.z[g * n + column] << (4 * (g % 8));
                s[column * width * 8 + g] = self.s[g * n + column];
            }
        }
        vec![
            ("up.qweight", Dtype::I32, vec![n, k / 8], bytes(&q)),
            ("up.qzeros", Dtype::I32, vec![n, width], bytes(&z)),
            ("up.scales", Dtype::F16, vec![n, width * 8], bytes(&s)),
        ]
    }

    /// By the steps in which AutoAWQ's packer moves the axes.
    fn as_gemv_fast(&self, zeros: &'static str) -> Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)> {
        let (k, n, width) = (self.k, self.n, self.width() * 8);
        let mut row_major = vec![0u32; n * k];
        for column in 0..n {
            for block in 0..k / 32 {
                // [4, 4, 2] to [4, 4, 2] with the first two axes swapped, then each 8 from [4, 2] to [2, 4].
                let mut swapped = [0; 32];
                for (i, to) in swapped.iter_mut().enumerate() {
                    let (a, b, c) = (i / 8, i / 2 % 4, i % 2);
                    *to = self.q[(block * 32 + b * 8 + a * 2 + c) * n + column];
                }
                for (i, of_eight) in swapped.chunks(8).enumerate() {
                    for j in 0..8 {
                        row_major[column * k + block * 32 + i * 8 + j] = of_eight[j % 4 * 2 + j / 4];
                    }
                }
            }
        }
        let mut q = vec![0u16; n / 4 * k];
        for (quad, of_quad) in row_major.chunks(4 * k).enumerate() {
            for stride in 0..k / 64 {
                // [4, 64] of the four rows, read as [64, 4].
                let joined: Vec<u32> =
                    (0..4).flat_map(|row| of_quad[row * k + stride * 64..][..64].to_vec()).collect();
                for (i, four) in joined.chunks(4).enumerate() {
                    let word = four.iter().rev().fold(0, |word, nibble| word << 4 | nibble);
                    q[quad * k + stride * 64 + i] = word as u16;
                }
            }
        }
        let (mut z, mut s) = (vec![f16::ZERO; width * n], vec![f16::ZERO; width * n]);
        s[..self.s.len()].copy_from_slice(&self.s);
        for (to, (zero, scale)) in z.iter_mut().zip(self.z.iter().zip(&self.s)) {
            *to = f16::from_f32(-(scale.to_f32() * *zero as f32));
        }
        vec![
            ("up.qweight", Dtype::I16, vec![n / 4, k], bytes(&q)),
            (zeros, Dtype::F16, vec![width, n], bytes(&z)),
            ("up.scales", Dtype::F16, vec![width, n], bytes(&s)),
        ]
    }

    fn as_gptq(&self, minus_one: bool) -> Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)> {
        let (k, n, bits, per_word) = (self.k, self.n, self.bits as usize, 32 / self.bits as usize);
        let (mut q, mut z) = (vec![0u32; k * n / per_word], vec![0u32; self.z.len() / per_word]);
        for (i, value) in self.q.iter().enumerate() {
            let (row, column) = (i / n, i % n);
            q[row / per_word * n + column] |= value << (bits * (row % per_word));
        }
        for (i, zero) in self.z.iter().enumerate() {
            let stored = if minus_one { zero.wrapping_sub(1) & ((1 << bits) - 1) } else { *zero };
            z[i / per_word] |= stored << (bits * (i % per_word));
        }
        let g_idx: Vec<i32> = self.groups.iter().map(|&group| group as i32).collect();
        vec![
            ("up.qweight", Dtype::I32, vec![k / per_word, n], bytes(&q)),
            ("up.qzeros", Dtype::I32, vec![self.n_groups(), n / per_word], bytes(&z)),
            ("up.scales", Dtype::F16, vec![self.n_groups(), n], bytes(&self.s)),
            ("up.g_idx", Dtype::I32, vec![k], bytes(&g_idx)),
        ]
    }
}

fn bytes<T: bytemuck::Pod>(elements: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(elements).to_vec()
}

type Stored = Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>;

fn opened(stored: &Stored, (k, n): (usize, usize), format: &Quantization) -> Result<LinearSource, LoadError> {
    let views = stored
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let dir = folder(&[("model.safetensors", &serialize(views, None).unwrap())]);
    Checkpoint::open(dir.path()).unwrap().linear("up", k, n, format)
}

fn awq(layout: AwqLayout, group_size: usize) -> Quantization {
    Quantization::Awq { layout, group_size, not_converted: Vec::new() }
}

fn gptq(bits: u8, group_size: Option<usize>, desc_act: bool, zeros_minus_one: bool) -> Quantization {
    Quantization::Gptq(GptqFormat { bits, group_size, desc_act, zeros_minus_one, not_converted: Vec::new() })
}

/// Every nibble of a 4-bit layer in "gemm", `[R, N]`, and its zero points.
fn nibbles_of(layer: &LinearSource) -> (Vec<u32>, Vec<u32>) {
    let LinearWeight::Awq { qweight, qzeros, .. } = &layer.weight else { panic!("not converted") };
    let each = |tensor: &Tensor| {
        tensor.elements::<u32>().iter().flat_map(|&word| awq::unpack(word)).map(u32::from).collect()
    };
    (each(qweight), each(qzeros))
}

#[test]
fn awq_layouts_are_the_same_nibbles_elsewhere() {
    for (seed, (k, n), group) in
        [(1, (64, 8), 32), (2, (256, 24), 64), (3, (1280, 16), 128), (4, (384, 40), 128)]
    {
        let levels = Levels::random(seed, (k, n), group, 4, false);
        let cases = [
            (Gemv, levels.as_gemv()),
            (GemvFast, levels.as_gemv_fast("up.qzeros")),
            (GemvFast, levels.as_gemv_fast("up.scaled_zeros")),
        ];
        for (layout, stored) in cases {
            let source = opened(&stored, (k, n), &awq(layout, group)).unwrap();
            let shape = source.int4().unwrap();
            assert_eq!((shape.rows, shape.group_size, shape.gathers), (k, group, false));
            let layer = source.converted().unwrap();
            assert_eq!(layer.int4(), Some(shape), "known before it was read");
            assert_eq!(nibbles_of(&layer), (levels.q.clone(), levels.z.clone()), "{layout:?} {k} x {n}");
            assert_eq!(source.weight_to_f32().unwrap(), levels.weight(), "{layout:?} {k} x {n}");
            source.release();
        }
    }
}

#[test]
fn gptq_layers_are_exact() {
    for (seed, (k, n), group) in
        [(1, (64, 8), 32), (2, (256, 24), 64), (3, (512, 16), 256), (4, (384, 8), 384)]
    {
        for (bits, shuffled, minus_one) in
            [(4, false, true), (4, true, true), (4, false, false), (8, false, true), (8, true, false)]
        {
            let levels = Levels::random(seed, (k, n), group, bits, shuffled && group < k);
            let group_size = Some(group).filter(|&group| group < k);
            let format = gptq(bits as u8, group_size, shuffled, minus_one);
            let what = format!("{bits} bits, {k} x {n} in groups of {group}, {shuffled} {minus_one}");
            let source = opened(&levels.as_gptq(minus_one), (k, n), &format).unwrap();
            let layer = source.converted().unwrap();
            assert_eq!(layer.int4(), source.int4(), "{what}: known before it was read");
            assert_eq!(source.int4().unwrap().rows, k * bits as usize / 4, "{what}");
            assert_eq!(source.weight_to_f32().unwrap(), levels.weight(), "{what}");
            if bits == 4 && !shuffled {
                assert_eq!(nibbles_of(&layer).0, levels.q, "{what}");
            }
        }
    }
}

#[test]
fn g_idx_may_be_absent_where_groups_are_in_order() {
    let levels = Levels::random(5, (64, 8), 32, 4, false);
    let mut stored = levels.as_gptq(true);
    stored.pop();
    let layer = opened(&stored, (64, 8), &gptq(4, Some(32), false, true)).unwrap();
    assert_eq!(layer.weight_to_f32().unwrap(), levels.weight());
    let error = opened(&stored, (64, 8), &gptq(4, Some(32), true, true)).unwrap_err().to_string();
    assert!(error.contains("tensor `up.g_idx`: not among the 3 tensors"), "{error}");
}

#[test]
fn wrong_layouts_are_named() {
    let levels = Levels::random(6, (64, 8), 32, 4, false);
    let indexed = |change: &dyn Fn(&mut [i32])| {
        let mut stored = levels.as_gptq(true);
        change(bytemuck::cast_slice_mut(&mut stored[3].3));
        stored
    };
    let mut zeros = levels.as_gemv_fast("up.qzeros");
    zeros[1].3[..2].copy_from_slice(&f16::from_f32(0.3).to_le_bytes());
    let mut scales = levels.as_gptq(true);
    scales[2].3[..2].copy_from_slice(&f16::NAN.to_le_bytes());
    let (in_order, shuffled) = (gptq(4, Some(32), false, true), gptq(4, Some(32), true, true));
    let cases = [
        (indexed(&|g| g[3] = 2), &shuffled, "`up.g_idx`: expected groups below 2, got 2 at element 3"),
        (indexed(&|g| g[3] = -1), &shuffled, "got -1 at element 3"),
        (indexed(&|g| g[3] = 1), &shuffled, "expected 32 input features in each group, got 31 in group 0"),
        (indexed(&|g| g.swap(0, 63)), &in_order, "the configuration says \"desc_act\": false"),
        (scales, &in_order, "`up.scales`: expected finite scales, got NaN at element 0"),
        (levels.as_gptq(true), &gptq(8, Some(32), false, true), "GPTQ, 8 bits, in groups of 32; correct it"),
        (
            levels.as_gptq(true),
            &gptq(4, Some(64), false, true),
            "`up.qzeros`: expected I32 [1, 1], got I32 [2, 1]",
        ),
        (levels.as_gptq(true), &gptq(4, Some(96), false, true), "whole groups of a multiple of 32"),
        (levels.as_gemv(), &awq(GemvFast, 32), "`up.qweight`: expected I16 [2, 64], got I32 [8, 8]"),
        (levels.as_gemv(), &awq(AwqLayout::Gemm, 32), "AWQ \"gemm\" in groups of 32; correct it"),
        (levels.as_gemv_fast("up.qzeros"), &awq(Gemv, 32), "AWQ \"gemv\" in groups of 32; correct it"),
        (zeros, &awq(GemvFast, 32), "expected minus a scale times a whole number from 0 to 15"),
    ];
    for (stored, format, expected) in cases {
        let layer = opened(&stored, (64, 8), format).and_then(|layer| layer.converted());
        let error = layer.unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
    }
}

proptest! {
    #[test]
    fn nibbles_transpose(words: [u32; 8]) {
        let transposed = nibbles::transpose(words);
        for (i, j) in (0..8).flat_map(|i| (0..8).map(move |j| (i, j))) {
            prop_assert_eq!(transposed[i] >> (4 * j) & 15, words[j] >> (4 * i) & 15);
        }
    }
}
