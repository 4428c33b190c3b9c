// Philox4x32-10 against the vectors of Random123's kat_vectors file, and bounded integers against exact arithmetic.
#include "core/philox.h"

#include <cstdint>

#include "check.h"

namespace maml_fast {
namespace {

struct KnownAnswer {
  PhiloxBlock counter;
  std::uint64_t key;
  PhiloxBlock expected;
};

void TestKnownAnswers() {
  const KnownAnswer answers[] = {
      {{{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
       0xffffffffffffffff,
       {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       0x299f31d0a4093822,
       {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
  };
  for (const KnownAnswer& answer : answers) {
    const PhiloxBlock block = Philox4x32(answer.counter, answer.key);
    for (int i = 0; i < 4; ++i) CHECK_EQ(block.word[i], answer.expected.word[i]);
  }
}

void TestUniformBelow() {
  const std::uint32_t bounds[] = {1, 2, 3, 20, 1623, 65535, 65536, 0x80000000, 0x80000001, 0xffffffff};
  const std::uint32_t words[] = {0, 1, 2, 12345678, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
  for (const std::uint32_t n : bounds) {
    for (const std::uint32_t low : words) {
      for (const std::uint32_t high : words) {
        const unsigned __int128 bits = (std::uint64_t{high} << 32) | low;
        const std::uint32_t exact = static_cast<std::uint32_t>((bits * n) >> 64);
        CHECK_EQ(UniformBelow({{low, high, 7, 7}}, n), exact);
        CHECK(exact < n);
      }
    }
  }
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::TestKnownAnswers();
  maml_fast::TestUniformBelow();
}
