// Draws episodes and gathers their images on a GPU, bit for bit as csrc/sampler does. Independent of torch.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "cuda/runtime.h"

namespace maml_fast {
namespace cuda {

// The parameters of an episode; see sampler/episode.h. The caller has checked all counts.
struct EpisodePlan {
  uint64_t seed;
  int n_way, k_shot, k_query;
  bool rotate;
  int n_classes;
  int channels, height, width;
};

// All of these are in GPU memory.
struct EpisodeBuffers {
  const uint8_t* images;   // [M, C, H, W]
  const int64_t* starts;   // [n_classes]
  const int64_t* counts;   // [n_classes]
  const float* table;      // [256], the float for each byte
  const int64_t* episode;  // number of the first episode; in memory, so that a replayed CUDA graph can draw others
  float* x_spt;            // [T, n_way * k_shot, C, H, W]
  int64_t* y_spt;          // [T, n_way * k_shot]
  float* x_qry;            // [T, n_way * k_query, C, H, W]
  int64_t* y_qry;          // [T, n_way * k_query]
  int64_t* picks;          // scratch [T, n_way * (k_shot + k_query)]: 4 * image + quarter turns
  int* scratch;            // [T, ScratchInts(plan)]
};

// What drawing one episode takes, in ints.
MF_HD inline int64_t PickInts(const EpisodePlan& plan) {
  return int64_t{plan.n_way} * (3 + 4 * (plan.k_shot + plan.k_query));
}

// The scratch memory of one episode, in ints: none if a thread block has room for it in its shared memory.
inline int64_t ScratchInts(const EpisodePlan& plan) {
  constexpr int64_t kMostInShared = (48 << 10) / sizeof(int);
  return PickInts(plan) <= kMostInShared ? 0 : PickInts(plan);
}

cudaError_t DrawEpisodes(const EpisodePlan& plan, const EpisodeBuffers& buffers, int tasks, cudaStream_t stream);

}  // namespace cuda
}  // namespace maml_fast
