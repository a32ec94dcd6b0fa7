// Tensor-core products by warpgroup: m64nNk16 with A (64 rows) in registers or shared memory and B (N columns) in shared
// memory, asynchronous; one instruction a function. sm_90a only. In shared memory both are K-major: rows of 64 halves
// under the 128-byte swizzle.
#pragma once

#include <stdint.h>

namespace quern {

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Orders this warpgroup's earlier register writes before its next wgmma.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// The values are computed here, not after a later wgmma_fence, where ptxas would serialise every wgmma for it.
template <int kCount>
__device__ __forceinline__ void compute_now(uint32_t (&values)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    asm volatile("" : "+r"(values[i][0]), "+r"(values[i][1]), "+r"(values[i][2]), "+r"(values[i][3])::"memory");
  }
}
/// Waits until at most kPending committed groups are unfinished: their operands may then be overwritten.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Describes an operand: rows of 128 bytes at `smem` (1024-byte aligned), 128-byte swizzle. Adding 2 moves on by 16 halves of k.
__device__ __forceinline__ uint64_t swizzled_operand(uint32_t smem) {
  constexpr uint64_t kSwizzle128 = 1, kEightRows = 1024;
  return kSwizzle128 << 62 | (kEightRows >> 4) << 32 | uint64_t(1) << 16 | (smem & 0x3ffff) >> 4;
}

// Operand lists of eight float registers.
#define QUERN_D0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define QUERN_D1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define QUERN_D2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define QUERN_D3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define QUERN_D4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define QUERN_D5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define QUERN_D6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define QUERN_D7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define QUERN_D8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define QUERN_D9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define QUERN_D10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define QUERN_D11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define QUERN_D12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define QUERN_D13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define QUERN_D14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define QUERN_D15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define QUERN_F8(d, i) \
  "+f"(d[i + 0]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
  "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
// `keep`, `a` and `b` are the numbers of those operands.
#define QUERN_WGMMA(n, registers, a_list, b_number, keep_number, ...)                                             \
  asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " keep_number ", 0;\nwgmma.mma_async.sync.aligned.m64n" n     \
               "k16.f32.f16.f16 {" registers "}, {" a_list "}, " b_number ", keep, 1, 1, 0;\n}\n"                  \
               : __VA_ARGS__                                                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(keep)))

/// d = a b + (keep ? d : 0) over 16 of k. Warp w of the warpgroup, lane 4r + c, holds rows 16w + {r, r + 8}: a as in
/// mma_16816; d[4j..] = columns 8j + {2c, 2c + 1} of row r, then of row r + 8.
template <int kN>
__device__ __forceinline__ void wgmma(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool keep) {
  static_assert(kN == 32 || kN == 64 || kN == 96 || kN == 128 || kN == 160 || kN == 176 || kN == 192 || kN == 224 || kN == 256,
                "no instruction written for this width");
  if constexpr (kN == 32) {
    QUERN_WGMMA("32", QUERN_D0 ", " QUERN_D1, "%16, %17, %18, %19", "%20", "%21", QUERN_F8(d, 0), QUERN_F8(d, 8));
  } else if constexpr (kN == 64) {
    QUERN_WGMMA("64", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3, "%32, %33, %34, %35", "%36", "%37", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24));
  } else if constexpr (kN == 96) {
    QUERN_WGMMA("96", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3 ", " QUERN_D4 ", " QUERN_D5, "%48, %49, %50, %51", "%52", "%53", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24), QUERN_F8(d, 32), QUERN_F8(d, 40));
  } else if constexpr (kN == 128) {
    QUERN_WGMMA("128", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3 ", " QUERN_D4 ", " QUERN_D5 ", " QUERN_D6 ", " QUERN_D7, "%64, %65, %66, %67", "%68", "%69", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24), QUERN_F8(d, 32), QUERN_F8(d, 40), QUERN_F8(d, 48), QUERN_F8(d, 56));
  } else if constexpr (kN == 160) {
    QUERN_WGMMA("160", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3 ", " QUERN_D4 ", " QUERN_D5 ", " QUERN_D6 ", " QUERN_D7 ", " QUERN_D8 ", " QUERN_D9, "%80, %81, %82, %83", "%84", "%85", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24), QUERN_F8(d, 32), QUERN_F8(d, 40), QUERN_F8(d, 48), QUERN_F8(d, 56), QUERN_F8(d, 64), QUERN_F8(d, 72));
  } else if constexpr (kN == 176) {
    QUERN_WGMMA("176", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3 ", " QUERN_D4 ", " QUERN_D5 ", " QUERN_D6 ", " QUERN_D7 ", " QUERN_D8 ", " QUERN_D9 ", " QUERN_D10, "%88, %89, %90, %91", "%92", "%93", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24), QUERN_F8(d, 32), QUERN_F8(d, 40), QUERN_F8(d, 48), QUERN_F8(d, 56), QUERN_F8(d, 64), QUERN_F8(d, 72), QUERN_F8(d, 80));
  } else if constexpr (kN == 192) {
    QUERN_WGMMA("192", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3 ", " QUERN_D4 ", " QUERN_D5 ", " QUERN_D6 ", " QUERN_D7 ", " QUERN_D8 ", " QUERN_D9 ", " QUERN_D10 ", " QUERN_D11, "%96, %97, %98, %99", "%100", "%101", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24), QUERN_F8(d, 32), QUERN_F8(d, 40), QUERN_F8(d, 48), QUERN_F8(d, 56), QUERN_F8(d, 64), QUERN_F8(d, 72), QUERN_F8(d, 80), QUERN_F8(d, 88));
  } else if constexpr (kN == 224) {
    QUERN_WGMMA("224", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3 ", " QUERN_D4 ", " QUERN_D5 ", " QUERN_D6 ", " QUERN_D7 ", " QUERN_D8 ", " QUERN_D9 ", " QUERN_D10 ", " QUERN_D11 ", " QUERN_D12 ", " QUERN_D13, "%112, %113, %114, %115", "%116", "%117", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24), QUERN_F8(d, 32), QUERN_F8(d, 40), QUERN_F8(d, 48), QUERN_F8(d, 56), QUERN_F8(d, 64), QUERN_F8(d, 72), QUERN_F8(d, 80), QUERN_F8(d, 88), QUERN_F8(d, 96), QUERN_F8(d, 104));
  } else if constexpr (kN == 256) {
    QUERN_WGMMA("256", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3 ", " QUERN_D4 ", " QUERN_D5 ", " QUERN_D6 ", " QUERN_D7 ", " QUERN_D8 ", " QUERN_D9 ", " QUERN_D10 ", " QUERN_D11 ", " QUERN_D12 ", " QUERN_D13 ", " QUERN_D14 ", " QUERN_D15, "%128, %129, %130, %131", "%132", "%133", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24), QUERN_F8(d, 32), QUERN_F8(d, 40), QUERN_F8(d, 48), QUERN_F8(d, 56), QUERN_F8(d, 64), QUERN_F8(d, 72), QUERN_F8(d, 80), QUERN_F8(d, 88), QUERN_F8(d, 96), QUERN_F8(d, 104), QUERN_F8(d, 112), QUERN_F8(d, 120));
  }
}

