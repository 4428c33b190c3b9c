#include "sampler/turn.h"

namespace maml_fast {
namespace {

// Output pixel (row, column) reads the byte at offset first + row * row_step + column * column_step.
struct Walk {
  std::int64_t first;
  std::int64_t row_step;
  std::int64_t column_step;
};

Walk WalkFor(std::int32_t quarter_turns, std::int64_t side) {
  switch (quarter_turns) {
    case 1:
      return {side - 1, -1, side};
    case 2:
      return {side * side - 1, -side, -1};
    default:
      return {side * (side - 1), 1, -side};
  }
}

}  // namespace

void TurnImage(const std::uint8_t* image, std::int64_t channels, std::int64_t side, std::int32_t quarter_turns,
               std::uint8_t* out) {
  const Walk walk = WalkFor(quarter_turns, side);
  for (std::int64_t c = 0; c < channels; ++c, image += side * side) {
    for (std::int64_t row = 0; row < side; ++row) {
      const std::uint8_t* pixel = image + walk.first + row * walk.row_step;
      for (std::int64_t column = 0; column < side; ++column, pixel += walk.column_step) *out++ = *pixel;
    }
  }
}

}  // namespace maml_fast
