// Batch norm, ReLU and max pooling, one image at a time, and the sums and images that their first and second
// derivatives need.
//
// Notation, per task and channel, with M = B * OH * OW values: g is the gradient at z, h the tangent at r minus a level
// that is close to its mean, x^ = (r - mean) * rstd, and a bar means the average over the M values.
#pragma once

#include "core/conv_block.h"
#include "cpu/passes/argmax.h"
#include "cpu/passes/statistics.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// Calls covered(conv pixels of a window [SIZE], out pixel) for every window, and uncovered(conv pixel) for the rows and
// columns that are in no window because extents are rounded down.
template <typename Covered, typename Uncovered>
MF_INLINE void ForWindows(const ConvBlockShape& s, const Covered& covered, const Uncovered& uncovered) {
  if (!s.pool) {
    for (int64_t p = 0; p < s.ConvPixels(); ++p) covered(&p, std::integral_constant<int, 1>{}, p);
    return;
  }
  for (int64_t i = 0; i < s.out_height; ++i) {
    for (int64_t j = 0; j < s.out_width; ++j) {
      const int64_t corner = 2 * i * s.conv_width + 2 * j;
      const int64_t window[4] = {corner, corner + 1, corner + s.conv_width, corner + s.conv_width + 1};
      covered(window, std::integral_constant<int, 4>{}, i * s.out_width + j);
    }
  }
  for (int64_t i = 0; i < s.conv_height; ++i) {
    const int64_t first = i < 2 * s.out_height ? 2 * s.out_width : 0;
    for (int64_t j = first; j < s.conv_width; ++j) uncovered(i * s.conv_width + j);
  }
}

// One task's batch norm, as the image kernels read it.
template <typename Scalar>
struct Norm {
  const Scalar* mean;
  const Scalar* rstd;
  const Scalar* gamma;  // null: 1
  const Scalar* beta;   // null: 0

  MF_INLINE Vec<Scalar> Gamma(int64_t c, int64_t n) const {
    return gamma == nullptr ? Broadcast(Scalar{1}) : Load(gamma + c, n);
  }
  MF_INLINE Vec<Scalar> Beta(int64_t c, int64_t n) const { return beta == nullptr ? Vec<Scalar>{} : Load(beta + c, n); }
};

// Writes r where z will be largest in every window, the position of that pixel, and the image's moments. z increases
// with r if gamma is positive and decreases if it is negative. If gamma is zero, z is the same everywhere and the first
// pixel counts. argmax: null if not wanted.
template <typename Scalar>
void PoolImage(const ConvBlockShape& s, const Norm<Scalar>& norm, const Scalar* y, Scalar* moments, Scalar* r,
               uint8_t* argmax) {
  const int64_t channels = s.out_channels;
  ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) {
    const Vec<Scalar> gamma = norm.Gamma(c, n), one = Broadcast(Scalar{1});
    Deviations<Scalar> deviations(s, y + c, n);
    const Vec<Scalar> sign = gamma > Scalar{0} ? one : (gamma < Scalar{0} ? -one : Vec<Scalar>{});
    auto covered = [&](const int64_t* window, auto size, int64_t out_pixel) __attribute__((always_inline)) {
      Vec<Scalar> best{};
      IntVec<Scalar> index{};
      for (int e = 0; e < size(); ++e) {
        const Vec<Scalar> r_here = NormInput<Scalar>(Load(y + window[e] * channels + c, n), s.relu_first);
        const Vec<Scalar> signed_r = sign * r_here;
        deviations.Add(r_here);
        if (e == 0) {
          best = signed_r;
        } else {
          const auto better = signed_r > best;
          best = better ? signed_r : best;
          index = better ? IntVec<Scalar>{} + e : index;
        }
      }
      Store(r + out_pixel * channels + c, sign * best, n);
      if (argmax != nullptr) StoreIndex<Scalar>(argmax + out_pixel * channels + c, index, n);
    };
    ForWindows(s, covered, [&](int64_t pixel) __attribute__((always_inline)) {
      deviations.Add(NormInput<Scalar>(Load(y + pixel * channels + c, n), s.relu_first));
    });
    deviations.Write(s, moments + c, n);
  });
}

