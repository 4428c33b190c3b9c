// Which taps of a convolution meet which pixels, worked out once per geometry, so that the kernels never multiply by
// zero padding. Forward and data-gradient are the same computation under two plans:
//
//   dest[pixel] = sum over the pixel's taps of  source[pixel base + tap] * weights[tap]
//
// Pixels that meet the same taps form a group. Within a group the taps are `taps_h` runs, each of `taps_w` source
// pixels that lie side by side in memory and meet `taps_w` weight rows that lie side by side in the packed weights.
#pragma once

#include <cstdint>

#include "core/conv_block.h"
#include "cpu/arena.h"

namespace maml_fast {

struct PixelGroup {
  int32_t taps_h, taps_w;    // may be 0: a pixel that no tap meets
  int32_t first_h, first_w;  // rank of the first tap in the packed weights
  int32_t begin, end;        // of the plan's pixels
};

struct PlanPixel {
  int32_t source;  // source pixel under the group's first tap
  int32_t dest;
};

struct PixelPlan {
  const PixelGroup* groups;
  int64_t group_count;
  const PlanPixel* pixels;
  int64_t source_pixels, dest_pixels;  // per image
  int64_t source_width;                // pixels from one run to the next
  int64_t kernel;
  const int32_t* tap_of_rank;  // [k]: the tap (row or column of the filter) packed at each rank
};

// y from x.
PixelPlan ForwardPlan(const ConvBlockShape& shape, ArenaScope& arena);

// grad_x from grad_y. With stride s a pixel meets every s-th tap: taps are ranked by their residue, then backwards.
PixelPlan DataGradientPlan(const ConvBlockShape& shape, ArenaScope& arena);

}  // namespace maml_fast
