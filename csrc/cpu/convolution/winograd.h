// Convolutions with 3 x 3 filters and stride 1 that take 16 multiplications, not 36, for every 2 x 2 square of the
// result: F(2x2, 3x3) of Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016. For one task's
// images.
//
//   square = A^T [(G filter G^T) * (B^T patch B)] A      patch: the 4 x 4 source pixels that the square depends on
//
// The products at each of the 16 positions, summed over channels, are a matrix product [tiles, Cs] [Cs, Cd]. The weight
// gradient is the transposed computation, G^T [(B^T patch B) * (A grad A^T)] G, summed over tiles.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/convolution/register_tiles.h"
#include "cpu/convolution/transpose.h"
#include "cpu/convolution/winograd_tiles.h"

namespace maml_fast {
namespace {

constexpr int kPositions = 16;
constexpr int64_t kTilesAtOnce = 48;  // tiles whose matrices stay in cache, together with the weights

// The transforms along one axis, of values that are in_step or out_step vectors apart.
struct PatchAxis {  // B^T
  static constexpr int kIn = 4, kOut = 4;
  template <typename Scalar>
  static MF_INLINE void Run(const Vec<Scalar>* in, int in_step, Vec<Scalar>* out, int out_step) {
    const Vec<Scalar> a = in[0], b = in[in_step], c = in[2 * in_step], d = in[3 * in_step];
    out[0] = a - c;
    out[out_step] = b + c;
    out[2 * out_step] = c - b;
    out[3 * out_step] = b - d;
  }
};

struct FilterAxis {  // G
  static constexpr int kIn = 3, kOut = 4;
  template <typename Scalar>
  static MF_INLINE void Run(const Vec<Scalar>* in, int in_step, Vec<Scalar>* out, int out_step) {
    const Vec<Scalar> a = in[0], b = in[in_step], c = in[2 * in_step];
    const Vec<Scalar> even = (a + c) * Scalar{0.5}, odd = b * Scalar{0.5};
    out[0] = a;
    out[out_step] = even + odd;
    out[2 * out_step] = even - odd;
    out[3 * out_step] = c;
  }
};

struct FilterGradientAxis {  // G^T
  static constexpr int kIn = 4, kOut = 3;
  template <typename Scalar>
  static MF_INLINE void Run(const Vec<Scalar>* in, int in_step, Vec<Scalar>* out, int out_step) {
    const Vec<Scalar> a = in[0], b = in[in_step], c = in[2 * in_step], d = in[3 * in_step];
    const Vec<Scalar> even = (b + c) * Scalar{0.5};
    out[0] = a + even;
    out[out_step] = (b - c) * Scalar{0.5};
    out[2 * out_step] = even + d;
  }
};

struct SquareAxis {  // A^T
  static constexpr int kIn = 4, kOut = 2;
  template <typename Scalar>
  static MF_INLINE void Run(const Vec<Scalar>* in, int in_step, Vec<Scalar>* out, int out_step) {
    const Vec<Scalar> a = in[0], b = in[in_step], c = in[2 * in_step], d = in[3 * in_step];
    out[0] = a + b + c;
    out[out_step] = b - c - d;
  }
};

struct SquareGradientAxis {  // A
  static constexpr int kIn = 2, kOut = 4;
  template <typename Scalar>
  static MF_INLINE void Run(const Vec<Scalar>* in, int in_step, Vec<Scalar>* out, int out_step) {
    const Vec<Scalar> a = in[0], b = in[in_step];
    out[0] = a;
    out[out_step] = a + b;
    out[2 * out_step] = a - b;
    out[3 * out_step] = -b;
  }
};

template <typename Scalar, typename Axis>
MF_INLINE void BothAxes(const Vec<Scalar>* in, Vec<Scalar>* out) {
  Vec<Scalar> half[Axis::kOut * Axis::kIn];
#pragma GCC unroll 4
  for (int i = 0; i < Axis::kIn; ++i) Axis::template Run<Scalar>(in + i, Axis::kIn, half + i, Axis::kIn);
#pragma GCC unroll 4
  for (int i = 0; i < Axis::kOut; ++i) Axis::template Run<Scalar>(half + i * Axis::kIn, 1, out + i * Axis::kOut, 1);
}

// One matrix [rows][channels] for each position. Rows are padded to whole vectors. One extra vector between two
// matrices keeps them out of each other's cache sets.
template <typename T>
struct Positions {
  using Scalar = std::remove_const_t<T>;

