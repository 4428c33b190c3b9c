// The transforms of Winograd convolutions along one axis, for squares of the result of 2 x 2 and of 4 x 4 pixels.
//
//   square = A^T [(G filter G^T) * (B^T patch B)] A      patch: the source pixels that the square depends on
//
// Pointers are to Vec<Scalar>: a deduced type of the vectors would lack its attribute that they need not be aligned.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace maml_fast {
namespace {

// F(2x2, 3x3): 16 multiplications, not 36, for four pixels. It interpolates at 0, 1, -1 and infinity.
struct Squares2 {
  static constexpr int kSide = 2, kPatch = 4;
  static constexpr int64_t kTilesAtOnce = 48;  // tiles whose matrices stay in cache, together with the weights

  struct Patch {  // B^T
    static constexpr int kIn = 4, kOut = 4;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* d, Vec<Scalar>* t) {
      t[0] = d[0] - d[2];
      t[1] = d[1] + d[2];
      t[2] = d[2] - d[1];
      t[3] = d[1] - d[3];
    }
  };
  struct Filter {  // G
    static constexpr int kIn = 3, kOut = 4;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* g, Vec<Scalar>* t) {
      const Vec<Scalar> even = (g[0] + g[2]) / 2, odd = g[1] / 2;
      t[0] = g[0];
      t[1] = even + odd;
      t[2] = even - odd;
      t[3] = g[2];
    }
  };
  struct FilterGradient {  // G^T
    static constexpr int kIn = 4, kOut = 3;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* t, Vec<Scalar>* g) {
      const Vec<Scalar> even = (t[1] + t[2]) / 2;
      g[0] = t[0] + even;
      g[1] = (t[1] - t[2]) / 2;
      g[2] = even + t[3];
    }
  };
  struct Square {  // A^T
    static constexpr int kIn = 4, kOut = 2;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* t, Vec<Scalar>* y) {
      y[0] = t[0] + t[1] + t[2];
      y[1] = t[1] - t[2] - t[3];
    }
  };
  struct SquareGradient {  // A
    static constexpr int kIn = 2, kOut = 4;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* y, Vec<Scalar>* t) {
      t[0] = y[0];
      t[1] = y[0] + y[1];
      t[2] = y[0] - y[1];
      t[3] = -y[1];
    }
  };
};

// F(4x4, 3x3): 36 multiplications, not 144, for sixteen pixels. It interpolates at 0, a, -a, 2a, -2a and infinity. With
// a = 3/4 its rounding error is half of that with the usual a = 1: in float32 and 64 channels 2.3 times that of a plain
// sum.
struct Squares4 {
  static constexpr int kSide = 4, kPatch = 6;
  static constexpr int64_t kTilesAtOnce = 24;
  static constexpr double kA = 0.75, kA2 = kA * kA, kA3 = kA2 * kA, kA4 = kA2 * kA2;

  struct Patch {  // B^T
    static constexpr int kIn = 6, kOut = 6;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* d, Vec<Scalar>* t) {
      const Vec<Scalar> far = d[4] - Times(4 * kA2, d[2]), near = d[4] - Times(kA2, d[2]);
      const Vec<Scalar> odd_far = Times(kA, d[3]) - Times(4 * kA3, d[1]),
                        odd_near = Times(2 * kA, d[3]) - Times(2 * kA3, d[1]);
      t[0] = d[4] - Times(5 * kA2, d[2]) + Times(4 * kA4, d[0]);
      t[1] = far + odd_far;
      t[2] = far - odd_far;
      t[3] = near + odd_near;
      t[4] = near - odd_near;
      t[5] = d[5] - Times(5 * kA2, d[3]) + Times(4 * kA4, d[1]);
    }
  };
  struct Filter {  // G
    static constexpr int kIn = 3, kOut = 6;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* g, Vec<Scalar>* t) {
      const Vec<Scalar> near = Times(kNear, g[0]) + Times(kNear * kA2, g[2]), odd_near = Times(kNear * kA, g[1]);
      const Vec<Scalar> far = Times(kFar, g[0]) + Times(kFar * 4 * kA2, g[2]), odd_far = Times(kFar * 2 * kA, g[1]);
      t[0] = Times(kZero, g[0]);
      t[1] = near + odd_near;
      t[2] = near - odd_near;
      t[3] = far + odd_far;
      t[4] = far - odd_far;
      t[5] = g[2];
    }
  };
  struct FilterGradient {  // G^T
    static constexpr int kIn = 6, kOut = 3;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* t, Vec<Scalar>* g) {
      const Vec<Scalar> near = t[1] + t[2], odd_near = t[1] - t[2], far = t[3] + t[4], odd_far = t[3] - t[4];
      g[0] = Times(kZero, t[0]) + Times(kNear, near) + Times(kFar, far);
      g[1] = Times(kNear * kA, odd_near) + Times(kFar * 2 * kA, odd_far);
      g[2] = Times(kNear * kA2, near) + Times(kFar * 4 * kA2, far) + t[5];
    }
  };
  struct Square {  // A^T
    static constexpr int kIn = 6, kOut = 4;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* t, Vec<Scalar>* y) {
      const Vec<Scalar> near = t[1] + t[2], odd_near = t[1] - t[2], far = t[3] + t[4], odd_far = t[3] - t[4];
      y[0] = t[0] + near + far;
      y[1] = Times(kA, odd_near) + Times(2 * kA, odd_far);
      y[2] = Times(kA2, near) + Times(4 * kA2, far);
      y[3] = Times(kA3, odd_near) + Times(8 * kA3, odd_far) + t[5];
    }
  };
  struct SquareGradient {  // A
    static constexpr int kIn = 4, kOut = 6;
    template <typename Scalar>
    static MF_INLINE void Run(const Vec<Scalar>* y, Vec<Scalar>* t) {
      const Vec<Scalar> near = y[0] + Times(kA2, y[2]), odd_near = Times(kA, y[1]) + Times(kA3, y[3]);
      const Vec<Scalar> far = y[0] + Times(4 * kA2, y[2]), odd_far = Times(2 * kA, y[1]) + Times(8 * kA3, y[3]);
      t[0] = y[0];
      t[1] = near + odd_near;
      t[2] = near - odd_near;
      t[3] = far + odd_far;
      t[4] = far - odd_far;
      t[5] = y[3];
    }
  };

 private:
  // One over the products of the differences of a point and the others: of 0, of a and -a, and of 2a and -2a.
  static constexpr double kZero = 1 / (4 * kA4), kNear = -1 / (6 * kA4), kFar = 1 / (24 * kA4);

  template <typename V>
  static MF_INLINE V Times(double factor, V v) {
    return static_cast<std::decay_t<decltype(v[0])>>(factor) * v;
  }
};

}  // namespace
}  // namespace maml_fast
