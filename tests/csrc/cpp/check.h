// All that a C++ test needs: CHECK, CHECK_EQ and CHECK_THROWS print what failed, and where, and end the program.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <vector>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__  // as GCC has it
#endif
#endif

namespace maml_fast {

// The thread sanitizer looks for races, and makes everything slow: what one thread does alone is left to the others.
#if defined(__SANITIZE_THREAD__)
constexpr bool kOnlyRaces = true;
#else
constexpr bool kOnlyRaces = false;
#endif

// An emulator is slow: some tests check less. QEMU fails if a process with threads forks.
#if defined(MF_EMULATED)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

// What threads share does not depend on the processor.
inline std::vector<int64_t> SomeThreads() { return kEmulated ? std::vector<int64_t>{3} : std::vector<int64_t>{2, 3}; }

// ThreadSanitizer does not follow a fork that starts threads.
constexpr bool kForkAndThreads = !kOnlyRaces && !kEmulated;

[[noreturn]] inline void Fail(const char* file, int line, const char* what) {
  std::cerr << file << ":" << line << ": failed: " << what << std::endl;
  std::abort();
}

template <typename Left, typename Right>
void CheckEqual(const Left& left, const Right& right, const char* file, int line, const char* what) {
  if (left == right) return;
  std::cerr << left << " is not " << right << "\n";
  Fail(file, line, what);
}

}  // namespace maml_fast

#define CHECK(condition)                                                 \
  do {                                                                   \
    if (!(condition)) ::maml_fast::Fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQ(left, right) ::maml_fast::CheckEqual((left), (right), __FILE__, __LINE__, #left " == " #right)

#define CHECK_THROWS(expression, Exception)                                                \
  do {                                                                                     \
    bool thrown = false;                                                                   \
    try {                                                                                  \
      (void)(expression);                                                                  \
    } catch (const Exception&) {                                                           \
      thrown = true;                                                                       \
    }                                                                                      \
    if (!thrown) ::maml_fast::Fail(__FILE__, __LINE__, #expression " throws " #Exception); \
  } while (false)
