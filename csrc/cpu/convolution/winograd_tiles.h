// The tiles of Winograd convolutions (winograd.h), computed once per shape, and the decision whether the transforms pay
// off. Forward and data gradient are the same computation, with stride 1, over different tiles.
#pragma once

#include <cstdint>

#include "core/conv_block.h"
#include "cpu/arena.h"

namespace maml_fast {

// The tiles of one image, which cover every destination pixel once: squares of `side` x `side` destination pixels, and
// the patches of source pixels that they depend on. Pixels are counted row by row; -1 is outside of the image.
struct WinogradTiles {
  const int32_t* patches;  // [count][(side + 2)^2]
  const int32_t* squares;  // [count][side^2]
  int64_t count;
  int64_t source_pixels, dest_pixels;
};

WinogradTiles ForwardTiles(const ConvBlockShape& shape, int64_t side, ArenaScope& arena);

WinogradTiles DataGradientTiles(const ConvBlockShape& shape, int64_t side, ArenaScope& arena);

// How a convolution is computed: directly (direct.h) or by Winograd's algorithm with squares of 2 x 2 or 4 x 4 pixels.
enum class Algorithm { kDirect, kSquares2, kSquares4 };

// The fastest that applies. Direct convolutions skip the taps on zero padding. `lanes` is the number of scalars in a
// vector.
Algorithm FastestAlgorithm(const ConvBlockShape& shape, int64_t lanes);

}  // namespace maml_fast
