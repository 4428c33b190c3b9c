// From bytes to floats: one image, scaled through a table and turned on the way.
#pragma once

#include <cstdint>

namespace maml_fast {

// Writes one image [C, H, W] as floats: out = table[byte], turned counter-clockwise by `quarter_turns` (0..3) as
// np.rot90 would. Turning needs height == width.
void GatherImage(const std::uint8_t* image, std::int64_t channels, std::int64_t height, std::int64_t width,
                 std::int32_t quarter_turns, const float* table, float* out);

}  // namespace maml_fast
