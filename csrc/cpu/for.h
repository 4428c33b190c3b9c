// A loop whose iterations the threads of a pool share.
#pragma once

#include "cpu/parallel.h"

namespace maml_fast {
namespace {

// Calls f(begin, end) for ranges that together cover [0, count).
template <typename F>
void For(const Pool& pool, int64_t count, const F& f) {
  auto body = [](void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); };
  void* context = const_cast<void*>(static_cast<const void*>(&f));
  if (pool.threads <= 1 || count <= 1) return body(context, 0, count);
  pool.run(count, body, context);
}

}  // namespace
}  // namespace maml_fast
