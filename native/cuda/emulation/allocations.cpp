// The emulated device's allocations.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "base/error.h"
#include "cuda/emulation/memory.h"

namespace omni_id::emulation {

namespace {

struct Allocations {
  std::mutex mutex;
  std::map<const std::byte*, size_t> sizes;
  size_t bytes = 0;
};

Allocations& allocations() {
  static auto* all = new Allocations;
  return *all;
}

}  // namespace

size_t device_memory_limit() {
  const char* given = std::getenv("OMNI_ID_EMULATED_MEMORY");
  return given && *given ? std::strtoull(given, nullptr, 10) : size_t{16} << 30;
}

std::byte* allocate_device_memory(size_t bytes) {
  Allocations& all = allocations();
  const std::lock_guard lock(all.mutex);
  const size_t size = (std::max<size_t>(bytes, 1) + 255) / 256 * 256;
  void* memory = all.bytes + size > device_memory_limit() ? nullptr : std::aligned_alloc(256, size);
  if (!memory) throw EngineError(kOutOfMemory, "no " + std::to_string(bytes) + " bytes of device memory");
  std::memset(memory, 0xff, size);  // NaN: what is read before it is written shows
  all.sizes[static_cast<std::byte*>(memory)] = bytes;
  all.bytes += size;
  return static_cast<std::byte*>(memory);
}

void release_device_memory(std::byte* memory) noexcept {
  Allocations& all = allocations();
  const std::lock_guard lock(all.mutex);
  const auto found = all.sizes.find(memory);
  if (found == all.sizes.end()) return;
  all.bytes -= (std::max<size_t>(found->second, 1) + 255) / 256 * 256;
  all.sizes.erase(found);
  std::free(memory);
}

bool is_device_memory(const std::byte* address, size_t bytes) {
  Allocations& all = allocations();
  const std::lock_guard lock(all.mutex);
  auto after = all.sizes.upper_bound(address);
  if (after == all.sizes.begin()) return false;
  --after;
  return static_cast<size_t>(address - after->first) + bytes <= after->second;
}

}  // namespace omni_id::emulation
