// How a thin block's sweeps read images. A thread block copies the pixels under some windows to shared memory. Lanes
// are channels, so that all lanes of a warp read the same pixel, or one of a window's four.
#pragma once

#include <type_traits>

#include "core/conv_block.h"
#include "cuda/divide.h"
#include "cuda/launch.h"
#include "cuda/reduce.cuh"

namespace maml_fast {
namespace cuda {

constexpr int kTaps = 9;  // taps for which a thread holds weights or sums at the same time
// The most numbers that a thread block may have in shared memory (48 KiB, which no launch has to request specially),
// and those that sums over plies take.
constexpr int kMostShared = (48 << 10) / 8, kPlySums = kPlies * (kTaps + 1) * kLanes;

// A tile has at most so many rows and columns, or half the rows where there are few images.
constexpr int kRowsOfTile = 16, kColsOfTile = 16;

struct ThinShape {
  int batch, in_height, in_width, in_channels;
  int out_height, out_width, channels;
  int kernel, stride, padding, window;  // window: 2 with pooling, else 1
  int taps;                             // PatchSize
  int rows, cols;                       // outputs of a tile, which one thread block computes
  int tiles_across, tiles;              // of an image
  int pixel_rows, pitch;                // of the pixels under a tile, in shared memory, padding included
  Divide by_tiles_across;

  static ThinShape Of(const ConvBlockShape& s) {
    ThinShape thin{};
    thin.batch = int(s.batch), thin.in_height = int(s.in_height), thin.in_width = int(s.in_width);
    thin.in_channels = int(s.in_channels), thin.channels = int(s.out_channels);
    thin.out_height = int(s.out_height), thin.out_width = int(s.out_width);
    thin.kernel = int(s.kernel), thin.stride = int(s.stride), thin.padding = int(s.padding);
    thin.window = s.pool ? 2 : 1, thin.taps = int(s.PatchSize());
    const int most = s.tasks * s.batch < 2 * kEnoughBlocks ? kRowsOfTile / 2 : kRowsOfTile;
    const int down = static_cast<int>(Ceil(thin.out_height, most));
    thin.Cut(static_cast<int>(Ceil(thin.out_height, down)), kColsOfTile);
    while (thin.Pixels() + kPlySums > kMostShared) {
      thin.cols > thin.rows ? thin.Cut(thin.rows, thin.cols / 2) : thin.Cut(thin.rows / 2, thin.cols);
    }
    return thin;
  }

  void Cut(int rows_of_tile, int cols_of_tile) {
    SetTile(rows_of_tile, cols_of_tile);
    tiles_across = (out_width + cols - 1) / cols;
    tiles = tiles_across * ((out_height + rows - 1) / rows);
    by_tiles_across = Divide::By(tiles_across);
  }
  MF_HD void SetTile(int rows_of_tile, int cols_of_tile) {
    rows = rows_of_tile, cols = cols_of_tile;
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

// A geometry that is common. Kernels compiled for it know these numbers: they divide by constants, and what they do for
// every tap is straight code.
template <int KERNEL, int STRIDE, int WINDOW, int CHANNELS>
struct Known {
  static constexpr int kPatch = KERNEL * KERNEL * CHANNELS, kGroups = (kPatch + kTaps - 1) / kTaps;

  static bool Is(const ThinShape& s) {
    return s.kernel == KERNEL && s.stride == STRIDE && s.window == WINDOW && s.in_channels == CHANNELS &&
           s.cols == kColsOfTile;
  }
  // The same shape, with the known numbers as constants.
  MF_HD static ThinShape Of(ThinShape s) {
    s.kernel = KERNEL, s.stride = STRIDE, s.window = WINDOW, s.in_channels = CHANNELS, s.taps = kPatch;
    s.SetTile(s.rows, kColsOfTile);
    return s;
  }
};

// Any geometry with at most GROUPS * kTaps taps.
template <int GROUPS>
struct Unknown {
  static constexpr int kGroups = GROUPS;

  MF_HD static ThinShape Of(const ThinShape& s) { return s; }
};

// Calls f with the number of groups of kTaps that hold all taps, as a std::integral_constant.
template <class F>
void WithGroups(const ThinShape& s, const F& f) {
  if (s.taps <= kTaps) return f(std::integral_constant<int, 1>{});
  if (s.taps <= 3 * kTaps) return f(std::integral_constant<int, 3>{});
  f(std::integral_constant<int, 4>{});
}

// Calls f with an object of the type that kernels for this shape are compiled for.
template <class F>
void WithGeometry(const ThinShape& s, const F& f) {
  if (Known<3, 1, 2, 1>::Is(s)) return f(Known<3, 1, 2, 1>{});  // Conv4 on grey images
  if (Known<3, 1, 2, 3>::Is(s)) return f(Known<3, 1, 2, 3>{});  // Conv4 on color images
  if (Known<3, 2, 1, 1>::Is(s)) return f(Known<3, 2, 1, 1>{});  // Finn's strided net for Omniglot
  WithGroups(s, [&](auto groups) { f(Unknown<decltype(groups)::value>{}); });
}

// Channels in groups, one for every thread block.
struct Groups {
  int channels;  // of a group
  Divide by_count;

  static Groups Of(const ThinShape& s, int channels_of_block) {
    return {channels_of_block, Divide::By(static_cast<int>(Ceil(s.channels, channels_of_block)))};
  }
};

// The windows of one image that a block of kLanes x kPlies threads processes. Grid: x over tiles and groups of
// channels, y over images, z over tasks.
struct WindowTile {
  int task, image, tile, group;
  int row, col;  // the first output

  MF_DEVICE static WindowTile Here(const ThinShape& s, const Groups& groups) {
    const int x = static_cast<int>(blockIdx.x), tile = groups.by_count.Quotient(x);
    const int down = s.by_tiles_across.Quotient(tile);
    return {static_cast<int>(blockIdx.z),
            static_cast<int>(blockIdx.y),
            tile,
            x - tile * groups.by_count.by,
            down * s.rows,
            (tile - down * s.tiles_across) * s.cols};
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
  // of its output at channel 0, from the image's first output.
  template <typename F>
  MF_DEVICE void ForEach(const ThinShape& s, const F& f) const {
    const int below = s.out_height - row, rows = below < s.rows ? below : s.rows;
    const int beyond = s.out_width - col, cols = beyond < s.cols ? beyond : s.cols;
    for (int c = static_cast<int>(threadIdx.y); c < cols; c += kPlies) {
      int first = c * s.in_channels * s.window * s.stride, out = (row * s.out_width + col + c) * s.channels;
      for (int r = 0; r < rows; ++r) {
        f(first, out);
        first += s.pitch * s.window * s.stride;
        out += s.out_width * s.channels;
      }
    }
  }

  // The image's first output, in arrays [T, B, PH, PW, C].
  MF_DEVICE int64_t FirstOutput(const ThinShape& s) const {
    return (int64_t{task} * s.batch + image) * s.out_height * s.out_width * s.channels;
  }
};

inline dim3 TileGrid(const ThinShape& s, int64_t tasks, const Groups& groups) {
  return dim3(static_cast<unsigned>(s.tiles * groups.by_count.by), static_cast<unsigned>(s.batch),
              static_cast<unsigned>(tasks));
}

// A thread's weights of one channel, from [T][taps][channels], for all taps, of which there are MOST at most.
template <typename T, int MOST>
struct Weights {
  T of[MOST];

  MF_DEVICE Weights(const ThinShape& s, const T* weights, int task, int channel) {
    MF_UNROLL
    for (int t = 0; t < MOST; ++t) {
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

}  // namespace cuda
}  // namespace maml_fast
