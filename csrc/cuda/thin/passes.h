// The passes of thin blocks (see ConvBlockShape), which never write out y. The batch statistics, and what batch norm
// adds to a gradient, follow from the patches' first two moments; the rest is one sweep over the images per pass.
// Notation and formulas are those of csrc/cpu/thin/gradient.h.
#pragma once

#include "cuda/conv_block.h"
#include "cuda/launch.h"

namespace maml_fast {
namespace cuda {

template <typename T>
int64_t ThinForwardScratch(const ConvBlockShape& s);
template <typename T>
void StartThinForward(Launches& launch, const ConvBlockForwardArgs<T>& args, T* scratch);

template <typename T>
int64_t ThinBackwardScratch(const ConvBlockBackwardArgs<T>& args);
template <typename T>
cudaError_t ThinBackward(const ConvBlockBackwardArgs<T>& args, Arithmetic arithmetic, T* scratch, cudaStream_t stream);

template <typename T>
int64_t ThinDoubleBackwardScratch(const ConvBlockDoubleBackwardArgs<T>& args);
template <typename T>
cudaError_t ThinDoubleBackward(const ConvBlockDoubleBackwardArgs<T>& args, Arithmetic arithmetic, T* scratch,
                               cudaStream_t stream);

// The passes for the rare case that the gradient of the pixels is wanted (grad_x) or given (gg_x), which is not worth
// closed forms: they recompute y and run the ordinary passes.
template <typename T>
int64_t OnPixelsScratch(const ConvBlockBackwardArgs<T>& args);
template <typename T>
cudaError_t BackwardOnPixels(ConvBlockBackwardArgs<T> args, Arithmetic arithmetic, T* scratch, cudaStream_t stream);
template <typename T>
int64_t OnPixelsScratch(const ConvBlockDoubleBackwardArgs<T>& args);
template <typename T>
cudaError_t DoubleBackwardOnPixels(ConvBlockDoubleBackwardArgs<T> args, Arithmetic arithmetic, T* scratch,
                                   cudaStream_t stream);

}  // namespace cuda
}  // namespace maml_fast
