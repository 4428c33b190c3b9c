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

// The pixels that a filter reads from images, for every pixel of its result: lines are pixels of the result, runs are
// (tap, channel).
//
//   forward                     from x to y:           row = to * stride - padding + tap
//   data gradient (TRANSPOSED)  from grad_y to grad_x: row = (to + padding - tap) / stride, if that is an integer
//
// The data gradient's row is the difference of the quotients of to + padding and of tap, if their remainders are equal.
// Every remainder is multiplied by kFar and added to its quotient, so that the row lies outside if the two differ.
template <bool TRANSPOSED>
struct PatchGrid {
  int from_height, from_width, channels;
  int to_width, to_pixels;
  int kernel, stride, padding;
  Divide by_channels, by_kernel, by_stride, by_to_width, by_to_pixels;

  static constexpr int kFar = static_cast<int>(kMostExtent);

  static PatchGrid Of(const ConvBlockShape& s) {
    const auto from_height = int(TRANSPOSED ? s.conv_height : s.in_height);
    const auto from_width = int(TRANSPOSED ? s.conv_width : s.in_width);
    const auto channels = int(TRANSPOSED ? s.out_channels : s.in_channels);
    const auto to_width = int(TRANSPOSED ? s.in_width : s.conv_width);
    const auto to_pixels = int(TRANSPOSED ? s.InPixels() : s.ConvPixels());
    return {from_height,
            from_width,
            channels,
            to_width,
            to_pixels,
            int(s.kernel),
            int(s.stride),
            int(s.padding),
            Divide::By(channels),
            Divide::By(int(s.kernel)),
            Divide::By(int(s.stride)),
            Divide::By(to_width),
            Divide::By(to_pixels)};
  }

  // The contributions of a row of `to` and of a tap to the row that is read. The same for columns.
  MF_DEVICE int OfTo(int to) const { return TRANSPOSED ? Quotient(to + padding) : to * stride - padding; }
  MF_DEVICE int OfTap(int tap) const { return TRANSPOSED ? -Quotient(tap) : tap; }
  // Their contributions to an element's offset. Multiples of kFar cancel out, modulo 2^32, if the element is inside.
  MF_DEVICE uint32_t Place(int row, int col) const {
    return (static_cast<uint32_t>(row) * from_width + static_cast<uint32_t>(col)) * channels;
  }

 private:
  MF_DEVICE int Quotient(int number) const {
    const int quotient = by_stride.Quotient(number);
    return quotient + (number - quotient * stride) * kFar;
  }
};

template <typename T, bool TRANSPOSED>
struct Patches {
  struct Part {  // contribution to an element's row, column and offset
    int row, col;
    uint32_t at;
  };
  using Line = Part;
  using Run = Part;

  const PatchGrid<TRANSPOSED>& grid;
  const T* images;
  int lines;

  MF_DEVICE const T* First() const { return images; }
  MF_DEVICE Part LineAt(int line) const {
    const int image = grid.by_to_pixels.Quotient(line), pixel = line - image * grid.to_pixels;
    const int row = grid.by_to_width.Quotient(pixel), col = pixel - row * grid.to_width;
    const int from_row = grid.OfTo(row), from_col = grid.OfTo(col);
    const auto first = static_cast<uint32_t>(image) * grid.from_height * grid.from_width * grid.channels;
    return {line < lines ? from_row : kOutside, from_col, first + grid.Place(from_row, from_col)};
  }
  MF_DEVICE Part RunAt(int run) const {
    const int tap = grid.by_channels.Quotient(run), row = grid.by_kernel.Quotient(tap), col = tap - row * grid.kernel;
    const int from_row = grid.OfTap(row), from_col = grid.OfTap(col);
    const auto channel = static_cast<uint32_t>(run - tap * grid.channels);
    return {row < grid.kernel ? from_row : kOutside, from_col, channel + grid.Place(from_row, from_col)};
  }
  MF_DEVICE Element Find(const Part& line, const Part& run) const {
    const bool inside = static_cast<unsigned>(line.row + run.row) < static_cast<unsigned>(grid.from_height) &&
                        static_cast<unsigned>(line.col + run.col) < static_cast<unsigned>(grid.from_width);
    return {static_cast<int>(line.at + run.at), inside};
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

// The weights [k, k, Cin, Cout] for the data gradient: lines are input channels, runs are (tap, output channel).
template <typename T>
struct TransposedFilters {
  using Line = int;
  using Run = int;

  const T* weight;
  int taps, in_channels, out_channels;
  const Divide& by_out_channels;

  MF_DEVICE const T* First() const { return weight; }
  MF_DEVICE int LineAt(int line) const { return line < in_channels ? line * out_channels : kOutside; }
  MF_DEVICE int RunAt(int run) const {
    const int tap = by_out_channels.Quotient(run);
    return tap < taps ? tap * in_channels * out_channels + (run - tap * out_channels) : kOutside;
  }
  MF_DEVICE Element Find(int line, int run) const { return FindInMatrix(line, run); }
};

}  // namespace cuda
}  // namespace maml_fast
