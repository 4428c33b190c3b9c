// The forward pass of a thin block: the patches' moments, the batch statistics from them, and one sweep that convolves,
// normalizes, applies ReLU and pools. Batch norm's scale is folded into the sweep's weights.
#include <cmath>

#include "cuda/thin/algebra.cuh"
#include "cuda/thin/passes.h"

namespace maml_fast {
namespace cuda {
namespace {

constexpr int kMomentThreads = 128;
constexpr int kLanesOfSweep = 2 * kLanes;  // channels of a thread block: each thread has two

// The sums over all patches are of products of two taps, and of products of a tap and a one that is stored behind the
// last tap. Each thread computes a square of kSide x kSide sums, on or above the diagonal.
constexpr int kSide = 3;

struct Squares {
  int across, count;  // squares on the diagonal, and in all
  int pitch;          // of a row of sums
  int groups;         // of threads; each takes a share of the patches
  Divide by_count, by_pitch, by_taps;

  static Squares Of(int taps) {
    const int across = taps / kSide + 1, count = across * (across + 1) / 2, pitch = across * kSide;
    return {across, count, pitch, kMomentThreads / count, Divide::By(count), Divide::By(pitch), Divide::By(taps)};
  }

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

// The pixels of y, whose patches are summed, in tiles; a thread block sums the patches of one tile.
struct PatchTiles {
  static constexpr int kMostPatches = 2048;

  int height, width;      // of y
  int rows, cols;         // of a tile
  int pixel_rows, pitch;  // of the pixels under a tile, in shared memory, padding included
  int of_image, of_task;  // tiles
  int64_t count;          // patches of a task
  Divide by_of_image, by_across, by_cols, by_pitch, by_channels, by_run;

  static PatchTiles Of(const ConvBlockShape& s) {
    PatchTiles tiles{};
    tiles.height = int(s.conv_height), tiles.width = int(s.conv_width), tiles.count = s.batch * s.ConvPixels();
    const auto cut = [&](int rows, int cols) {
      tiles.rows = rows, tiles.cols = cols;
      tiles.pixel_rows = int((rows - 1) * s.stride + s.kernel);
      tiles.pitch = int(((cols - 1) * s.stride + s.kernel) * s.in_channels);
    };
    cut(tiles.height, tiles.width);
    const int sums = kMomentThreads * kSide * kSide;
    while (tiles.rows * tiles.cols > kMostPatches || int64_t{tiles.pixel_rows} * tiles.pitch + 1 + sums > kMostShared) {
      tiles.cols > tiles.rows ? cut(tiles.rows, (tiles.cols + 1) / 2) : cut((tiles.rows + 1) / 2, tiles.cols);
    }
    const int across = int(Ceil(tiles.width, tiles.cols));
    tiles.of_image = across * int(Ceil(tiles.height, tiles.rows));
    tiles.of_task = int(s.batch) * tiles.of_image;
    tiles.by_of_image = Divide::By(tiles.of_image);
    tiles.by_across = Divide::By(across);
    tiles.by_cols = Divide::By(tiles.cols);
    tiles.by_pitch = Divide::By(tiles.pitch);
    tiles.by_channels = Divide::By(int(s.in_channels));
    tiles.by_run = Divide::By(int(s.kernel * s.in_channels));
    return tiles;
  }

  int Pixels() const { return pixel_rows * pitch; }
};

// Where a tap lies in a patch in shared memory. The one behind the last tap lies behind the pixels, for all patches.
struct PlaceOfTap {
  int at, step;  // step: of a patch's first number

