// The operands of the data gradient's product. A pixel of x meets a tap where its distance from the tap is a multiple
// of the stride. So the pixels fall into classes, by the remainders of their row and column, and each class has taps of
// its own: a product for each class multiplies no tap in vain. With stride 1 there is one class.
#pragma once

#include "cuda/convolution/operands.cuh"

namespace maml_fast {
namespace cuda {

// The extents of all classes, with the divisors that locate a class, a pixel and a tap.
struct ClassGrid {
  int from_height, from_width, channels;  // of grad_y
  int to_height, to_width;                // of grad_x
  int kernel, stride, padding;
  int rows, cols;  // pixels of a class, in an image; a class may have one row or column less
  int most_taps;   // along a row or column; a class may have one less
  int classes_down, classes_across;
  Divide by_channels, by_stride, by_classes_across, by_cols, by_pixels, by_most_taps, by_fewer_taps;

  static ClassGrid Of(const ConvBlockShape& s) {
    const auto height = int(s.in_height), width = int(s.in_width), stride = int(s.stride);
    const auto rows = (height + stride - 1) / stride, cols = (width + stride - 1) / stride;
    const auto most_taps = (int(s.kernel) + stride - 1) / stride;
    const auto classes_across = stride < width ? stride : width;
    return {int(s.conv_height),
            int(s.conv_width),
            int(s.out_channels),
            height,
            width,
            int(s.kernel),
            stride,
            int(s.padding),
            rows,
            cols,
            most_taps,
            stride < height ? stride : height,
            classes_across,
            Divide::By(int(s.out_channels)),
            Divide::By(stride),
            Divide::By(classes_across),
            Divide::By(cols),
            Divide::By(rows * cols),
            Divide::By(most_taps),
            Divide::By(most_taps > 1 ? most_taps - 1 : 1)};
  }

  MF_HD int Classes() const { return classes_down * classes_across; }
};

// One class: pixel i has its row at `row` + i * stride and tap j at `tap_row` + j * stride. They meet at row
// `from_row` + i - j of grad_y. The same for columns.
struct PixelClass {
  int row, col, tap_row, tap_col, from_row, from_col;
  int taps_down, taps_across;
  Divide by_taps_across;

  MF_DEVICE static PixelClass Of(const ClassGrid& grid, int number) {
    const int row = grid.by_classes_across.Quotient(number), col = number - row * grid.classes_across;
    const int from_row = grid.by_stride.Quotient(row + grid.padding);
    const int from_col = grid.by_stride.Quotient(col + grid.padding);
    const int tap_row = row + grid.padding - from_row * grid.stride;
    const int tap_col = col + grid.padding - from_col * grid.stride;
    const auto taps = [&](int first) { return grid.by_stride.Quotient(grid.kernel - 1 - first + grid.stride); };
    const int across = taps(tap_col);
    const Divide &most = grid.by_most_taps, &fewer = grid.by_fewer_taps;
    const bool has_most = across == grid.most_taps;
    const Divide by{across, has_most ? most.factor : fewer.factor, has_most ? most.shift : fewer.shift};
    return {row, col, tap_row, tap_col, from_row, from_col, taps(tap_row), across, by};
  }

  // A tap of the class by its row and column there.
  struct Tap {
    int row, col;
  };
  MF_DEVICE Tap TapOf(int tap) const {
    const int down = by_taps_across.Quotient(tap);
    return {down, tap - down * taps_across};
  }
};

// grad_y as the pixels of a class read it: lines are pixels, runs are (tap, channel).
template <typename T>
struct ClassPatches {
  using Line = PatchPart;
  using Run = PatchPart;

  const ClassGrid& grid;
  const PixelClass of;
  const T* images;
  int lines;

  MF_DEVICE const T* First() const { return images; }
  MF_DEVICE PatchPart LineAt(int line) const {
    const int image = grid.by_pixels.Quotient(line), pixel = line - image * grid.by_pixels.by;
    const int row = grid.by_cols.Quotient(pixel), col = pixel - row * grid.cols;
    const int from_row = of.from_row + row, from_col = of.from_col + col;
    const auto first = static_cast<uint32_t>(image) * grid.from_height * grid.from_width * grid.channels;
    return {line < lines ? from_row : kOutside, from_col, first + Place(from_row, from_col)};
  }
  MF_DEVICE PatchPart RunAt(int run) const {
    const int number = grid.by_channels.Quotient(run);
    const auto tap = of.TapOf(number);
    const auto channel = static_cast<uint32_t>(run - number * grid.channels);
    return {tap.row < of.taps_down ? -tap.row : kOutside, -tap.col, channel + Place(-tap.row, -tap.col)};
  }
  MF_DEVICE Element Find(const PatchPart& line, const PatchPart& run) const {
    return FindInImage(line, run, grid.from_height, grid.from_width);
  }

 private:
  MF_DEVICE uint32_t Place(int row, int col) const {
    return (static_cast<uint32_t>(row) * grid.from_width + static_cast<uint32_t>(col)) * grid.channels;
  }
};

// The weights [k, k, Cin, Cout] that a class meets: lines are input channels, runs are (tap, output channel).
template <typename T>
struct ClassFilters {
  using Line = int;
  using Run = int;

  const ClassGrid& grid;
  const PixelClass of;
  const T* weight;
  int in_channels;

  MF_DEVICE const T* First() const { return weight; }
  MF_DEVICE int LineAt(int line) const { return line < in_channels ? line * grid.channels : kOutside; }
  MF_DEVICE int RunAt(int run) const {
    const int number = grid.by_channels.Quotient(run);
    const auto tap = of.TapOf(number);
    if (tap.row >= of.taps_down) return kOutside;
    const int row = of.tap_row + tap.row * grid.stride, col = of.tap_col + tap.col * grid.stride;
    return (row * grid.kernel + col) * in_channels * grid.channels + (run - number * grid.channels);
  }
  MF_DEVICE Element Find(int line, int run) const { return FindInMatrix(line, run); }
};

}  // namespace cuda
}  // namespace maml_fast
