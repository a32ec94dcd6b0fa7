//! The float formats of checkpoints, widened to float32 while they are loaded into a vector.
//!
//! `plain` reads weights and embeddings through `Stored`, in place and at any alignment.

use crate::ops::cpu::simd::Simd;

/// How 16 weights are stored.
pub trait Stored: Copy {
    /// Their bytes.
    type Chunk: AsRef<[u8]>;
    fn chunks(row: &[u8]) -> (&[Self::Chunk], &[u8]);
    fn load<S: Simd>(s: S, chunk: &Self::Chunk) -> S::F;
    /// The fewer than 16 weights behind the last chunk, zeros behind them.
    fn load_rest<S: Simd>(s: S, rest: &[u8]) -> S::F;
}

macro_rules! stored {
    ($name:ident, $bytes:literal, $load:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy)]
        pub struct $name;
        impl Stored for $name {
            type Chunk = [u8; $bytes];
            #[inline(always)]
            fn chunks(row: &[u8]) -> (&[[u8; $bytes]], &[u8]) {
                row.as_chunks()
            }
            #[inline(always)]
            fn load<S: Simd>(s: S, chunk: &[u8; $bytes]) -> S::F {
                s.$load(chunk)
            }
            #[inline(always)]
            fn load_rest<S: Simd>(s: S, rest: &[u8]) -> S::F {
                let mut chunk = [0; $bytes];
                chunk[..rest.len()].copy_from_slice(rest);
                s.$load(&chunk)
            }
        }
    };
}
stored!(F16, 32, load_f16, "float16");
stored!(BF16, 32, load_bf16, "bfloat16");
stored!(F32, 64, load_f32_bytes, "float32");
