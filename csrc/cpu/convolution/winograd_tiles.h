// The tiles of Winograd convolutions (winograd.h), computed once per shape, and the decision whether the transforms pay
// off. Forward and data gradient are the same computation, with stride 1, over different tiles.
#pragma once

#include <cstdint>

#include "core/conv_block.h"
#include "cpu/arena.h"

namespace maml_fast {

// Pixels of an image, counted row by row; -1: outside of the image.
struct WinogradTile {
  int32_t patch[4 * 4];   // source pixels that the square depends on
  int32_t square[2 * 2];  // destination pixels
};

// The tiles of one image, which cover every destination pixel once.
struct WinogradTiles {
  const WinogradTile* tiles;
  int64_t count;
  int64_t source_pixels, dest_pixels;
};

WinogradTiles ForwardTiles(const ConvBlockShape& shape, ArenaScope& arena);

WinogradTiles DataGradientTiles(const ConvBlockShape& shape, ArenaScope& arena);

// Whether Winograd convolutions apply to a shape and are faster than the direct ones (direct.h), which skip the taps on
// zero padding. `lanes` is the number of scalars in a vector.
bool WinogradPays(const ConvBlockShape& shape, int64_t lanes);

}  // namespace maml_fast
