// See common/tensor_map.h.
#include "common/tensor_map.h"

namespace quern {
namespace {

using EncodeTiled = CUresult (*)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                 const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
EncodeTiled encode_tiled = nullptr;  // written once, when the first device is opened

}  // namespace

int32_t tensor_maps_prepare() {
  constexpr unsigned kCuda12 = 12000;
  void *function = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kCuda12, cudaEnableDefault, &found) !=
          cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    cudaGetLastError();
    return QUERN_UNSUPPORTED;
  }
  encode_tiled = reinterpret_cast<EncodeTiled>(function);
  return QUERN_OK;
}

int32_t make_tensor_map(const SwizzledMatrix &matrix, CUtensorMap *map) {
  if (encode_tiled == nullptr) return QUERN_UNSUPPORTED;
  const cuuint64_t sizes[2] = {cuuint64_t(matrix.columns), cuuint64_t(matrix.rows)};
  const cuuint64_t row_bytes[1] = {cuuint64_t(matrix.ld) * 2};
  const cuuint32_t box[2] = {64, cuuint32_t(matrix.box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result = encode_tiled(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<void *>(matrix.data), sizes,
                                       row_bytes, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                       CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? QUERN_OK : QUERN_BAD_SHAPE;
}

}  // namespace quern
