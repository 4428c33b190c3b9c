#include "sampler/augment.h"

#include <algorithm>
#include <numeric>

namespace maml_fast {
namespace {

// Levels are multiples of 1/64 of a byte's unit. With factors up to 2, every product below fits into 32 bits.
constexpr int kFactorBits = 12, kLevelBits = 6;
constexpr std::int32_t kRed = 77, kGreen = 150, kBlue = 29;  // shares in gray (ITU-R BT.601), in 256ths

// Returns the level that is `factor` times as far from `center` as `level` is.
inline std::int32_t Away(std::int32_t level, std::int32_t center, std::int32_t factor) {
  return (factor * level + (kOne - factor) * center) >> kFactorBits;
}

inline std::uint8_t ToByte(std::int32_t level) {
  return static_cast<std::uint8_t>(std::clamp((level + (1 << (kLevelBits - 1))) >> kLevelBits, 0, 255));
}

void CropAndFlip(const std::uint8_t* image, std::int64_t channels, std::int64_t height, std::int64_t width,
                 const Augmentation& by, std::uint8_t* out) {
  for (std::int64_t c = 0; c < channels; ++c, image += height * width) {
    for (std::int64_t y = 0; y < height; ++y, out += width) {
      const std::uint8_t* row = image + std::clamp<std::int64_t>(y + by.row, 0, height - 1) * width;
      const std::int64_t left = std::clamp<std::int64_t>(-by.column, 0, width);  // pixels beyond the left border
      const std::int64_t right = std::clamp<std::int64_t>(by.column, 0, width);  // and beyond the right one
      std::fill(out, out + left, row[0]);
      std::copy(row + right, row + width - left, out + left);
      std::fill(out + width - right, out + width, row[width - 1]);
      if (by.flip) std::reverse(out, out + width);
    }
  }
}

// Returns the mean gray of an image, as a level.
std::int32_t MeanGray(const std::uint8_t* image, std::int64_t channels, std::int64_t plane) {
  auto sum = [&](std::int64_t c) {
    return std::accumulate(image + c * plane, image + (c + 1) * plane, std::int64_t{0});
  };
  if (channels == 3) return static_cast<std::int32_t>((kRed * sum(0) + kGreen * sum(1) + kBlue * sum(2)) / (4 * plane));
  std::int64_t total = 0;
  for (std::int64_t c = 0; c < channels; ++c) total += sum(c);
  return static_cast<std::int32_t>((total << kLevelBits) / (channels * plane));
}

void Jitter(const Augmentation& by, std::int32_t mean, std::int64_t channels, std::int64_t plane, std::uint8_t* bytes) {
  std::int32_t changed[256];  // the level of each byte, changed in contrast, then in brightness
  for (std::int32_t byte = 0; byte < 256; ++byte) {
    changed[byte] = (by.brightness * Away(byte << kLevelBits, mean, by.contrast)) >> kFactorBits;
  }
  if (channels != 3) {
    for (std::int64_t i = 0; i < channels * plane; ++i) bytes[i] = ToByte(changed[bytes[i]]);
    return;
  }
  std::uint8_t *reds = bytes, *greens = bytes + plane, *blues = bytes + 2 * plane;
  for (std::int64_t i = 0; i < plane; ++i) {
    const std::int32_t red = changed[reds[i]], green = changed[greens[i]], blue = changed[blues[i]];
    const std::int32_t gray = (kRed * red + kGreen * green + kBlue * blue) >> 8;
    reds[i] = ToByte(Away(red, gray, by.saturation));
    greens[i] = ToByte(Away(green, gray, by.saturation));
    blues[i] = ToByte(Away(blue, gray, by.saturation));
  }
}

}  // namespace

Augmentation DrawAugmentation(const EpisodeDraws& draws, const AugmentSpec& spec, std::uint32_t stream,
                              std::uint32_t item) {
  auto around = [&](std::uint32_t number, std::int32_t reach) {  // from -reach to reach
    return static_cast<std::int32_t>(draws.Below(stream + number, item, 2 * static_cast<std::uint32_t>(reach) + 1)) -
           reach;
  };
  Augmentation drawn;
  if (spec.crop_padding > 0) {
    drawn.row = around(0, spec.crop_padding);
    drawn.column = around(1, spec.crop_padding);
  }
  if (spec.flip) drawn.flip = draws.Below(stream + 2, item, 2) == 1;
  if (spec.jitter > 0) {
    drawn.brightness += around(3, spec.jitter);
    drawn.contrast += around(4, spec.jitter);
    drawn.saturation += around(5, spec.jitter);
  }
  return drawn;
}

void AugmentImage(const std::uint8_t* image, std::int64_t channels, std::int64_t height, std::int64_t width,
                  const Augmentation& by, std::uint8_t* out) {
  CropAndFlip(image, channels, height, width, by, out);
  if (by.brightness == kOne && by.contrast == kOne && by.saturation == kOne) return;
  Jitter(by, MeanGray(image, channels, height * width), channels, height * width, out);
}

}  // namespace maml_fast
