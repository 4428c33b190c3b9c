// The operands of a convolution's matrix product. An operand is a matrix of one task that need not be stored as such:
// its elements are read from images or weights. An element is found by its line (the row of the matrix) and its run
// (the position in the line); elements of neighboring runs are adjacent in memory. Divisions are done only when a line
// or a run is located. Each is then used many times, and combining the two takes only additions.
#pragma once

#include "core/conv_block.h"
#include "cuda/conv_block.h"
#include "cuda/device.cuh"
#include "cuda/divide.h"

namespace maml_fast {
namespace cuda {

// The offset of an element in the operand's memory. Elements that are not `inside` are zero.
struct Element {
  int at;
  bool inside;
};

// Marks a row or an offset past the end: its sum with any valid one, or with itself, is negative.
constexpr int kOutside = -static_cast<int>(kMostValues);

// The contribution of a line or a run to an element's row, column and offset in images. Offsets are sums modulo 2^32,
// and right if the element is inside.
struct PatchPart {
  int row, col;
  uint32_t at;
};

MF_DEVICE Element FindInImage(const PatchPart& line, const PatchPart& run, int height, int width) {
  const bool inside = static_cast<unsigned>(line.row + run.row) < static_cast<unsigned>(height) &&
                      static_cast<unsigned>(line.col + run.col) < static_cast<unsigned>(width);
  return {static_cast<int>(line.at + run.at), inside};
}

// The pixels that a filter reads from images x, for every pixel of y: lines are pixels of y, runs are (tap, channel).
// The row that is read is to * stride - padding + tap.
struct PatchGrid {
  int from_height, from_width, channels;
  int to_width, to_pixels;
  int kernel, stride, padding;
  Divide by_channels, by_kernel, by_to_width, by_to_pixels;

  static PatchGrid Of(const ConvBlockShape& s) {
    const auto to_width = int(s.conv_width), to_pixels = int(s.ConvPixels());
    return {int(s.in_height),
            int(s.in_width),
            int(s.in_channels),
            to_width,
            to_pixels,
            int(s.kernel),
            int(s.stride),
            int(s.padding),
            Divide::By(int(s.in_channels)),
            Divide::By(int(s.kernel)),
            Divide::By(to_width),
            Divide::By(to_pixels)};
  }

  MF_DEVICE int FirstOf(int to) const { return to * stride - padding; }
  MF_DEVICE uint32_t Place(int row, int col) const {
    return (static_cast<uint32_t>(row) * from_width + static_cast<uint32_t>(col)) * channels;
  }
};

template <typename T>
struct Patches {
  using Line = PatchPart;
  using Run = PatchPart;

  const PatchGrid& grid;
  const T* images;
  int lines;

  MF_DEVICE const T* First() const { return images; }
  MF_DEVICE PatchPart LineAt(int line) const {
    const int image = grid.by_to_pixels.Quotient(line), pixel = line - image * grid.to_pixels;
    const int row = grid.by_to_width.Quotient(pixel), col = pixel - row * grid.to_width;
    const int from_row = grid.FirstOf(row), from_col = grid.FirstOf(col);
    const auto first = static_cast<uint32_t>(image) * grid.from_height * grid.from_width * grid.channels;
    return {line < lines ? from_row : kOutside, from_col, first + grid.Place(from_row, from_col)};
  }
  MF_DEVICE PatchPart RunAt(int run) const {
    const int tap = grid.by_channels.Quotient(run), row = grid.by_kernel.Quotient(tap), col = tap - row * grid.kernel;
    const auto channel = static_cast<uint32_t>(run - tap * grid.channels);
    return {row < grid.kernel ? row : kOutside, col, channel + grid.Place(row, col)};
  }
  MF_DEVICE Element Find(const PatchPart& line, const PatchPart& run) const {
    return FindInImage(line, run, grid.from_height, grid.from_width);
  }
};

// The offset of a matrix element is the sum of its line's and its run's offset.
MF_DEVICE Element FindInMatrix(int line, int run) { return {line + run, line + run >= 0}; }

// A plain matrix, [lines][runs].
template <typename T>
struct Matrix {
  using Line = int;
  using Run = int;

  const T* values;
  int lines, runs;

  MF_DEVICE const T* First() const { return values; }
  MF_DEVICE int LineAt(int line) const { return line < lines ? line * runs : kOutside; }
  MF_DEVICE int RunAt(int run) const { return run < runs ? run : kOutside; }
  MF_DEVICE Element Find(int line, int run) const { return FindInMatrix(line, run); }
};

}  // namespace cuda
}  // namespace maml_fast