  MF_DEVICE static PlaceOfTap Of(const ThinShape& s, const PatchTiles& tiles, int tap) {
    if (tap >= s.taps) return {tiles.pixel_rows * tiles.pitch, 0};
    const int row = tiles.by_run.Quotient(tap);
    return {row * tiles.pitch + tap - row * tiles.by_run.by, 1};
  }
};

// sums[task][part][pitch][pitch] over a tile's patches. Grid: x over tiles, y over tasks.
template <typename T>
__global__ void SumPatches(const ThinShape s, const PatchTiles tiles, const Squares squares, const T* x, double* sums) {
  auto* pixels = static_cast<double*>(Shared());                 // [pixel_rows][pitch], then a one
  double* joined = pixels + tiles.pixel_rows * tiles.pitch + 1;  // [groups][squares][kSide][kSide]
  const int task = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int image = tiles.by_of_image.Quotient(part), tile = part - image * tiles.of_image;
  const int down = tiles.by_across.Quotient(tile);
  const int row = down * tiles.rows, col = (tile - down * tiles.by_across.by) * tiles.cols;
  const T* of_image = x + (int64_t{task} * s.batch + image) * s.in_height * s.in_width * s.in_channels;
  const int above = row * s.stride - s.padding, before = col * s.stride - s.padding;
  for (int i = thread; i < tiles.pixel_rows * tiles.pitch; i += kMomentThreads) {
    const int r = tiles.by_pitch.Quotient(i), within = i - r * tiles.pitch, c = tiles.by_channels.Quotient(within);
    const int from = above + r, at = before + c;
    const bool inside = from >= 0 && from < s.in_height && at >= 0 && at < s.in_width;
    pixels[i] = inside ? of_image[(from * s.in_width + at) * s.in_channels + within - c * s.in_channels] : T{0};
  }
  if (thread == 0) pixels[tiles.pixel_rows * tiles.pitch] = 1;
  __syncthreads();

  const int group = squares.by_count.Quotient(thread);
  int right = thread - group * squares.count;
  const int below = squares.RowOf(right);
  const int first = below * kSide, second = (below + right) * kSide;
  PlaceOfTap p[kSide], q[kSide];
  MF_UNROLL
  for (int i = 0; i < kSide; ++i) {
    p[i] = PlaceOfTap::Of(s, tiles, first + i);
    q[i] = PlaceOfTap::Of(s, tiles, second + i);
  }
  double sum[kSide][kSide]{};
  const int rows = tiles.height - row < tiles.rows ? tiles.height - row : tiles.rows;
  const int cols = tiles.width - col < tiles.cols ? tiles.width - col : tiles.cols;
  for (int i = group; group < squares.groups && i < rows * tiles.cols; i += squares.groups) {
    const int r = tiles.by_cols.Quotient(i), c = i - r * tiles.cols;
    if (c >= cols) continue;
    const int patch = (r * tiles.pitch + c * s.in_channels) * s.stride;
    double left[kSide], up[kSide];
    MF_UNROLL
    for (int k = 0; k < kSide; ++k) {
      left[k] = pixels[p[k].at + patch * p[k].step];
      up[k] = pixels[q[k].at + patch * q[k].step];
    }
    MF_UNROLL
    for (int k = 0; k < kSide * kSide; ++k) sum[k / kSide][k % kSide] += left[k / kSide] * up[k % kSide];
  }
  MF_UNROLL
  for (int i = 0; i < kSide * kSide; ++i) {
    if (group < squares.groups) joined[thread * kSide * kSide + i] = sum[i / kSide][i % kSide];
  }
  __syncthreads();
  double* to = sums + (int64_t{task} * gridDim.x + part) * squares.Sums();
  for (int i = thread; i < squares.count * kSide * kSide; i += kMomentThreads) {
    double total = 0;
    for (int g = 0; g < squares.groups; ++g) total += joined[g * squares.count * kSide * kSide + i];
    const int square = i / (kSide * kSide), k = i % (kSide * kSide);
    int along = square;
    const int of = squares.RowOf(along);
    to[(of * kSide + k / kSide) * squares.pitch + (of + along) * kSide + k % kSide] = total;
  }
}

// moments[task]: the mean patch and the covariances, from the parts' sums in order. One thread block per task.
__global__ void JoinPatches(const ThinShape s, int64_t patches, int parts, const Squares squares, const double* sums,
                            double* moments) {
  auto* mean = static_cast<double*>(Shared());  // [pitch][pitch]; entries below the diagonal are not set
  const int task = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x), pitch = squares.pitch;
  const double share = 1.0 / static_cast<double>(patches);
  for (int i = thread; i < squares.Sums(); i += kMomentThreads) {
    const int row = squares.by_pitch.Quotient(i);
    if (row > i - row * pitch) continue;
    double sum = 0;
    for (int part = 0; part < parts; ++part) sum += sums[(int64_t{task} * parts + part) * squares.Sums() + i];
    mean[i] = sum * share;
  }
  __syncthreads();
  const int size = s.taps * (s.taps + 1);
  for (int i = thread; i < size; i += kMomentThreads) {
    const int line = squares.by_taps.Quotient(i), col = i - line * s.taps, row = line - 1;
    double value = mean[col * pitch + s.taps];
    if (row >= 0) {
      const int p = row < col ? row : col, q = row < col ? col : row;
      value = mean[p * pitch + q] - mean[p * pitch + s.taps] * mean[q * pitch + s.taps];
    }
    moments[int64_t{task} * size + i] = value;
  }
}

// mean = w . p_bar + bias, var = w^T C w; z = gamma rstd w . (p - p_bar) + beta, as weights `scaled` [T, taps, C] and
// constant `shift` [T, C]. Also rounds the moments for the backward passes, unless `kept` is null.
template <typename T, int GROUPS>
__global__ void StatisticsOfPatches(const ThinShape s, double eps, const double* moments, const TaskParam<T> weight,
                                    const TaskParam<T> bias, const TaskParam<T> gamma, const TaskParam<T> beta, T* mean,
                                    T* rstd, T* scaled, T* shift, T* kept) {
  const auto here = ChannelOfTask::Here(s);
  const int size = s.taps * (s.taps + 1);
  const double* of_task = moments + int64_t{here.task} * size;
  if (kept != nullptr) {
    for (int i = here.channel; i < size; i += static_cast<int>(gridDim.x * blockDim.x)) {
      kept[int64_t{here.task} * size + i] = static_cast<T>(of_task[i]);
    }
  }
  const auto patch = PatchMoments<GROUPS>::Load(s, of_task);
  if (here.channel >= s.channels) return;
  const WeightColumn<T, GROUPS> w(s, weight.Of(here.task), here.channel);
  auto of = [&](const TaskParam<T>& parameter, double none) {
    const T* values = parameter.Of(here.task);
    return values == nullptr ? none : static_cast<double>(values[here.channel]);
  };
  const double variance = patch.Between(s, w, w), center = patch.Center(w);
  // Rounding may leave the variance of a constant slightly below zero.
  const double a = 1.0 / sqrt((variance < 0 ? 0.0 : variance) + eps), scale = a * of(gamma, 1);
  mean[here.at] = static_cast<T>(center + of(bias, 0));
  rstd[here.at] = static_cast<T>(a);
  shift[here.at] = static_cast<T>(of(beta, 0) - scale * center);
  MF_UNROLL
  for (int p = 0; p < GROUPS * kTaps; ++p) {
    if (p < s.taps) scaled[here.OfTap(s, p)] = static_cast<T>(scale * w.of[p]);
  }
}

// Computes out and argmax from x. Each thread has two channels, kLanes apart, so that every pixel it reads is used
// twice.
template <typename T, class Geometry>
__global__ void ThinNormReluPool(const ThinShape given, const Groups groups, const T* x, const T* scaled,
                                 const T* shift, T* out, uint8_t* argmax) {
  const ThinShape s = Geometry::Of(given);
  auto* pixels = static_cast<T*>(Shared());
  const auto tile = WindowTile::Here(s, groups);
  tile.Load(s, x, pixels);
  const int channel = tile.group * kLanesOfSweep + static_cast<int>(threadIdx.x);
  constexpr int kMost = Geometry::kGroups * kTaps;
  const Weights<T, kMost> weights[2] = {{s, scaled, tile.task, channel}, {s, scaled, tile.task, channel + kLanes}};
  const TapPlaces<kMost> taps(s, 0);
  T start[2];
  MF_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int c = channel + i * kLanes;
    start[i] = c < s.channels ? shift[int64_t{tile.task} * s.channels + c] : T{0};
  }
  T* to = out + tile.FirstOutput(s) + channel;
  uint8_t* which = argmax + tile.FirstOutput(s) + channel;
  tile.ForEach(s, [&](int first, int at) {
    T best[2]{};
    int index[2]{};
    MF_UNROLL
    for (int e = 0; e < s.window * s.window; ++e) {
      const T* patch = pixels + first + s.ElementAt(e);
      T z[2] = {start[0], start[1]};
      MF_UNROLL
      for (int t = 0; t < kMost; ++t) {
        if (t >= s.taps) break;
        const T value = patch[taps.at[t]];
        z[0] += value * weights[0].of[t];
        z[1] += value * weights[1].of[t];
      }
      MF_UNROLL
      for (int i = 0; i < 2; ++i) {
        const bool is_better = e == 0 || z[i] > best[i] || z[i] != z[i];
        best[i] = is_better ? z[i] : best[i];
        index[i] = is_better ? e : index[i];
      }
    }
    MF_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (channel + i * kLanes >= s.channels) continue;
      const bool dead = best[i] <= T{0};
      to[at + i * kLanes] = dead ? T{0} : best[i];
      which[at + i * kLanes] = static_cast<uint8_t>(dead ? kDead : index[i]);
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
        moments(sums + kDouble * s.tasks * PatchTiles::Of(s).of_task * Squares::Of(int(s.PatchSize())).Sums()),
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
  const Layout<T> at(s);
  auto *sums = reinterpret_cast<double*>(scratch + at.sums),
       *of_scratch = reinterpret_cast<double*>(scratch + at.moments);
  double* moments = args.moments == nullptr ? of_scratch : args.moments;
  T *scaled = scratch + at.scaled, *shift = scratch + at.shift;
  const auto tasks = static_cast<unsigned>(s.tasks);
  if (!args.moments_known) {
    const PatchTiles tiles = PatchTiles::Of(s);
    const Squares squares = Squares::Of(thin.taps);
    const auto numbers = static_cast<size_t>(tiles.Pixels() + 1 + kMomentThreads * kSide * kSide);
    launch(&SumPatches<T>, dim3(static_cast<unsigned>(tiles.of_task), tasks), dim3(kMomentThreads),
           sizeof(double) * numbers, thin, tiles, squares, args.x, sums);
    launch(&JoinPatches, dim3(tasks), dim3(kMomentThreads), sizeof(double) * static_cast<size_t>(squares.Sums()), thin,
           tiles.count, tiles.of_task, squares, static_cast<const double*>(sums), moments);
  }
  WithGroups(thin, [&](auto count) {
    constexpr int kGroups = decltype(count)::value;
    launch(&StatisticsOfPatches<T, kGroups>, ChannelGrid(thin, s.tasks), dim3(kThreadsOfChannels),
           PatchMoments<kGroups>::kShared, thin, s.eps, static_cast<const double*>(moments), args.weight, args.bias,
           args.gamma, args.beta, args.mean, args.rstd, scaled, shift, args.kept);
  });
  const Groups groups = Groups::Of(thin, kLanesOfSweep);
  WithGeometry(thin, [&](auto geometry) {
    launch(&ThinNormReluPool<T, decltype(geometry)>, TileGrid(thin, s.tasks, groups), dim3(kLanes, kPlies),
           sizeof(T) * static_cast<size_t>(thin.Pixels()), thin, groups, args.x, static_cast<const T*>(scaled),
           static_cast<const T*>(shift), args.out, args.argmax);
  });
}

template int64_t ThinForwardScratch<float>(const ConvBlockShape&);
template int64_t ThinForwardScratch<double>(const ConvBlockShape&);
template void StartThinForward(Launches&, const ConvBlockForwardArgs<float>&, float*);
template void StartThinForward(Launches&, const ConvBlockForwardArgs<double>&, double*);

}  // namespace cuda
}  // namespace maml_fast
