// Geometry and arguments of the conv block, as plain structs that the CPU and GPU kernels share. The block computes
//
//   y   = conv(x, weight) + bias                 [T, B, OH, OW, Cout]
//   r   = relu_first ? relu(y) : y
//   x^  = (r - mean) * rstd                      statistics per task and channel, over B, OH and OW
//   z   = gamma * x^ + beta
//   out = max_pool(relu_first ? z : relu(z))     [T, B, PH, PW, Cout]
//
// Images are channels-last and densely packed ([task, image, row, column, channel]), because the channels of one pixel
// are the vector that every kernel works on. Weights are stored in the order in which the kernels read them, with one
// row of output channels for every (tap, input channel): [T, k, k, Cin, Cout].
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace maml_fast {

struct ConvBlockShape {
  int64_t tasks;
  int64_t batch;  // images per task
  int64_t in_channels, in_height, in_width;
  int64_t out_channels;
  int64_t kernel, stride, padding;
  int64_t conv_height, conv_width;  // extents of y
  int64_t out_height, out_width;    // extents of out
  bool pool;                        // max pooling over 2 x 2 windows, stride 2; an odd last row or column is dropped
  bool relu_first;
  double eps;
  // A thin block is a first layer whose patches are so small that their first two moments give all batch statistics in
  // closed form, and that recomputing y costs less than keeping it.
  bool thin = false;

  // Sets the extents of y and out, and `thin`, from the other members.
  void Derive() {
    thin = in_channels <= 4 && PatchSize() <= kThinPatch && stride <= kThinStride && !relu_first;
    conv_height = ConvExtent(in_height);
    conv_width = ConvExtent(in_width);
    out_height = pool ? conv_height / 2 : conv_height;
    out_width = pool ? conv_width / 2 : conv_width;
  }
  MF_HD int64_t ConvExtent(int64_t in) const { return (in + 2 * padding - kernel) / stride + 1; }

  MF_HD int64_t InPixels() const { return in_height * in_width; }
  MF_HD int64_t ConvPixels() const { return conv_height * conv_width; }
  MF_HD int64_t OutPixels() const { return out_height * out_width; }
  // Numbers of scalars in one image of x, y and out, and the offset of an image.
  MF_HD int64_t InSize() const { return InPixels() * in_channels; }
  MF_HD int64_t ConvSize() const { return ConvPixels() * out_channels; }
  MF_HD int64_t OutSize() const { return OutPixels() * out_channels; }
  MF_HD int64_t InImage(int64_t task, int64_t b) const { return (task * batch + b) * InSize(); }
  MF_HD int64_t ConvImage(int64_t task, int64_t b) const { return (task * batch + b) * ConvSize(); }
  MF_HD int64_t OutImage(int64_t task, int64_t b) const { return (task * batch + b) * OutSize(); }
  MF_HD int64_t PatchSize() const { return kernel * kernel * in_channels; }  // inputs of one output value
  MF_HD int64_t WeightSize() const { return PatchSize() * out_channels; }    // of one task

  // Scalars per task that forward keeps for the backward passes: y or, in a thin block, the patch moments. These are
  // the mean patch [P], then the population covariances [P, P]; patches include the zero padding.
  MF_HD int64_t KeptSize() const { return thin ? PatchSize() * (PatchSize() + 1) : batch * ConvSize(); }

  static constexpr int64_t kThinPatch = 36, kThinStride = 16;  // larger ones would not fit a GPU's shared memory
};

// A parameter of all tasks. A stride of 0 means that all tasks share one value, as they do before the first inner step.
template <typename Scalar>
struct TaskParam {
  const Scalar* data = nullptr;  // null: the net has no such parameter
  int64_t stride = 0;            // elements from one task to the next

  MF_HD const Scalar* Of(int64_t task) const { return data == nullptr ? nullptr : data + task * stride; }
  MF_HD bool Shared() const { return stride == 0; }
};

// Values of argmax: the position of the maximum within its pooling window, counted row by row. kDead marks a window
// that ReLU set to zero, so that no gradient passes through it. Without pooling a window is a single pixel.
constexpr uint8_t kDead = 4;

template <typename Scalar>
struct ConvBlockForwardArgs {
  ConvBlockShape shape;
  const Scalar* x;                      // [T, B, H, W, Cin]
  TaskParam<Scalar> weight;             // [T, k, k, Cin, Cout]
  TaskParam<Scalar> bias, gamma, beta;  // [T, Cout]
  Scalar* out;                          // [T, B, PH, PW, Cout]
  Scalar* kept;                         // [T, KeptSize()]: y [T, B, OH, OW, Cout], or patch moments; null: not wanted
  Scalar* mean;                         // [T, Cout]
  Scalar* rstd;                         // [T, Cout]
  uint8_t* argmax;                      // [T, B, PH, PW, Cout]; null: not wanted

  // For a thin block that sees the same images at every inner step: its patch moments in double, [T, KeptSize()].
  // Forward writes them here, or reads them if `moments_known`.
  double* moments = nullptr;
  bool moments_known = false;
};

// Inputs and results of forward that both backward passes read.
template <typename Scalar>
struct ConvBlockSaved {
  const Scalar* x;
  TaskParam<Scalar> weight, gamma;
  const Scalar* kept;
  const Scalar* mean;
  const Scalar* rstd;
  const uint8_t* argmax;
};

template <typename Scalar>
struct ConvBlockBackwardArgs {
  ConvBlockShape shape;
  ConvBlockSaved<Scalar> saved;
  const Scalar* grad_out;  // [T, B, PH, PW, Cout]
  const Scalar* grad_y;    // [T, B, OH, OW, Cout]: another gradient at y to add (see below); null: none, or thin block
  Scalar* grad_x;          // null: not wanted
  Scalar* grad_weight;     // [T, k, k, Cin, Cout]
  Scalar* grad_bias;       // [T, Cout]
  Scalar* grad_gamma;      // [T, Cout]
  Scalar* grad_beta;       // [T, Cout]

  // Other gradients at x, weight and gamma, which a GPU adds to grad_x, grad_weight and grad_gamma; null: none. A CPU
  // takes none: there, PyTorch's own sums cost nothing to start.
  const Scalar* more_x = nullptr;       // [T, B, H, W, Cin]
  const Scalar* more_weight = nullptr;  // [T, k, k, Cin, Cout]
  const Scalar* more_gamma = nullptr;   // [T, Cout]
};

// The derivative of <gg_x, grad_x> + <gg_weight, grad_weight> + ... with respect to everything that backward reads,
// where backward is a function of grad_out, x, weight, gamma and y (mean and rstd are functions of y). Any of the gg_*
// may be null, which means zero. The part of the derivative that reaches x and weight through y is not computed here,
// but returned as grad_y: the caller passes grad_y to the block's backward pass, which then needs only one pair of
// convolutions for it and for the gradient at out. A thin block has no y, so its grad_x and grad_weight are complete.
template <typename Scalar>
struct ConvBlockDoubleBackwardArgs {
  ConvBlockShape shape;
  ConvBlockSaved<Scalar> saved;
  const Scalar* grad_out;
  const Scalar* gg_x;                   // [T, B, H, W, Cin]
  TaskParam<Scalar> gg_weight;          // [T, k, k, Cin, Cout]
  TaskParam<Scalar> gg_bias;            // [T, Cout]; grad_bias is the sum of the gradient at y if relu_first, else zero
  TaskParam<Scalar> gg_gamma, gg_beta;  // [T, Cout]
  Scalar* grad_grad_out;                // [T, B, PH, PW, Cout]
  Scalar* grad_x;                       // null: not wanted
  Scalar* grad_weight;                  // [T, k, k, Cin, Cout]
  Scalar* grad_gamma;                   // [T, Cout]
  Scalar* grad_y;                       // [T, B, OH, OW, Cout]; null in a thin block
};

}  // namespace maml_fast
