// Images and labels of several tasks, and results that depend on the images alone, not on the weights.
#pragma once

#include "core/inner_loop.h"
#include "cpu/arena.h"
#include "cpu/for.h"

namespace maml_fast {
namespace {

template <typename Scalar>
struct ImageSet {
  const Scalar* x;  // [tasks, images, H, W, C]
  const int64_t* labels;
  int64_t images;

  // Patch moments of a thin first block, and the same in double, which are known after its first run. Null if the block
  // is not thin.
  Scalar* kept = nullptr;
  double* moments = nullptr;
  bool moments_known = false;

  // `tasks` tasks, from task `first` on.
  static ImageSet Support(const ConvNet& net, const InnerLoopArgs<Scalar>& args, int64_t first, int64_t tasks,
                          const Pool& pool, ArenaScope& arena) {
    const int64_t begin = first * args.n_support, image = net.blocks[0].shape.InSize();
    return {net, args.x_spt + begin * image, args.targets_spt.labels + begin, tasks, args.n_support, pool, arena};
  }
  static ImageSet Queries(const ConvNet& net, const InnerLoopArgs<Scalar>& args, int64_t first, int64_t tasks,
                          const Pool& pool, ArenaScope& arena) {
    const int64_t begin = first * args.n_query, image = net.blocks[0].shape.InSize();
    return {net, args.x_qry + begin * image, args.targets_qry.labels + begin, tasks, args.n_query, pool, arena};
  }

 private:
  // pixels: [tasks, images, C, H, W].
  ImageSet(const ConvNet& net, const Scalar* pixels, const int64_t* labels_, int64_t tasks, int64_t images_,
           const Pool& pool, ArenaScope& arena)
      : labels(labels_), images(images_) {
    const ConvBlockShape s = net.blocks[0].ShapeOf(tasks, images);
    x = s.in_channels == 1 ? pixels : ChannelsLast(s, pixels, pool, arena.Array<Scalar>(s.InImage(tasks, 0)));
    if (!s.thin) return;
    kept = arena.Array<Scalar>(tasks * s.KeptSize());
    moments = arena.Array<double>(tasks * s.KeptSize());
  }

  static const Scalar* ChannelsLast(const ConvBlockShape& s, const Scalar* pixels, const Pool& pool, Scalar* result) {
    For(pool, s.tasks * s.batch, [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        for (int64_t c = 0; c < s.in_channels; ++c) {
          const Scalar* plane = pixels + image * s.InSize() + c * s.InPixels();
          for (int64_t p = 0; p < s.InPixels(); ++p) result[image * s.InSize() + p * s.in_channels + c] = plane[p];
        }
      }
    });
    return result;
  }
};

}  // namespace
}  // namespace maml_fast
