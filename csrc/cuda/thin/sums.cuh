// The first step of both backward passes of a thin block. The gradient at z is nonzero only at the maxima, so one sweep
// over the outputs sums it against all taps of their patches.
#pragma once

#include "cuda/thin/algebra.cuh"

namespace maml_fast {
namespace cuda {

// partial[task][part][taps + 1][C]: the sums of g p over a tile's outputs; the last row has the sum of g.
template <typename T, class Geometry>
__global__ void SumGradientPatches(const ThinShape given, const Groups groups, const T* x, const T* grad_out,
                                   const uint8_t* argmax, T* partial) {
  const ThinShape s = Geometry::Of(given);
  auto* pixels = static_cast<T*>(Shared());
  T* joined = pixels + s.pixel_rows * s.pitch;  // [kPlies][kTaps + 1][kLanes]
  const auto tile = WindowTile::Here(s, groups);
  tile.Load(s, x, pixels);
  const int lane = static_cast<int>(threadIdx.x), ply = static_cast<int>(threadIdx.y);
  const int channel = tile.group * kLanes + lane;
  const uint8_t* which = argmax + tile.FirstOutput(s) + channel;
  const T* gradient = grad_out + tile.FirstOutput(s) + channel;
  for (int tap = 0; tap < s.taps; tap += kTaps) {
    const TapPlaces<kTaps> taps(s, tap);
    T sums[kTaps + 1]{};
    tile.ForEach(s, [&](int first, int at) {
      if (channel >= s.channels) return;
      const int element = which[at];
      if (element == kDead) return;
      const T g = gradient[at];
      const T* patch = pixels + first + s.ElementAt(element);
      MF_UNROLL
      for (int t = 0; t < kTaps; ++t) sums[t] += g * patch[taps.at[t]];
      sums[kTaps] += g;
    });
    MF_UNROLL
    for (int t = 0; t <= kTaps; ++t) joined[(ply * (kTaps + 1) + t) * kLanes + lane] = sums[t];
    __syncthreads();
    for (int t = ply; t <= kTaps && channel < s.channels; t += kPlies) {
      const int row = t < kTaps ? tap + t : s.taps;
      if (t < kTaps && row >= s.taps) continue;  // past the last tap
      T sum = 0;
      for (int p = 0; p < kPlies; ++p) sum += joined[(p * (kTaps + 1) + t) * kLanes + lane];
      const int64_t part = int64_t{tile.task} * s.batch * s.tiles + tile.Part(s);
      partial[(part * (s.taps + 1) + row) * s.channels + channel] = sum;
    }
    __syncthreads();
  }
}

// totals[task][taps + 1][C]. A value is a (row, channel) pair. Grid: x over values, y over tasks.
template <typename T>
__global__ void JoinGradientPatches(int parts, int values, const T* partial, double* totals) {
  JoinParts<1>(parts, values, partial,
               [&](int task, int value, const double* sums) { totals[int64_t{task} * values + value] = sums[0]; });
}

// One channel's totals of one task.
struct GradientPatches {
  const double *first, *mean_patch;
  int taps, channels;

  template <int GROUPS>
  MF_DEVICE static GradientPatches Of(const ThinShape& s, const double* totals, const PatchMoments<GROUPS>& patch,
                                      const ChannelOfTask& here) {
    return {totals + int64_t{here.task} * (s.taps + 1) * s.channels + here.channel, patch.mean, s.taps, s.channels};
  }
  MF_DEVICE double Total() const { return first[int64_t{taps} * channels]; }
  // The sum of g (p - p_bar): for one tap, and for all taps, weighted by a column of weights.
  MF_DEVICE double Centered(int tap) const { return first[int64_t{tap} * channels] - Total() * mean_patch[tap]; }
  template <class Column>
  MF_DEVICE double Slope(const Column& weight) const {
    double sum = 0;
    MF_ROLL
    for (int p = 0; p < taps; ++p) sum += weight.At(p) * Centered(p);
    return sum;
  }
};

// The layout of their scratch memory, in units of T. The doubles come first.
template <typename T>
struct GradientPatchLayout {
  static constexpr int64_t kDouble = sizeof(double) / sizeof(T);
  int64_t totals, partial, size;

  explicit GradientPatchLayout(const ConvBlockShape& s)
      : totals(0),
        partial(totals + kDouble * s.tasks * (s.PatchSize() + 1) * s.out_channels),
        size(partial + s.tasks * ThinShape::Of(s).Parts() * (s.PatchSize() + 1) * s.out_channels) {}
};

// Returns the totals, which are in scratch.
template <typename T>
const double* StartGradientPatches(Launches& launch, const ConvBlockShape& s, const ConvBlockSaved<T>& saved,
                                   const T* grad_out, T* scratch) {
  const ThinShape thin = ThinShape::Of(s);
  const GradientPatchLayout<T> at(s);
  auto* totals = reinterpret_cast<double*>(scratch + at.totals);
  T* partial = scratch + at.partial;
  const dim3 threads(kLanes, kPlies);
  const auto shared = static_cast<size_t>(thin.Pixels() + kPlySums);
  const Groups groups = Groups::Of(thin, kLanes);
  WithGeometry(thin, [&](auto geometry) {
    launch(&SumGradientPatches<T, decltype(geometry)>, TileGrid(thin, s.tasks, groups), threads, sizeof(T) * shared,
           thin, groups, saved.x, grad_out, saved.argmax, partial);
  });
  const int values = (thin.taps + 1) * thin.channels;
  launch(&JoinGradientPatches<T>, dim3(Ceil(values, kLanes), static_cast<unsigned>(s.tasks)), threads,
         sizeof(double) * kLanes * kPlies, thin.Parts(), values, static_cast<const T*>(partial), totals);
  return totals;
}

}  // namespace cuda
}  // namespace maml_fast
