#include "cpu/convolution/winograd_tiles.h"

#include <algorithm>

namespace maml_fast {
namespace {

struct Image {
  int64_t height, width;

  int32_t Pixel(int64_t row, int64_t col) const {
    return row < 0 || col < 0 || row >= height || col >= width ? -1 : static_cast<int32_t>(row * width + col);
  }
};

int64_t TilesAlong(int64_t extent, int64_t side) { return (extent + side - 1) / side; }

// The source pixel under tap (i, j) of destination pixel (h, w) is (h - padding + i, w - padding + j).
WinogradTiles MakeTiles(const Image& source, const Image& dest, int64_t padding, int64_t side, ArenaScope& arena) {
  const int64_t count = TilesAlong(dest.height, side) * TilesAlong(dest.width, side), extent = side + 2;
  auto* patches = arena.Array<int32_t>(count * extent * extent);
  auto* squares = arena.Array<int32_t>(count * side * side);
  int32_t *patch = patches, *square = squares;
  for (int64_t h = 0; h < dest.height; h += side) {
    for (int64_t w = 0; w < dest.width; w += side) {
      for (int64_t i = 0; i < extent * extent; ++i) {
        *patch++ = source.Pixel(h - padding + i / extent, w - padding + i % extent);
      }
      for (int64_t i = 0; i < side * side; ++i) *square++ = dest.Pixel(h + i / side, w + i % side);
    }
  }
  return {patches, squares, count, source.height * source.width, dest.height * dest.width};
}

// Counts the pairs, along one axis, of an output pixel and a tap that lies inside the image.
int64_t TapsThatMeet(int64_t in, int64_t out, const ConvBlockShape& s) {
  int64_t pairs = 0;
  for (int64_t tap = 0; tap < s.kernel; ++tap) {
    const int64_t first = std::max<int64_t>(0, s.padding - tap), past = std::min(out, in + s.padding - tap);
    pairs += std::max<int64_t>(0, past - first);
  }
  return pairs;
}

}  // namespace

WinogradTiles ForwardTiles(const ConvBlockShape& s, int64_t side, ArenaScope& arena) {
  return MakeTiles({s.in_height, s.in_width}, {s.conv_height, s.conv_width}, s.padding, side, arena);
}

WinogradTiles DataGradientTiles(const ConvBlockShape& s, int64_t side, ArenaScope& arena) {
  return MakeTiles({s.conv_height, s.conv_width}, {s.in_height, s.in_width}, s.kernel - 1 - s.padding, side, arena);
}

// Costs are multiply-adds of one image. The constants say how many multiply-adds take as long as the rest of the work.
// They were measured (Zen 4; AVX-512 and AVX2 agree) for 8 to 128 channels and images of 3 x 3 to 84 x 84.
Algorithm FastestAlgorithm(const ConvBlockShape& s, int64_t lanes) {
  struct Costs {
    int64_t side;
    double positions;
    double per_transform;  // for each channel of a tile, in either direction
    double per_weight;     // for each weight, once for all images
  };
  constexpr Costs kOfSquares2{2, 16, 100, 75}, kOfSquares4{4, 36, 250, 170};
  if (s.kernel != 3 || s.stride != 1) return Algorithm::kDirect;
  auto whole_vectors = [&](int64_t channels) { return static_cast<double>((channels + lanes - 1) / lanes * lanes); };
  const double products = static_cast<double>(s.in_channels) * whole_vectors(s.out_channels);
  const double direct = products * static_cast<double>(TapsThatMeet(s.in_height, s.conv_height, s) *
                                                       TapsThatMeet(s.in_width, s.conv_width, s));
  auto cost = [&](const Costs& of) {
    const auto tiles = static_cast<double>(TilesAlong(s.conv_height, of.side) * TilesAlong(s.conv_width, of.side));
    const double transforms = of.per_transform * (whole_vectors(s.in_channels) + whole_vectors(s.out_channels));
    return tiles * (of.positions * products + transforms) + of.per_weight * products / static_cast<double>(s.batch);
  };
  const double squares2 = cost(kOfSquares2), squares4 = cost(kOfSquares4);
  if (direct <= std::min(squares2, squares4)) return Algorithm::kDirect;
  return squares2 <= squares4 ? Algorithm::kSquares2 : Algorithm::kSquares4;
}

}  // namespace maml_fast