  T* data;
  int64_t pitch, step;

  Positions(T* p, int64_t rows, int64_t channels)
      : data(p), pitch(RoundUpToLanes<Scalar>(channels)), step(rows * pitch + kLanes<Scalar>) {}

  static int64_t Size(int64_t rows, int64_t channels) { return kPositions * Positions(nullptr, rows, channels).step; }

  T* Matrix(int position) const { return data + position * step; }

  MF_INLINE void Read(int64_t row, int64_t channel, Vec<Scalar>* values) const {
#pragma GCC unroll 16
    for (int p = 0; p < kPositions; ++p) values[p] = Load<Scalar>(Matrix(p) + row * pitch + channel);
  }
  MF_INLINE void Write(int64_t row, int64_t channel, const Vec<Scalar>* values) const {
#pragma GCC unroll 16
    for (int p = 0; p < kPositions; ++p) Store<Scalar>(Matrix(p) + row * pitch + channel, values[p]);
  }
};

// Scalars of the transformed weights, or of the sums of their gradient.
template <typename Scalar>
int64_t WinogradWeightsSize(int64_t source_channels, int64_t dest_channels) {
  return Positions<Scalar>::Size(source_channels, dest_channels);
}

// weight [3, 3, Cin, Cout] -> transformed [16][Cin][Cout], for the input channels [begin, end)
template <typename Scalar>
void TransformWeights(const Scalar* weight, int64_t in_channels, int64_t out_channels, Scalar* transformed,
                      int64_t begin, int64_t end) {
  const Positions<Scalar> to(transformed, in_channels, out_channels);
  for (int64_t in = begin; in < end; ++in) {
    ForChannels<Scalar>(out_channels, [&](int64_t out, int64_t n) __attribute__((always_inline)) {
      Vec<Scalar> filter[9], values[kPositions];
#pragma GCC unroll 9
      for (int tap = 0; tap < 9; ++tap) filter[tap] = Load(weight + (tap * in_channels + in) * out_channels + out, n);
      BothAxes<Scalar, FilterAxis>(filter, values);
      to.Write(in, out, values);
    });
  }
}

// weight [3, 3, Cin, Cout] -> transformed [16][Cout][Cin] of the filters rotated by 180 degrees, for the input channels
// [begin, end); `begin` is a multiple of the lanes.
template <typename Scalar>
void TransformWeightsForDataGradient(const Scalar* weight, int64_t in_channels, int64_t out_channels,
                                     Scalar* transformed, int64_t begin, int64_t end) {
  constexpr int64_t kLane = kLanes<Scalar>;
  const Positions<Scalar> to(transformed, out_channels, in_channels);
  ForChannels<Scalar>(end - begin, [&](int64_t i0, int64_t ins) {
    const int64_t in = begin + i0;
    ForChannels<Scalar>(out_channels, [&](int64_t out, int64_t outs) {
      Vec<Scalar> filters[9][kLane];  // [tap][Cout][Cin]
      for (int tap = 0; tap < 9; ++tap) {
        const Scalar* block = weight + ((8 - tap) * in_channels + in) * out_channels + out;
        Vec<Scalar> rows[kLane];
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLane; ++i) rows[i] = i < ins ? Load(block + i * out_channels, outs) : Vec<Scalar>{};
        Transpose<Scalar>(rows, filters[tap]);
      }
      for (int64_t i = 0; i < outs; ++i) {
        Vec<Scalar> filter[9], values[kPositions];
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap) filter[tap] = filters[tap][i];
        BothAxes<Scalar, FilterAxis>(filter, values);
        to.Write(out + i, in, values);
      }
    });
  });
}

