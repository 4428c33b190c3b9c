// The three convolutions of a block, each a product of matrices that are never written out, in a file of its own. For
// float and double.
#pragma once

#include "cuda/conv_block.h"
#include "cuda/launch.h"

namespace maml_fast {
namespace cuda {

// Every so many rows of y have statistics of their own.
constexpr int kRowsOfMoments = 32;

inline int RowsOfY(const ConvBlockShape& s) { return static_cast<int>(s.batch * s.ConvPixels()); }
inline int MomentParts(const ConvBlockShape& s) { return (RowsOfY(s) + kRowsOfMoments - 1) / kRowsOfMoments; }

// y = conv(x, weight) + bias, or y += conv(x, weight). With it, for batch norm, the mean and the sum of squared
// deviations of every kRowsOfMoments rows of what enters it: moments [T, MomentParts, 2, Cout], unless they are null.
template <typename T>
void StartForward(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const T* x, TaskParam<T> weight,
                  TaskParam<T> bias, T* y, bool adds, T* moments);

// grad_x from grad_y.
template <typename T>
void StartDataGradient(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const T* grad_y,
                       TaskParam<T> weight, T* grad_x);

// Into how many parts a weight gradient's pixels fall.
int WeightGradientParts(const ConvBlockShape& s);

// grad_weight from x and grad_y. sums: scratch of as many weights as there are parts, for all tasks.
template <typename T>
void StartWeightGradient(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const T* x, const T* grad_y,
                         T* sums, T* grad_weight);

}  // namespace cuda
}  // namespace maml_fast
