// fp16 on the host: bits and conversions, round to nearest even.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace quern::test {

using Half = uint16_t;

inline float to_float(Half bits) {
  __half_raw raw;
  raw.x = bits;
  return __half2float(__half(raw));
}
inline Half to_half(float value) { return static_cast<__half_raw>(__float2half_rn(value)).x; }

inline std::vector<double> to_double(const std::vector<Half> &values) {
  std::vector<double> out;
  out.reserve(values.size());
  for (Half value : values) out.push_back(to_float(value));
  return out;
}

}  // namespace quern::test
