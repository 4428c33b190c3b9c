// The Python binding of the episode sampler. Its only caller is maml_fast/data/_episodes.py, which reports wrong
// arguments in the users' terms; the checks here keep memory safe, whatever is passed.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <stdexcept>
#include <utility>

#include "sampler/prefetch.h"
#include "sampler/sampler.h"

namespace py = pybind11;

namespace maml_fast {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

inline void Require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline void CheckBank(const BankView& bank, std::int64_t n_images, const EpisodeSpec& spec) {
  Require(spec.n_way >= 1 && spec.k_shot >= 1 && spec.k_query >= 1, "n_way, k_shot and k_query must be at least 1");
  Require(bank.n_classes >= spec.n_way, "the bank has fewer classes than n_way");
  for (std::int64_t i = 0; i < bank.n_classes; ++i) {
    const std::int64_t start = bank.starts[i];
    const std::int64_t count = bank.counts[i];
    Require(count >= spec.k_shot + spec.k_query, "a class has fewer images than k_shot + k_query");
    Require(start >= 0 && count <= n_images && start <= n_images - count, "a class lies outside the images");
  }
  Require(!spec.rotate || bank.height == bank.width, "only square images can be rotated");
  const AugmentSpec& augment = spec.augment;
  Require(augment.crop_padding >= 0 && augment.crop_padding < std::min(bank.height, bank.width),
          "crop_padding must be below the images' height and width");
  Require(augment.jitter >= 0 && augment.jitter <= kOne, "jitter must be from 0 to 4096");
}

// A bank and a spec, with the arrays that its config points to.
class Sampler {
 public:
  Sampler(Array<std::uint8_t> images, Array<std::int64_t> starts, Array<std::int64_t> counts, const Array<float>& table,
          const EpisodeSpec& spec)
      : images_(std::move(images)), starts_(std::move(starts)), counts_(std::move(counts)) {
    Require(images_.ndim() == 4, "images must be [M, C, H, W]");
    Require(starts_.ndim() == 1 && counts_.ndim() == 1 && starts_.size() == counts_.size(),
            "starts and counts must be one-dimensional and equally long");
    Require(table.size() == 256, "table must have 256 entries");
    config_.spec = spec;
    config_.bank = {images_.data(),   starts_.data(),   counts_.data(),  starts_.size(),
                    images_.shape(1), images_.shape(2), images_.shape(3)};
    CheckBank(config_.bank, images_.shape(0), spec);
    std::copy(table.data(), table.data() + 256, config_.table.begin());
  }

  const SamplerConfig& config() const { return config_; }

 private:
  Array<std::uint8_t> images_;
  Array<std::int64_t> starts_, counts_;
  SamplerConfig config_;
};

// The four output arrays of a meta-batch, kept alive as long as a thread may write to them.
struct BatchArrays {
  Array<float> x_support;
  Array<std::int64_t> y_support;
  Array<float> x_query;
  Array<std::int64_t> y_query;
  std::int64_t n_episodes = 0;

  BatchBuffers CheckedBuffers(const SamplerConfig& config) {
    const std::int64_t n_support = config.spec.n_way * config.spec.k_shot;
    const std::int64_t n_query = config.spec.n_way * config.spec.k_query;
    n_episodes = y_support.size() / n_support;
    Require(n_episodes >= 1 && y_support.size() == n_episodes * n_support && y_query.size() == n_episodes * n_query &&
                x_support.size() == y_support.size() * config.bank.image_size() &&
                x_query.size() == y_query.size() * config.bank.image_size(),
            "the output arrays do not fit the sampler");
    return {x_support.mutable_data(), y_support.mutable_data(), x_query.mutable_data(), y_query.mutable_data()};
  }
};

inline void WriteBatch(const Sampler& sampler, std::uint64_t first_episode, BatchArrays arrays) {
  const BatchBuffers buffers = arrays.CheckedBuffers(sampler.config());
  const py::gil_scoped_release release;
  EpisodeWriter writer(sampler.config());
  for (std::int64_t t = 0; t < arrays.n_episodes; ++t) {
    writer.Write(first_episode + static_cast<std::uint64_t>(t), t, buffers);
  }
}

// Prefetcher, and the Python objects that its threads read and write.
class PyPrefetcher {
 public:
  PyPrefetcher(std::shared_ptr<Sampler> sampler, int threads)
      : sampler_(std::move(sampler)), prefetcher_(sampler_->config(), threads) {}

