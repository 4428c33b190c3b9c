// The floats of an image's bytes.
#pragma once

#include <array>
#include <cstdint>

namespace maml_fast {

// Converts bytes by a table. Where the table is arithmetic, the same floats are computed in vectors: division is exact
// in every instruction set.
class ByteScale {
 public:
  explicit ByteScale(const std::array<float, 256>& table);

  // out = table[bytes]
  void Apply(const std::uint8_t* bytes, std::int64_t n, float* out) const;

 private:
  enum class Form { kQuotient, kInvertedQuotient, kTable };  // b / divisor, 1 - b / divisor

  std::array<float, 256> table_;
  float divisor_ = 1;
  Form form_ = Form::kTable;
};

}  // namespace maml_fast
