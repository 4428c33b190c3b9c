// Operations on the small matrices in a thin block's closed forms, per task and in double: the patches' covariances
// [P][P], and weights or sums over patches [P][C].
#pragma once

#include <algorithm>

#include "core/conv_block.h"

namespace maml_fast {
namespace {

// Writes zeros if `values` is null.
template <typename Scalar>
void ToDouble(const Scalar* values, int64_t count, double* result) {
  if (values == nullptr) {
    std::fill(result, result + count, 0.0);
  } else {
    std::copy(values, values + count, result);
  }
}

// result[p][c] = sum over q of covariance[p][q] * weight[q][c]
template <typename Scalar>
void TimesCovariance(const ConvBlockShape& s, const Scalar* covariance, const double* weight, double* result) {
  const int64_t patch = s.PatchSize(), channels = s.out_channels;
  std::fill(result, result + patch * channels, 0.0);
  for (int64_t p = 0; p < patch; ++p) {
    double* __restrict row = result + p * channels;
    for (int64_t q = 0; q < patch; ++q) {
      const double factor = covariance[p * patch + q];
      for (int64_t c = 0; c < channels; ++c) row[c] += factor * weight[q * channels + c];
    }
  }
}

// result[c] = sum over p of a[p][c] * b[p][c]
inline void DotColumns(const ConvBlockShape& s, const double* a, const double* b, double* result) {
  std::fill(result, result + s.out_channels, 0.0);
  for (int64_t p = 0; p < s.PatchSize(); ++p, a += s.out_channels, b += s.out_channels) {
    for (int64_t c = 0; c < s.out_channels; ++c) result[c] += a[c] * b[c];
  }
}

// result[c] = sum over p of patch[p] * weight[p][c]
template <typename Scalar>
void TimesPatch(const ConvBlockShape& s, const Scalar* patch, const double* weight, double* result) {
  std::fill(result, result + s.out_channels, 0.0);
  for (int64_t p = 0; p < s.PatchSize(); ++p, weight += s.out_channels) {
    for (int64_t c = 0; c < s.out_channels; ++c) result[c] += static_cast<double>(patch[p]) * weight[c];
  }
}

}  // namespace
}  // namespace maml_fast
