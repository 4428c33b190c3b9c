// How the indices of maxima are read, written and used to pick values, to the bit, on the vectors that every machine
// has.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "check.h"
#include "core/conv_block.h"

#define MF_VECTOR_BYTES 16
#include "cpu/passes/argmax.h"

namespace maml_fast {
namespace {

template <typename Scalar>
void TestIndices() {
  constexpr int64_t kLane = kLanes<Scalar>;
  const std::vector<uint8_t> bytes = {3, 255, kDead, 129};
  for (int64_t n = 1; n <= kLane; ++n) {
    const IntVec<Scalar> index = LoadIndex<Scalar>(bytes.data(), n);
    for (int64_t i = 0; i < kLane; ++i) CHECK_EQ(static_cast<int>(index[i]), i < n ? bytes[i] : 0);
    std::vector<uint8_t> stored(kLane + 1, 77);
    StoreIndex<Scalar>(stored.data(), index, n);
    CHECK(std::equal(bytes.begin(), bytes.begin() + n, stored.begin()));
    CHECK_EQ(std::count(stored.begin() + n, stored.end(), 77), kLane + 1 - n);
  }
}

template <typename Scalar>
void TestPick() {
  const std::vector<Scalar> window = {Scalar{1} / 3, Scalar{-1} / 7, Scalar{1e10F} / 3, Scalar{-1e-10F} / 3};
  for (int first = 0; first < 4; ++first) {
    std::vector<uint8_t> bytes;
    for (int i = 0; i < kLanes<Scalar>; ++i) bytes.push_back(static_cast<uint8_t>((first + 3 * i) % 4));
    const Vec<Scalar> picked = Pick<Scalar, 4>(window.data(), LoadIndex<Scalar>(bytes.data()));
    for (int64_t i = 0; i < kLanes<Scalar>; ++i) CHECK_EQ(static_cast<Scalar>(picked[i]), window[bytes[i]]);
  }
  const Vec<Scalar> picked = Pick<Scalar, 4>(window.data(), IntVec<Scalar>{} + kDead);
  for (int64_t i = 0; i < kLanes<Scalar>; ++i) {
    CHECK_EQ(std::count(window.begin(), window.end(), static_cast<Scalar>(picked[i])), 1);
  }
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::TestIndices<float>();
  maml_fast::TestIndices<double>();
  maml_fast::TestPick<float>();
  maml_fast::TestPick<double>();
}
