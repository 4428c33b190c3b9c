// The first step of both backward passes of a thin block. No dense gradient flows back: the gradient at z is nonzero
// only at the maxima, and the terms that batch norm adds at all pixels depend on the patches only through their
// moments.
//
// Notation, per task and channel, with M = B * OH * OW: g is the gradient at z, p a patch, C the patches' covariances,
// w the weights, v the tangent of the weights (gg_weight), a = rstd, x^ = a w . (p - p_bar), and a bar means the
// average over the M pixels. The bias drops out, because batch norm cancels any constant.
#pragma once

#include <algorithm>

#include "core/conv_block.h"
#include "cpu/convolution/register_tiles.h"
#include "cpu/passes/argmax.h"
#include "cpu/thin/patches.h"

namespace maml_fast {
namespace {

constexpr int kSumTaps[] = {1, 3, 9};  // taps of a tile; most patch sizes need only the last
constexpr int kSumVecs = MF_VECTOR_BYTES >= 64 ? 2 : 1;

// The gradient at a row of windows, from one vector of channels on.
template <typename Scalar>
struct GradientRow {
  const Scalar* grad_out;
  const uint8_t* argmax;
  int64_t pixel;     // scalars from one window to the next
  int64_t channels;  // that are left, from this vector on
};

// sums[tap][:] += g * value at the maximum, over a row of windows, and, unless total is null, total[:] += g
template <typename Scalar, int WINDOW, int TAPS, int VECS>
__attribute__((noinline)) void GradientPatchTile(const WindowRow<Scalar>& row, const int64_t* taps,
                                                 const GradientRow<Scalar>& gradient, Scalar* sums, int64_t pitch,
                                                 Scalar* total) {
  constexpr int64_t kLane = kLanes<Scalar>;
  Vec<Scalar> sum[TAPS][VECS], sum_g[VECS]{};
#pragma GCC unroll 16
  for (int t = 0; t < TAPS; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) sum[t][v] = Load(sums + t * pitch + v * kLane);
  }
  const Scalar* window = row.first;
  for (int64_t j = 0; j < row.count; ++j, window += row.step) {
    Vec<Scalar> g[VECS];
    IntVec<Scalar> index[VECS];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) {
      const int64_t at = j * gradient.pixel + v * kLane, left = gradient.channels - v * kLane;
      index[v] = LoadIndex<Scalar>(gradient.argmax + at, left);
      g[v] = index[v] == kDead ? Vec<Scalar>{} : Load(gradient.grad_out + at, left);
      sum_g[v] += g[v];
    }
#pragma GCC unroll 16
    for (int t = 0; t < TAPS; ++t) {
#pragma GCC unroll 4
      for (int v = 0; v < VECS; ++v) sum[t][v] += g[v] * Pick<Scalar, WINDOW>(window + taps[t], index[v]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < TAPS; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) Store(sums + t * pitch + v * kLane, sum[t][v]);
  }
  for (int v = 0; total != nullptr && v < VECS; ++v) Store(total + v * kLane, Load(total + v * kLane) + sum_g[v]);
}

template <typename Scalar, int WINDOW>
struct GradientPatchBody {
  template <int RANK, int VECS, typename... Args>
  static void Run(const Args&... args) {
    GradientPatchTile<Scalar, WINDOW, kSumTaps[RANK - 1], VECS>(args...);
  }
};

// Code that both backward passes share: the sums over the sparse gradient, and access to what forward kept of one task.
template <typename Scalar>
struct ThinTools {
  const ConvBlockShape& s;
  const ConvBlockSaved<Scalar>& saved;
  const Scalar* grad_out;

  int64_t Pitch() const { return RoundUpToLanes<Scalar>(s.out_channels); }
  int64_t SumsSize() const { return (s.PatchSize() + 1) * Pitch(); }  // of one image: g p [P], then g
  const Scalar* X(int64_t task) const { return saved.x + s.InImage(task, 0); }
  const Scalar* MeanPatch(int64_t task) const { return saved.kept + task * s.KeptSize(); }
  const Scalar* Covariance(int64_t task) const { return MeanPatch(task) + s.PatchSize(); }

  GradientRow<Scalar> Row(int64_t task, int64_t b, int64_t i, int64_t channel) const {
    const int64_t at = OutRow(task, b, i) + channel;
    return {grad_out + at, saved.argmax + at, s.out_channels, s.out_channels - channel};
  }
  int64_t OutRow(int64_t task, int64_t b, int64_t i) const {
    return s.OutImage(task, b) + i * s.out_width * s.out_channels;
  }

  template <int WINDOW>
  void AddGradientPatches(const WindowRow<Scalar>& row, int64_t task, int64_t b, int64_t i, Scalar* sums) const {
    constexpr int64_t kPanel = kSumVecs * kLanes<Scalar>;
    if (i == 0) std::fill(sums, sums + SumsSize(), Scalar{0});
    for (int64_t c = 0; c < s.out_channels; c += kPanel) {
      for (int64_t t = 0, rank = 3; t < s.PatchSize(); t += kSumTaps[rank - 1]) {
        while (t + kSumTaps[rank - 1] > s.PatchSize()) --rank;
        Dispatch<GradientPatchBody<Scalar, WINDOW>, 3, kSumVecs>(
            rank, (Pitch() - c) / kLanes<Scalar>, row, row.taps + t, Row(task, b, i, c), sums + t * Pitch() + c,
            Pitch(), t == 0 ? sums + s.PatchSize() * Pitch() + c : nullptr);
      }
    }
  }

  // Adds up the images' sums in image order: total[c] = sum of g, centered[p][c] = sum of g (p - p_bar).
  void JoinSums(int64_t task, const Scalar* sums, double* total, double* centered) const {
    auto join = [&](int64_t p, double* row) {
      std::fill(row, row + s.out_channels, 0.0);
      for (int64_t b = 0; b < s.batch; ++b) {
        const Scalar* of_image = sums + b * SumsSize() + p * Pitch();
        for (int64_t c = 0; c < s.out_channels; ++c) row[c] += static_cast<double>(of_image[c]);
      }
    };
    join(s.PatchSize(), total);
    for (int64_t p = 0; p < s.PatchSize(); ++p) {
      double* row = centered + p * s.out_channels;
      join(p, row);
      const double mean = MeanPatch(task)[p];
      for (int64_t c = 0; c < s.out_channels; ++c) row[c] -= mean * total[c];
    }
  }
};

}  // namespace
}  // namespace maml_fast
