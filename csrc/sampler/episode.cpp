#include "sampler/episode.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace maml_fast {
namespace {

std::int64_t LargestShuffle(const EpisodeSpec& spec, const BankView& bank) {
  const std::int64_t largest_class = *std::max_element(bank.counts, bank.counts + bank.n_classes);
  return std::max({bank.n_classes, largest_class, spec.n_way * spec.k_shot, spec.n_way * spec.k_query});
}

}  // namespace

Shuffler::Shuffler(std::int64_t max_n) : places_(max_n) { std::iota(places_.begin(), places_.end(), std::int64_t{0}); }

void Shuffler::Shuffle(const EpisodeDraws& draws, std::uint32_t stream, std::int64_t n, std::int64_t k,
                       std::int64_t* out) {
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t other =
        i + draws.Below(stream, static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(n - i));
    std::swap(places_[i], places_[other]);
    out[i] = places_[i];
  }
  // Reset the touched places. A value that left its place moved to the front, so the first k values name every place
  // beyond them that was touched.
  for (std::int64_t i = 0; i < k; ++i) {
    places_[out[i]] = out[i];
    places_[i] = i;
  }
}

EpisodePicker::EpisodePicker(const EpisodeSpec& spec, const BankView& bank)
    : spec_(spec),
      bank_(bank),
      shuffler_(LargestShuffle(spec, bank)),
      classes_(spec.n_way),
      chosen_(std::max(spec.k_shot + spec.k_query, spec.n_way * std::max(spec.k_shot, spec.k_query))),
      support_items_(spec.n_way * spec.k_shot),
      query_items_(spec.n_way * spec.k_query),
      support_(support_items_.size()),
      query_(query_items_.size()) {}

void EpisodePicker::PickEpisode(std::uint64_t episode) {
  const EpisodeDraws draws = {spec_.seed, episode};
  shuffler_.Shuffle(draws, kClassStream, bank_.n_classes, spec_.n_way, classes_.data());
  for (std::int64_t slot = 0; slot < spec_.n_way; ++slot) PickClass(draws, slot);
  Order(draws, kSupportOrderStream, support_items_, &support_);
  Order(draws, kQueryOrderStream, query_items_, &query_);
}

void EpisodePicker::PickClass(const EpisodeDraws& draws, std::int64_t slot) {
  const std::uint32_t index = static_cast<std::uint32_t>(slot);
  const std::int32_t turns = spec_.rotate ? static_cast<std::int32_t>(draws.Below(kRotationStream, index, 4)) : 0;
  const std::int64_t start = bank_.starts[classes_[slot]];
  const std::int64_t count = bank_.counts[classes_[slot]];
  shuffler_.Shuffle(draws, kImageStream + index, count, spec_.k_shot + spec_.k_query, chosen_.data());
  const std::int64_t* chosen = chosen_.data();
  auto pick = [&](std::uint32_t stream, std::int64_t item) -> Pick {
    return {start + *chosen++, slot, turns,
            DrawAugmentation(draws, spec_.augment, stream, static_cast<std::uint32_t>(item))};
  };
  for (std::int64_t s = slot * spec_.k_shot; s < (slot + 1) * spec_.k_shot; ++s) {
    support_items_[s] = pick(kSupportAugmentStream, s);
  }
  for (std::int64_t q = slot * spec_.k_query; q < (slot + 1) * spec_.k_query; ++q) {
    query_items_[q] = pick(kQueryAugmentStream, q);
  }
}

void EpisodePicker::Order(const EpisodeDraws& draws, std::uint32_t stream, const std::vector<Pick>& items,
                          std::vector<Pick>* out) {
  const std::int64_t n = static_cast<std::int64_t>(items.size());
  shuffler_.Shuffle(draws, stream, n, n, chosen_.data());
  for (std::int64_t i = 0; i < n; ++i) (*out)[i] = items[chosen_[i]];
}

}  // namespace maml_fast
