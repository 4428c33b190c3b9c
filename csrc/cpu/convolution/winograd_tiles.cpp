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

// The source pixel under tap (i, j) of destination pixel (h, w) is (h - padding + i, w - padding + j).
WinogradTiles MakeTiles(const Image& source, const Image& dest, int64_t padding, ArenaScope& arena) {
  const int64_t count = (dest.height + 1) / 2 * ((dest.width + 1) / 2);
  auto* tiles = arena.Array<WinogradTile>(count);
  WinogradTile* tile = tiles;
  for (int64_t h = 0; h < dest.height; h += 2) {
    for (int64_t w = 0; w < dest.width; w += 2, ++tile) {
      for (int i = 0; i < 16; ++i) tile->patch[i] = source.Pixel(h - padding + i / 4, w - padding + i % 4);
      for (int i = 0; i < 4; ++i) tile->square[i] = dest.Pixel(h + i / 2, w + i % 2);
    }
  }
  return {tiles, count, source.height * source.width, dest.height * dest.width};
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

WinogradTiles ForwardTiles(const ConvBlockShape& s, ArenaScope& arena) {
  return MakeTiles({s.in_height, s.in_width}, {s.conv_height, s.conv_width}, s.padding, arena);
}

WinogradTiles DataGradientTiles(const ConvBlockShape& s, ArenaScope& arena) {
  return MakeTiles({s.conv_height, s.conv_width}, {s.in_height, s.in_width}, s.kernel - 1 - s.padding, arena);
}

// Costs are multiply-adds of one image. The constants say how many multiply-adds take as long as the rest of the work.
// They were measured (Zen 4; AVX-512 and AVX2 agree) for 8 to 128 channels and images of 3 x 3 to 84 x 84.
bool WinogradPays(const ConvBlockShape& s, int64_t lanes) {
  constexpr double kPerTransform = 100;  // for each channel of a tile, in either direction
  constexpr double kPerWeight = 75;      // for each weight, once for all images
  if (s.kernel != 3 || s.stride != 1) return false;
  auto whole_vectors = [&](int64_t channels) { return static_cast<double>((channels + lanes - 1) / lanes * lanes); };
  auto transforms = [&](int64_t channels) { return kPerTransform * whole_vectors(channels); };
  const double products = static_cast<double>(s.in_channels) * whole_vectors(s.out_channels);
  const double tiles = static_cast<double>((s.conv_height + 1) / 2 * ((s.conv_width + 1) / 2));
  const double direct = products * static_cast<double>(TapsThatMeet(s.in_height, s.conv_height, s) *
                                                       TapsThatMeet(s.in_width, s.conv_width, s));
  const double winograd = tiles * (16 * products + transforms(s.in_channels) + transforms(s.out_channels)) +
                          kPerWeight * products / static_cast<double>(s.batch);
  return winograd < direct;
}

}  // namespace maml_fast
