//! GGUF tensor blocks to float32, one function a block format.
//! Called by `source` for each row. Must never change the order of float32 operations: results are bit for bit those
//! of the `gguf` Python package, which the golden blocks under `testdata` come from.
//! Source of the layouts: the ggml project.

use half::{bf16, f16};

use super::gguf::TensorType;

/// Decodes whole blocks of `kind`.
///
/// `bytes` holds `out.len() / kind.block_len()` blocks; what does not fill a block is left alone.
pub(super) fn dequantize(kind: TensorType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        TensorType::F32 => {
            each_block(bytes, out, |b: &[u8; 4], o: &mut [f32; 1]| o[0] = f32::from_le_bytes(*b))
        }
        TensorType::F16 => each_block(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = half_at(b, 0)),
        TensorType::BF16 => each_block(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| {
            o[0] = bf16::from_le_bytes(*b).to_f32();
        }),
        TensorType::Q4_0 => each_block(bytes, out, q4_0),
        TensorType::Q4_1 => each_block(bytes, out, q4_1),
        TensorType::Q5_0 => each_block(bytes, out, q5_0),
        TensorType::Q5_1 => each_block(bytes, out, q5_1),
        TensorType::Q8_0 => each_block(bytes, out, q8_0),
        TensorType::Q4_K => each_block(bytes, out, q4_k),
        TensorType::Q5_K => each_block(bytes, out, q5_k),
        TensorType::Q6_K => each_block(bytes, out, q6_k),
    }
}

fn each_block<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (outs, _) = out.as_chunks_mut::<LEN>();
    blocks.iter().zip(outs).for_each(|(block, out)| decode(block, out));
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Element `i` of 32 that lie as low nibbles, then high nibbles, of 16 bytes.
fn nibble(quants: &[u8], i: usize) -> u8 {
    (quants[i % 16] >> (4 * (i / 16))) & 15
}

/// Bit `i` of 32, as the fifth bit of a quant.
fn fifth_bit(bits: &[u8], i: usize) -> u8 {
    ((bits[i / 8] >> (i % 8)) & 1) << 4
}

/// `d * (q - 8)`: d, 16 bytes of nibbles.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * (f32::from(nibble(&block[2..], i)) - 8.0);
    }
}

/// `d * q + m`: d, m, 16 bytes of nibbles.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * f32::from(nibble(&block[4..], i)) + m;
    }
}

/// `d * (q - 16)`: d, 4 bytes of fifth bits, 16 bytes of nibbles.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, o) in out.iter_mut().enumerate() {
        let q = nibble(&block[6..], i) | fifth_bit(&block[2..6], i);
        *o = d * (f32::from(q) - 16.0);
    }
}

/// `d * q + m`: d, m, 4 bytes of fifth bits, 16 bytes of nibbles.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, o) in out.iter_mut().enumerate() {
        let q = nibble(&block[8..], i) | fifth_bit(&block[4..8], i);
        *o = d * f32::from(q) + m;
    }
}

/// `q * d`: d, 32 signed bytes.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, o) in out.iter_mut().enumerate() {
        *o = f32::from(block[2 + i] as i8) * d;
    }
}

/// Six-bit scale and minimum of sub-block `i` of 8, packed in 12 bytes: the first four in the low six bits of bytes
/// 0..4 and 4..8, the last four in nibbles of bytes 8..12 with their top bits in the spare bits of the first eight.
fn scale_and_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        let shared = packed[i + 4];
        ((shared & 15) | ((packed[i - 4] >> 2) & 48), (shared >> 4) | ((packed[i] >> 2) & 48))
    };
    (f32::from(scale), f32::from(min))
}

/// The nibble of element `i` in sub-block `sub` of 32: pairs of sub-blocks share 32 bytes.
fn paired_nibble(quants: &[u8], sub: usize, i: usize) -> u8 {
    (quants[sub / 2 * 32 + i] >> (4 * (sub % 2))) & 15
}

/// `d * scale * q - dmin * min`: d, dmin, 12 bytes of scales, 128 bytes of nibbles; 8 sub-blocks of 32.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], sub);
        let (d, m) = (d * scale, dmin * min);
        for (i, o) in out.iter_mut().enumerate() {
            *o = d * f32::from(paired_nibble(&block[16..], sub, i)) - m;
        }
    }
}

/// As [`q4_k`] with 32 bytes of fifth bits before the nibbles: bit `sub` of byte `i`.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], sub);
        let (d, m) = (d * scale, dmin * min);
        for (i, o) in out.iter_mut().enumerate() {
            let q = paired_nibble(&block[48..], sub, i) | (((block[16 + i] >> sub) & 1) << 4);
            *o = d * f32::from(q) - m;
        }
    }
}

/// `d * scale * (q - 32)`: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales, d; each half of
/// 128 elements has 64 and 32 of the bytes, each scale serves 16 elements.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&block[half * 64..][..64], &block[128 + half * 32..][..32]);
        let scales = &block[192 + half * 8..][..8];
        for (i, o) in out.iter_mut().enumerate() {
            let q = ((low[i % 64] >> (4 * (i / 64))) & 15) | (((high[i % 32] >> (2 * (i / 32))) & 3) << 4);
            *o = (d * f32::from(scales[i / 16] as i8)) * (f32::from(q) - 32.0);
        }
    }
}
