// Vectors of MF_VECTOR_BYTES, in the compiler's own vector extension: the same kernels compile to AVX-512, AVX2, SSE2
// or NEON. Included once per instruction set, after `#pragma GCC target`, so everything here has internal linkage.
#pragma once

#include <cstdint>
#include <cstring>

#ifndef MF_VECTOR_BYTES
#error "define MF_VECTOR_BYTES before including the kernels"
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

// The first n lanes only (the last vector of a channel count that is not a multiple of the lanes); the rest reads 0.
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

// Calls f(channel, lanes) for every vector of channels.
template <typename Scalar, typename F>
MF_INLINE void ForChannels(int64_t channels, const F& f) {
  for (int64_t c = 0; c < channels; c += kLanes<Scalar>) {
    const int64_t left = channels - c;
    f(c, left < kLanes<Scalar> ? left : kLanes<Scalar>);
  }
}

// A vector that several products share stays in its register: GCC may prefer to load it again for each of them.
template <typename Vector>
MF_INLINE Vector InRegister(Vector v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
  return v;
}

}  // namespace
}  // namespace maml_fast