// The memory in which one thread works on a group of tiles.
template <typename Scalar>
struct WinogradWork {
  Positions<Scalar> source;  // [16][tiles][Cs]
  Positions<Scalar> dest;    // [16][tiles][Cd]
  Scalar* zeros;             // [max(Cs, Cd)]: a pixel of padding

  WinogradWork(Scalar* work, int64_t source_channels, int64_t dest_channels)
      : source(work, kTilesAtOnce, source_channels),
        dest(source.Matrix(kPositions), kTilesAtOnce, dest_channels),
        zeros(dest.Matrix(kPositions)) {
    for (int64_t c = 0; c < ZerosSize(); ++c) zeros[c] = Scalar{0};
  }

  int64_t ZerosSize() const { return source.pitch > dest.pitch ? source.pitch : dest.pitch; }
};

template <typename Scalar>
int64_t WinogradWorkSize(int64_t source_channels, int64_t dest_channels) {
  const int64_t more = source_channels > dest_channels ? source_channels : dest_channels;
  return Positions<Scalar>::Size(kTilesAtOnce, source_channels) + Positions<Scalar>::Size(kTilesAtOnce, dest_channels) +
         RoundUpToLanes<Scalar>(more);
}

// Tiles [first, past), counted across all images.
struct TileGroup {
  const WinogradTiles& tiles;
  int64_t first, past;

  int64_t Count() const { return past - first; }

  // Calls f(image, tile, index in the group).
  template <typename F>
  MF_INLINE void ForEach(const F& f) const {
    int64_t image = first / tiles.count, tile = first % tiles.count;
    for (int64_t rank = 0; rank < Count(); ++rank) {
      f(image, tiles.tiles[tile], rank);
      if (++tile == tiles.count) {
        tile = 0;
        ++image;
      }
    }
  }
};

// Calls f(group) for all tiles of images [begin, end), in groups of about equal size.
template <typename F>
MF_INLINE void ForTileGroups(const WinogradTiles& tiles, int64_t begin, int64_t end, const F& f) {
  const int64_t all = (end - begin) * tiles.count, groups = (all + kTilesAtOnce - 1) / kTilesAtOnce;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = begin * tiles.count;
    f(TileGroup{tiles, first + all * g / groups, first + all * (g + 1) / groups});
  }
}

// Images of which the first `channels` channels are read.
template <typename Scalar>
struct ImageChannels {
  const Scalar* images;
  int64_t pixels, pixel_size;  // pixels of an image, and scalars of a pixel
  int64_t channels;
};

// to [16][tiles][C] = the transforms of the pixels that pixels_of(tile) returns
template <typename Axis, typename Scalar, typename PixelsOf>
MF_INLINE void TransformPixels(const TileGroup& group, const PixelsOf& pixels_of, const ImageChannels<Scalar>& of,
                               const Scalar* zeros, Positions<Scalar> to) {
  constexpr int kPixels = Axis::kIn * Axis::kIn;
  group.ForEach([&](int64_t image, const WinogradTile& tile, int64_t rank) __attribute__((always_inline)) {
    const int32_t* pixels = pixels_of(tile);
    const Scalar* from[kPixels];
    for (int i = 0; i < kPixels; ++i) {
      from[i] = pixels[i] < 0 ? zeros : of.images + (image * of.pixels + pixels[i]) * of.pixel_size;
    }
    ForChannels<Scalar>(of.channels, [&](int64_t c, int64_t n) __attribute__((always_inline)) {
      Vec<Scalar> in[kPixels], values[kPositions];
#pragma GCC unroll 16
      for (int i = 0; i < kPixels; ++i) in[i] = Load(from[i] + c, n);
      BothAxes<Scalar, Axis>(in, values);
      to.Write(rank, c, values);
    });
  });
}

