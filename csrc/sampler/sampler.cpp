#include "sampler/sampler.h"

#include "sampler/augment.h"
#include "sampler/turn.h"

namespace maml_fast {

void EpisodeWriter::Write(std::uint64_t episode, std::int64_t t, const BatchBuffers& batch) {
  picker_.PickEpisode(episode);
  const std::int64_t n_support = static_cast<std::int64_t>(picker_.support().size());
  const std::int64_t n_query = static_cast<std::int64_t>(picker_.query().size());
  const std::int64_t image_size = config_.bank.image_size();
  WriteHalf(picker_.support(), batch.x_support + t * n_support * image_size, batch.y_support + t * n_support);
  WriteHalf(picker_.query(), batch.x_query + t * n_query * image_size, batch.y_query + t * n_query);
}

void EpisodeWriter::WriteHalf(const std::vector<Pick>& picks, float* x, std::int64_t* y) {
  const std::int64_t image_size = config_.bank.image_size();
  for (const Pick& pick : picks) {
    scale_.Apply(Turned(pick), image_size, x);
    x += image_size;
    *y++ = pick.label;
  }
}

const std::uint8_t* EpisodeWriter::Turned(const Pick& pick) {
  const BankView& bank = config_.bank;
  const std::uint8_t* image = Augmented(pick);
  if (pick.quarter_turns == 0) return image;
  TurnImage(image, bank.channels, bank.height, pick.quarter_turns, turned_.data());
  return turned_.data();
}

const std::uint8_t* EpisodeWriter::Augmented(const Pick& pick) {
  const BankView& bank = config_.bank;
  const std::uint8_t* image = bank.images + pick.image * bank.image_size();
  if (augmented_.empty()) return image;
  AugmentImage(image, bank.channels, bank.height, bank.width, pick.augmentation, augmented_.data());
  return augmented_.data();
}

}  // namespace maml_fast
