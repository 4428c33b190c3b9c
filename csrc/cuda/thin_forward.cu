// Forward of a thin block: the patches' moments, the statistics that follow from them, and one sweep that convolves,
// normalises, cuts off and pools. Batch norm's scale is in the sweep's weights.
#include <cmath>

#include "cuda/thin.h"
#include "cuda/thin_algebra.cuh"

namespace maml_fast {
namespace cuda {
namespace {

constexpr int kMomentThreads = 128, kPixelsOfMoments = 2048, kPixelsAtOnce = 32;
constexpr int kLanesOfSweep = 2 * kLanes;  // channels of a block: two of each thread

// What is summed over all patches: each tap, and each product of two, [taps] and then [taps][taps] above its diagonal.
MF_HD int MomentSums(int taps) { return taps + taps * (taps + 1) / 2; }
constexpr int kMostSums =
    (ConvBlockShape::kThinPatch * (ConvBlockShape::kThinPatch + 3) / 2 + kMomentThreads - 1) / kMomentThreads;

// Pixels of y, as patches are read for the moments.
struct PatchPixels {
  int height, width;  // of y
  int64_t count;      // of a task

  static PatchPixels Of(const ConvBlockShape& s) {
    return {int(s.conv_height), int(s.conv_width), s.batch * s.ConvPixels()};
  }
  int Parts() const { return static_cast<int>(Ceil(count, kPixelsOfMoments)); }
};

template <typename T>
MF_DEVICE T TapOfPatch(const ThinShape& s, const PatchPixels& of, const T* images, int pixel, int tap) {
  const int pixels = of.height * of.width, image = pixel / pixels, rest = pixel - image * pixels;
  const int run = s.kernel * s.in_channels, down = tap / run, along = tap - down * run;
  const int row = rest / of.width * s.stride - s.padding + down;
  const int col = rest % of.width * s.stride - s.padding + along / s.in_channels;
  if (row < 0 || row >= s.in_height || col < 0 || col >= s.in_width) return 0;
  const int64_t at = (int64_t{image} * s.in_height + row) * s.in_width + col;
  return images[at * s.in_channels + along % s.in_channels];
}

// sums[task][part][MomentSums] over a part of a task's pixels. Blocks: x over parts, y over tasks.
template <typename T>
__global__ void SumPatches(const ThinShape s, const PatchPixels of, const T* x, double* sums) {
  auto* patches = static_cast<T*>(Shared());  // [kPixelsAtOnce][taps]
  const int task = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x), count = MomentSums(s.taps);
  const T* images = x + int64_t{task} * s.batch * s.in_height * s.in_width * s.in_channels;
  int first[kMostSums], second[kMostSums];  // the taps; second < 0: none
  double sum[kMostSums]{};
  MF_UNROLL
  for (int k = 0; k < kMostSums; ++k) {
    int pair = thread + k * kMomentThreads - s.taps, row = 0;
    for (; row < s.taps && pair >= s.taps - row; ++row) pair -= s.taps - row;
    first[k] = pair < 0 ? pair + s.taps : row;
    second[k] = pair < 0 ? -1 : row + pair;
  }
  const int begin = part * kPixelsOfMoments;
  const int end = begin + kPixelsOfMoments < of.count ? begin + kPixelsOfMoments : static_cast<int>(of.count);
  for (int pixel = begin; pixel < end; pixel += kPixelsAtOnce) {
    const int pixels = pixel + kPixelsAtOnce < end ? kPixelsAtOnce : end - pixel;
    __syncthreads();
    for (int i = thread; i < pixels * s.taps; i += kMomentThreads) {
      patches[i] = TapOfPatch(s, of, images, pixel + i / s.taps, i % s.taps);
    }
    __syncthreads();
    MF_UNROLL
    for (int k = 0; k < kMostSums; ++k) {
      if (thread + k * kMomentThreads >= count) break;
      for (int i = 0; i < pixels; ++i) {
        const double a = patches[i * s.taps + first[k]];
        sum[k] += second[k] < 0 ? a : a * static_cast<double>(patches[i * s.taps + second[k]]);
      }
    }
  }
  MF_UNROLL
  for (int k = 0; k < kMostSums; ++k) {
    const int i = thread + k * kMomentThreads;
    if (i < count) sums[(int64_t{task} * gridDim.x + part) * count + i] = sum[k];
  }
}

// moments[task]: mean patch and covariances, from the parts' sums in order. A block for every task.
template <typename T>
__global__ void JoinPatches(const ThinShape s, int64_t pixels, int parts, const double* sums, double* moments,
                            T* kept) {
  auto* total = static_cast<double*>(Shared());  // [MomentSums]
  const int task = static_cast<int>(blockIdx.x), count = MomentSums(s.taps), thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < count; i += kMomentThreads) {
    double sum = 0;
    for (int part = 0; part < parts; ++part) sum += sums[(int64_t{task} * parts + part) * count + i];
    total[i] = sum / static_cast<double>(pixels);
  }
  __syncthreads();
  const int size = s.taps * (s.taps + 1);
  for (int i = thread; i < size; i += kMomentThreads) {
    double value = total[i < s.taps ? i : 0];
    if (i >= s.taps) {
      const int row = i / s.taps - 1, col = i % s.taps, p = row < col ? row : col, q = row < col ? col : row;
      value = total[s.taps + p * s.taps - p * (p - 1) / 2 + q - p] - total[p] * total[q];
    }
    moments[int64_t{task} * size + i] = value;
    if (kept != nullptr) kept[int64_t{task} * size + i] = static_cast<T>(value);
  }
}

// mean = w . p_bar + bias, var = w^T C w; z = gamma rstd w . (p - p_bar) + beta, as scaled [T, taps, C] and shift [T,
// C].
template <typename T>
__global__ void StatisticsOfPatches(const ThinShape s, double eps, const double* moments, const TaskParam<T> weight,
                                    const TaskParam<T> bias, const TaskParam<T> gamma, const TaskParam<T> beta, T* mean,
                                    T* rstd, T* scaled, T* shift) {
  const auto here = ChannelOfTask::Here(s);
  if (here.channel >= s.channels) return;
  const PatchMoments<double> patch{moments + int64_t{here.task} * s.taps * (s.taps + 1), s.taps};
  const auto w = WeightColumn<T>::Of(s, weight.Of(here.task), here.channel);
  auto of = [&](const TaskParam<T>& parameter, double none) {
    const T* values = parameter.Of(here.task);
    return values == nullptr ? none : static_cast<double>(values[here.channel]);
  };
  const double variance = patch.Between(w, w), centre = patch.Centre(w);
  // Rounding may leave the variance of a constant just below zero.
  const double a = 1.0 / sqrt((variance < 0 ? 0.0 : variance) + eps), scale = a * of(gamma, 1);
  mean[here.at] = static_cast<T>(centre + of(bias, 0));
  rstd[here.at] = static_cast<T>(a);
  shift[here.at] = static_cast<T>(of(beta, 0) - scale * centre);
  for (int p = 0; p < s.taps; ++p) {
    scaled[(int64_t{here.task} * s.taps + p) * s.channels + here.channel] = static_cast<T>(scale * w[p]);
  }
}

// out and argmax from x. A thread has two channels, kLanes apart, for every pixel that it reads.
template <typename T, int GROUPS>
__global__ void ThinNormReluPool(const ThinShape s, const T* x, const T* scaled, const T* shift, T* out,
                                 uint8_t* argmax) {
  auto* pixels = static_cast<T*>(Shared());
  const auto tile = WindowTile::Here(s, kLanesOfSweep);
  tile.Load(s, x, pixels);
  const int channel = tile.group * kLanesOfSweep + static_cast<int>(threadIdx.x);
  const Weights<T, GROUPS> weights[2] = {{s, scaled, tile.task, channel}, {s, scaled, tile.task, channel + kLanes}};
  const TapPlaces<GROUPS * kTaps> taps(s, 0);
  T start[2];
  MF_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int c = channel + i * kLanes;
    start[i] = c < s.channels ? shift[int64_t{tile.task} * s.channels + c] : T{0};
  }
  tile.ForEach(s, [&](int first, int64_t at) {
    T best[2]{};
    int index[2]{};
    for (int e = 0; e < s.window * s.window; ++e) {
      const T* patch = pixels + first + s.ElementAt(e);
      T z[2] = {start[0], start[1]};
      MF_UNROLL
      for (int t = 0; t < GROUPS * kTaps; ++t) {
        if (t >= s.taps) break;
        const T value = patch[taps.at[t]];
        z[0] += value * weights[0].of[t];
        z[1] += value * weights[1].of[t];
      }
      MF_UNROLL
      for (int i = 0; i < 2; ++i) {
        if (e > 0 && !(z[i] > best[i] || z[i] != z[i])) continue;
        best[i] = z[i];
        index[i] = e;
      }
    }
    MF_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int c = channel + i * kLanes;
      if (c >= s.channels) continue;
      const bool dead = best[i] <= T{0};
      out[at + c] = dead ? T{0} : best[i];
      argmax[at + c] = static_cast<uint8_t>(dead ? kDead : index[i]);
    }
  });
}

