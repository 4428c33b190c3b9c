// The forward pass of a block by some kernels, with what its backward passes take.
#pragma once

#include <vector>

#include "cpu/kernel_table.h"
#include "plain_block.h"

namespace maml_fast {

// The kernels' results. Buffers are exactly as large as they must be: the address sanitizer guards their ends.
template <typename Scalar>
struct BlockRun {
  using Buffer = std::vector<Scalar>;

  const ConvBlockShape s;
  const KernelTable<Scalar>& kernels;
  const Pool pool;
  Buffer x, weight, bias, gamma, beta, out, kept, mean, rstd;
  std::vector<uint8_t> argmax;

  static Buffer Cast(const Values& values) { return Buffer(values.begin(), values.end()); }

  BlockRun(const ConvBlockShape& shape, const CpuKernels& k, int64_t threads, const Inputs& in)
      : s(shape),
        kernels(k.Of<Scalar>()),
        pool(PoolOf(threads)),
        x(Cast(in.x)),
        weight(Cast(in.weight)),
        bias(Cast(in.bias)),
        gamma(Cast(in.gamma)),
        beta(Cast(in.beta)),
        out(s.tasks * s.batch * s.OutPixels() * s.out_channels),
        kept(s.tasks * s.KeptSize()),
        mean(s.tasks * s.out_channels),
        rstd(s.tasks * s.out_channels),
        argmax(out.size()) {
    kernels.forward({s, x.data(), Weight(), Channels(bias), Channels(gamma), Channels(beta), out.data(), kept.data(),
                     mean.data(), rstd.data(), argmax.data()},
                    pool);
  }

  // A parameter that is empty the net does not have; one that is too small for all tasks they share.
  TaskParam<Scalar> Param(const Buffer& b, int64_t size) const {
    const bool shared = static_cast<int64_t>(b.size()) == size;
    return {b.empty() ? nullptr : b.data(), shared ? 0 : size};
  }
  TaskParam<Scalar> Weight() const { return Param(weight, s.WeightSize()); }
  TaskParam<Scalar> Channels(const Buffer& b) const { return Param(b, s.out_channels); }
  ConvBlockSaved<Scalar> Saved() const {
    return {x.data(), Weight(), Channels(gamma), kept.data(), mean.data(), rstd.data(), argmax.data()};
  }

  static Values Join(const std::vector<const Buffer*>& parts) {
    Values all;
    for (const Buffer* part : parts) all.insert(all.end(), part->begin(), part->end());
    return all;
  }
};

}  // namespace maml_fast
