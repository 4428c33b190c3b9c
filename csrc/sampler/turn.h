// Turns an image.
#pragma once

#include <cstdint>

namespace maml_fast {

// Writes one image [C, H, W] rotated counter-clockwise by `quarter_turns` (1..3), like np.rot90. Rotation requires
// height == width.
void TurnImage(const std::uint8_t* image, std::int64_t channels, std::int64_t side, std::int32_t quarter_turns,
               std::uint8_t* out);

}  // namespace maml_fast