// Writes out of one image from its r at the maxima (r may be out), and marks in argmax, unless null, the windows that
// ReLU sets to zero. Statistics that are NaN make all of a channel NaN.
template <typename Scalar>
void NormRelu(const ConvBlockShape& s, const Norm<Scalar>& norm, const Scalar* r, Scalar* out, uint8_t* argmax) {
  const int64_t channels = s.out_channels;
  ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) {
    const Vec<Scalar> mean = Load(norm.mean + c, n), scale = Load(norm.rstd + c, n) * norm.Gamma(c, n);
    const Vec<Scalar> shift = norm.Beta(c, n);
    for (int64_t at = c; at < s.OutPixels() * channels; at += channels) {
      const Vec<Scalar> z = (NormInput<Scalar>(Load(r + at, n), s.relu_first) - mean) * scale + shift;
      const auto dead = s.relu_first ? IntVec<Scalar>{} : z <= Scalar{0};
      Store(out + at, dead ? Vec<Scalar>{} : z, n);
      if (argmax == nullptr) continue;
      const IntVec<Scalar> index = s.pool ? LoadIndex<Scalar>(argmax + at, n) : IntVec<Scalar>{};
      StoreIndex<Scalar>(argmax + at, dead ? IntVec<Scalar>{} + kDead : index, n);
    }
  });
}

// What the backward passes read of one image.
template <typename Scalar>
struct ImageGradient {
  const Scalar* y;
  const Scalar* grad_out;
  const uint8_t* argmax;
};

// Sums over one image, per channel: x^, g and g x^ ([3][C]).
template <typename Scalar>
void GradientSums(const ConvBlockShape& s, const Norm<Scalar>& norm, const ImageGradient<Scalar>& image, Scalar* sums) {
  const int64_t channels = s.out_channels;
  ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) {
    const Vec<Scalar> mean = Load(norm.mean + c, n), rstd = Load(norm.rstd + c, n);
    Vec<Scalar> sum_x{}, sum_g{}, sum_gx{};
    auto deviation = [&](int64_t pixel) __attribute__((always_inline)) {
      const Vec<Scalar> here = NormInput<Scalar>(Load(image.y + pixel * channels + c, n), s.relu_first) - mean;
      sum_x += here;
      return here;
    };
    auto covered = [&](const int64_t* window, auto size, int64_t out_pixel) __attribute__((always_inline)) {
      const Vec<Scalar> grad = Load(image.grad_out + out_pixel * channels + c, n);
      const IntVec<Scalar> index = LoadIndex<Scalar>(image.argmax + out_pixel * channels + c, n);
      const Vec<Scalar> g = index == kDead ? Vec<Scalar>{} : grad;
      Vec<Scalar> picked{};
      for (int e = 0; e < size(); ++e) {
        const Vec<Scalar> here = deviation(window[e]);
        picked = index == e ? here : picked;
      }
      sum_g += g;
      sum_gx += g * picked;
    };
    ForWindows(s, covered, deviation);
    Store(sums + c, sum_x * rstd, n);
    Store(sums + channels + c, sum_g, n);
    Store(sums + 2 * channels + c, sum_gx * rstd, n);
  });
}

// Coefficients of the image kernels below, per channel ([3][C]): grad_r = g_ * g + x_ * x^ + one.
template <typename Scalar>
struct GradCoefficients {
  const Scalar *g, *x, *one;
};

