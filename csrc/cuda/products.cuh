// Starts a product in the arithmetic that was asked for, and in the vector width that its operands' channels allow.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/convolve.h"
#include "cuda/multiply.cuh"
#include "cuda/operands.cuh"

namespace maml_fast {
namespace cuda {

template <class Math, int VECTOR_A, int VECTOR_B, class Product>
void StartMultiply(Launches& launch, const Product& product, int64_t tasks) {
  const dim3 grid(Ceil(product.Rows(), kTileRows) * product.Parts(), Ceil(product.Cols(), kTileCols),
                  static_cast<unsigned>(tasks));
  launch(&MultiplyKernel<Math, Product, VECTOR_A, VECTOR_B>, grid, dim3(kThreads),
         sizeof(MultiplyMemory<Math, Product>), product);
}

// What a product reads of an operand's memory: rows of channels, one task after another.
template <typename T>
struct Source {
  const T* first;
  int64_t channels, stride;

  // Whether whole vectors of 16 bytes can be read.
  bool IsWide() const {
    constexpr int64_t kVector = 16 / static_cast<int64_t>(sizeof(T));
    return reinterpret_cast<uintptr_t>(first) % 16 == 0 && channels % kVector == 0 && stride % kVector == 0;
  }
};

template <class Math, class Product, typename T>
void StartAligned(Launches& launch, const Product& product, int64_t tasks, const Source<T>& a, const Source<T>& b) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const bool wide_a = a.IsWide(), wide_b = b.IsWide();
  if (wide_a && wide_b) return StartMultiply<Math, kVector, kVector>(launch, product, tasks);
  if (wide_b) return StartMultiply<Math, 1, kVector>(launch, product, tasks);
  StartMultiply<Math, 1, 1>(launch, product, tasks);
}

template <typename T, class Product>
void Start(Launches& launch, Arithmetic arithmetic, const Product& product, int64_t tasks, const Source<T>& a,
           const Source<T>& b) {
  if constexpr (std::is_same_v<T, float>) {
    switch (arithmetic) {
      case Arithmetic::kTf32:
        return StartAligned<TensorMath<Tf32>>(launch, product, tasks, a, b);
      case Arithmetic::kBf16:
        return StartAligned<TensorMath<Bf16>>(launch, product, tasks, a, b);
      case Arithmetic::kFp16:
        return StartAligned<TensorMath<Fp16>>(launch, product, tasks, a, b);
      case Arithmetic::kPlain:
        break;
    }
  }
  StartAligned<PlainMath<T>>(launch, product, tasks, a, b);
}

}  // namespace cuda
}  // namespace maml_fast
