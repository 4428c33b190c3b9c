// Writes whole episodes into the caller's memory.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "sampler/byte_scale.h"
#include "sampler/episode.h"

namespace maml_fast {

// A meta-batch of T episodes in the caller's memory.
struct BatchBuffers {
  float* x_support;         // [T, n_way * k_shot, C, H, W]
  std::int64_t* y_support;  // [T, n_way * k_shot]
  float* x_query;           // [T, n_way * k_query, C, H, W]
  std::int64_t* y_query;    // [T, n_way * k_query]
};

// Everything that determines the episodes: plain values, and pointers to memory that the caller keeps alive.
struct SamplerConfig {
  EpisodeSpec spec;
  BankView bank;
  std::array<float, 256> table;  // the float for each byte
};

// Makes one episode at a time. Each thread has its own writer; all writers of a config make the same episodes.
class EpisodeWriter {
 public:
  explicit EpisodeWriter(const SamplerConfig& config)
      : config_(config),
        picker_(config.spec, config.bank),
        scale_(config.table),
        turned_(config.spec.rotate ? config.bank.image_size() : 0),
        augmented_(config.spec.augment.any() ? config.bank.image_size() : 0) {}

  // Writes episode number `episode` as element `t` of `batch`. Allocates nothing.
  void Write(std::uint64_t episode, std::int64_t t, const BatchBuffers& batch);

 private:
  void WriteHalf(const std::vector<Pick>& picks, float* x, std::int64_t* y);
  const std::uint8_t* Turned(const Pick& pick);
  const std::uint8_t* Augmented(const Pick& pick);

  SamplerConfig config_;
  EpisodePicker picker_;
  ByteScale scale_;
  std::vector<std::uint8_t> turned_, augmented_;  // one image each; empty if images are not rotated or augmented
};

}  // namespace maml_fast
