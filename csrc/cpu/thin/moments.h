// The first two moments of a thin block's patches, which determine the batch statistics of every channel, whatever the
// weights are. All sums are in double, in which products of floats are exact, so that the cancellation in a covariance
// is harmless.
//
// A pair of taps sums the products of two pixels a fixed step apart, over the output pixels. Pairs of taps with the
// same step that agree modulo the stride sum the same products, over rectangles of pixels that differ only at their
// edges. So the image is cut into rectangles, each of which lies entirely inside or entirely outside the range of every
// pair, and each rectangle is summed once.
#pragma once

#include <algorithm>

#include "core/conv_block.h"
#include "cpu/arena.h"
#include "cpu/convolution/register_tiles.h"
#include "cpu/simd.h"

namespace maml_fast {
namespace {

// The rows of a tile are channels; its columns are vectors of nearby pixels.
constexpr int kMomentRows = 4;
constexpr int kMomentCols = MF_VECTOR_BYTES >= 64 ? 6 : MF_VECTOR_REGISTERS == 32 ? 5 : 3;

// Numbers of pixels, and scalars from one to the next.
struct MomentRect {
  int64_t rows, cols, row_step, col_step;
};

// products[row][:] = sum over pixels of  pixel[row] * pixel[columns ...], and totals[row][:] = the sum of pixel[row].
template <int ROWS, int COLS>
__attribute__((noinline)) void MomentTile(const double* first, const MomentRect& rect, const int64_t* columns,
                                          double* products, int64_t pitch, double* totals) {
  constexpr int64_t kLane = kLanes<double>;
  Vec<double> product[ROWS][COLS]{}, total[ROWS]{};
  for (int64_t i = 0; i < rect.rows; ++i) {
    const double* pixel = first + i * rect.row_step;
    for (int64_t j = 0; j < rect.cols; ++j, pixel += rect.col_step) {
      Vec<double> column[COLS];
#pragma GCC unroll 8
      for (int c = 0; c < COLS; ++c) column[c] = InRegister(Load(pixel + columns[c]));
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
        const Vec<double> value = Broadcast(pixel[r]);
        total[r] += value;
#pragma GCC unroll 8
        for (int c = 0; c < COLS; ++c) product[r][c] += value * column[c];
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; ++r) {
    Store(totals + r * kLane, total[r]);
#pragma GCC unroll 8
    for (int c = 0; c < COLS; ++c) Store(products + r * pitch + c * kLane, product[r][c]);
  }
}

struct MomentTileBody {
  template <int ROWS, int COLS, typename... Args>
  static void Run(const Args&... args) {
    MomentTile<ROWS, COLS>(args...);
  }
};

// A range [begin, end) along one axis, in steps of the stride, that lies entirely inside or entirely outside the range
// of every tap: tap number i (of those that agree modulo the stride) sums over [i, i + extent).
struct Segment {
  int64_t begin, end;

  bool IsOf(int64_t tap, int64_t extent) const { return tap <= begin && end <= tap + extent; }
};

template <typename F>
void ForSegments(int64_t taps, int64_t extent, const F& f) {
  for (int64_t begin = 0, end; begin < extent + taps - 1; begin = end) {
    end = begin >= taps - 1 && begin < extent ? extent : begin + 1;
    f(Segment{begin, end});
  }
}

// Sums over the patches of one image, [P][P + 1]: the products of taps p and q (valid for p <= q) and, in the last
// column, tap p.
template <typename Scalar>
class PatchSums {
 public:
  PatchSums(const ConvBlockShape& shape, ArenaScope& arena)
      : s_(shape),
        run_(shape.kernel * shape.in_channels),
        reach_((shape.kernel - 1) * shape.in_channels),
        vecs_(RoundUpToLanes<double>(run_ + reach_) / kLanes<double>),
        row_((shape.in_width + 2 * shape.padding) * shape.in_channels + 2 * reach_),
        pixels_(arena.Array<double>(Pixels())),
        columns_(arena.Array<int64_t>(shape.kernel * vecs_)),
        products_(arena.Array<double>(shape.in_channels * ProductsOfChannel())),
        totals_(arena.Array<double>(shape.in_channels * kLanes<double>)) {
    std::fill(pixels_, pixels_ + Pixels(), 0.0);
    for (int64_t c = 0; c < s_.kernel * vecs_; ++c) {
      columns_[c] = c / vecs_ * row_ + c % vecs_ * kLanes<double> - reach_;
    }
  }

  void Image(const Scalar* x, double* sums) {
    CopyIn(x);
    std::fill(sums, sums + s_.PatchSize() * (s_.PatchSize() + 1), 0.0);
    for (int64_t top = 0; top < std::min(s_.kernel, s_.stride); ++top) {
      for (int64_t left = 0; left < std::min(s_.kernel, s_.stride); ++left) {
        ForSegments(TapsFrom(top), s_.conv_height, [&](Segment rows) {
          ForSegments(TapsFrom(left), s_.conv_width, [&](Segment cols) {
            SumProducts(top, left, rows, cols);
            AddToTaps(top, left, rows, cols, sums);
          });
        });
      }
    }
  }

 private:
  // The image is surrounded by zero padding, and by as many more zeros as a pixel's neighbors reach.
  int64_t Pixels() const { return (s_.in_height + 2 * s_.padding + s_.kernel - 1) * row_ + vecs_ * kLanes<double>; }
  int64_t ProductsOfChannel() const { return s_.kernel * vecs_ * kLanes<double>; }

  void CopyIn(const Scalar* x) {
    const int64_t row = s_.in_width * s_.in_channels;
    double* inside = pixels_ + s_.padding * (row_ + s_.in_channels) + reach_;
    for (int64_t i = 0; i < s_.in_height; ++i) {
      for (int64_t j = 0; j < row; ++j) inside[i * row_ + j] = x[i * row + j];
    }
  }

  // The number of taps along one axis that agree with tap `first` modulo the stride.
  int64_t TapsFrom(int64_t first) const { return (s_.kernel - 1 - first) / s_.stride + 1; }

  // products_[channel][rows below, [cols before ... cols after][channel]]; the pixel's own column is in the middle.
  void SumProducts(int64_t top, int64_t left, Segment rows, Segment cols) {
    const MomentRect rect{rows.end - rows.begin, cols.end - cols.begin, s_.stride * row_, s_.stride * s_.in_channels};
    const double* first =
        pixels_ + (top + rows.begin * s_.stride) * row_ + (left + cols.begin * s_.stride) * s_.in_channels + reach_;
    const int64_t all = (s_.kernel - top) * vecs_, tiles = (all + kMomentCols - 1) / kMomentCols;
    const int64_t width = (all + tiles - 1) / tiles;
    for (int64_t c = 0; c < all; c += width) {
      Dispatch<MomentTileBody, kMomentRows, kMomentCols>(s_.in_channels, std::min(width, all - c), first, rect,
                                                         columns_ + c, products_ + c * kLanes<double>,
                                                         ProductsOfChannel(), totals_);
    }
  }

  void AddToTaps(int64_t top, int64_t left, Segment rows, Segment cols, double* sums) const {
    for (int64_t i = 0; i < TapsFrom(top); ++i) {
      if (!rows.IsOf(i, s_.conv_height)) continue;
      for (int64_t j = 0; j < TapsFrom(left); ++j) {
        if (cols.IsOf(j, s_.conv_width)) AddToTap(top + i * s_.stride, left + j * s_.stride, sums);
      }
    }
  }

  void AddToTap(int64_t tap_h, int64_t tap_w, double* sums) const {
    const int64_t patch = s_.PatchSize();
    for (int64_t channel = 0; channel < s_.in_channels; ++channel) {
      double* of_tap = sums + ((tap_h * s_.kernel + tap_w) * s_.in_channels + channel) * (patch + 1);
      of_tap[patch] += totals_[channel * kLanes<double>];
      const double* products = products_ + channel * ProductsOfChannel() + reach_ - tap_w * s_.in_channels;
      for (int64_t h = tap_h; h < s_.kernel; ++h, products += vecs_ * kLanes<double>) {
        for (int64_t t = 0; t < run_; ++t) of_tap[h * run_ + t] += products[t];
      }
    }
  }

  const ConvBlockShape& s_;
  const int64_t run_;    // scalars in a filter row
  const int64_t reach_;  // scalars from the first to the last pixel of a filter row
  const int64_t vecs_;   // vectors that hold a pixel's neighbors in one row
  const int64_t row_;    // scalars in a row of pixels_
  double* pixels_;
  int64_t* columns_;
  double* products_;
  double* totals_;
};

// Computes the mean patch [P] and the covariances [P][P] of one task from its images' sums [B][P][P + 1]. The sums are
// added up in image order, in the memory of the first image's sums.
inline void JoinPatchSums(const ConvBlockShape& s, double* sums, double* mean, double* covariance) {
  const int64_t patch = s.PatchSize(), size = patch * (patch + 1);
  const double count = static_cast<double>(s.batch * s.ConvPixels());
  for (int64_t b = 1; b < s.batch; ++b) {
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[b * size + i];
  }
  for (int64_t p = 0; p < patch; ++p) mean[p] = sums[p * (patch + 1) + patch] / count;
  for (int64_t p = 0; p < patch; ++p) {
    for (int64_t q = p; q < patch; ++q) {
      const double product = sums[p * (patch + 1) + q] / count;
      covariance[p * patch + q] = covariance[q * patch + p] = product - mean[p] * mean[q];
    }
  }
}

}  // namespace
}  // namespace maml_fast
