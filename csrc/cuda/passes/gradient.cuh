// Code that the backward and the double-backward pass share.
#pragma once

#include "core/norm_derivatives.h"
#include "cuda/passes/norm_pool.cuh"

namespace maml_fast {
namespace cuda {

constexpr int kGradient = 3;

// grad_r = of_g g + of_x x^ + one.
template <typename T>
struct Gradient {
  T of_g, of_x, one;
};

// These coefficients for all tasks and channels, [tasks, kGradient, C].
template <typename T>
struct GradientCoefficients {
  const T* values;
  int channels;

  MF_DEVICE Gradient<T> Of(int task, int channel) const {
    const T* of = values + int64_t{task} * kGradient * channels + channel;
    return {of[0], of[channels], of[2 * channels]};
  }
};

// The gradient at a value of y, from the gradient at the block's output.
template <typename T>
MF_DEVICE T GradY(const BlockImages<T>& images, const Norm<T>& norm, const Gradient<T>& gradient, const Place& p) {
  const T y = images.y[p.at];
  if (images.relu_first && y <= T{0}) return 0;
  const T x = norm.Normalized(images.R(y));
  return gradient.of_g * images.GradientAt(p) + (gradient.of_x * x + gradient.one);
}

template <typename T>
Norms<T> NormsOf(const ConvBlockShape& s, const ConvBlockSaved<T>& saved) {
  return {saved.mean, saved.rstd, saved.gamma, {}, static_cast<int>(s.out_channels)};
}

}  // namespace cuda
}  // namespace maml_fast
