// In the place of csrc/bindings/cuda_stream.h, where the host plays the GPU and tensors lie in its memory.
#pragma once

#include "bindings/tensors.h"
#include "cuda/runtime.h"

namespace maml_fast {
namespace {

template <typename F>
void OnStreamOf(const Tensor&, const F& run) {
  STD_TORCH_CHECK(run(nullptr) == cudaSuccess, "a kernel could not be launched");
}

}  // namespace
}  // namespace maml_fast
