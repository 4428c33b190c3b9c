// Batch norm, ReLU and max-pool, value by value, with the sums and images that their derivatives need. The formulas and
// their names are those of csrc/cpu/passes.
#pragma once

#include "core/conv_block.h"
#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "cuda/reduce.cuh"

namespace maml_fast {
namespace cuda {

constexpr int kThreadsOfImages = 256;

template <typename T>
MF_DEVICE T Relu(T value) {
  return value <= T{0} ? T{0} : value;  // NaN stays
}

// One value of an image [T, B, height, width, channels], a thread's own. Blocks: x over an image's values, y over
// images, z over tasks.
struct Place {
  int task, image, row, col, channel;
  int64_t at;  // negative: past the end

  MF_DEVICE static Place Here(const ConvBlockShape& s, int64_t height, int64_t width) {
    const int channels = static_cast<int>(s.out_channels), size = static_cast<int>(height * width) * channels;
    const int value = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (value >= size) return {0, 0, 0, 0, 0, -1};
    const int task = static_cast<int>(blockIdx.z), image = static_cast<int>(blockIdx.y);
    return At(s, task, image, value / channels, value % channels, static_cast<int>(width), size);
  }
  // The value of a pixel, which is counted from the first of its image.
  MF_DEVICE static Place At(const ConvBlockShape& s, int task, int image, int pixel, int channel, int width, int size) {
    const int row = pixel / width;
    const int64_t first = (int64_t{task} * s.batch + image) * size;
    return {task, image, row, pixel - row * width, channel, first + int64_t{pixel} * s.out_channels + channel};
  }
  // The value of y in a row of all of a task's pixels.
  MF_DEVICE static Place OfY(const ConvBlockShape& s, int task, int row, int channel) {
    const int pixels = static_cast<int>(s.ConvPixels()), image = row / pixels;
    return At(s, task, image, row - image * pixels, channel, static_cast<int>(s.conv_width),
              static_cast<int>(s.ConvSize()));
  }
  // The same of out.
  MF_DEVICE static Place OfOut(const ConvBlockShape& s, int task, int row, int channel) {
    const int pixels = static_cast<int>(s.OutPixels()), image = row / pixels;
    return At(s, task, image, row - image * pixels, channel, static_cast<int>(s.out_width),
              static_cast<int>(s.OutSize()));
  }
};

// A thread for every value of images of this size.
inline dim3 ImageGrid(const ConvBlockShape& s, int64_t size) {
  return dim3(Ceil(size, kThreadsOfImages), static_cast<unsigned>(s.batch), static_cast<unsigned>(s.tasks));
}

// A channel's batch norm.
template <typename T>
struct Norm {
  T mean, rstd, gamma, beta;

  MF_DEVICE T Normalised(T r) const { return (r - mean) * rstd; }
};

// The statistics of a task's batch norm, and its parameters.
template <typename T>
struct Norms {
  const T* mean;
  const T* rstd;
  TaskParam<T> gamma, beta;
  int channels;

  MF_DEVICE Norm<T> Of(int task, int channel) const {
    const T *scale = gamma.Of(task), *shift = beta.Of(task);
    const int64_t at = int64_t{task} * channels + channel;
    return {mean[at], rstd[at], scale == nullptr ? T{1} : scale[channel], shift == nullptr ? T{0} : shift[channel]};
  }
};

// y of a block, and what its forward pass decided.
template <typename T>
struct BlockImages {
  ConvBlockShape s;
  const T* y;
  const uint8_t* argmax;
  const T* grad_out;

  MF_DEVICE T R(T value) const { return s.relu_first ? Relu(value) : value; }
  MF_DEVICE int Window() const { return s.pool ? 4 : 1; }
  // Where the pixel `element` of the window of an output pixel lies in y.
  MF_DEVICE int64_t InWindow(const Place& out, int element) const {
    const int64_t row = s.pool ? 2 * out.row + element / 2 : out.row,
                  col = s.pool ? 2 * out.col + element % 2 : out.col;
    return s.ConvImage(out.task, out.image) + (row * s.conv_width + col) * s.out_channels + out.channel;
  }
  // Where the output lies that took its value from a pixel of y; negative if none did.
  MF_DEVICE int64_t OutputFrom(const Place& p) const {
    const int row = s.pool ? p.row / 2 : p.row, col = s.pool ? p.col / 2 : p.col;
    if (row >= s.out_height || col >= s.out_width) return -1;
    const int64_t out = s.OutImage(p.task, p.image) + (row * s.out_width + col) * s.out_channels + p.channel;
    const int element = s.pool ? p.row % 2 * 2 + p.col % 2 : 0;
    return argmax[out] == element ? out : -1;
  }
  // g at a pixel of y.
  MF_DEVICE T GradientAt(const Place& p) const {
    const int64_t out = OutputFrom(p);
    return out < 0 ? T{0} : grad_out[out];
  }
};

}  // namespace cuda
}  // namespace maml_fast
