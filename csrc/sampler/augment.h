// Random crops, flips and color jitter of the images of training episodes, in integer arithmetic: the same bytes on
// every machine. maml_fast/data/_augmentation.py is the same code in NumPy.
#pragma once

#include <cstdint>

#include "sampler/draws.h"

namespace maml_fast {

constexpr std::int32_t kOne = 4096;  // a factor of 1: factors are multiples of 1/4096

// How images may change. By default they do not.
struct AugmentSpec {
  std::int32_t crop_padding = 0;  // pixels, below height and width
  bool flip = false;
  std::int32_t jitter = 0;  // factors are drawn from kOne - jitter to kOne + jitter; 0..kOne

  bool any() const { return crop_padding > 0 || flip || jitter > 0; }
};

// How one image changes.
struct Augmentation {
  std::int32_t row = 0, column = 0;  // where the crop begins, relative to the image: -crop_padding..crop_padding
  bool flip = false;                 // left to right, after the crop
  std::int32_t brightness = kOne, contrast = kOne, saturation = kOne;
};

// Draws how item `item` of a half of an episode changes. `stream` is kSupportAugmentStream or kQueryAugmentStream.
Augmentation DrawAugmentation(const EpisodeDraws& draws, const AugmentSpec& spec, std::uint32_t stream,
                              std::uint32_t item);

// Writes an image [C, H, W] to `out` as it is after the crop, the flip and the jitter. Beyond the image, the crop
// repeats its border. Contrast is relative to the mean gray of the whole image. Saturation changes images of three
// channels only.
void AugmentImage(const std::uint8_t* image, std::int64_t channels, std::int64_t height, std::int64_t width,
                  const Augmentation& by, std::uint8_t* out);

}  // namespace maml_fast
