// The vocabulary of whole inner loops: a net of conv blocks and a linear classifier, and what becomes of it on the
// episodes of a meta-batch.
//
//   x -> block -> ... -> block -> features -> logits -> mean cross-entropy
//
// Features are the last block's output, pixel after pixel, or its mean over the pixels. All parameters of the net are
// one flat vector: block by block the weight [k, k, Cin, Cout], bias, gamma and beta (those that it has), then the
// classifier's weight [classes, features] and bias.
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv_block.h"

namespace maml_fast {

// One parameter's place in the flat vector.
struct Place {
  int64_t begin = -1;  // -1: the net does not have it
  int64_t size = 0;

  bool Present() const { return begin >= 0; }
};

struct ConvNet {
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
  std::vector<Place> places;  // of all parameters, in order
  int64_t size = 0;           // of the flat vector

  const ConvBlockShape& Last() const { return blocks.back().shape; }
  int64_t Features() const { return Last().out_channels * (mean_over_pixels ? 1 : Last().OutPixels()); }

  Place Append(bool present, int64_t count) {
    if (!present) return {};
    const Place place{size, count};
    places.push_back(place);
    size += count;
    return place;
  }
};

// What the inner loops start from and what they give, T tasks of N support and M query images.
template <typename Scalar>
struct InnerLoopArgs {
  const ConvNet& net;
  int64_t tasks, n_support, n_query;
  int64_t steps;
  bool second_order;
  int64_t tasks_at_once;  // in memory, where there are more of them
  const double* rates;    // of every parameter in net.places
  const int64_t* scored;  // [scores]: the steps after which the queries are scored, in order; the last is `steps`
  int64_t scores;
  const Scalar* theta;   // [net.size]
  const Scalar* x_spt;   // [T, N, Cin, H, W]
  const int64_t* y_spt;  // [T, N], classes
  const Scalar* x_qry;   // [T, M, Cin, H, W]
  const int64_t* y_qry;  // [T, M]
  Scalar* losses;        // [scores, T]: the queries' mean cross-entropy
  int64_t* correct;      // [scores, T]: right predictions
  Scalar* gradient;      // [net.size], of the last losses' mean over tasks; null: not asked for
};

}  // namespace maml_fast
