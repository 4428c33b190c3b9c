// How a thin block's sweeps read images. A thread block copies the pixels under some windows to shared memory. Lanes
// are channels, so that all lanes of a warp read the same pixel, or one of a window's four.
#pragma once

#include "core/conv_block.h"
#include "cuda/launch.h"
#include "cuda/reduce.cuh"

namespace maml_fast {
namespace cuda {

constexpr int kTaps = 9;  // taps for which a thread holds weights or sums at the same time
// The most numbers that a thread block may have in shared memory (48 KiB, which no launch has to request specially),
// and those that sums over plies take.
constexpr int kMostShared = (48 << 10) / 8, kPlySums = kPlies * (kTaps + 1) * kLanes;

struct ThinShape {
  int batch, in_height, in_width, in_channels;
  int out_height, out_width, channels;
  int kernel, stride, padding, window;  // window: 2 with pooling, else 1
  int taps;                             // PatchSize
  int rows, cols;                       // outputs of a tile, which one thread block computes
  int tiles_across, tiles;              // of an image
  int pixel_rows, pitch;                // of the pixels under a tile, in shared memory, padding included

  static ThinShape Of(const ConvBlockShape& s) {
    ThinShape thin{};
    thin.batch = int(s.batch), thin.in_height = int(s.in_height), thin.in_width = int(s.in_width);
    thin.in_channels = int(s.in_channels), thin.channels = int(s.out_channels);
    thin.out_height = int(s.out_height), thin.out_width = int(s.out_width);
    thin.kernel = int(s.kernel), thin.stride = int(s.stride), thin.padding = int(s.padding);
    thin.window = s.pool ? 2 : 1, thin.taps = int(s.PatchSize());
    thin.Cut(4, 16);
    while (thin.Pixels() + kPlySums > kMostShared) {
      thin.cols > thin.rows ? thin.Cut(thin.rows, thin.cols / 2) : thin.Cut(thin.rows / 2, thin.cols);
    }
    return thin;
  }

  void Cut(int rows_of_tile, int cols_of_tile) {
    rows = rows_of_tile, cols = cols_of_tile;
    tiles_across = (out_width + cols - 1) / cols;
    tiles = tiles_across * ((out_height + rows - 1) / rows);
    pixel_rows = (rows * window - 1) * stride + kernel;
    pitch = ((cols * window - 1) * stride + kernel) * in_channels;
  }

  int Parts() const { return batch * tiles; }
  int Pixels() const { return pixel_rows * pitch; }

  // The offset of a tap in shared memory, relative to the first number of its patch.
  MF_DEVICE int TapAt(int tap) const {
    const int run = kernel * in_channels;
    return tap / run * pitch + tap % run;
  }
  // The offset from a window's first patch to the patch of its maximum, `element`.
  MF_DEVICE int ElementAt(int element) const {
    return element / 2 * stride * pitch + element % 2 * stride * in_channels;
  }
};

// The windows of one image that a block of kLanes x kPlies threads processes. Grid: x over tiles and groups of
// channels, y over images, z over tasks.
struct WindowTile {
  int task, image, tile, group;
  int row, col;  // the first output

  MF_DEVICE static WindowTile Here(const ThinShape& s, int channels_of_block) {
    const int groups = (s.channels + channels_of_block - 1) / channels_of_block;
    const int tile = static_cast<int>(blockIdx.x) / groups;
    return {static_cast<int>(blockIdx.z),
            static_cast<int>(blockIdx.y),
            tile,
            static_cast<int>(blockIdx.x) - tile * groups,
            tile / s.tiles_across * s.rows,
            tile % s.tiles_across * s.cols};
  }

  // The index of this tile among all tiles of the task.
  MF_DEVICE int Part(const ThinShape& s) const { return image * s.tiles + tile; }

  // Copies all pixels under the windows to shared memory, with zeros for the padding.
  template <typename T>
  MF_DEVICE void Load(const ThinShape& s, const T* x, T* pixels) const {
    const T* of_image = x + (int64_t{task} * s.batch + image) * s.in_height * s.in_width * s.in_channels;
    const int above = row * s.window * s.stride - s.padding, before = col * s.window * s.stride - s.padding;
    const int first = static_cast<int>(threadIdx.y * kLanes + threadIdx.x);
    for (int i = first; i < s.pixel_rows * s.pitch; i += kLanes * kPlies) {
      const int r = i / s.pitch, within = i - r * s.pitch, c = within / s.in_channels;
      const int from = above + r, at = before + c;
      const bool inside = from >= 0 && from < s.in_height && at >= 0 && at < s.in_width;
      pixels[i] = inside ? of_image[(from * s.in_width + at) * s.in_channels + within - c * s.in_channels] : T{0};
    }
    __syncthreads();
  }

  // Calls f(first, out) for every window of this thread: the offset of its first pixel in shared memory, and the offset
  // of its output at channel 0.
  template <typename F>
  MF_DEVICE void ForEach(const ThinShape& s, const F& f) const {
    for (int w = static_cast<int>(threadIdx.y); w < s.rows * s.cols; w += kPlies) {
      const int r = w / s.cols, c = w - r * s.cols;
      if (row + r >= s.out_height || col + c >= s.out_width) continue;
      const int64_t out = (int64_t{task} * s.batch + image) * s.out_height * s.out_width;
      f((r * s.pitch + c * s.in_channels) * s.window * s.stride,
        (out + (row + r) * s.out_width + col + c) * s.channels);
    }
  }
};

inline dim3 TileGrid(const ThinShape& s, int64_t tasks, int channels_of_block) {
  return dim3(static_cast<unsigned>(s.tiles) * Ceil(s.channels, channels_of_block), static_cast<unsigned>(s.batch),
              static_cast<unsigned>(tasks));
}

// A thread's weights of one channel, from [T][taps][channels], for all taps. GROUPS * kTaps is at least the number of
// taps.
template <typename T, int GROUPS>
struct Weights {
  static constexpr int kMost = GROUPS * kTaps;

  T of[kMost];

  MF_DEVICE Weights(const ThinShape& s, const T* weights, int task, int channel) {
    MF_UNROLL
    for (int t = 0; t < kMost; ++t) {
      const bool known = t < s.taps && channel < s.channels;
      of[t] = known ? weights[(int64_t{task} * s.taps + t) * s.channels + channel] : T{0};
    }
  }
};

// The offset of each tap, relative to a patch's first number.
template <int COUNT>
struct TapPlaces {
  int at[COUNT];

  MF_DEVICE TapPlaces(const ThinShape& s, int first) {
    MF_UNROLL
    for (int t = 0; t < COUNT; ++t) at[t] = s.TapAt(first + t < s.taps ? first + t : 0);
  }
};

// Launches kernel<T, GROUPS> with enough groups for all taps.
#define MF_LAUNCH_FOR_TAPS(launch, kernel, T, taps, ...) \
  do {                                                   \
    if ((taps) <= kTaps) {                               \
      launch(&kernel<T, 1>, __VA_ARGS__);                \
    } else if ((taps) <= 3 * kTaps) {                    \
      launch(&kernel<T, 3>, __VA_ARGS__);                \
    } else {                                             \
      launch(&kernel<T, 4>, __VA_ARGS__);                \
    }                                                    \
  } while (false)

}  // namespace cuda
}  // namespace maml_fast
