// The conv block's passes on a GPU. They take the same arguments as on the CPU, with all memory on the GPU. Independent
// of torch.
#pragma once

#include <cstdint>

#include "core/conv_block.h"
#include "cuda/runtime.h"

namespace maml_fast {
namespace cuda {

// The arithmetic of the convolutions' products. All but kPlain are for float, on the tensor cores of sm_80 and later:
// factors are rounded to the format, sums are in float. If a pixel's channels do not fill whole vectors of 16 bytes, as
// in a first layer, the products are plain regardless. Everything else, such as images and statistics, is always in the
// scalar type itself.
enum class Arithmetic { kPlain, kTf32, kBf16, kFp16 };

// Exclusive limits of what the kernels can index with an int: the number of values in a task's x or y (kMostValues); an
// image's height or width, the kernel size and the padding (kMostExtent); the stride (kMostStride). Of channels there
// may be as many as a grid has groups of them (kMostChannels).
constexpr int64_t kMostValues = int64_t{1} << 30, kMostExtent = int64_t{1} << 20, kMostStride = int64_t{1} << 9,
                  kMostChannels = int64_t{1} << 20;

// The scratch memory that a pass needs, in scalars. It must be aligned to 8 bytes.
template <typename Scalar>
int64_t ForwardScratch(const ConvBlockForwardArgs<Scalar>& args);
template <typename Scalar>
int64_t BackwardScratch(const ConvBlockBackwardArgs<Scalar>& args);
template <typename Scalar>
int64_t DoubleBackwardScratch(const ConvBlockDoubleBackwardArgs<Scalar>& args);

// Defined for float and double. The kernels are queued on the stream; results are valid once the stream has run them.
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
