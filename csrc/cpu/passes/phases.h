// Distributes a pass over all tasks among threads.
//
// A pass is a list of phases. A phase consists of `units` independent pieces of one task's work, and reads what earlier
// phases of that task wrote. With enough tasks, every thread takes whole tasks through all phases, so that a task's
// working set stays in its cache; otherwise all threads share each phase. Either way each unit does the same arithmetic
// in the same order, so results are bitwise equal for any number of threads.
#pragma once

#include "core/conv_block.h"
#include "cpu/arena.h"
#include "cpu/for.h"
#include "cpu/parallel.h"

namespace maml_fast {
namespace {

// If threads share phases, they wait for each other several times per pass, which does not pay off for little work.
inline bool GoesByTasks(const ConvBlockShape& s, const Pool& pool) {
  if (pool.threads <= 1 || s.tasks % pool.threads == 0 || s.tasks >= 4 * pool.threads) return true;
  return s.tasks * s.batch * s.ConvPixels() * s.WeightSize() < pool.least_work;
}

// A Pass has: Scratch, MakeScratch(arena, whether one thread runs all of a task), kPhases, Units(phase), Run(phase,
// task, scratch, begin, end).
template <typename Pass>
void RunPass(const Pass& pass, const ConvBlockShape& shape, const Pool& pool) {
  const int64_t tasks = shape.tasks;
  using Scratch = typename Pass::Scratch;
  if (GoesByTasks(shape, pool)) {
    For(pool, tasks, [&](int64_t begin, int64_t end) {
      ArenaScope arena;
      const Scratch scratch = pass.MakeScratch(arena, true);
      for (int64_t task = begin; task < end; ++task) {
        for (int phase = 0; phase < Pass::kPhases; ++phase) pass.Run(phase, task, scratch, 0, pass.Units(phase));
      }
    });
    return;
  }
  ArenaScope arena;
  auto* scratch = arena.Array<Scratch>(tasks);
  for (int64_t task = 0; task < tasks; ++task) scratch[task] = pass.MakeScratch(arena, false);
  for (int phase = 0; phase < Pass::kPhases; ++phase) {
    const int64_t units = pass.Units(phase);
    For(pool, tasks * units, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t task = begin / units, first = begin % units;
        const int64_t past = end - begin < units - first ? first + end - begin : units;
        pass.Run(phase, task, scratch[task], first, past);
        begin += past - first;
      }
    });
  }
}

}  // namespace
}  // namespace maml_fast
