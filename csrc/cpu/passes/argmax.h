// Vectors of window indices: how argmax, with one byte per channel, is read, written, and used to pick from a window.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/simd.h"

#if MF_VECTOR_BYTES >= 32
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace maml_fast {
namespace {

template <typename Scalar>
struct IntOf;
template <>
struct IntOf<float> {
  typedef int32_t Type __attribute__((vector_size(MF_VECTOR_BYTES)));
  typedef uint8_t Bytes __attribute__((vector_size(MF_VECTOR_BYTES / 4), aligned(1), may_alias));
};
template <>
struct IntOf<double> {
  typedef int64_t Type __attribute__((vector_size(MF_VECTOR_BYTES)));
  typedef uint8_t Bytes __attribute__((vector_size(MF_VECTOR_BYTES / 8), aligned(1), may_alias));
};
template <typename Scalar>
using IntVec = typename IntOf<Scalar>::Type;

// Uses intrinsics where there are any, because GCC converts the bytes of a __builtin_convertvector one by one.
template <typename Scalar>
MF_INLINE IntVec<Scalar> LoadIndex(const uint8_t* p) {
  [[maybe_unused]] constexpr bool kFloat = sizeof(Scalar) == sizeof(float);
#if MF_VECTOR_BYTES == 64
  if constexpr (kFloat) {
    return (IntVec<Scalar>)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  } else {
    // Loaded separately, because GCC 12 stops with an internal error if the load is folded into the widening.
    const __m128i bytes = InRegister(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return (IntVec<Scalar>)_mm512_maskz_cvtepu8_epi64(0xff, bytes);
  }
#elif MF_VECTOR_BYTES == 32
  if constexpr (kFloat) {
    return (IntVec<Scalar>)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  } else {
    int32_t bytes;
    std::memcpy(&bytes, p, sizeof(bytes));
    return (IntVec<Scalar>)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
  }
#elif defined(__aarch64__)
  std::conditional_t<kFloat, uint32_t, uint16_t> bytes;
  std::memcpy(&bytes, p, sizeof(bytes));
  const uint32x4_t words = vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))));
  if constexpr (kFloat) {
    return (IntVec<Scalar>)words;
  } else {
    return (IntVec<Scalar>)vmovl_u32(vget_low_u32(words));
  }
#else
  return __builtin_convertvector(*reinterpret_cast<const typename IntOf<Scalar>::Bytes*>(p), IntVec<Scalar>);
#endif
}

// Only the first n lanes; n is less than the number of lanes.
#if MF_VECTOR_BYTES == 64
template <typename Scalar>
MF_INLINE IntVec<Scalar> LoadFirstIndex(const uint8_t* p, int64_t n) {
  const __m128i bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>((1U << n) - 1), p);
  if constexpr (sizeof(Scalar) == sizeof(float)) {
    return (IntVec<Scalar>)_mm512_maskz_cvtepu8_epi32(0xffff, bytes);
  } else {
    return (IntVec<Scalar>)_mm512_maskz_cvtepu8_epi64(0xff, bytes);
  }
}
template <typename Scalar>
MF_INLINE void StoreFirstIndex(uint8_t* p, IntVec<Scalar> index, int64_t n) {
  if constexpr (sizeof(Scalar) == sizeof(float)) {
    _mm512_mask_cvtepi32_storeu_epi8(p, static_cast<__mmask16>((1U << n) - 1), (__m512i)index);
  } else {
    _mm512_mask_cvtepi64_storeu_epi8(p, static_cast<__mmask8>((1U << n) - 1), (__m512i)index);
  }
}
#else
template <typename Scalar>
__attribute__((noinline)) IntVec<Scalar> LoadFirstIndex(const uint8_t* p, int64_t n) {
  uint8_t bytes[kLanes<Scalar>]{};
  std::memcpy(bytes, p, static_cast<size_t>(n));
  return LoadIndex<Scalar>(bytes);
}
template <typename Scalar>
__attribute__((noinline)) void StoreFirstIndex(uint8_t* p, IntVec<Scalar> index, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<uint8_t>(index[i]);
}
#endif

template <typename Scalar>
MF_INLINE IntVec<Scalar> LoadIndex(const uint8_t* p, int64_t n) {
  return n >= kLanes<Scalar> ? LoadIndex<Scalar>(p) : LoadFirstIndex<Scalar>(p, n);
}

template <typename Scalar>
MF_INLINE void StoreIndex(uint8_t* p, IntVec<Scalar> index, int64_t n) {
  if (n < kLanes<Scalar>) return StoreFirstIndex<Scalar>(p, index, n);
#if MF_VECTOR_BYTES == 16 && defined(__aarch64__)
  uint32x4_t words = (uint32x4_t)index;
  if constexpr (sizeof(Scalar) == sizeof(double)) words = vcombine_u32(vmovn_u64((uint64x2_t)index), vdup_n_u32(0));
  const uint16x8_t halves = vcombine_u16(vmovn_u32(words), vdup_n_u16(0));
  const uint64_t bytes = vget_lane_u64(vreinterpret_u64_u8(vmovn_u16(halves)), 0);
  std::memcpy(p, &bytes, kLanes<Scalar>);
#else
  using Bytes = typename IntOf<Scalar>::Bytes;
  *reinterpret_cast<Bytes*>(p) = __builtin_convertvector(index, Bytes);
#endif
}

// values[index] in every lane: what the channels of a pixel read if each has its maximum at another pixel of the
// window. If the index is kDead, some value of the window.
template <typename Scalar, int WINDOW>
MF_INLINE Vec<Scalar> Pick(const Scalar* values, IntVec<Scalar> index) {
  static_assert(WINDOW == 1 || WINDOW == 4);
  [[maybe_unused]] constexpr bool kFloat = sizeof(Scalar) == sizeof(float);
  if constexpr (WINDOW == 1) {
    return Broadcast(values[0]);
#if MF_VECTOR_BYTES == 64  // in the masked forms, because GCC warns about undefined lanes in the others
  } else if constexpr (kFloat) {
    const __m512 table = _mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps(values));
    return (Vec<Scalar>)_mm512_maskz_permutevar_ps(0xffff, table, (__m512i)index);
  } else {
    const __m512d table = _mm512_maskz_broadcast_f64x4(0xff, _mm256_loadu_pd(values));
    return (Vec<Scalar>)_mm512_maskz_permutexvar_pd(0xff, (__m512i)index, table);
  }
#else
#if MF_VECTOR_BYTES == 32
  } else if constexpr (kFloat) {
    return (Vec<Scalar>)_mm256_permutevar_ps(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(values)),
                                             (__m256i)index);
#elif defined(__aarch64__)
  } else if constexpr (kFloat) {
    const uint32x4_t first_byte = vdupq_n_u32(0x03020100), four_of_each = vdupq_n_u32(0x04040404);
    const uint32x4_t bytes = vmlaq_u32(first_byte, vandq_u32((uint32x4_t)index, vdupq_n_u32(3)), four_of_each);
    return (Vec<Scalar>)vqtbl1q_u8(vreinterpretq_u8_f32(vld1q_f32(values)), vreinterpretq_u8_u32(bytes));
#endif
  } else {
    Vec<Scalar> picked = Broadcast(values[0]);
    for (int e = 1; e < WINDOW; ++e) picked = index == e ? Broadcast(values[e]) : picked;
    return picked;
  }
#endif
}

}  // namespace
}  // namespace maml_fast
