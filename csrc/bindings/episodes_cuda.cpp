// Draws episodes on a GPU, as a torch operator. Its only caller is maml_fast/data/_gpu_sampler.py.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "bindings/cuda_stream.h"
#include "bindings/tensors.h"
#include "cuda/episodes.h"

namespace maml_fast {
namespace {

using Meta = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename T>
T* Checked(const Tensor& t, const char* name, ScalarType dtype, int64_t dims, const Tensor& like) {
  STD_TORCH_CHECK(t.device() == like.device() && t.is_contiguous() && t.scalar_type() == dtype && t.dim() == dims, name,
                  " has the wrong device, dtype or number of dimensions, or is not contiguous");
  return static_cast<T*>(t.data_ptr());
}

Meta DrawEpisodes(Tensor images, Tensor starts, Tensor counts, Tensor table, Tensor episode, int64_t tasks,
                  int64_t seed, int64_t n_way, int64_t k_shot, int64_t k_query, bool rotate) {
  STD_TORCH_CHECK(tasks >= 1 && n_way >= 1 && k_shot >= 1 && k_query >= 1 && images.dim() == 4,
                  "tasks, n_way, k_shot and k_query must be at least 1, and images must be [M, C, H, W]");
  const int64_t channels = images.size(1), height = images.size(2), width = images.size(3);
  STD_TORCH_CHECK(!rotate || height == width, "only square images can be rotated");
  const int64_t support = n_way * k_shot, query = n_way * k_query;
  auto empty = [&](const Sizes& sizes, ScalarType dtype) { return torch::stable::new_empty(images, sizes, dtype); };
  const Tensor x_spt = empty({tasks, support, channels, height, width}, ScalarType::Float);
  const Tensor x_qry = empty({tasks, query, channels, height, width}, ScalarType::Float);
  const Tensor y_spt = empty({tasks, support}, ScalarType::Long), y_qry = empty({tasks, query}, ScalarType::Long);
  const Tensor picks = empty({tasks, support + query}, ScalarType::Long);
  const cuda::EpisodePlan plan{static_cast<uint64_t>(seed),
                               static_cast<int>(n_way),
                               static_cast<int>(k_shot),
                               static_cast<int>(k_query),
                               rotate,
                               static_cast<int>(starts.numel()),
                               static_cast<int>(channels),
                               static_cast<int>(height),
                               static_cast<int>(width)};
  const Tensor scratch = empty({tasks, cuda::ScratchInts(plan)}, ScalarType::Int);
  const cuda::EpisodeBuffers buffers{Checked<uint8_t>(images, "images", ScalarType::Byte, 4, images),
                                     Checked<int64_t>(starts, "starts", ScalarType::Long, 1, images),
                                     Checked<int64_t>(counts, "counts", ScalarType::Long, 1, images),
                                     Checked<float>(table, "table", ScalarType::Float, 1, images),
                                     Checked<int64_t>(episode, "episode", ScalarType::Long, 0, images),
                                     Data<float>(x_spt),
                                     Data<int64_t>(y_spt),
                                     Data<float>(x_qry),
                                     Data<int64_t>(y_qry),
                                     Data<int64_t>(picks),
                                     Data<int>(scratch)};
  STD_TORCH_CHECK(table.numel() == 256 && counts.numel() == starts.numel(),
                  "table must have 256 entries, and starts and counts must be equally long");
  OnStreamOf(images,
             [&](cudaStream_t stream) { return cuda::DrawEpisodes(plan, buffers, static_cast<int>(tasks), stream); });
  return {x_spt, y_spt, x_qry, y_qry};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maml_fast, m) {
  m.def(
      "draw_episodes(Tensor images, Tensor starts, Tensor counts, Tensor table, Tensor episode, int tasks, int seed, "
      "int n_way, int k_shot, int k_query, bool rotate) -> (Tensor x_spt, Tensor y_spt, Tensor x_qry, Tensor y_qry)");
}

STABLE_TORCH_LIBRARY_IMPL(maml_fast, CUDA, m) { m.impl("draw_episodes", TORCH_BOX(&DrawEpisodes)); }

}  // namespace maml_fast