  void Submit(std::uint64_t first_episode, BatchArrays arrays) {
    if (prefetcher_.closed()) throw std::runtime_error("the prefetcher is closed");
    const BatchBuffers buffers = arrays.CheckedBuffers(sampler_->config());
    const std::int64_t n_episodes = arrays.n_episodes;
    batches_.push_back(std::move(arrays));
    prefetcher_.Submit(first_episode, n_episodes, buffers);
  }

  void Wait() {
    if (prefetcher_.n_pending() == 0) throw std::runtime_error("no meta-batch has been submitted");
    {
      const py::gil_scoped_release release;
      prefetcher_.Wait();
    }
    batches_.pop_front();
  }

  void Close() {
    {
      const py::gil_scoped_release release;
      prefetcher_.Close();
    }
    batches_.clear();
  }

 private:
  std::shared_ptr<Sampler> sampler_;
  std::deque<BatchArrays> batches_;
  Prefetcher prefetcher_;  // last, so that its threads end before the arrays are destroyed
};

inline void BindSampler(py::module_& m) {
  using X = Array<float>;
  using Y = Array<std::int64_t>;
  py::class_<Sampler, std::shared_ptr<Sampler>>(m, "Sampler", py::module_local())
      .def(py::init([](Array<std::uint8_t> images, Y starts, Y counts, const X& table, std::uint64_t seed,
                       std::int64_t n_way, std::int64_t k_shot, std::int64_t k_query, bool rotate,
                       std::int32_t crop_padding, bool flip, std::int32_t jitter) {
             const EpisodeSpec spec = {seed, n_way, k_shot, k_query, rotate, {crop_padding, flip, jitter}};
             return std::make_shared<Sampler>(std::move(images), std::move(starts), std::move(counts), table, spec);
           }),
           py::arg("images").noconvert(), py::arg("starts").noconvert(), py::arg("counts").noconvert(),
           py::arg("table").noconvert(), py::kw_only(), py::arg("seed"), py::arg("n_way"), py::arg("k_shot"),
           py::arg("k_query"), py::arg("rotate"), py::arg("crop_padding"), py::arg("flip"), py::arg("jitter"))
      .def(
          "write",
          [](const Sampler& sampler, std::uint64_t first_episode, X x_spt, Y y_spt, X x_qry, Y y_qry) {
            WriteBatch(sampler, first_episode,
                       {std::move(x_spt), std::move(y_spt), std::move(x_qry), std::move(y_qry)});
          },
          py::arg("first_episode"), py::arg("x_spt").noconvert(), py::arg("y_spt").noconvert(),
          py::arg("x_qry").noconvert(), py::arg("y_qry").noconvert());
  py::class_<PyPrefetcher>(m, "Prefetcher", py::module_local())
      .def(py::init<std::shared_ptr<Sampler>, int>(), py::arg("sampler"), py::arg("threads"))
      .def(
          "submit",
          [](PyPrefetcher& self, std::uint64_t first_episode, X x_spt, Y y_spt, X x_qry, Y y_qry) {
            self.Submit(first_episode, {std::move(x_spt), std::move(y_spt), std::move(x_qry), std::move(y_qry)});
          },
          py::arg("first_episode"), py::arg("x_spt").noconvert(), py::arg("y_spt").noconvert(),
          py::arg("x_qry").noconvert(), py::arg("y_qry").noconvert())
      .def("wait", &PyPrefetcher::Wait)
      .def("close", &PyPrefetcher::Close);
}

}  // namespace
}  // namespace maml_fast
