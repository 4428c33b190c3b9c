// Threads for the kernels, which the library keeps for itself.
//
// A loop's ranges are claimed, not assigned: whoever is awake takes them, its own first. So nobody waits for a thread
// that the system has not let run, as on a busy machine, and a loop of little work is done by its caller before others
// have woken up. Idle threads spin for some microseconds, since one loop often follows another, and then sleep.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace maml_fast {

// Runs body on ranges that together are [0, count), at most `threads` of them, and waits for all. Within another such
// call, or beside one of another thread, the caller runs all of it. Throws what the first range to throw threw.
void RunOnThreads(int64_t threads, int64_t count, Pool::Body body, void* context);

}  // namespace maml_fast
