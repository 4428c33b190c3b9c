// Batch norm, ReLU and max pooling of single values, and the gradients at them. Formulas and notation are those of
// csrc/cpu/passes.
#pragma once

#include "core/conv_block.h"
#include "cuda/device.cuh"
#include "cuda/divide.h"
#include "cuda/launch.h"
#include "cuda/reduce.cuh"

namespace maml_fast {
namespace cuda {

constexpr int kThreadsOfImages = 256;

template <typename T>
MF_DEVICE T Relu(T value) {
  return value <= T{0} ? T{0} : value;  // keeps NaN
}

// The shape of images [T, B, height, width, channels], with the divisors that locate a thread's value.
struct ImageShape {
  int batch, height, width, channels, size;
  Divide by_channels, by_width, by_pixels;

  static ImageShape Of(const ConvBlockShape& s, int64_t height, int64_t width) {
    return {int(s.batch),
            int(height),
            int(width),
            int(s.out_channels),
            int(height * width * s.out_channels),
            Divide::By(int(s.out_channels)),
            Divide::By(int(width)),
            Divide::By(int(height * width))};
  }
  static ImageShape OfY(const ConvBlockShape& s) { return Of(s, s.conv_height, s.conv_width); }
  static ImageShape OfOut(const ConvBlockShape& s) { return Of(s, s.out_height, s.out_width); }

  // The offset of an image, and of a value within its image.
  MF_DEVICE int64_t First(int task, int image) const { return (int64_t{task} * batch + image) * size; }
  MF_DEVICE int In(int row, int col, int channel) const { return (row * width + col) * channels + channel; }
};

// A thread processes this many images, all at the same row, column and channel, so that these are located once and the
// channel's parameters are loaded once.
constexpr int kImagesOfThread = 4;

// The position of one value. Grid: x over an image's values, y over groups of images, z over tasks.
struct Place {
  int task, image, row, col, channel;
  int64_t at;

  // The thread's first value. EndOfImages() is the end of its images.
  MF_DEVICE static Place Here(const ImageShape& of) {
    const int value = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), pixel = of.by_channels.Quotient(value);
    const int image = value < of.size ? static_cast<int>(blockIdx.y) * kImagesOfThread : of.batch;
    return At(of, static_cast<int>(blockIdx.z), image, pixel, value - pixel * of.channels);
  }
  MF_DEVICE static int EndOfImages(const ImageShape& of) {
    const int end = (static_cast<int>(blockIdx.y) + 1) * kImagesOfThread;
    return end < of.batch ? end : of.batch;
  }
  MF_DEVICE void Next(const ImageShape& of) {
    ++image;
    at += of.size;
  }
  // The value in row `row` of all pixels of a task.
  MF_DEVICE static Place OfRow(const ImageShape& of, int task, int row, int channel) {
    const int image = of.by_pixels.Quotient(row);
    return At(of, task, image, row - image * of.by_pixels.by, channel);
  }

 private:
  // `pixel` is counted within the image.
  MF_DEVICE static Place At(const ImageShape& of, int task, int image, int pixel, int channel) {
    const int row = of.by_width.Quotient(pixel);
    const int64_t at = of.First(task, image) + pixel * of.channels + channel;
    return {task, image, row, pixel - row * of.width, channel, at};
  }
};

// One thread per value of kImagesOfThread images.
inline dim3 ImageGrid(const ConvBlockShape& s, int64_t size) {
  return dim3(Ceil(size, kThreadsOfImages), Ceil(s.batch, kImagesOfThread), static_cast<unsigned>(s.tasks));
}

template <typename T>
struct Norm {
  T mean, rstd, gamma, beta;

  MF_DEVICE T Normalized(T r) const { return (r - mean) * rstd; }
};

// Batch statistics and batch norm parameters of all tasks.
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

// y of a block, the argmax of its forward pass, and the gradient at its output.
template <typename T>
struct BlockImages {
  ImageShape of_y, of_out;
  bool pool, relu_first;
  const T* y;
  const uint8_t* argmax;
  const T* grad_out;

  static BlockImages Of(const ConvBlockShape& s, const T* y, const uint8_t* argmax, const T* grad_out) {
    return {ImageShape::OfY(s), ImageShape::OfOut(s), s.pool, s.relu_first, y, argmax, grad_out};
  }

  MF_DEVICE T R(T value) const { return relu_first ? Relu(value) : value; }
  MF_DEVICE int Window() const { return pool ? 4 : 1; }
  // The offset in y of pixel `element` of an output's window.
  MF_DEVICE int64_t InWindow(const Place& out, int element) const {
    const int row = pool ? 2 * out.row + element / 2 : out.row, col = pool ? 2 * out.col + element % 2 : out.col;
    return of_y.First(out.task, out.image) + of_y.In(row, col, out.channel);
  }
  // The offset of the output that has its maximum at a pixel of y; negative if there is none.
  MF_DEVICE int64_t OutputFrom(const Place& p) const {
    const int64_t out = OutputOf(p);
    return out >= 0 && argmax[out] == ElementOf(p) ? out : -1;
  }
  // The offset of the output that ReLU set to zero whose window begins at a pixel of y; negative if there is none.
  MF_DEVICE int64_t DeadOutputFrom(const Place& p) const {
    const int64_t out = OutputOf(p);
    return out >= 0 && argmax[out] == kDead && ElementOf(p) == 0 ? out : -1;
  }
  // The offset of the output whose window holds a pixel of y, negative if there is none, and the pixel's position
  // there.
  MF_DEVICE int64_t OutputOf(const Place& p) const {
    const int row = pool ? p.row / 2 : p.row, col = pool ? p.col / 2 : p.col;
    if (row >= of_out.height || col >= of_out.width) return -1;
    return of_out.First(p.task, p.image) + of_out.In(row, col, p.channel);
  }
  MF_DEVICE int ElementOf(const Place& p) const { return pool ? p.row % 2 * 2 + p.col % 2 : 0; }
  // g, the gradient at batch norm's output, at a pixel of y.
  MF_DEVICE T GradientAt(const Place& p) const {
    const int64_t out = OutputFrom(p);
    return out < 0 ? T{0} : grad_out[out];
  }
};

}  // namespace cuda
}  // namespace maml_fast
