#pragma once

#include <cstdio>
#include <functional>
#include <string>

// The few lines that the engine's tests need: named checks, counted, with `N passed, N failed` at the end.
namespace omni_id::test {

inline int passed = 0, failed = 0;

inline void check(bool holds, const std::string& what) {
  holds ? ++passed : ++failed;
  if (!holds) std::printf("FAILED  %s\n", what.c_str());
}

// The code that `body` throws, or "" when it throws nothing.
template <typename Error>
std::string code_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

// A run without a single check is a failure too.
inline int finish() {
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace omni_id::test
