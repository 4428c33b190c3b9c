// The geometry of Winograd's convolutions (winograd.h), worked out once per shape, and when they are worth their
// transforms. Forward and data-gradient are the same computation: stride 1, over other tiles.
#pragma once

#include <cstdint>

#include "core/conv_block.h"
#include "cpu/arena.h"

namespace maml_fast {

// Pixels of an image, row by row; -1 lies outside.
struct WinogradTile {
  int32_t patch[4 * 4];   // of the source: all that the square depends on
  int32_t square[2 * 2];  // of the destination
};

// The tiles of one image, which cover every destination pixel once.
struct WinogradTiles {
  const WinogradTile* tiles;
  int64_t count;
  int64_t source_pixels, dest_pixels;
};

// y from x.
WinogradTiles ForwardTiles(const ConvBlockShape& shape, ArenaScope& arena);

// grad_x from grad_y.
WinogradTiles DataGradientTiles(const ConvBlockShape& shape, ArenaScope& arena);

// Whether a shape has Winograd's convolutions at all and they are faster than the direct ones (direct.h), which
// skip the taps on zero padding. `lanes` is the number of scalars in a vector.
bool WinogradPays(const ConvBlockShape& shape, int64_t lanes);

}  // namespace maml_fast
