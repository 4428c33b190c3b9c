// Elementwise kernels on flat arrays.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/launch.h"

namespace maml_fast {
namespace cuda {

constexpr int kThreadsOfValues = 256;

template <typename T>
__global__ void FillWithZero(int64_t size, T* values) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size) values[i] = T{0};
}

template <typename T>
__global__ void Add(int64_t size, const T* more, T* values) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size) values[i] += more[i];
}

template <typename T>
void StartZero(Launches& launch, T* values, int64_t size) {
  launch(&FillWithZero<T>, dim3(Ceil(size, kThreadsOfValues)), dim3(kThreadsOfValues), 0, size, values);
}

// values += more
template <typename T>
void StartAdd(Launches& launch, const T* more, T* values, int64_t size) {
  launch(&Add<T>, dim3(Ceil(size, kThreadsOfValues)), dim3(kThreadsOfValues), 0, size, more, values);
}

}  // namespace cuda
}  // namespace maml_fast
