// Every range is run once, whoever calls, and whatever is thrown.
#include "cpu/thread_pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/for.h"

namespace maml_fast {
namespace {

Pool PoolOfThree() {
  return {3, [](int64_t count, Pool::Body body, void* context) { RunOnThreads(3, count, body, context); }, 0};
}

// How often each index was run.
std::vector<int> Counts(const Pool& pool, int64_t count) {
  std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
  For(pool, count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++runs[static_cast<size_t>(i)];
  });
  return {runs.begin(), runs.end()};
}

void CheckOnce(const Pool& pool, int64_t count) {
  for (const int runs : Counts(pool, count)) CHECK_EQ(runs, 1);
}

void TestManyLoops() {
  const Pool pool = PoolOfThree();
  for (int i = 0; i < 20000; ++i) CheckOnce(pool, 1 + i % 7);
}

void TestLoopsAfterSleep() {
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    CheckOnce(PoolOfThree(), 5);
  }
}

void TestResultsAreSeen() {
  std::vector<int64_t> written(1000);
  for (int64_t round = 0; round < 2000; ++round) {
    For(PoolOfThree(), 1000, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) written[static_cast<size_t>(i)] = round + i;
    });
    for (int64_t i = 0; i < 1000; ++i) CHECK_EQ(written[static_cast<size_t>(i)], round + i);
  }
}

void TestSeveralCallers() {
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([] {
      for (int j = 0; j < 2000; ++j) CheckOnce(PoolOfThree(), 6);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

void TestLoopInALoop() {
  const Pool pool = PoolOfThree();
  std::atomic<int> inner{0};
  For(pool, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      For(pool, 5, [&](int64_t first, int64_t last) { inner += static_cast<int>(last - first); });
    }
  });
  CHECK_EQ(inner.load(), 20);
}

void TestErrors() {
  const Pool pool = PoolOfThree();
  for (int64_t bad = 0; bad < 3; ++bad) {
    auto run = [&] {
      For(pool, 3, [&](int64_t begin, int64_t end) {
        if (begin <= bad && bad < end) throw std::runtime_error("bad");
      });
    };
    CHECK_THROWS(run(), std::runtime_error);
    CheckOnce(pool, 3);
  }
}

void TestFork() {
  CheckOnce(PoolOfThree(), 3);
  const pid_t child = fork();
  if (child == 0) {
    CheckOnce(PoolOfThree(), 3);
    _exit(0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  CHECK_EQ(status, 0);
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::TestManyLoops();
  maml_fast::TestLoopsAfterSleep();
  maml_fast::TestResultsAreSeen();
  maml_fast::TestSeveralCallers();
  maml_fast::TestLoopInALoop();
  maml_fast::TestErrors();
  if (maml_fast::kForkAndThreads) maml_fast::TestFork();
  return 0;
}
