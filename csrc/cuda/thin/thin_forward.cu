// The forward pass of a thin block: the patches' moments, the batch statistics from them, and one sweep that convolves,
// normalizes, applies ReLU and pools. Batch norm's scale is folded into the sweep's weights.
#include <cmath>

#include "cuda/thin/algebra.cuh"
#include "cuda/thin/passes.h"

namespace maml_fast {
namespace cuda {
namespace {

constexpr int kMomentThreads = 128, kPixelsOfMoments = 2048, kPixelsAtOnce = 32;
constexpr int kLanesOfSweep = 2 * kLanes;  // channels of a thread block: each thread has two

// The sums over all patches are of products of two taps, and of products of a tap and a one that is stored behind the
// last tap. Each thread computes a square of kSide x kSide sums, on or above the diagonal.
constexpr int kSide = 3;

struct Squares {
  int across, count;  // squares on the diagonal, and in all
  int pitch;          // taps of a patch in shared memory, and of a row of sums

  static Squares Of(int taps) {
    const int across = taps / kSide + 1;
    return {across, across * (across + 1) / 2, across * kSide};
  }

  // Groups of threads; each takes a share of the pixels.
  MF_HD int Groups() const { return kMomentThreads / count; }
  MF_HD int Sums() const { return pitch * pitch; }

