// The tensor cores' formats and their product, played by the host; see csrc/cuda/device.cuh for what lies where.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_gpu.h"

namespace host_gpu {

// The nearest number with MANTISSA bits after the point, ties to even, and exponents from LEAST on.
template <int MANTISSA, int LEAST>
float Nearest(float value) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent;
  std::frexp(value, &exponent);
  const float quantum = std::ldexp(1.0f, std::max(exponent - 1, LEAST) - MANTISSA);
  return std::nearbyint(value / quantum) * quantum;
}

// A factor's format. Registers hold kPack of them; here they hold the numbers' upper 16 bits, or all 32.
template <class Format>
struct Played {
  static constexpr unsigned kHalf = 4;  // lanes that share a row, and packs of half the depth

  // What a lane hands to the others, unpacked once for all of its uses.
  struct Factors {
    float a[4][Format::kPack], b[2][Format::kPack];
  };

  static Factors& Of(unsigned thread) {
    static_assert(sizeof(Factors) <= sizeof(block->exchange[0]));
    return *reinterpret_cast<Factors*>(block->exchange[thread]);
  }

  static void Multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const unsigned self = block->now->index, lane = self % kWarp, warp = self - lane, g = lane / 4, t = lane % 4;
    Factors& own = Of(self);
    for (int i = 0; i < Format::kPack; ++i) {
      for (int e = 0; e < 4; ++e) own.a[e][i] = Format::Unpack(a[e], i);
      for (int e = 0; e < 2; ++e) own.b[e][i] = Format::Unpack(b[e], i);
    }
    AwaitWarp();
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = g + (i >= 2 ? 8 : 0), col = 2 * t + i % 2;
      for (unsigned pack = 0; pack < 2 * kHalf; ++pack) {
        const float* of_a = Of(warp + row % 8 * 4 + pack % kHalf).a[(row >= 8 ? 1 : 0) + (pack >= kHalf ? 2 : 0)];
        const float* of_b = Of(warp + col * 4 + pack % kHalf).b[pack >= kHalf ? 1 : 0];
        for (int k = 0; k < Format::kPack; ++k) c[i] += of_a[k] * of_b[k];
      }
    }
    AwaitWarp();
  }
};

inline uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float OfBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// How GPUs round a tie between two numbers of TF32: to the even one from sm_90 on, before that away from zero.
inline bool ties_to_even = true;

struct Tf32 : Played<Tf32> {
  static constexpr int kPack = 1;

  static uint32_t Pack(const float (&values)[kPack]) {
    const uint32_t bits = Bits(values[0]), half = ties_to_even ? 0xfffu + (bits >> 13 & 1) : 0x1000u;
    return std::isfinite(values[0]) ? (bits + half) & ~0x1fffu : bits;
  }
  static float Unpack(uint32_t bits, int) { return OfBits(bits); }
};

struct Bf16 : Played<Bf16> {
  static constexpr int kPack = 2;

  static uint32_t Pack(const float (&values)[kPack]) {
    return Bits(Nearest<7, -126>(values[0])) >> 16 | (Bits(Nearest<7, -126>(values[1])) & 0xffff0000u);
  }
  static float Unpack(uint32_t bits, int i) { return OfBits(i == 0 ? bits << 16 : bits & 0xffff0000u); }
};

struct Fp16 : Played<Fp16> {
  static constexpr int kPack = 2;

  static uint32_t Pack(const float (&values)[kPack]) { return Half(values[0]) | Half(values[1]) << 16; }
  static float Unpack(uint32_t bits, int i) {
    const uint32_t half = i == 0 ? bits & 0xffffu : bits >> 16;
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
    return half >> 15 ? -value : value;
  }

 private:
  static uint32_t Half(float value) {
    const uint32_t sign = std::signbit(value) ? 0x8000u : 0;
    const float size = Nearest<10, -14>(std::fabs(value));
    if (std::isnan(value)) return sign | 0x7e00u;
    if (size > 65504) return sign | 0x7c00u;
    if (size < std::ldexp(1.0f, -14)) return sign | static_cast<uint32_t>(std::ldexp(size, 24));
    int exponent;
    const float mantissa = std::frexp(size, &exponent);  // in [0.5, 1)
    return sign | static_cast<uint32_t>(exponent + 14) << 10 |
           (static_cast<uint32_t>(std::ldexp(mantissa, 11)) & 1023u);
  }
};

}  // namespace host_gpu
