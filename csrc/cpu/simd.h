// Vectors of MF_VECTOR_BYTES bytes, in the compiler's vector extension: the same kernels compile to AVX-512, AVX2, SSE2
// or NEON. Included once per instruction set, after `#pragma GCC target`, so everything here has internal linkage.
#pragma once

#include <cstdint>
#include <cstring>

#ifndef MF_VECTOR_BYTES
#error "define MF_VECTOR_BYTES before including the kernels"
#endif

#if MF_VECTOR_BYTES >= 32
#include <immintrin.h>
#endif

#if MF_VECTOR_BYTES == 64 || defined(__aarch64__)
#define MF_VECTOR_REGISTERS 32
#else
#define MF_VECTOR_REGISTERS 16
#endif

#define MF_INLINE inline __attribute__((always_inline))

namespace maml_fast {
namespace {

template <typename Scalar>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float Type __attribute__((vector_size(MF_VECTOR_BYTES), aligned(sizeof(float)), may_alias));
};
template <>
struct VectorOf<double> {
  typedef double Type __attribute__((vector_size(MF_VECTOR_BYTES), aligned(sizeof(double)), may_alias));
};

template <typename Scalar>
using Vec = typename VectorOf<Scalar>::Type;

template <typename Scalar>
constexpr int64_t kLanes = MF_VECTOR_BYTES / static_cast<int64_t>(sizeof(Scalar));

template <typename Scalar>
constexpr int64_t RoundUpToLanes(int64_t n) {
  return (n + kLanes<Scalar> - 1) / kLanes<Scalar> * kLanes<Scalar>;
}

template <typename Scalar>
MF_INLINE Vec<Scalar> Load(const Scalar* p) {
  return *reinterpret_cast<const Vec<Scalar>*>(p);
}

template <typename Scalar>
MF_INLINE void Store(Scalar* p, Vec<Scalar> v) {
  *reinterpret_cast<Vec<Scalar>*>(p) = v;
}

// Load or store only the first n lanes, for the last vector if the number of channels is not a multiple of the lanes. n
// is less than the number of lanes; the other lanes read 0.
#if MF_VECTOR_BYTES == 64
MF_INLINE Vec<float> LoadFirst(const float* p, int64_t n) {
  return (Vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << n) - 1), p);
}
MF_INLINE Vec<double> LoadFirst(const double* p, int64_t n) {
  return (Vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1U << n) - 1), p);
}
MF_INLINE void StoreFirst(float* p, Vec<float> v, int64_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << n) - 1), (__m512)v);
}
MF_INLINE void StoreFirst(double* p, Vec<double> v, int64_t n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1U << n) - 1), (__m512d)v);
}
#elif MF_VECTOR_BYTES == 32
// All bits set in the first n integers, none in the others.
template <typename Integer>
MF_INLINE __m256i FirstLanes(int64_t n) {
  constexpr int64_t kLane = 32 / static_cast<int64_t>(sizeof(Integer));
  alignas(32) static constexpr Integer kOnes[2 * kLane] = {
      -1, -1, -1, -1, kLane > 4 ? -1 : 0, kLane > 4 ? -1 : 0, kLane > 4 ? -1 : 0, kLane > 4 ? -1 : 0};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOnes + kLane - n));
}
MF_INLINE Vec<float> LoadFirst(const float* p, int64_t n) {
  return (Vec<float>)_mm256_maskload_ps(p, FirstLanes<int32_t>(n));
}
MF_INLINE Vec<double> LoadFirst(const double* p, int64_t n) {
  return (Vec<double>)_mm256_maskload_pd(p, FirstLanes<int64_t>(n));
}
MF_INLINE void StoreFirst(float* p, Vec<float> v, int64_t n) {
  _mm256_maskstore_ps(p, FirstLanes<int32_t>(n), (__m256)v);
}
MF_INLINE void StoreFirst(double* p, Vec<double> v, int64_t n) {
  _mm256_maskstore_pd(p, FirstLanes<int64_t>(n), (__m256d)v);
}
#else
template <typename Scalar>
__attribute__((noinline)) Vec<Scalar> LoadFirst(const Scalar* p, int64_t n) {
  Vec<Scalar> v{};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
}

template <typename Scalar>
__attribute__((noinline)) void StoreFirst(Scalar* p, Vec<Scalar> v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}
#endif

template <typename Scalar>
MF_INLINE Vec<Scalar> Load(const Scalar* p, int64_t n) {
  return n >= kLanes<Scalar> ? Load(p) : LoadFirst(p, n);
}

template <typename Scalar>
MF_INLINE void Store(Scalar* p, Vec<Scalar> v, int64_t n) {
  if (n >= kLanes<Scalar>) {
    Store(p, v);
  } else {
    StoreFirst(p, v, n);
  }
}

template <typename Scalar>
MF_INLINE Vec<Scalar> Broadcast(Scalar value) {
  return value - Vec<Scalar>{};
}

template <typename Scalar>
MF_INLINE Scalar SumOfLanes(Vec<Scalar> v) {
  Scalar total = 0;
  for (int64_t lane = 0; lane < kLanes<Scalar>; ++lane) total += v[lane];
  return total;
}

// Returns v with 0 in all lanes but the first n.
template <typename Scalar>
MF_INLINE Vec<Scalar> KeepFirst(Vec<Scalar> v, int64_t n) {
  if (n >= kLanes<Scalar>) return v;
  Scalar lanes[kLanes<Scalar>];
  Store(lanes, v);
  return LoadFirst(lanes, n);
}

// Calls f(channel, lanes) for every vector of channels.
template <typename Scalar, typename F>
MF_INLINE void ForChannels(int64_t channels, const F& f) {
  for (int64_t c = 0; c < channels; c += kLanes<Scalar>) {
    const int64_t left = channels - c;
    f(c, left < kLanes<Scalar> ? left : kLanes<Scalar>);
  }
}

// Keeps a vector that several products share in its register; GCC might otherwise load it again for each of them.
template <typename Vector>
MF_INLINE Vector InRegister(Vector v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
  return v;
}

}  // namespace
}  // namespace maml_fast