  // Returns the row of a square, and changes its number to that within the row.
  MF_DEVICE int RowOf(int& square) const {
    int row = 0;
    for (; square >= across - row; ++row) square -= across - row;
    return row;
  }
};
constexpr int kMostAcross = ConvBlockShape::kThinPatch / kSide + 1;
static_assert(kMostAcross * (kMostAcross + 1) / 2 <= kMomentThreads, "a thread for every square");

// The pixels of y, whose patches are read for the moments.
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

// sums[task][part][pitch][pitch] over a part of a task's pixels. Grid: x over parts, y over tasks.
template <typename T>
__global__ void SumPatches(const ThinShape s, const PatchPixels of, const Squares squares, const T* x, double* sums) {
  auto* patches = static_cast<double*>(Shared());            // [kPixelsAtOnce][pitch]
  double* joined = patches + kPixelsAtOnce * squares.pitch;  // [groups][squares][kSide][kSide]
  const int task = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x), group = thread / squares.count;
  const T* images = x + int64_t{task} * s.batch * s.in_height * s.in_width * s.in_channels;
  int along = thread % squares.count;
  const int down = squares.RowOf(along);
  const int first = down * kSide, second = (down + along) * kSide;
  double sum[kSide][kSide]{};
  const int begin = part * kPixelsOfMoments;
  const int end = begin + kPixelsOfMoments < of.count ? begin + kPixelsOfMoments : static_cast<int>(of.count);
  for (int pixel = begin; pixel < end; pixel += kPixelsAtOnce) {
    const int pixels = pixel + kPixelsAtOnce < end ? kPixelsAtOnce : end - pixel;
    __syncthreads();
    for (int i = thread; i < pixels * squares.pitch; i += kMomentThreads) {
      const int tap = i % squares.pitch;
      patches[i] = tap < s.taps ? static_cast<double>(TapOfPatch(s, of, images, pixel + i / squares.pitch, tap))
                                : (tap == s.taps ? 1.0 : 0.0);
    }
    __syncthreads();
    for (int i = group; group < squares.Groups() && i < pixels; i += squares.Groups()) {
      const double* patch = patches + i * squares.pitch;
      MF_UNROLL
      for (int p = 0; p < kSide; ++p) {
        MF_UNROLL
        for (int q = 0; q < kSide; ++q) sum[p][q] += patch[first + p] * patch[second + q];
      }
    }
  }
  for (int i = 0; group < squares.Groups() && i < kSide * kSide; ++i) {
    joined[thread * kSide * kSide + i] = sum[i / kSide][i % kSide];
  }
  __syncthreads();
  if (group > 0) return;
  double* to = sums + (int64_t{task} * gridDim.x + part) * squares.Sums();
  for (int i = 0; i < kSide * kSide; ++i) {
    double total = 0;
    for (int g = 0; g < squares.Groups(); ++g) total += joined[(g * squares.count + thread) * kSide * kSide + i];
    to[(first + i / kSide) * squares.pitch + second + i % kSide] = total;
  }
}

// moments[task]: the mean patch and the covariances, from the parts' sums in order. One thread block per task.
template <typename T>
__global__ void JoinPatches(const ThinShape s, int64_t pixels, int parts, const Squares squares, const double* sums,
                            double* moments, T* kept) {
  auto* mean = static_cast<double*>(Shared());  // [pitch][pitch]; entries below the diagonal are not set
  const int task = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x), pitch = squares.pitch;
  for (int i = thread; i < squares.Sums(); i += kMomentThreads) {
    if (i / pitch > i % pitch) continue;
    double sum = 0;
    for (int part = 0; part < parts; ++part) sum += sums[(int64_t{task} * parts + part) * squares.Sums() + i];
    mean[i] = sum / static_cast<double>(pixels);
  }
  __syncthreads();
  const int size = s.taps * (s.taps + 1);
  for (int i = thread; i < size; i += kMomentThreads) {
    double value = mean[i % s.taps * pitch + s.taps];
    if (i >= s.taps) {
      const int row = i / s.taps - 1, col = i % s.taps, p = row < col ? row : col, q = row < col ? col : row;
      value = mean[p * pitch + q] - mean[p * pitch + s.taps] * mean[q * pitch + s.taps];
    }
    moments[int64_t{task} * size + i] = value;
    if (kept != nullptr) kept[int64_t{task} * size + i] = static_cast<T>(value);
  }
}

// mean = w . p_bar + bias, var = w^T C w; z = gamma rstd w . (p - p_bar) + beta, as weights `scaled` [T, taps, C] and
// constant `shift` [T, C].
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
  const double variance = patch.Between(w, w), center = patch.Center(w);
  // Rounding may leave the variance of a constant slightly below zero.
  const double a = 1.0 / sqrt((variance < 0 ? 0.0 : variance) + eps), scale = a * of(gamma, 1);
  mean[here.at] = static_cast<T>(center + of(bias, 0));
  rstd[here.at] = static_cast<T>(a);
  shift[here.at] = static_cast<T>(of(beta, 0) - scale * center);
  for (int p = 0; p < s.taps; ++p) {
    scaled[(int64_t{here.task} * s.taps + p) * s.channels + here.channel] = static_cast<T>(scale * w[p]);
  }
}

// Computes out and argmax from x. Each thread has two channels, kLanes apart, so that every pixel it reads is used
// twice.
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

// The layout of one call's scratch memory, in units of T. The doubles come first, which keeps them aligned.
template <typename T>
struct Layout {
  static constexpr int64_t kDouble = sizeof(double) / sizeof(T);
  int64_t sums, moments, scaled, shift, size;

  explicit Layout(const ConvBlockShape& s)
      : sums(0),
        moments(sums + kDouble * s.tasks * PatchPixels::Of(s).Parts() * Squares::Of(int(s.PatchSize())).Sums()),
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
  const Squares squares = Squares::Of(thin.taps);
  const auto numbers = static_cast<size_t>(kPixelsAtOnce * squares.pitch + kMomentThreads * kSide * kSide);
  launch(&SumPatches<T>, dim3(static_cast<unsigned>(pixels.Parts()), tasks), dim3(kMomentThreads),
         sizeof(double) * numbers, thin, pixels, squares, args.x, sums);
  launch(&JoinPatches<T>, dim3(tasks), dim3(kMomentThreads), sizeof(double) * static_cast<size_t>(squares.Sums()), thin,
         pixels.count, pixels.Parts(), squares, static_cast<const double*>(sums), moments, args.kept);
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
