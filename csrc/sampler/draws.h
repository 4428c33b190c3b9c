// The layout of the random numbers that make up an episode, shared by the CPU and GPU samplers.
//
// Draw `index` of stream `stream` of an episode is one Philox block with key = seed and counter = (episode low 32,
// episode high 32, index, stream). The streams of an episode:
//
//   0      classes: index i = 0..n_way-1 is swap i of a partial Fisher-Yates shuffle of all classes; the first n_way
//          classes of the result are class slots 0..n_way-1, and the slot is the label
//   1      rotation: index c gives the quarter turns of class slot c (read only if images are rotated)
//   2      support order: index i is swap i of a Fisher-Yates shuffle of the n_way * k_shot support items
//   3      query order: the same for the n_way * k_query query items
//   4 + c  images of slot c: index i = 0..k_shot+k_query-1 is swap i of a partial Fisher-Yates shuffle of the class's
//          images; the first k_shot are its support images, the rest its query images
//
// and, read only if images are augmented, 2^32 - 16 + d for support items and 2^32 - 8 + d for query items: index i is
// what item i draws. d = 0 and 1: row and column where its crop begins, 2: whether it is flipped, 3, 4 and 5: its
// factors of brightness, contrast and saturation.
//
// Item s of slot c has number c * k + s before the order is shuffled. Swap i exchanges the places i and i +
// UniformBelow(draw, n - i). The streams are independent of one another: the same seed and episode give the same
// classes and support images, whatever k_query, rotation and augmentation are.
//
// A kernel that has no room for the n places of a shuffle can keep the swaps instead: place p holds what the last swap
// with p wrote there, or p itself if there was none. maml_fast/data/_philox.py is the same code in NumPy.
#pragma once

#include <cstdint>

#include "core/philox.h"

namespace maml_fast {

enum Stream : std::uint32_t {
  kClassStream = 0,
  kRotationStream = 1,
  kSupportOrderStream = 2,
  kQueryOrderStream = 3,
  kImageStream = 4,
  kSupportAugmentStream = 0xFFFFFFF0u,
  kQueryAugmentStream = 0xFFFFFFF8u,
};

struct EpisodeDraws {
  std::uint64_t seed;
  std::uint64_t episode;

  MF_HD std::uint32_t Below(std::uint32_t stream, std::uint32_t index, std::uint32_t n) const {
    const PhiloxBlock counter = {
        {static_cast<std::uint32_t>(episode), static_cast<std::uint32_t>(episode >> 32), index, stream}};
    return UniformBelow(Philox4x32(counter, seed), n);
  }
};

}  // namespace maml_fast
