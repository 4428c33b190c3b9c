// Draws episodes: which images, in which order, with which labels, rotations and augmentations.
#pragma once

#include <cstdint>
#include <vector>

#include "sampler/augment.h"
#include "sampler/draws.h"

namespace maml_fast {

// The parameters of an episode. The caller has checked that all counts are at least 1.
struct EpisodeSpec {
  std::uint64_t seed;
  std::int64_t n_way;
  std::int64_t k_shot;
  std::int64_t k_query;
  bool rotate;
  AugmentSpec augment = {};
};

// A view of the images of all classes, in one flat array that the caller owns. Class i has the counts[i] images from
// images[starts[i]] on.
struct BankView {
  const std::uint8_t* images;  // [M, C, H, W]
  const std::int64_t* starts;  // [n_classes]
  const std::int64_t* counts;  // [n_classes]
  std::int64_t n_classes;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;

  std::int64_t image_size() const { return channels * height * width; }
};

// One image of an episode.
struct Pick {
  std::int64_t image;          // row of BankView::images
  std::int64_t label;          // 0..n_way-1
  std::int32_t quarter_turns;  // 0..3, counter-clockwise, after the augmentation
  Augmentation augmentation = {};
};

// Shuffles 0..n-1 without initializing n places each time: after a shuffle it resets only the places that it touched.
class Shuffler {
 public:
  // `max_n` is the largest n that Shuffle accepts.
  explicit Shuffler(std::int64_t max_n);

  // Writes the first `k` of a shuffle of 0..n-1 to `out`; 1 <= k <= n <= max_n.
  void Shuffle(const EpisodeDraws& draws, std::uint32_t stream, std::int64_t n, std::int64_t k, std::int64_t* out);

 private:
  std::vector<std::int64_t> places_;  // places_[p] == p between calls
};

// Draws the episodes of one spec and bank. Not thread-safe. The constructor allocates all memory.
class EpisodePicker {
 public:
  EpisodePicker(const EpisodeSpec& spec, const BankView& bank);

  // Draws episode number `episode`; support() and query() return it until the next call.
  void PickEpisode(std::uint64_t episode);

  const std::vector<Pick>& support() const { return support_; }  // [n_way * k_shot]
  const std::vector<Pick>& query() const { return query_; }      // [n_way * k_query]

 private:
  void PickClass(const EpisodeDraws& draws, std::int64_t slot);
  void Order(const EpisodeDraws& draws, std::uint32_t stream, const std::vector<Pick>& items, std::vector<Pick>* out);

  EpisodeSpec spec_;
  BankView bank_;
  Shuffler shuffler_;
  std::vector<std::int64_t> classes_;              // [n_way]
  std::vector<std::int64_t> chosen_;               // the result of one shuffle, long enough for the largest
  std::vector<Pick> support_items_, query_items_;  // ordered by slot, before their order is shuffled
  std::vector<Pick> support_, query_;
};

}  // namespace maml_fast
