// Where the factors of a convolution's product lie. An operand is a matrix of one task that is never written out: it is
// read in runs of neighbours, each found by its line and its run.
#pragma once

#include "core/conv_block.h"
#include "cuda/device.cuh"

namespace maml_fast {
namespace cuda {

// The pixels of images that a filter passes over, for every pixel of what it gives: lines are the latter, runs go over
// (tap, channel).
//
//   forward         from x to y:           row = out * stride - padding + tap
//   data gradient   from grad_y to grad_x: row = (out + padding - tap) / stride, where that is whole
struct PatchGrid {
  int from_height, from_width, channels;
  int to_height, to_width;
  int kernel, stride, padding;
  bool transposed;

  static PatchGrid Forward(const ConvBlockShape& s) {
    return {int(s.in_height),   int(s.in_width),   int(s.in_channels),
            int(s.conv_height), int(s.conv_width), int(s.kernel),
            int(s.stride),      int(s.padding),    false};
  }
  static PatchGrid DataGradient(const ConvBlockShape& s) {
    return {int(s.conv_height), int(s.conv_width), int(s.out_channels),
            int(s.in_height),   int(s.in_width),   int(s.kernel),
            int(s.stride),      int(s.padding),    true};
  }

  int Runs() const { return kernel * kernel * channels; }

  // The row, or column, that meets `tap` at `to`; negative if none does.
  MF_DEVICE int From(int to, int tap, int extent) const {
    int from = transposed ? to + padding - tap : to * stride - padding + tap;
    if (transposed && stride > 1) {
      if (from % stride != 0) return -1;
      from /= stride;
    }
    return from < extent ? from : -1;
  }
};

template <typename T>
struct Patches {
  struct Line {
    const T* image;  // null: past the end
    int row, col;
  };
  struct Run {
    int tap_row, tap_col, channel;  // tap_row < 0: past the end
  };

  PatchGrid grid;
  const T* images;
  int lines;

  MF_DEVICE const T* First() const { return images; }
  MF_DEVICE Line LineAt(int line) const {
    if (line >= lines) return {nullptr, 0, 0};
    const int pixels = grid.to_height * grid.to_width, image = line / pixels, pixel = line - image * pixels;
    const int row = pixel / grid.to_width;
    return {images + int64_t{image} * grid.from_height * grid.from_width * grid.channels, row,
            pixel - row * grid.to_width};
  }
  MF_DEVICE Run RunAt(int run) const {
    const int tap = run / grid.channels, tap_row = tap / grid.kernel;
    if (tap_row >= grid.kernel) return {-1, 0, 0};
    return {tap_row, tap - tap_row * grid.kernel, run - tap * grid.channels};
  }
  MF_DEVICE const T* Find(const Line& line, const Run& run) const {
    if (line.image == nullptr || run.tap_row < 0) return nullptr;
    const int row = grid.From(line.row, run.tap_row, grid.from_height);
    const int col = grid.From(line.col, run.tap_col, grid.from_width);
    if (row < 0 || col < 0) return nullptr;
    return line.image + (row * grid.from_width + col) * grid.channels + run.channel;
  }
};

// A plain matrix, [lines][runs].
template <typename T>
struct Matrix {
  struct Line {
    const T* first;
  };
  struct Run {
    int at;  // negative: past the end
  };

  const T* values;
  int lines, runs;

  MF_DEVICE const T* First() const { return values; }
  MF_DEVICE Line LineAt(int line) const { return {line < lines ? values + int64_t{line} * runs : nullptr}; }
  MF_DEVICE Run RunAt(int run) const { return {run < runs ? run : -1}; }
  MF_DEVICE const T* Find(const Line& line, const Run& run) const {
    return line.first == nullptr || run.at < 0 ? nullptr : line.first + run.at;
  }
};

// Weights [k, k, Cin, Cout] for the data gradient: lines are input channels, runs go over (tap, output channel).
template <typename T>
struct TransposedFilters {
  struct Line {
    int channel;  // negative: past the end
  };
  struct Run {
    const T* first;  // null: past the end
  };

  const T* weight;
  int taps, in_channels, out_channels;

  MF_DEVICE const T* First() const { return weight; }
  MF_DEVICE Line LineAt(int line) const { return {line < in_channels ? line : -1}; }
  MF_DEVICE Run RunAt(int run) const {
    const int tap = run / out_channels;
    if (tap >= taps) return {nullptr};
    return {weight + int64_t{tap} * in_channels * out_channels + (run - tap * out_channels)};
  }
  MF_DEVICE const T* Find(const Line& line, const Run& run) const {
    return line.channel < 0 || run.first == nullptr ? nullptr : run.first + line.channel * out_channels;
  }
};

}  // namespace cuda
}  // namespace maml_fast
