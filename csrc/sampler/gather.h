// Converts one image from bytes to floats with a lookup table, and rotates it.
#pragma once

#include <cstdint>

namespace maml_fast {

// Writes one image [C, H, W] as floats: out = table[byte], rotated counter-clockwise by `quarter_turns` (0..3), like
// np.rot90. Rotation requires height == width.
void GatherImage(const std::uint8_t* image, std::int64_t channels, std::int64_t height, std::int64_t width,
                 std::int32_t quarter_turns, const float* table, float* out);

}  // namespace maml_fast
