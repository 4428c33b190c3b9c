// The arguments of whole inner loops, and the flat vector in which the kernels hold a net's parameters.
//
// In the flat vector every parameter has its own place and its own layout.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/conv_block.h"

namespace maml_fast {

// Labels with this value are ignored, as in PyTorch (the default ignore_index of cross_entropy).
constexpr int64_t kIgnored = -100;

// How PyTorch lays out a parameter: `count` arrays [a][b][c]. The kernels store each of them as [c][b][a].
struct Layout {
  int64_t count, a, b, c;

  static Layout Row(int64_t size) { return {1, size, 1, 1}; }
  Layout Times(int64_t entries) const { return {entries * count, a, b, c}; }
  int64_t Size() const { return count * a * b * c; }
};

// The place of one parameter in the flat vector.
struct Place {
  int64_t begin = -1;  // -1: the net has no such parameter
  int64_t size = 0;
  Layout layout{};

  bool Present() const { return begin >= 0; }
  // The same place, counted from element `at` of the vector.
  Place From(int64_t at) const { return Present() ? Place{begin - at, size, layout} : Place{}; }
};

struct Parameters {
  std::vector<Place> places;  // of all parameters, in order
  int64_t size = 0;           // of the flat vector

  Place Append(const Layout& layout) {
    places.push_back({size, layout.Size(), layout});
    size += layout.Size();
    return places.back();
  }
};

// A net of conv blocks and a linear classifier:
//
//   x -> block -> ... -> block -> features -> logits -> mean cross-entropy
//
// The features are the last block's output, pixel after pixel, or its mean over the pixels. The flat vector holds,
// block by block, the weight [k, k, Cin, Cout], bias, gamma and beta (those that the block has), then the classifier's
// weight [classes, pixels, channels] and bias.
struct ConvNet : Parameters {
  struct Block {
    ConvBlockShape shape;  // of one task; ShapeOf fills in the number of images
    Place weight, bias, gamma, beta;

    ConvBlockShape ShapeOf(int64_t tasks, int64_t images) const {
      ConvBlockShape s = shape;
      s.tasks = tasks;
      s.batch = images;
      return s;
    }
  };

  std::vector<Block> blocks;
  bool mean_over_pixels = false;
  int64_t classes = 0;
  Place classifier, classifier_bias;

  const ConvBlockShape& Last() const { return blocks.back().shape; }
  int64_t FeaturePixels() const { return mean_over_pixels ? 1 : Last().OutPixels(); }
  int64_t Features() const { return Last().out_channels * FeaturePixels(); }
  int64_t WidestBlock() const {
    int64_t widest = 0;
    for (const Block& block : blocks) widest = std::max(widest, block.shape.out_channels);
    return widest;
  }

  void AppendBlock(const ConvBlockShape& s, bool bias, bool gamma, bool beta) {
    const Layout channels = Layout::Row(s.out_channels);
    const Place weight = Append(true, {1, s.out_channels, s.in_channels, s.kernel * s.kernel});
    const Place of_bias = Append(bias, channels), of_gamma = Append(gamma, channels), of_beta = Append(beta, channels);
    blocks.push_back({s, weight, of_bias, of_gamma, of_beta});
  }
  void AppendClassifier(bool mean, int64_t of_classes, bool bias) {
    mean_over_pixels = mean;
    classes = of_classes;
    classifier = Append(true, {classes, Last().out_channels, 1, FeaturePixels()});
    classifier_bias = Append(bias, Layout::Row(classes));
  }

 private:
  Place Append(bool present, const Layout& layout) { return present ? Parameters::Append(layout) : Place{}; }
};

// The inner learning rates of one parameter.
template <typename Scalar>
struct RateArgs {
  const Scalar* values;  // [entries], or [entries, ...] with one rate for every weight, in PyTorch's layout
  int64_t entries;       // one for every step, or 1: all steps use the same rate
  bool of_weights;
  Scalar* gradient;  // like values; null: not wanted

  Layout LayoutFor(const Place& parameter) const {
    return of_weights ? parameter.layout.Times(entries) : Layout::Row(entries);
  }
};

// The targets of a task's images: labels, with which predictions are compared (null if there are none), and the same
// labels, or other target values, as scalars, which programs read.
template <typename Scalar>
struct Targets {
  const int64_t* labels;
  const Scalar* values;

  Targets From(int64_t at) const {
    return {labels == nullptr ? nullptr : labels + at, values == nullptr ? nullptr : values + at};
  }
};

// Inputs and outputs of the inner loops of T tasks, each with N support and M query images.
template <typename Scalar>
struct InnerLoopArgs {
  const Parameters& parameters;
  int64_t tasks, n_support, n_query;
  int64_t steps;
  bool second_order;
  int64_t tasks_at_once;          // the most tasks that are in memory at the same time
  int64_t steps_kept;             // the most steps in memory for the second-order gradient; others are recomputed
  const RateArgs<Scalar>* rates;  // [parameters]
  const int64_t* scored;  // [scores]: the steps after which the query set is scored, in order; the last is `steps`
  int64_t scores;
  const double* step_weights;  // [scores]: weights of the scored steps' losses in the meta-loss
  const Scalar* const* theta;  // [parameters], in PyTorch's layout
  // [parameters]: 0, or max(steps, 1). In the latter case theta holds that many values of the parameter, one for every
  // step, and its rate is 0. Step s uses value s. The query set uses the value of the last step taken, or the first
  // value if no step was taken.
  const int64_t* step_entries;
  const Scalar* x_spt;                       // [T, N, ...], in PyTorch's layout
  const Scalar* x_qry;                       // [T, M, ...]
  Targets<Scalar> targets_spt, targets_qry;  // of all tasks
  int64_t support_targets, query_targets;    // of one task
  Scalar* losses;                            // [scores, T]: query losses; NaN if all labels are ignored
  int64_t* correct;                          // [scores, T]: correct predictions
  // Of the mean of the tasks' weighted losses, like theta; null if neither this nor the rates' gradient is wanted.
  Scalar* const* gradient;
  uint64_t seed;  // of the random numbers that a model draws
};

}  // namespace maml_fast
