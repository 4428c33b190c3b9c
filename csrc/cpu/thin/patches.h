// How the passes of a thin block read its patches: one image at a time, with its zero padding written out, and one row
// of pooling windows at a time, in which the pixels of a window are adjacent.
#pragma once

#include <algorithm>

#include "core/conv_block.h"
#include "cpu/arena.h"

namespace maml_fast {
namespace {

// A row of windows. Window i is at window = first + i * step; tap t of its pixel e has the value window[taps[t] + e].
template <typename Scalar>
struct WindowRow {
  const Scalar* first;
  int64_t step, count;
  const int64_t* taps;  // [P]
};

// Returns rows of windows, of one image after another. WINDOW is the number of pixels in a window: 4, or 1 without
// pooling.
template <typename Scalar, int WINDOW>
class WindowReader {
 public:
  WindowReader(const ConvBlockShape& shape, ArenaScope& arena)
      : s_(shape),
        row_((shape.in_width + 2 * shape.padding) * shape.in_channels),
        padded_(arena.Array<Scalar>(Padded())),
        band_(arena.Array<Scalar>(WINDOW * shape.kernel * row_)),
        taps_(arena.Array<int64_t>(shape.PatchSize())) {
    std::fill(padded_, padded_ + Padded(), Scalar{0});
    const int64_t run = s_.kernel * s_.in_channels;
    for (int64_t t = 0; t < s_.PatchSize(); ++t) taps_[t] = WINDOW * (t / run * row_ + t % run);
  }

  void Open(const Scalar* x) {
    const int64_t row = s_.in_width * s_.in_channels;
    Scalar* inside = padded_ + s_.padding * (row_ + s_.in_channels);
    for (int64_t i = 0; i < s_.in_height; ++i) std::copy(x + i * row, x + (i + 1) * row, inside + i * row_);
  }

  // Returns the windows of output row i; valid until the next call.
  WindowRow<Scalar> Row(int64_t i) {
    const int64_t step = (WINDOW == 4 ? 2 : 1) * s_.stride;  // pixels from one window to the next
    const Scalar* top = padded_ + i * step * row_;
    if constexpr (WINDOW == 4) SpreadWindows(top);
    return {WINDOW == 4 ? band_ : top, WINDOW * step * s_.in_channels, s_.out_width, taps_};
  }

 private:
  int64_t Padded() const { return (s_.in_height + 2 * s_.padding) * row_; }

  // Stores every value that a window's first pixel reads, followed by what the other three pixels read in its place.
  void SpreadWindows(const Scalar* top) {
    const int64_t right = s_.stride * s_.in_channels, below = s_.stride * row_;
    const int64_t used = (2 * (s_.out_width - 1) * s_.stride + s_.kernel) * s_.in_channels;
    for (int64_t i = 0; i < s_.kernel; ++i) {
      const Scalar* __restrict in = top + i * row_;
      Scalar* __restrict out = band_ + 4 * i * row_;
      for (int64_t j = 0; j < used; ++j) {
        out[4 * j] = in[j];
        out[4 * j + 1] = in[j + right];
        out[4 * j + 2] = in[j + below];
        out[4 * j + 3] = in[j + below + right];
      }
    }
  }

  const ConvBlockShape& s_;
  const int64_t row_;  // scalars of a padded row
  Scalar* padded_;
  Scalar* band_;   // [k][padded row][WINDOW]
  int64_t* taps_;  // [P]
};

// Calls f(windows, image, output row) for every row of windows of images [begin, end) of x [B, H, W, Cin].
template <typename Scalar, int WINDOW, typename F>
void ForWindowRows(const ConvBlockShape& s, const Scalar* x, int64_t begin, int64_t end, const F& f) {
  ArenaScope arena;
  WindowReader<Scalar, WINDOW> reader(s, arena);
  for (int64_t b = begin; b < end; ++b) {
    reader.Open(x + b * s.InPixels() * s.in_channels);
    for (int64_t i = 0; i < s.out_height; ++i) f(reader.Row(i), b, i);
  }
}

}  // namespace
}  // namespace maml_fast
