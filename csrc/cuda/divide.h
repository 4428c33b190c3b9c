// Division by a divisor that is known before the kernel starts: one multiplication and one shift on the GPU.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace maml_fast {
namespace cuda {

// Exact for all 0 <= number < 2^31 (Granlund & Montgomery 1994, theorem 4.2).
struct Divide {
  int by;
  uint32_t factor;  // 2^shift / by, rounded up
  int shift;

  static Divide By(int divisor) {
    int shift = 31;
    while (int64_t{divisor} << 31 > int64_t{1} << shift) ++shift;
    const uint64_t power = uint64_t{1} << shift;
    return {divisor, static_cast<uint32_t>((power + static_cast<uint64_t>(divisor) - 1) / divisor), shift};
  }

  MF_HD int Quotient(int number) const {
    return static_cast<int>(uint64_t{static_cast<uint32_t>(number)} * factor >> shift);
  }
};

}  // namespace cuda
}  // namespace maml_fast
