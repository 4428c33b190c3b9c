// Queues kernels on the current stream of a tensor's device.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "bindings/tensors.h"
#include "cuda/runtime.h"

extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace maml_fast {
namespace {

// Calls run(stream), which returns the first error of its launches.
template <typename F>
void OnStreamOf(const Tensor& x, const F& run) {
  const int32_t device = x.get_device();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const cudaError_t error = run(static_cast<cudaStream_t>(stream));
  STD_TORCH_CHECK(error == cudaSuccess, "a kernel could not be launched: ", cudaGetErrorString(error));
}

}  // namespace
}  // namespace maml_fast
