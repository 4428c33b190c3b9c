// Thin blocks (ConvBlockShape): their y is never written out. Batch statistics, and what batch norm adds to a gradient,
// follow from the patches' first two moments; what is left is one sweep over the images a pass. Notation and formulas
// are those of csrc/cpu/thin/gradient.h.
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

// The same where the gradient of pixels is asked for, or one is given: rare, and not worth closed forms. They take the
// ordinary passes, with y computed again.
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
