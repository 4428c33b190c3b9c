// Philox4x32-10, a counter-based random number generator for both the host and the GPU.
//
// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Every output is a function of a
// 64-bit key and a 128-bit counter alone, so any draw can be made anywhere, in any order, without state.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace maml_fast {

struct PhiloxBlock {
  std::uint32_t word[4];
};

MF_HD inline PhiloxBlock PhiloxRound(PhiloxBlock counter, std::uint32_t key0, std::uint32_t key1) {
  const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter.word[0];
  const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter.word[2];
  return {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<std::uint32_t>(product1),
           static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<std::uint32_t>(product0)}};
}

// Returns 128 random bits. Ten rounds; the key is incremented by the Weyl constants between them.
MF_HD inline PhiloxBlock Philox4x32(PhiloxBlock counter, std::uint64_t key) {
  std::uint32_t key0 = static_cast<std::uint32_t>(key);
  std::uint32_t key1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    counter = PhiloxRound(counter, key0, key1);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Returns an integer in [0, n), n >= 1: floor(u * n / 2^64) for the 64-bit number u made of words 0 (low) and 1 (high).
//
// There is no rejection, hence no loop, and a draw takes exactly one block. Each value's probability is off by less
// than 2^-64, so a draw from a million values differs from a uniform one by less than 1e-13 in total variation.
MF_HD inline std::uint32_t UniformBelow(PhiloxBlock bits, std::uint32_t n) {
  const std::uint64_t low = std::uint64_t{bits.word[0]} * n;
  const std::uint64_t high = std::uint64_t{bits.word[1]} * n;
  return static_cast<std::uint32_t>((high + (low >> 32)) >> 32);  // the sum is below 2^64 for every n < 2^32
}

}  // namespace maml_fast
