// Tensor-core products by warp: fragment loads and m16n8k16 (fp16 operands, float32 sums); one instruction a function.
#pragma once

#include <stdint.h>

namespace quern {

/// Four 8x8 fp16 matrices; lanes 8i..8i+7 hold the addresses (16-byte aligned) of matrix i's rows. Lane 4r + c receives
/// elements 2c, 2c + 1 of row r of each.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&d)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(smem)
               : "memory");
}

/// Four 8x8 fp16 matrices, each stored transposed: lanes 8i..8i+7 hold the addresses (16-byte aligned) where the columns
/// of matrix i go. Lane 4r + c holds elements 2c, 2c + 1 of row r of each.
__device__ __forceinline__ void store_transposed_x4(uint32_t smem, const uint32_t (&d)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(smem), "r"(d[0]), "r"(d[1]),
               "r"(d[2]), "r"(d[3])
               : "memory");
#else
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t transposed;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(d[i]));
    const uint32_t column = __shfl_sync(0xffffffff, smem, 8 * i + lane / 4);
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(column + 4 * (lane % 4)), "r"(transposed) : "memory");
  }
#endif
}

/// c += a b. Lane 4r + c: a = rows {r, r + 8} x k {2c, 2c + 1}, then k + 8; b = k {2c, 2c + 1}, {2c + 8, 2c + 9} of
/// column r; c = rows {r, r, r + 8, r + 8} x columns {2c, 2c + 1}.
__device__ __forceinline__ void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace quern
