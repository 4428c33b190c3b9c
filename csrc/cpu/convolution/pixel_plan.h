// Plans which taps of a convolution meet which pixels. A plan is made once per shape, so that the kernels never
// multiply by zero padding. Forward and data gradient are the same computation under two plans:
//
//   dest[pixel] = sum over the pixel's taps of  source[pixel base + tap] * weights[tap]
//
// Pixels that meet the same taps form a group. The taps of a group are `taps_h` runs. A run consists of `taps_w` source
// pixels that are adjacent in memory, and meets `taps_w` weight rows that are adjacent in the packed weights.
#pragma once

#include <cstdint>

#include "core/conv_block.h"
#include "cpu/arena.h"

namespace maml_fast {

struct PixelGroup {
  int32_t taps_h, taps_w;    // may be 0: no tap meets the pixel
  int32_t first_h, first_w;  // rank of the first tap in the packed weights
  int32_t begin, end;        // range of the plan's pixels
};

struct PlanPixel {
  int32_t source;  // under the group's first tap
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

PixelPlan ForwardPlan(const ConvBlockShape& shape, ArenaScope& arena);

// With stride s, a pixel meets every s-th tap, so taps are ranked by their residue modulo s, then in decreasing order.
PixelPlan DataGradientPlan(const ConvBlockShape& shape, ArenaScope& arena);

}  // namespace maml_fast
