// The conv block on a GPU: the same arguments as on the CPU, all of them in the GPU's memory. No torch here.
//
// A thin block is no exception here: forward keeps y, and `kept` is [T, B, OH, OW, Cout] always.
#pragma once

#include <cstdint>

#include "core/conv_block.h"
#include "cuda/runtime.h"

namespace maml_fast {
namespace cuda {

// How products are formed. All but the first are for float, on the tensor cores of sm_80 and later: factors are
// rounded, sums are float's. Where rows of channels are no whole vectors of 16 bytes, as in a first layer, products are
// plain all the same. Everything else, images and statistics, is in the type itself always.
enum class Arithmetic { kPlain, kTf32, kBf16, kFp16 };

// What the kernels can count: values of a task's images x, or y; an image's height or width, k and padding; strides.
// All are less.
constexpr int64_t kMostValues = int64_t{1} << 30, kMostExtent = int64_t{1} << 20, kMostStride = int64_t{1} << 9;

// Scalars of scratch memory that a pass needs.
int64_t ForwardScratch(const ConvBlockShape& s);
int64_t BackwardScratch(const ConvBlockShape& s);
int64_t DoubleBackwardScratch(const ConvBlockShape& s);

// For float and double. The kernels are queued on the stream; what they may write is valid once it has run them.
template <typename Scalar>
cudaError_t Forward(const ConvBlockForwardArgs<Scalar>& args, Arithmetic arithmetic, Scalar* scratch,
                    cudaStream_t stream);
template <typename Scalar>
cudaError_t Backward(const ConvBlockBackwardArgs<Scalar>& args, Arithmetic arithmetic, Scalar* scratch,
                     cudaStream_t stream);
template <typename Scalar>
cudaError_t DoubleBackward(const ConvBlockDoubleBackwardArgs<Scalar>& args, Arithmetic arithmetic, Scalar* scratch,
                           cudaStream_t stream);

}  // namespace cuda
}  // namespace maml_fast