// Writes grad_y of one image, with `more` added unless null, and its sum per channel to grad_bias unless null.
template <typename Scalar>
void GradY(const ConvBlockShape& s, const Norm<Scalar>& norm, const GradCoefficients<Scalar>& k,
           const ImageGradient<Scalar>& image, const Scalar* more, Scalar* grad_y, Scalar* grad_bias) {
  const int64_t channels = s.out_channels;
  ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) {
    const Vec<Scalar> mean = Load(norm.mean + c, n), rstd = Load(norm.rstd + c, n);
    const Vec<Scalar> of_g = Load(k.g + c, n), of_x = Load(k.x + c, n) * rstd, one = Load(k.one + c, n);
    Vec<Scalar> sum{};
    auto write = [&](int64_t pixel, Vec<Scalar> g) __attribute__((always_inline)) {
      const Vec<Scalar> y = Load(image.y + pixel * channels + c, n);
      Vec<Scalar> grad = of_g * g + (of_x * (NormInput<Scalar>(y, s.relu_first) - mean) + one);
      if (s.relu_first) grad = y <= Scalar{0} ? Vec<Scalar>{} : grad;
      if (more != nullptr) grad += Load(more + pixel * channels + c, n);
      Store(grad_y + pixel * channels + c, grad, n);
      sum += grad;
    };
    auto covered = [&](const int64_t* window, auto size, int64_t out_pixel) __attribute__((always_inline)) {
      const Vec<Scalar> grad = Load(image.grad_out + out_pixel * channels + c, n);
      const IntVec<Scalar> index = LoadIndex<Scalar>(image.argmax + out_pixel * channels + c, n);
      for (int e = 0; e < size(); ++e) write(window[e], index == e ? grad : Vec<Scalar>{});
    };
    ForWindows(s, covered, [&](int64_t pixel) __attribute__((always_inline)) { write(pixel, Vec<Scalar>{}); });
    if (grad_bias != nullptr) Store(grad_bias + c, sum, n);
  });
}

// The tangents at r of one image, from the tangents at y and the level [C].
template <typename Scalar>
struct ImageTangent {
  const Scalar* at_y;
  const Scalar* level;

  // The tangent at a pixel with the value y.
  MF_INLINE Vec<Scalar> Of(int64_t at, Vec<Scalar> y, Vec<Scalar> level_here, int64_t n, bool relu_first) const {
    const Vec<Scalar> here = Load(at_y + at, n);
    return (relu_first ? (y <= Scalar{0} ? Vec<Scalar>{} : here) : here) - level_here;
  }
};

// Sums over one image, per channel: x^, g, g x^, h, h x^, g h ([6][C]).
template <typename Scalar>
void TangentSums(const ConvBlockShape& s, const Norm<Scalar>& norm, const ImageGradient<Scalar>& image,
                 const ImageTangent<Scalar>& tangent, Scalar* sums) {
  const int64_t channels = s.out_channels;
  ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) {
    const Vec<Scalar> mean = Load(norm.mean + c, n), rstd = Load(norm.rstd + c, n), level = Load(tangent.level + c, n);
    Vec<Scalar> sum_x{}, sum_g{}, sum_gx{}, sum_h{}, sum_hx{}, sum_gh{};
    auto add = [&](int64_t pixel, Vec<Scalar> g) __attribute__((always_inline)) {
      const Vec<Scalar> y = Load(image.y + pixel * channels + c, n);
      const Vec<Scalar> h = tangent.Of(pixel * channels + c, y, level, n, s.relu_first);
      const Vec<Scalar> x = (NormInput<Scalar>(y, s.relu_first) - mean) * rstd;
      sum_x += x;
      sum_g += g;
      sum_gx += g * x;
      sum_h += h;
      sum_hx += h * x;
      sum_gh += g * h;
    };
    auto covered = [&](const int64_t* window, auto size, int64_t out_pixel) __attribute__((always_inline)) {
      const Vec<Scalar> grad = Load(image.grad_out + out_pixel * channels + c, n);
      const IntVec<Scalar> index = LoadIndex<Scalar>(image.argmax + out_pixel * channels + c, n);
      for (int e = 0; e < size(); ++e) add(window[e], index == e ? grad : Vec<Scalar>{});
    };
    ForWindows(s, covered, [&](int64_t pixel) __attribute__((always_inline)) { add(pixel, Vec<Scalar>{}); });
    const Vec<Scalar> all[6] = {sum_x, sum_g, sum_gx, sum_h, sum_hx, sum_gh};
    for (int i = 0; i < 6; ++i) Store(sums + i * channels + c, all[i], n);
  });
}