template <typename Scalar>
void TransformPatches(const TileGroup& group, const Scalar* source, int64_t pixel_size, int64_t channels,
                      const Scalar* zeros, Positions<Scalar> to) {
  auto patch = [](const WinogradTile& tile) { return tile.patch; };
  const ImageChannels<Scalar> of{source, group.tiles.source_pixels, pixel_size, channels};
  TransformPixels<PatchAxis>(group, patch, of, zeros, to);
}

template <typename Scalar>
void TransformSquares(const TileGroup& group, const Scalar* grad, int64_t channels, const Scalar* zeros,
                      Positions<Scalar> to) {
  auto square = [](const WinogradTile& tile) { return tile.square; };
  const ImageChannels<Scalar> of{grad, group.tiles.dest_pixels, channels, channels};
  TransformPixels<SquareGradientAxis>(group, square, of, zeros, to);
}

// The squares of dest = start (or dest itself, if start is null) + the transforms of products [16][tiles][C]
template <typename Scalar>
void StoreSquares(const TileGroup& group, Positions<Scalar> products, const Scalar* start, int64_t channels,
                  Scalar* dest) {
  group.ForEach([&](int64_t image, const WinogradTile& tile, int64_t rank) __attribute__((always_inline)) {
    Scalar* pixels = dest + image * group.tiles.dest_pixels * channels;
    ForChannels<Scalar>(channels, [&](int64_t c, int64_t n) __attribute__((always_inline)) {
      Vec<Scalar> values[kPositions], square[4];
      products.Read(rank, c, values);
      BothAxes<Scalar, SquareAxis>(values, square);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (tile.square[i] < 0) continue;
        Scalar* to = pixels + tile.square[i] * channels + c;
        Store(to, (start != nullptr ? Load(start + c) : Load(to, n)) + square[i], n);
      }
    });
  });
}

// dest [tiles][Cd] = source [tiles][Cs] weights [Cs][Cd], at every position
template <typename Scalar>
void Multiply(int64_t tiles, Positions<Scalar> source, int64_t source_channels, Positions<const Scalar> weights,
              const Scalar* zeros, Positions<Scalar> dest) {
  constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
  const TapRuns runs{1, source_channels, 0, 0};
  for (int p = 0; p < kPositions; ++p) {
    for (int64_t channel = 0; channel < dest.pitch; channel += kPanel) {
      const int64_t vecs = (dest.pitch - channel) / kLanes<Scalar>;
      for (int64_t tile = 0; tile < tiles; tile += kTileRows) {
        const Scalar* from[kTileRows];
        Scalar* to[kTileRows];
        for (int64_t r = 0; r < kTileRows; ++r) {
          from[r] = source.Matrix(p) + (tile + r) * source.pitch;
          to[r] = dest.Matrix(p) + (tile + r) * dest.pitch + channel;
        }
        Dispatch<ConvTileBody<Scalar>, kTileRows, kTileVecs>(tiles - tile, vecs, from, runs,
                                                             weights.Matrix(p) + channel, weights.pitch, zeros, to);
      }
    }
  }
}

// Computes images [begin, end) of dest from those of source and the transformed weights [16][Cs][Cd]. The sums start
// from the row `start` (whole vectors) or, if it is null, from dest. An image's result is bitwise the same, whichever
// other images are computed with it.
template <typename Scalar>
void WinogradConvolve(const WinogradTiles& tiles, const Scalar* source, int64_t source_channels,
                      const Scalar* transformed, const Scalar* start, Scalar* dest, int64_t dest_channels,
                      int64_t begin, int64_t end, Scalar* work_space) {
  const WinogradWork<Scalar> work(work_space, source_channels, dest_channels);
  const Positions<const Scalar> weights(transformed, source_channels, dest_channels);
  ForTileGroups(tiles, begin, end, [&](const TileGroup& group) {
    TransformPatches(group, source, source_channels, source_channels, work.zeros, work.source);
    Multiply(group.Count(), work.source, source_channels, weights, work.zeros, work.dest);
    StoreSquares(group, work.dest, start, dest_channels, dest);
  });
}

