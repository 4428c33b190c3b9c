// Launches a product in the requested arithmetic, with the vector width that its operands' channels allow.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/convolution/convolve.h"
#include "cuda/convolution/multiply.cuh"
#include "cuda/convolution/operands.cuh"
#include "cuda/convolution/plain_math.cuh"
#include "cuda/convolution/tensor_math.cuh"
#include "cuda/convolution/tiling.h"

namespace maml_fast {
namespace cuda {

// Whether all rows of an operand can be read in whole vectors of 16 bytes: rows of `channels` scalars, with `stride`
// scalars from one task to the next.
template <typename T>
bool IsWide(const T* first, int64_t channels, int64_t stride) {
  return reinterpret_cast<uintptr_t>(first) % 16 == 0 && channels % kVector<T> == 0 && stride % kVector<T> == 0;
}

// Launches a product with one kind of tile.
template <class Product, Tiling TILING>
struct Starter {
  using Shape = TileShape<TILING>;

  Launches& launch;
  const Product& product;
  int64_t tasks;

  template <class Math, int VECTOR_A, int VECTOR_B>
  void Run() const {
    const dim3 grid(Ceil(product.Rows(), Shape::kRows) * product.Parts(), Ceil(product.Cols(), Shape::kCols),
                    static_cast<unsigned>(tasks));
    launch(&MultiplyKernel<Math, Product, VECTOR_A, VECTOR_B>, grid, dim3(Math::kThreads), sizeof(MultiplyMemory<Math>),
           product);
  }
  template <typename T, int VECTOR_A, int VECTOR_B>
  void Plain() const {
    Run<PlainMath<T, Shape, Product::kAlongA, Product::kAlongB>, VECTOR_A, VECTOR_B>();
  }
  template <class Format>
  void Tensor() const {
    Run<TensorMath<Format, Shape, Product::kAlongA, Product::kAlongB>, kVector<float>, kVector<float>>();
  }
};

// Reads both operands in whole vectors.
template <typename T, Tiling TILING, class Product>
void StartWide(Launches& launch, Arithmetic arithmetic, const Product& product, int64_t tasks) {
  const Starter<Product, TILING> start{launch, product, tasks};
  if constexpr (std::is_same_v<T, float>) {
    switch (arithmetic) {
      case Arithmetic::kTf32:
        return start.template Tensor<Tf32>();
      case Arithmetic::kBf16:
        return start.template Tensor<Bf16>();
      case Arithmetic::kFp16:
        return start.template Tensor<Fp16>();
      case Arithmetic::kPlain:
        break;
    }
  }
  start.template Plain<T, kVector<T>, kVector<T>>();
}

// Reads A's numbers one by one, and B's too unless `wide_b`: for a first layer, or odd numbers of channels. The
// arithmetic is plain, since tensor cores would only wait for such copies.
template <typename T, Tiling TILING, class Product>
void StartNarrow(Launches& launch, const Product& product, int64_t tasks, bool wide_b) {
  const Starter<Product, TILING> start{launch, product, tasks};
  if (wide_b) return start.template Plain<T, 1, kVector<T>>();
  start.template Plain<T, 1, 1>();
}

// The largest tile. A multiprocessor could not hold two large tiles of double.
template <typename T>
constexpr Tiling kLargest = std::is_same_v<T, double> ? Tiling::kNarrow : Tiling::kLarge;

// wide_a, wide_b: whether the operands are.
template <typename T, class Product>
void Start(Launches& launch, Arithmetic arithmetic, Tiling tiling, const Product& product, int64_t tasks, bool wide_a,
           bool wide_b) {
  if (!wide_a || !wide_b) {
    return tiling == Tiling::kLow ? StartNarrow<T, Tiling::kLow>(launch, product, tasks, wide_b)
                                  : StartNarrow<T, kLargest<T>>(launch, product, tasks, wide_b);
  }
  switch (tiling) {
    case Tiling::kLarge:
      return StartWide<T, kLargest<T>>(launch, arithmetic, product, tasks);
    case Tiling::kNarrow:
      return StartWide<T, Tiling::kNarrow>(launch, arithmetic, product, tasks);
    case Tiling::kLow:
      return StartWide<T, Tiling::kLow>(launch, arithmetic, product, tasks);
  }
}

}  // namespace cuda
}  // namespace maml_fast
