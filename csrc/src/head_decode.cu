// Output head: logits[M, V] = x[M, K] W[V, K]^T, fp16 weights as the checkpoint stores them. The entry point, and the
// kernel for up to 16 rows a launch, on sm_80 and up (head_hopper.cu has the one for more).
//
// Purely a matter of reading W once. Each warp owns 16 rows of W at a time as the M side of m16n8k16 and keeps
// kDepth units of 64 k in flight in registers; x stays in shared memory. A lane's 16-byte load covers 8 consecutive k
// of one row; because rows of x are read the same way, the k order inside a product is permuted alike on both sides.
// A logit is summed by one warp in one fixed order, whatever M is.
#include <cuda_fp16.h>

#include <algorithm>

#include "common/grid.cuh"
#include "common/launch.h"
#include "common/mma.cuh"
#include "device.h"
#include "head.h"

namespace quern {
namespace {

constexpr int kMaxRows = 1 << 20;
constexpr int kWarps = 12;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 16;  // of W, a warp's block
constexpr int kUnitK = 64;
constexpr int kDepth = 4;

struct HeadParams {
  const __half *weight;
  const __half *x;
  float *logits;
  int m, k, v, ldx, ldo;
  int x_stride;  // halves, in shared memory
};

/// 16 rows x 64 k: [32 k][rows r, r + 8] as 16 bytes each.
struct Unit {
  uint4 part[2][2];
};

__device__ __forceinline__ uint4 load_once(const __half *address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

/// The warp's row blocks, first, first + kWarps, ..., and all units of each, as one sequence.
struct UnitCursor {
  const __half *rows[2];  // rows r and r + 8 of the current block, at this lane's 16 bytes
  int block, unit;

  __device__ __forceinline__ void set_rows(const HeadParams &p, int lane) {
    for (int upper = 0; upper < 2; ++upper) {
      const int row = min(block * kRows + lane / 4 + 8 * upper, p.v - 1);  // rows beyond V repeat the last
      rows[upper] = p.weight + int64_t(row) * p.k + 8 * (lane % 4);
    }
  }
  __device__ __forceinline__ void load(Unit &into) const {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      into.part[part][0] = load_once(rows[0] + unit * kUnitK + 32 * part);
      into.part[part][1] = load_once(rows[1] + unit * kUnitK + 32 * part);
    }
  }
  __device__ __forceinline__ void next(const HeadParams &p, int units, int lane) {
    if (++unit == units) {
      unit = 0;
      block += kWarps;
      set_rows(p, lane);
    }
  }
};

template <int kRowBlocks>
__device__ __forceinline__ void multiply(float (&sums)[kRowBlocks][4], const Unit &w, const __half *const (&x)[kRowBlocks],
                                         int k) {
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    const uint4 &low = w.part[part][0], &high = w.part[part][1];
    const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b) {
      const uint4 v = *reinterpret_cast<const uint4 *>(x[b] + k + 32 * part);
      mma_16816(sums[b], first, v.x, v.y);
      mma_16816(sums[b], second, v.z, v.w);
    }
  }
}

template <int kRowBlocks>
__device__ __forceinline__ void store(const HeadParams &p, float (&sums)[kRowBlocks][4], int block, int lane) {
#pragma unroll
  for (int b = 0; b < kRowBlocks; ++b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 8 * b + 2 * (lane % 4) + i % 2, row = block * kRows + lane / 4 + 8 * (i / 2);
      if (token < p.m && row < p.v) p.logits[int64_t(token) * p.ldo + row] = sums[b][i];
      sums[b][i] = 0.0f;
    }
  }
}

__device__ __forceinline__ void load_x(const HeadParams &p, __half *x) {
  const int chunks = p.k / 8;
  for (int i = threadIdx.x; i < chunks * p.m; i += kThreads) {
    const int row = i / chunks, k = 8 * (i % chunks);
    *reinterpret_cast<uint4 *>(x + row * p.x_stride + k) =
        *reinterpret_cast<const uint4 *>(p.x + int64_t(row) * p.ldx + k);
  }
}