// Scratch of one call: doubles first, which T's alignment must not break.
template <typename T>
struct Layout {
  static constexpr int64_t kDouble = sizeof(double) / sizeof(T);
  int64_t sums, moments, scaled, shift, size;

  explicit Layout(const ConvBlockShape& s)
      : sums(0),
        moments(sums + kDouble * s.tasks * PatchPixels::Of(s).Parts() * MomentSums(int(s.PatchSize()))),
        scaled(moments + kDouble * s.tasks * s.KeptSize()),
        shift(scaled + s.tasks * s.WeightSize()),
        size(shift + s.tasks * s.out_channels) {}
};

}  // namespace

template <typename T>
int64_t ThinForwardScratch(const ConvBlockShape& s) {
  return Layout<T>(s).size;
}

template <typename T>
void StartThinForward(Launches& launch, const ConvBlockForwardArgs<T>& args, T* scratch) {
  const ConvBlockShape& s = args.shape;
  const ThinShape thin = ThinShape::Of(s);
  const PatchPixels pixels = PatchPixels::Of(s);
  const Layout<T> at(s);
  auto *sums = reinterpret_cast<double*>(scratch + at.sums), *moments = reinterpret_cast<double*>(scratch + at.moments);
  T *scaled = scratch + at.scaled, *shift = scratch + at.shift;
  const auto tasks = static_cast<unsigned>(s.tasks);
  launch(&SumPatches<T>, dim3(static_cast<unsigned>(pixels.Parts()), tasks), dim3(kMomentThreads),
         sizeof(T) * kPixelsAtOnce * static_cast<size_t>(thin.taps), thin, pixels, args.x, sums);
  launch(&JoinPatches<T>, dim3(tasks), dim3(kMomentThreads),
         sizeof(double) * static_cast<size_t>(MomentSums(thin.taps)), thin, pixels.count, pixels.Parts(),
         static_cast<const double*>(sums), moments, args.kept);
  launch(&StatisticsOfPatches<T>, ChannelGrid(thin, s.tasks), dim3(kThreadsOfChannels), 0, thin, s.eps,
         static_cast<const double*>(moments), args.weight, args.bias, args.gamma, args.beta, args.mean, args.rstd,
         scaled, shift);
  MF_LAUNCH_FOR_TAPS(launch, ThinNormReluPool, T, thin.taps, TileGrid(thin, s.tasks, kLanesOfSweep),
                     dim3(kLanes, kPlies), sizeof(T) * static_cast<size_t>(thin.Pixels()), thin, args.x,
                     static_cast<const T*>(scaled), static_cast<const T*>(shift), args.out, args.argmax);
}

template int64_t ThinForwardScratch<float>(const ConvBlockShape&);
template int64_t ThinForwardScratch<double>(const ConvBlockShape&);
template void StartThinForward(Launches&, const ConvBlockForwardArgs<float>&, float*);
template void StartThinForward(Launches&, const ConvBlockForwardArgs<double>&, double*);

}  // namespace cuda
}  // namespace maml_fast