// Coefficients per channel of the images of the second derivative:
//   tangent_z = z.h * h + z.x * x^ + z.one        (gathered by argmax: grad_grad_out)
//   second_y  = r.g * g + r.h * h + r.x * x^ + r.one
template <typename Scalar>
struct TangentCoefficients {
  struct {
    const Scalar *h, *x, *one;
  } z;
  struct {
    const Scalar *g, *h, *x, *one;
  } r;
};

// Writes grad_grad_out, and the gradient at y that propagates into x and weight; it may overwrite the tangent at y.
template <typename Scalar>
void SecondGradY(const ConvBlockShape& s, const Norm<Scalar>& norm, const TangentCoefficients<Scalar>& k,
                 const ImageGradient<Scalar>& image, const ImageTangent<Scalar>& tangent, Scalar* second_y,
                 Scalar* grad_grad_out) {
  const int64_t channels = s.out_channels;
  ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) {
    const Vec<Scalar> mean = Load(norm.mean + c, n), rstd = Load(norm.rstd + c, n), level = Load(tangent.level + c, n);
    const Vec<Scalar> z_h = Load(k.z.h + c, n), z_x = Load(k.z.x + c, n), z_one = Load(k.z.one + c, n);
    const Vec<Scalar> r_g = Load(k.r.g + c, n), r_h = Load(k.r.h + c, n), r_x = Load(k.r.x + c, n);
    const Vec<Scalar> r_one = Load(k.r.one + c, n);
    auto pass = [&](int64_t pixel, Vec<Scalar> g) __attribute__((always_inline)) {  // returns tangent_z
      const Vec<Scalar> y = Load(image.y + pixel * channels + c, n);
      const Vec<Scalar> h = tangent.Of(pixel * channels + c, y, level, n, s.relu_first);
      const Vec<Scalar> x = (NormInput<Scalar>(y, s.relu_first) - mean) * rstd;
      Vec<Scalar> second = r_g * g + (r_h * h + (r_x * x + r_one));
      if (s.relu_first) second = y <= Scalar{0} ? Vec<Scalar>{} : second;
      Store(second_y + pixel * channels + c, second, n);
      return z_h * h + (z_x * x + z_one);
    };
    auto covered = [&](const int64_t* window, auto size, int64_t out_pixel) __attribute__((always_inline)) {
      const Vec<Scalar> grad = Load(image.grad_out + out_pixel * channels + c, n);
      const IntVec<Scalar> index = LoadIndex<Scalar>(image.argmax + out_pixel * channels + c, n);
      Vec<Scalar> picked{};
      for (int e = 0; e < size(); ++e) {
        const Vec<Scalar> tangent_z = pass(window[e], index == e ? grad : Vec<Scalar>{});
        picked = index == e ? tangent_z : picked;
      }
      Store(grad_grad_out + out_pixel * channels + c, picked, n);
    };
    ForWindows(s, covered, [&](int64_t pixel) __attribute__((always_inline)) { pass(pixel, Vec<Scalar>{}); });
  });
}

// Sets every pixel of images [begin, end) to `value` [C].
template <typename Scalar>
void FillImages(const ConvBlockShape& s, const Scalar* value, Scalar* images, int64_t begin, int64_t end) {
  for (int64_t p = begin * s.ConvPixels(); p < end * s.ConvPixels(); ++p) {
    std::memcpy(images + p * s.out_channels, value, static_cast<size_t>(s.out_channels) * sizeof(Scalar));
  }
}

}  // namespace
}  // namespace maml_fast