template <int kRowBlocks>
__global__ void __launch_bounds__(kThreads, 1) head_decode_kernel(const __grid_constant__ HeadParams p) {
  extern __shared__ __align__(16) __half x[];
  const int lane = threadIdx.x % 32, units = p.k / kUnitK, blocks = (p.v + kRows - 1) / kRows;
  const int first = int(int64_t(blocks) * blockIdx.x / gridDim.x) + threadIdx.x / 32;
  const int end = int(int64_t(blocks) * (blockIdx.x + 1) / gridDim.x);
  int left = first < end ? ((end - first + kWarps - 1) / kWarps) * units : 0;

  UnitCursor cursor = {{}, first, 0};
  cursor.set_rows(p, lane);
  Unit ring[kDepth];
  int ahead = left;
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (ahead > 0) {
      cursor.load(ring[i]);
      cursor.next(p, units, lane);
      --ahead;
    }
  }
  wait_for_previous_kernel();
  load_x(p, x);
  __syncthreads();

  const __half *x_lane[kRowBlocks];
#pragma unroll
  for (int b = 0; b < kRowBlocks; ++b) x_lane[b] = x + min(8 * b + lane / 4, p.m - 1) * p.x_stride + 8 * (lane % 4);
  float sums[kRowBlocks][4] = {};
  int block = first, unit = 0;
  while (left > 0) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      if (left > 0) {
        multiply<kRowBlocks>(sums, ring[i], x_lane, unit * kUnitK);
        if (ahead > 0) {
          cursor.load(ring[i]);
          cursor.next(p, units, lane);
          --ahead;
        }
        if (++unit == units) {
          store<kRowBlocks>(p, sums, block, lane);
          unit = 0;
          block += kWarps;
        }
        --left;
      }
    }
  }
  allow_next_kernel();
}

using Kernel = void (*)(HeadParams);
Kernel find_kernel(int m) { return m <= 8 ? head_decode_kernel<1> : head_decode_kernel<2>; }

/// Halves a row of x takes: rows four 16-byte chunks apart modulo the banks, so that eight lanes never collide.
int stride_of(int k) { return k + (k % 64 == 32 ? 0 : 32); }

int32_t check(const QuernDevice *device, const QuernHead *args) {
  if (device == nullptr || args == nullptr) return QUERN_BAD_POINTER;
  if (args->m < 1 || args->m > kMaxRows || args->k < kUnitK || args->k % kUnitK != 0 || args->v < 1 ||
      args->ldx < args->k || args->ldx % 8 != 0 || args->ldo < args->v) {
    return QUERN_BAD_SHAPE;
  }
  const bool aligned = is_aligned(args->weight, 16) && is_aligned(args->x, 16) && is_aligned(args->logits, 4);
  return aligned ? QUERN_OK : QUERN_BAD_POINTER;
}

/// Rows of x that shared memory holds.
int rows_at_once(const QuernDevice &device, int k) { return std::min(16, (device.smem_per_block - 1024) / (2 * stride_of(k))); }

}  // namespace

int32_t launch_portable_head(const QuernDevice &device, const QuernHead &args, int first, int m, void *stream) {
  HeadParams params = {static_cast<const __half *>(args.weight),
                       static_cast<const __half *>(args.x) + int64_t(first) * args.ldx,
                       args.logits + int64_t(first) * args.ldo,
                       m,
                       args.k,
                       args.v,
                       args.ldx,
                       args.ldo,
                       stride_of(args.k)};
  const unsigned blocks = unsigned(std::min(device.sm_count, (args.v + kRows - 1) / kRows));
  return launch(find_kernel(m), {blocks, kThreads, unsigned(2 * m * params.x_stride), 1, device.pdl != 0}, stream, params);
}

int32_t head_decode_prepare(const QuernDevice &device) {
  int32_t status = raise_smem_limit(find_kernel(1), device);
  if (status == QUERN_OK) status = raise_smem_limit(find_kernel(16), device);
  return status == QUERN_OK && device.compute_capability == 90 ? hopper_head_prepare(device) : status;
}

}  // namespace quern

extern "C" int32_t quern_head_decode(const QuernDevice *device, const QuernHead *args, void *stream) {
  using namespace quern;
  int32_t status = check(device, args);
  if (status != QUERN_OK) return status;
  const bool hopper = device->compute_capability == 90 && !device->force_portable && args->m > 16;
  const int most = hopper ? kHopperHeadRows : rows_at_once(*device, args->k);
  if (most < 1) return QUERN_BAD_SHAPE;
  for (int first = 0; first < args->m && status == QUERN_OK; first += most) {
    const int m = std::min(most, args->m - first);
    status = hopper ? launch_hopper_head(*device, *args, first, m, stream) : launch_portable_head(*device, *args, first, m, stream);
  }
  return status;
}
