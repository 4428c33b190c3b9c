// The vocabulary of whole inner loops: what they start from, and what becomes of it on the episodes of a meta-batch.
//
// To the kernels all parameters of a net are one flat vector, in which each has a place and a layout of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/conv_block.h"

namespace maml_fast {

// The label of images that do not count, as PyTorch has it.
constexpr int64_t kIgnored = -100;

// How PyTorch lays a parameter out: `count` arrays [a][b][c], which the kernels read as [c][b][a].
struct Layout {
  int64_t count, a, b, c;

  static Layout Row(int64_t size) { return {1, size, 1, 1}; }
  Layout Times(int64_t entries) const { return {entries * count, a, b, c}; }
  int64_t Size() const { return count * a * b * c; }
};

// One parameter's place in the flat vector.
struct Place {
  int64_t begin = -1;  // -1: the net does not have it
  int64_t size = 0;
  Layout layout{};

  bool Present() const { return begin >= 0; }
  // In the vector's part from `at` on.
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
// Features are the last block's output, pixel after pixel, or its mean over the pixels. The flat vector holds block by
// block the weight [k, k, Cin, Cout], bias, gamma and beta (those that it has), then the classifier's weight [classes,
// pixels, channels] and bias.
struct ConvNet : Parameters {
  struct Block {
    ConvBlockShape shape;  // of one task; the number of images is to be filled in
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
  const Scalar* values;  // [entries], or [entries, ...] with one for every weight, as PyTorch has them
  int64_t entries;       // one for every step, or 1: the same at all of them
  bool of_weights;
  Scalar* gradient;  // like values; null: not asked for

  Layout LayoutFor(const Place& parameter) const {
    return of_weights ? parameter.layout.Times(entries) : Layout::Row(entries);
  }
};

// What a task's outputs shall be: labels, by which predictions are judged, or null; and the same, or values, in
// scalars, as programs read them.
template <typename Scalar>
struct Targets {
  const int64_t* labels;
  const Scalar* values;

  Targets From(int64_t at) const {
    return {labels == nullptr ? nullptr : labels + at, values == nullptr ? nullptr : values + at};
  }
};

// What the inner loops start from and what they give, T tasks of N support and M query images.
template <typename Scalar>
struct InnerLoopArgs {
  const Parameters& parameters;
  int64_t tasks, n_support, n_query;
  int64_t steps;
  bool second_order;
  int64_t tasks_at_once;          // in memory, where there are more of them
  int64_t steps_kept;             // in memory for the way back at order 2; the others are computed again
  const RateArgs<Scalar>* rates;  // of every parameter
  const int64_t* scored;  // [scores]: the steps after which the queries are scored, in order; the last is `steps`
  int64_t scores;
  const double* step_weights;  // [scores]: of the scored steps in the loss that is differentiated
  const Scalar* const* theta;  // the parameters, as PyTorch has them
  // Of every parameter: 0, or as many as steps, but at least 1: then theta has so many of it, one for every step, and
  // its rate is 0. A step takes its own; the queries are scored with the last step's, and before any step the first's.
  const int64_t* step_entries;
  const Scalar* x_spt;                       // [T, N, ...], as PyTorch has it
  const Scalar* x_qry;                       // [T, M, ...]
  Targets<Scalar> targets_spt, targets_qry;  // of all tasks
  int64_t support_targets, query_targets;    // of one task
  Scalar* losses;                            // [scores, T]: of the queries; NaN where all are ignored
  int64_t* correct;                          // [scores, T]: right predictions
  Scalar* const* gradient;  // of the weighted losses' mean over tasks, like theta; null: not asked for, nor the rates'
};

}  // namespace maml_fast
