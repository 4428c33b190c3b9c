#include "cpu/convolution/pixel_plan.h"

#include <algorithm>

namespace maml_fast {
namespace {

// The taps that meet the image at one destination coordinate along one axis, and the source coordinate under the first
// tap.
struct AxisTaps {
  int32_t count, first_rank, source;

  bool SameTaps(const AxisTaps& other) const { return count == other.count && first_rank == other.first_rank; }
};

AxisTaps ForwardTaps(int64_t out, int64_t in_extent, const ConvBlockShape& s) {
  const int64_t origin = out * s.stride - s.padding;
  const int64_t first = std::max<int64_t>(0, -origin);
  const int64_t last = std::min(s.kernel, in_extent - origin);
  if (first >= last) return {0, 0, 0};
  return {static_cast<int32_t>(last - first), static_cast<int32_t>(first), static_cast<int32_t>(origin + first)};
}

// in + padding = out * stride + tap. When `out` increases by 1, `tap` decreases by `stride`.
AxisTaps DataGradientTaps(int64_t in, int64_t out_extent, const ConvBlockShape& s, const int32_t* rank_of_tap) {
  const int64_t shifted = in + s.padding;
  const int64_t excess = shifted - (s.kernel - 1);
  const int64_t first = excess > 0 ? (excess + s.stride - 1) / s.stride : 0;
  const int64_t last = std::min(shifted / s.stride, out_extent - 1);
  if (first > last) return {0, 0, 0};
  return {static_cast<int32_t>(last - first + 1), rank_of_tap[shifted - first * s.stride], static_cast<int32_t>(first)};
}

// Groups the destination pixels of an image by the taps that meet them, as products of the groups along the two axes.
PixelPlan Group(const AxisTaps* rows, int64_t height, const AxisTaps* cols, int64_t width, int64_t source_width,
                ArenaScope& arena) {
  auto* pixels = arena.Array<PlanPixel>(height * width);
  auto* groups = arena.Array<PixelGroup>(height * width);
  auto is_first = [](const AxisTaps* taps, int64_t i) {
    return std::none_of(taps, taps + i, [&](const AxisTaps& t) { return t.SameTaps(taps[i]); });
  };
  int64_t group_count = 0;
  int32_t pixel = 0;
  for (int64_t h = 0; h < height; ++h) {
    if (!is_first(rows, h)) continue;
    for (int64_t w = 0; w < width; ++w) {
      if (!is_first(cols, w)) continue;
      const int32_t begin = pixel;
      for (int64_t i = h; i < height; ++i) {
        if (!rows[i].SameTaps(rows[h])) continue;
        for (int64_t j = w; j < width; ++j) {
          if (!cols[j].SameTaps(cols[w])) continue;
          pixels[pixel++] = {static_cast<int32_t>(rows[i].source * source_width + cols[j].source),
                             static_cast<int32_t>(i * width + j)};
        }
      }
      const bool met = rows[h].count > 0 && cols[w].count > 0;
      groups[group_count++] = {
          met ? rows[h].count : 0, met ? cols[w].count : 0, rows[h].first_rank, cols[w].first_rank, begin, pixel};
    }
  }
  PixelPlan plan{};
  plan.groups = groups;
  plan.group_count = group_count;
  plan.pixels = pixels;
  plan.dest_pixels = height * width;
  plan.source_width = source_width;
  return plan;
}

}  // namespace

PixelPlan ForwardPlan(const ConvBlockShape& s, ArenaScope& arena) {
  auto* rows = arena.Array<AxisTaps>(s.conv_height);
  auto* cols = arena.Array<AxisTaps>(s.conv_width);
  auto* tap_of_rank = arena.Array<int32_t>(s.kernel);
  for (int64_t i = 0; i < s.conv_height; ++i) rows[i] = ForwardTaps(i, s.in_height, s);
  for (int64_t j = 0; j < s.conv_width; ++j) cols[j] = ForwardTaps(j, s.in_width, s);
  for (int64_t tap = 0; tap < s.kernel; ++tap) tap_of_rank[tap] = static_cast<int32_t>(tap);
  PixelPlan plan = Group(rows, s.conv_height, cols, s.conv_width, s.in_width, arena);
  plan.source_pixels = s.InPixels();
  plan.kernel = s.kernel;
  plan.tap_of_rank = tap_of_rank;
  return plan;
}

PixelPlan DataGradientPlan(const ConvBlockShape& s, ArenaScope& arena) {
  auto* rows = arena.Array<AxisTaps>(s.in_height);
  auto* cols = arena.Array<AxisTaps>(s.in_width);
  auto* tap_of_rank = arena.Array<int32_t>(s.kernel);
  auto* rank_of_tap = arena.Array<int32_t>(s.kernel);
  int32_t rank = 0;
  for (int64_t residue = 0; residue < std::min(s.stride, s.kernel); ++residue) {
    const int64_t highest = residue + (s.kernel - 1 - residue) / s.stride * s.stride;
    for (int64_t tap = highest; tap >= 0; tap -= s.stride) {
      tap_of_rank[rank] = static_cast<int32_t>(tap);
      rank_of_tap[tap] = rank++;
    }
  }
  for (int64_t i = 0; i < s.in_height; ++i) rows[i] = DataGradientTaps(i, s.conv_height, s, rank_of_tap);
  for (int64_t j = 0; j < s.in_width; ++j) cols[j] = DataGradientTaps(j, s.conv_width, s, rank_of_tap);
  PixelPlan plan = Group(rows, s.in_height, cols, s.in_width, s.conv_width, arena);
  plan.source_pixels = s.ConvPixels();
  plan.kernel = s.kernel;
  plan.tap_of_rank = tap_of_rank;
  return plan;
}

}  // namespace maml_fast
