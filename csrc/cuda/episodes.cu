#include "cuda/episodes.h"

#include "cuda/device.cuh"
#include "cuda/launch.h"
#include "sampler/draws.h"

namespace maml_fast {
namespace cuda {
namespace {

constexpr int kPickThreads = 64, kGatherThreads = 256;

// Writes the first k places of a shuffle of 0..n-1 (see sampler/draws.h) without memory for n places: a place holds
// what the last swap wrote there, or its own number if there was no such swap. places, values: scratch [k].
MF_DEVICE void ShuffleFirst(const EpisodeDraws& draws, uint32_t stream, int n, int k, int* places, int* values,
                            int* out) {
  auto held = [&](int place, int swaps) {
    for (int i = swaps - 1; i >= 0; --i) {
      if (places[i] == place) return values[i];
    }
    return place;
  };
  for (int i = 0; i < k; ++i) {
    const int other = i + static_cast<int>(draws.Below(stream, static_cast<uint32_t>(i), static_cast<uint32_t>(n - i)));
    out[i] = held(other, i);
    values[i] = held(i, i);
    places[i] = other;
  }
}

// Writes a complete shuffle of 0..n-1.
MF_DEVICE void ShuffleAll(const EpisodeDraws& draws, uint32_t stream, int n, int* out) {
  for (int i = 0; i < n; ++i) out[i] = i;
  for (int i = 0; i < n; ++i) {
    const int other = i + static_cast<int>(draws.Below(stream, static_cast<uint32_t>(i), static_cast<uint32_t>(n - i)));
    const int value = out[i];
    out[i] = out[other];
    out[other] = value;
  }
}

// One thread block per episode, and one thread per shuffle: first the classes and the two orders, then the images of
// every class. in_shared: whether shared memory is the scratch memory.
__global__ void PickEpisodes(const EpisodePlan plan, const EpisodeBuffers to, bool in_shared) {
  const int images = plan.k_shot + plan.k_query, n_support = plan.n_way * plan.k_shot;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int64_t task = blockIdx.x;
  int* scratch = in_shared ? static_cast<int*>(Shared()) : to.scratch + task * PickInts(plan);
  int* classes = scratch;                              // [n_way]
  int* swaps = classes + plan.n_way;                   // [2][n_way]
  int* chosen = swaps + 2 * plan.n_way;                // [n_way][images]
  int* image_swaps = chosen + plan.n_way * images;     // [n_way][2][images]
  int* order = image_swaps + 2 * plan.n_way * images;  // [n_way * images]: support, then query
  const EpisodeDraws draws{plan.seed, static_cast<uint64_t>(*to.episode) + static_cast<uint64_t>(task)};

  if (thread == 0) ShuffleFirst(draws, kClassStream, plan.n_classes, plan.n_way, swaps, swaps + plan.n_way, classes);
  if (thread == 1) ShuffleAll(draws, kSupportOrderStream, n_support, order);
  if (thread == 2) ShuffleAll(draws, kQueryOrderStream, plan.n_way * plan.k_query, order + n_support);
  __syncthreads();
  for (int slot = thread; slot < plan.n_way; slot += threads) {
    int* mine = image_swaps + slot * 2 * images;
    ShuffleFirst(draws, kImageStream + static_cast<uint32_t>(slot), static_cast<int>(to.counts[classes[slot]]), images,
                 mine, mine + images, chosen + slot * images);
  }
  __syncthreads();
  for (int i = thread; i < plan.n_way * images; i += threads) {
    const bool support = i < n_support;
    const int each = support ? plan.k_shot : plan.k_query, slot = order[i] / each, item = order[i] % each;
    const int64_t image = to.starts[classes[slot]] + chosen[slot * images + (support ? item : plan.k_shot + item)];
    const uint32_t turns = plan.rotate ? draws.Below(kRotationStream, static_cast<uint32_t>(slot), 4) : 0;
    to.picks[task * plan.n_way * images + i] = 4 * image + turns;
    if (support) {
      to.y_spt[task * n_support + i] = slot;
    } else {
      to.y_qry[task * plan.n_way * plan.k_query + i - n_support] = slot;
    }
  }
}

// One thread per value (pixel and channel) of all images. Rotation is counter-clockwise, like np.rot90.
__global__ void GatherImages(const EpisodePlan plan, const EpisodeBuffers from, int64_t pixels) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= pixels) return;
  const int64_t size = int64_t{plan.channels} * plan.height * plan.width, image = at / size,
                in_image = at - image * size;
  const int plane = plan.height * plan.width, channel = static_cast<int>(in_image / plane);
  const int pixel = static_cast<int>(in_image - int64_t{channel} * plane), row = pixel / plan.width;
  const int col = pixel - row * plan.width, last_row = plan.height - 1, last_col = plan.width - 1;
  const int64_t pick = from.picks[image];
  int source = pixel;
  switch (static_cast<int>(pick % 4)) {
    case 1:
      source = col * plan.width + last_col - row;
      break;
    case 2:
      source = (last_row - row) * plan.width + last_col - col;
      break;
    case 3:
      source = (last_row - col) * plan.width + row;
      break;
  }
  const float value = from.table[from.images[pick / 4 * size + int64_t{channel} * plane + source]];
  const int n_support = plan.n_way * plan.k_shot, n_all = plan.n_way * (plan.k_shot + plan.k_query);
  const int64_t task = image / n_all, place = image - task * n_all;
  if (place < n_support) {
    from.x_spt[(task * n_support + place) * size + in_image] = value;
  } else {
    from.x_qry[(task * (n_all - n_support) + place - n_support) * size + in_image] = value;
  }
}

}  // namespace

cudaError_t DrawEpisodes(const EpisodePlan& plan, const EpisodeBuffers& buffers, int tasks, cudaStream_t stream) {
  Launches launch(stream);
  const bool in_shared = ScratchInts(plan) == 0;
  launch(&PickEpisodes, dim3(static_cast<unsigned>(tasks)), dim3(kPickThreads),
         in_shared ? static_cast<size_t>(PickInts(plan)) * sizeof(int) : 0, plan, buffers, in_shared);
  const int64_t pixels =
      int64_t{tasks} * plan.n_way * (plan.k_shot + plan.k_query) * plan.channels * plan.height * plan.width;
  launch(&GatherImages, dim3(Ceil(pixels, kGatherThreads)), dim3(kGatherThreads), 0, plan, buffers, pixels);
  return launch.Error();
}

}  // namespace cuda
}  // namespace maml_fast
