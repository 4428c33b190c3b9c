// Launches kernels, on a GPU or on a host that emulates one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/runtime.h"

namespace maml_fast {
namespace cuda {

#if defined(__CUDACC__)
// Thread blocks that keep a large GPU busy: about two for every multiprocessor.
constexpr int64_t kEnoughBlocks = 256;

template <typename... Params, typename... Args>
cudaError_t Launch(void (*kernel)(Params...), dim3 grid, dim3 threads, size_t shared, cudaStream_t stream,
                   const Args&... args) {
  kernel<<<grid, threads, shared, stream>>>(args...);
  return cudaGetLastError();
}
#else
constexpr int64_t kEnoughBlocks = host_gpu::kEnoughBlocks;

template <typename... Params, typename... Args>
cudaError_t Launch(void (*kernel)(Params...), dim3 grid, dim3 threads, size_t shared, cudaStream_t,
                   const Args&... args) {
  return host_gpu::Run(grid, threads, shared, [&] { kernel(args...); });
}
#endif

// Keeps the first error of several launches and skips the launches after it.
class Launches {
 public:
  explicit Launches(cudaStream_t stream) : stream_(stream) {}

  template <typename... Params, typename... Args>
  void operator()(void (*kernel)(Params...), dim3 grid, dim3 threads, size_t shared, const Args&... args) {
    if (error_ == cudaSuccess) error_ = Launch(kernel, grid, threads, shared, stream_, args...);
  }

  cudaError_t Error() const { return error_; }

 private:
  const cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

inline unsigned Ceil(int64_t count, int64_t size) { return static_cast<unsigned>((count + size - 1) / size); }

}  // namespace cuda
}  // namespace maml_fast
