// Warpgroup matrix products of attention (sm_90a): descriptors of 128-byte-swizzled shared memory and the three shapes
// that are used, one instruction a function. Operands of a product in flight must not be touched until it is waited for.
#pragma once

#include <stdint.h>

namespace quern {

/// An operand in shared memory: rows of 128 bytes (64 fp16), swizzled, in groups of 8 (1024 bytes, so aligned).
/// K-major (rows are m or n): the product's k runs along the row; `slab_bytes` is not read.
/// MN-major (rows are k): m or n runs along the row, and its next 64 lie slab_bytes further.
__device__ __forceinline__ uint64_t swizzled_operand(uint32_t smem, uint32_t slab_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kGroupStride = uint64_t(1024 >> 4) << 32;
  return (smem & 0x3ffff) >> 4 | uint64_t(slab_bytes >> 4) << 16 | kGroupStride | kSwizzle128;
}

/// Orders this warpgroup's register and shared-memory accesses before its next products.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most kPending committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving accesses to an accumulator across this point.
template <int kTiles>
__device__ __forceinline__ void pin(float (&c)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(c[i][e])::"memory");
  }
}

#define QUERN_F4(c, i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define QUERN_F16(c, i) QUERN_F4(c, i), QUERN_F4(c, i + 1), QUERN_F4(c, i + 2), QUERN_F4(c, i + 3)
#define QUERN_F32(c, i) QUERN_F16(c, i), QUERN_F16(c, i + 4)
#define QUERN_F64(c) QUERN_F32(c, 0), QUERN_F32(c, 8)

/// c = (accumulate ? c : 0) + a b: 64 x 128, k 16, both operands in shared memory, K-major. Warp w of the warpgroup
/// holds rows 16 w.., as m16n8k16 does: c[i] is columns 8i...
__device__ __forceinline__ void wgmma_64x128(float (&c)[16][4], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, 0, 0;\n}\n"
      : QUERN_F64(c)
      : "l"(a), "l"(b), "r"(accumulate));
}
/// c += a b: 64 x 128, k 16, a in registers (fragments of m16n8k16), b in shared memory, MN-major.
__device__ __forceinline__ void wgmma_64x128(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
      : QUERN_F64(c)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
/// The same for 64 columns.
__device__ __forceinline__ void wgmma_64x64(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : QUERN_F32(c, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef QUERN_F4
#undef QUERN_F16
#undef QUERN_F32
#undef QUERN_F64

/// More or fewer registers a thread from here on; every warp of a warpgroup calls it.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace quern
