// The three convolutions of a block. Each is a matrix product in a file of its own; its matrix of patches is never
// stored. Defined for float and double.
#pragma once

#include "cuda/conv_block.h"
#include "cuda/launch.h"

namespace maml_fast {
namespace cuda {

// Each group of this many rows of y has its own moments.
constexpr int kRowsOfMoments = 32;

inline int RowsOfY(const ConvBlockShape& s) { return static_cast<int>(s.batch * s.ConvPixels()); }
inline int MomentParts(const ConvBlockShape& s) { return (RowsOfY(s) + kRowsOfMoments - 1) / kRowsOfMoments; }

// The images and the filters of a convolution.
template <typename T>
struct Convolved {
  const T* x;
  TaskParam<T> weight;
};

// y = the sum of one or two convolutions, plus bias. Also writes, for every kRowsOfMoments rows, the mean and the sum
// of squared deviations of batch norm's input: moments [T, MomentParts, 2, Cout], unless null.
template <typename T>
void StartForward(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const Convolved<T>& first,
                  const Convolved<T>* second, TaskParam<T> bias, T* y, T* moments);

// grad_x from grad_y, plus `more` unless it is null.
template <typename T>
void StartDataGradient(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const T* grad_y,
                       TaskParam<T> weight, const T* more, T* grad_x);

// The number of parts into which a weight gradient's sum over pixels is split.
int WeightGradientParts(const ConvBlockShape& s);

// grad_weight from x and grad_y, plus `more` unless it is null. sums: scratch [T, WeightGradientParts, k, k, Cin,
// Cout].
template <typename T>
void StartWeightGradient(Launches& launch, Arithmetic arithmetic, const ConvBlockShape& s, const T* x, const T* grad_y,
                         T* sums, const T* more, T* grad_weight);

}  // namespace cuda
}  // namespace maml_fast
