// Tensor maps for the copy engine, made on the host at each launch. The driver's function is found at run time: nothing
// links to libcuda, so a binary with these kernels starts on a machine without a driver.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "quern_kernels.h"

namespace quern {

/// Finds the driver's function; QUERN_UNSUPPORTED if it has none. Called by quern_device_open on sm_90, before any map.
int32_t tensor_maps_prepare();

/// A row-major fp16 matrix [rows, columns] with row distance ld (elements, multiple of 8), 16-byte aligned, copied in boxes of
/// box_rows (<= 256) x 64 columns to shared memory under the 128-byte swizzle; zeros outside the matrix.
struct SwizzledMatrix {
  const void *data;
  int32_t rows, columns, ld, box_rows;
};
int32_t make_tensor_map(const SwizzledMatrix &matrix, CUtensorMap *map);

}  // namespace quern
