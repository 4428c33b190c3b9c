// The library's own threads for the kernels.
//
// The ranges of a loop are claimed, not assigned: any thread that is awake takes them, starting with its own. So no
// thread waits for one that the system has not scheduled, as happens on a busy machine, and the caller finishes a loop
// of little work before the other threads wake up. Idle threads spin for some microseconds, because one loop often
// follows another, and then sleep.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace maml_fast {

// Runs body on at most `threads` ranges that together cover [0, count), and waits for all of them. Within another such
// call, or during a call from another thread, the caller runs all of it. Rethrows the exception of the first range that
// throws.
void RunOnThreads(int64_t threads, int64_t count, Pool::Body body, void* context);

}  // namespace maml_fast
