// Register tiles, which do the arithmetic of the convolutions. A tile keeps ROWS x VECS vectors of sums in registers.
// One step loads VECS vectors, broadcasts ROWS scalars and does ROWS * VECS fused multiply-adds.
#pragma once

#include "cpu/simd.h"

namespace maml_fast {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVecs = MF_VECTOR_REGISTERS == 32 ? 4 : 2;  // 24 of 32 registers, or 12 of 16

// The taps that all pixels of a tile share: `count` runs of `length` scalars.
struct TapRuns {
  int64_t count, length;
  int64_t source_step, weight_step;  // scalars from one run to the next
};

// dest[row][:] = start[:] + sum over runs of  source[row][i] * weights[i][:]
// Arrays that are indexed by [:] hold whole vectors. If start is null, the sums start from dest.
template <typename Scalar, int ROWS, int VECS>
__attribute__((noinline)) void ConvTile(const Scalar* const* source, const TapRuns& runs, const Scalar* weights,
                                        int64_t weight_pitch, const Scalar* start, Scalar* const* dest) {
  constexpr int64_t kLane = kLanes<Scalar>;
  Vec<Scalar> sums[ROWS][VECS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    const Scalar* from = start != nullptr ? start : dest[r];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) sums[r][v] = Load(from + v * kLane);
  }
  for (int64_t run = 0; run < runs.count; ++run) {
    const Scalar* w = weights + run * runs.weight_step;
    const Scalar* in[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) in[r] = source[r] + run * runs.source_step;
    for (int64_t i = 0; i < runs.length; ++i, w += weight_pitch) {
      Vec<Scalar> column[VECS];
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) column[v] = Load(w + v * kLane);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const Vec<Scalar> value = Broadcast(in[r][i]);
#pragma GCC unroll 4
        for (int v = 0; v < VECS; ++v) sums[r][v] += value * column[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) Store(dest[r] + v * kLane, sums[r][v]);
  }
}

// The same rectangle of pixels in several images, in the source and in the gradient: counts, and scalars from one
// image, row or column to the next.
struct PixelRect {
  int64_t images, rows, cols;
  int64_t source_image, source_row, source_col;
  int64_t grad_image, grad_row, grad_col;
};

// dest[row][:] += sum over pixels of  source[pixel][row] * grad[pixel][:]
//
// `grad` is read in whole vectors: lanes past the last channel hold values of the next pixel and end up in the padding
// of `dest`, so only the end of the buffer needs a vector of slack.
template <typename Scalar, int ROWS, int VECS>
__attribute__((noinline)) void WeightTile(const Scalar* source, const Scalar* grad, const PixelRect& rect, Scalar* dest,
                                          int64_t dest_pitch) {
  constexpr int64_t kLane = kLanes<Scalar>;
  Vec<Scalar> sums[ROWS][VECS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) sums[r][v] = Load(dest + r * dest_pitch + v * kLane);
  }
  for (int64_t image = 0; image < rect.images; ++image) {
    for (int64_t row = 0; row < rect.rows; ++row) {
      const Scalar* in = source + image * rect.source_image + row * rect.source_row;
      const Scalar* g = grad + image * rect.grad_image + row * rect.grad_row;
      for (int64_t col = 0; col < rect.cols; ++col, in += rect.source_col, g += rect.grad_col) {
        Vec<Scalar> column[VECS];
#pragma GCC unroll 4
        for (int v = 0; v < VECS; ++v) column[v] = Load(g + v * kLane);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
          const Vec<Scalar> value = Broadcast(in[r]);
#pragma GCC unroll 4
          for (int v = 0; v < VECS; ++v) sums[r][v] += value * column[v];
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) Store(dest + r * dest_pitch + v * kLane, sums[r][v]);
  }
}

// Calls `Body::template Run<ROWS, VECS>(args...)` for run-time counts of rows and vectors.
template <typename Body, int ROWS, int VECS, typename... Args>
MF_INLINE void Dispatch(int64_t rows, int64_t vecs, Args&&... args) {
  if constexpr (ROWS > 1) {
    if (rows < ROWS) return Dispatch<Body, ROWS - 1, VECS>(rows, vecs, args...);
  }
  if constexpr (VECS > 1) {
    if (vecs < VECS) return Dispatch<Body, ROWS, VECS - 1>(rows, vecs, args...);
  }
  Body::template Run<ROWS, VECS>(args...);
}

template <typename Scalar>
struct ConvTileBody {
  template <int ROWS, int VECS>
  static void Run(const Scalar* const* source, const TapRuns& runs, const Scalar* weights, int64_t pitch,
                  const Scalar* start, Scalar* const* dest) {
    ConvTile<Scalar, ROWS, VECS>(source, runs, weights, pitch, start, dest);
  }
};

template <typename Scalar>
struct WeightTileBody {
  template <int ROWS, int VECS>
  static void Run(const Scalar* source, const Scalar* grad, const PixelRect& rect, Scalar* dest, int64_t pitch) {
    WeightTile<Scalar, ROWS, VECS>(source, grad, rect, dest, pitch);
  }
};

}  // namespace
}  // namespace maml_fast