#define QUERN_WGMMA_SHARED(n, registers, a_number, b_number, keep_number, ...)                                     \
  asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " keep_number ", 0;\nwgmma.mma_async.sync.aligned.m64n" n     \
               "k16.f32.f16.f16 {" registers "}, " a_number ", " b_number ", keep, 1, 1, 0, 0;\n}\n"              \
               : __VA_ARGS__                                                                                      \
               : "l"(a), "l"(b), "r"(int(keep)))

/// The same with A in shared memory too, laid out like B: 64 rows of 128 bytes.
template <int kN>
__device__ __forceinline__ void wgmma_shared(float (&d)[kN / 2], uint64_t a, uint64_t b, bool keep) {
  static_assert(kN == 64 || kN == 128 || kN == 256, "no instruction written for this width");
  if constexpr (kN == 64) {
    QUERN_WGMMA_SHARED("64", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3, "%32", "%33", "%34", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24));
  } else if constexpr (kN == 128) {
    QUERN_WGMMA_SHARED("128", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3 ", " QUERN_D4 ", " QUERN_D5 ", " QUERN_D6 ", " QUERN_D7, "%64", "%65", "%66", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24), QUERN_F8(d, 32), QUERN_F8(d, 40), QUERN_F8(d, 48), QUERN_F8(d, 56));
  } else if constexpr (kN == 256) {
    QUERN_WGMMA_SHARED("256", QUERN_D0 ", " QUERN_D1 ", " QUERN_D2 ", " QUERN_D3 ", " QUERN_D4 ", " QUERN_D5 ", " QUERN_D6 ", " QUERN_D7 ", " QUERN_D8 ", " QUERN_D9 ", " QUERN_D10 ", " QUERN_D11 ", " QUERN_D12 ", " QUERN_D13 ", " QUERN_D14 ", " QUERN_D15, "%128", "%129", "%130", QUERN_F8(d, 0), QUERN_F8(d, 8), QUERN_F8(d, 16), QUERN_F8(d, 24), QUERN_F8(d, 32), QUERN_F8(d, 40), QUERN_F8(d, 48), QUERN_F8(d, 56), QUERN_F8(d, 64), QUERN_F8(d, 72), QUERN_F8(d, 80), QUERN_F8(d, 88), QUERN_F8(d, 96), QUERN_F8(d, 104), QUERN_F8(d, 112), QUERN_F8(d, 120));
  }
}

#undef QUERN_WGMMA
#undef QUERN_WGMMA_SHARED
#undef QUERN_F8
#undef QUERN_D0
#undef QUERN_D1
#undef QUERN_D2
#undef QUERN_D3
#undef QUERN_D4
#undef QUERN_D5
#undef QUERN_D6
#undef QUERN_D7
#undef QUERN_D8
#undef QUERN_D9
#undef QUERN_D10
#undef QUERN_D11
#undef QUERN_D12
#undef QUERN_D13
#undef QUERN_D14
#undef QUERN_D15

#endif

}  // namespace quern
