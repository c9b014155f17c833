#include "cuda/emulation/findings.h"

#include <backtrace.h>

#include <cstring>

namespace omni_id::emulation {

namespace {

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// "kernel = …" of GCC's description of launch<kernel>, without namespaces and types of arguments.
std::string kernel_name(const std::string& described) {
  const size_t begin = described.find("kernel = ");
  if (begin == std::string::npos) return described;
  std::string name = described.substr(begin + std::strlen("kernel = "));
  name = name.substr(0, name.find(';'));
  if (!name.empty() && name.back() == ']') name.pop_back();
  for (const char* prefix : {"omni_id::cuda::", "(anonymous namespace)::", "{anonymous}::"}) {
    for (size_t at; (at = name.find(prefix)) != std::string::npos;) name.erase(at, std::strlen(prefix));
  }
  return name;
}

}  // namespace

std::string place_text(Place at) { return at.file ? file_name(at.file) + ":" + std::to_string(at.line) : "an unknown place"; }

std::string calling_place() {
  static backtrace_state* state = backtrace_create_state(nullptr, 0, nullptr, nullptr);
  std::string place;
  // The first frame in a kernel's source: .cu, or a header of kernels, .cuh.
  backtrace_full(
      state, 1,
      [](void* found, uintptr_t, const char* file, int line, const char*) {
        const std::string name = file ? file_name(file) : "";
        const bool is_kernel = name.ends_with(".cu") || name.ends_with(".cuh");
        if (is_kernel) *static_cast<std::string*>(found) = name + ":" + std::to_string(line);
        return is_kernel ? 1 : 0;
      },
      [](void*, const char*, int) {}, &place);
  return place;
}

std::string finding_text(const Launch& launch, uint3 block, const uint3* thread, const std::string& what, Place at) {
  const std::string place = at.file ? place_text(at) : thread ? calling_place() : "";
  std::string text = "emulated CUDA kernel " + kernel_name(launch.name);
  if (thread) {
    text += ", block (" + std::to_string(block.x) + ", " + std::to_string(block.y) + ", " + std::to_string(block.z) +
            "), thread " + std::to_string(thread->x);
  }
  if (!place.empty()) text += ", " + place;
  return text + ": " + what;
}

}  // namespace omni_id::emulation
