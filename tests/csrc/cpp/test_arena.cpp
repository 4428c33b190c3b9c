// A thread's scratch memory: kept from call to call, and given back when calls have become small.
#include "cpu/arena.h"

#include "check.h"

using maml_fast::ArenaScope;

namespace {

constexpr size_t kLarge = size_t{64} << 20, kSmall = size_t{1} << 16;

void Call(size_t bytes) {
  ArenaScope arena;
  static_cast<char*>(arena.Allocate(bytes))[bytes - 1] = 1;
}

void TestKeepsWhatCallsNeed() {
  for (int i = 0; i < 10; ++i) Call(kLarge);
  const size_t held = ArenaScope::Held();
  CHECK(held >= kLarge);
  for (int i = 0; i < 10; ++i) {
    for (int j = 0; j < 1000; ++j) Call(kSmall);
    Call(kLarge);
  }
  CHECK(ArenaScope::Held() == held);
}

void TestGivesBackWhatOneCallNeeded() {
  Call(kLarge);
  for (int i = 0; i < 5000; ++i) Call(kSmall);
  CHECK(ArenaScope::Held() < kLarge / 8);
}

void TestInnerScopesCount() {
  for (int i = 0; i < 10; ++i) {
    ArenaScope outer;
    outer.Allocate(kSmall);
    Call(kLarge);
  }
  CHECK(ArenaScope::Held() >= kLarge);
}

}  // namespace

int main() {
  TestKeepsWhatCallsNeed();
  TestGivesBackWhatOneCallNeeded();
  TestInnerScopesCount();
  return 0;
}