// sums [Cin][Cout] += x [tiles][Cin]^T grad [tiles][Cout], at every position
template <typename Scalar>
void AddOuterProducts(int64_t tiles, Positions<Scalar> x, int64_t in_channels, Positions<Scalar> grad,
                      Positions<Scalar> sums) {
  constexpr int64_t kPanel = kTileVecs * kLanes<Scalar>;
  const PixelRect rect{1, 1, tiles, 0, 0, x.pitch, 0, 0, grad.pitch};
  for (int p = 0; p < kPositions; ++p) {
    for (int64_t out = 0; out < sums.pitch; out += kPanel) {
      const int64_t vecs = (sums.pitch - out) / kLanes<Scalar>;
      for (int64_t in = 0; in < in_channels; in += kTileRows) {
        Dispatch<WeightTileBody<Scalar>, kTileRows, kTileVecs>(in_channels - in, vecs, x.Matrix(p) + in,
                                                               grad.Matrix(p) + out, rect,
                                                               sums.Matrix(p) + in * sums.pitch + out, sums.pitch);
      }
    }
  }
}

// sums [16][Cin][Cout] += the contributions of images [begin, end) to the weight gradient before its transform, for the
// input channels [in_begin, in_end). `tiles` are those of the forward pass.
template <typename Scalar>
void WinogradWeightGradient(const WinogradTiles& tiles, const Scalar* x, int64_t in_channels, int64_t in_begin,
                            int64_t in_end, const Scalar* grad_y, int64_t out_channels, int64_t begin, int64_t end,
                            Scalar* sums, Scalar* work_space) {
  const int64_t ins = in_end - in_begin;
  const WinogradWork<Scalar> work(work_space, ins, out_channels);
  Positions<Scalar> to(sums, in_channels, out_channels);
  to.data += in_begin * to.pitch;
  ForTileGroups(tiles, begin, end, [&](const TileGroup& group) {
    TransformPatches(group, x + in_begin, in_channels, ins, work.zeros, work.source);
    TransformSquares(group, grad_y, out_channels, work.zeros, work.dest);
    AddOuterProducts(group.Count(), work.source, ins, work.dest, to);
  });
}

// grad_weight [3, 3, Cin, Cout] from the sum of `count` sums [16][Cin][Cout] that are `apart` scalars apart, for the
// input channels [begin, end).
template <typename Scalar>
void FinishWeightGradient(const Scalar* sums, int64_t count, int64_t apart, int64_t in_channels, int64_t out_channels,
                          Scalar* grad_weight, int64_t begin, int64_t end) {
  for (int64_t in = begin; in < end; ++in) {
    ForChannels<Scalar>(out_channels, [&](int64_t out, int64_t n) __attribute__((always_inline)) {
      Vec<Scalar> values[kPositions], more[kPositions], filter[9];
      Positions<const Scalar>(sums, in_channels, out_channels).Read(in, out, values);
      for (int64_t i = 1; i < count; ++i) {
        Positions<const Scalar>(sums + i * apart, in_channels, out_channels).Read(in, out, more);
#pragma GCC unroll 16
        for (int p = 0; p < kPositions; ++p) values[p] += more[p];
      }
      BothAxes<Scalar, FilterGradientAxis>(values, filter);
#pragma GCC unroll 9
      for (int tap = 0; tap < 9; ++tap) {
        Store(grad_weight + (tap * in_channels + in) * out_channels + out, filter[tap], n);
      }
    });
  }
}

}  // namespace
}  // namespace maml_fast
