// Sums over a task's images and its batch statistics, per channel.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/conv_block.h"
#include "cpu/arena.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// Keeps NaN, which must reach the user.
template <typename Scalar>
MF_INLINE Vec<Scalar> Relu(Vec<Scalar> v) {
  return v <= Scalar{0} ? Vec<Scalar>{} : v;
}

template <typename Scalar>
MF_INLINE Vec<Scalar> NormInput(Vec<Scalar> y, bool relu_first) {
  return relu_first ? Relu<Scalar>(y) : y;
}

// Mean and sum of squared deviations of one image, for a vector of channels, in one pass. The deviations are from a
// rough mean, that of every fourth pixel, and are corrected by their sum: whatever the other pixels are, cancellation
// loses at most a factor of four.
template <typename Scalar>
struct Deviations {
  Vec<Scalar> rough{}, sum{}, squares{};

  MF_INLINE Deviations(const ConvBlockShape& s, const Scalar* y, int64_t lanes) {
    constexpr int64_t kStep = 4;
    for (int64_t p = 0; p < s.ConvPixels(); p += kStep) {
      rough += NormInput<Scalar>(Load(y + p * s.out_channels, lanes), s.relu_first);
    }
    rough /= static_cast<Scalar>((s.ConvPixels() + kStep - 1) / kStep);
  }

  MF_INLINE void Add(Vec<Scalar> r) {
    const Vec<Scalar> deviation = r - rough;
    sum += deviation;
    squares += deviation * deviation;
  }

  // moments: [2][C], from the vector's first channel on.
  MF_INLINE void Write(const ConvBlockShape& s, Scalar* moments, int64_t lanes) const {
    const Vec<Scalar> off = sum / static_cast<Scalar>(s.ConvPixels()), left = squares - off * sum;
    Store(moments, rough + off, lanes);
    Store(moments + s.out_channels, left < Scalar{0} ? Vec<Scalar>{} : left, lanes);
  }
};

// Writes the moments of one image, [2][C].
template <typename Scalar>
void ImageMoments(const ConvBlockShape& s, const Scalar* y, Scalar* moments) {
  ForChannels<Scalar>(s.out_channels, [&](int64_t c, int64_t n) {
    Deviations<Scalar> deviations(s, y + c, n);
    for (int64_t p = 0; p < s.ConvPixels(); ++p) {
      deviations.Add(NormInput<Scalar>(Load(y + p * s.out_channels + c, n), s.relu_first));
    }
    deviations.Write(s, moments + c, n);
  });
}

// totals[i] = sum over images of rows[image][i], in image order and in double.
template <typename Scalar>
void SumOverImages(int64_t images, const Scalar* rows, int64_t width, double* totals) {
  std::fill(totals, totals + width, 0.0);
  for (int64_t b = 0; b < images; ++b, rows += width) {
    for (int64_t i = 0; i < width; ++i) totals[i] += rows[i];
  }
}

// Combines the images' moments ([B][2][C]) in image order (Chan, Golub & LeVeque 1979), in double.
template <typename Scalar>
void JoinMoments(const ConvBlockShape& s, const Scalar* moments, Scalar* mean, Scalar* rstd) {
  const int64_t channels = s.out_channels;
  const double pixels = static_cast<double>(s.ConvPixels()), images = static_cast<double>(s.batch);
  ArenaScope arena;
  auto* __restrict center = arena.Array<double>(2 * channels);
  auto* __restrict squares = center + channels;
  SumOverImages(s.batch, moments, 2 * channels, center);
  for (int64_t c = 0; c < channels; ++c) center[c] /= images;
  for (int64_t b = 0; b < s.batch; ++b, moments += 2 * channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const double off = moments[c] - center[c];
      squares[c] += pixels * off * off;
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<Scalar>(center[c]);
    rstd[c] = static_cast<Scalar>(1.0 / std::sqrt(squares[c] / (pixels * images) + s.eps));
  }
}

}  // namespace
}  // namespace maml_fast
