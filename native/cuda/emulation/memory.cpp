#include "cuda/emulation/memory.h"

#include <link.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "cuda/emulation/findings.h"

namespace omni_id::emulation {

namespace {

constexpr size_t kGranule = 2;  // bytes that one cell watches: the smallest type that two threads may write side by side
constexpr uint16_t kNobody = 0xffff;
constexpr uint16_t kSeveral = 0xfffe;

// What has happened to two bytes during a launch. Phases count barriers.
struct Cell {
  uint32_t launch = 0;  // older ones are as good as empty
  uint32_t block = 0;   // of the last access; global memory only
  uint32_t write_phase = 0, write_warp_phase = 0;
  uint32_t read_phase = 0, read_warp_phase = 0;
  uint16_t writer = kNobody;
  uint16_t reader = kNobody;       // kSeveral: several threads of one warp
  uint16_t reader_warp = kNobody;  // kSeveral: of several warps
  bool written = false;            // shared memory only: holds a value
  bool copying = false;            // destination of an unfinished cp.async
  bool several_blocks = false;     // readers of other blocks too
};

constexpr size_t kPageBytes = 4096;
struct Page {
  Cell cells[kPageBytes / kGranule];
};

struct Copy {
  std::byte* to;
  const std::byte* from;
  uint16_t bytes, valid;
};
struct Copies {
  std::vector<Copy> open;                 // not yet committed
  std::vector<std::vector<Copy>> groups;  // oldest first
};

struct Memory {
  std::byte* shared = nullptr;
  size_t shared_bytes = 0;
  std::vector<Cell> shared_cells;
  std::shared_ptr<const Regions> regions;
  const cuda::Region* last_region = nullptr;
  const std::byte* parameters = nullptr;
  size_t parameter_bytes = 0;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
  uintptr_t last_page_number = 0;
  Page* last_page = nullptr;
  std::vector<Copies> copies;  // of each thread
};

Memory& memory() {
  static auto* all = new Memory;
  return *all;
}

std::string thread_text(uint16_t thread, uint16_t warp) {
  if (thread == kSeveral)
    return warp == kSeveral ? "threads of several warps" : "several threads of warp " + std::to_string(warp);
  return "thread " + std::to_string(thread);
}

// "an access of 4 bytes at shared memory + 0x40"
std::string access_text(const std::byte* address, size_t bytes, bool write) {
  const Memory& m = memory();
  std::string text = (write ? "a write of " : "a read of ") + std::to_string(bytes) + " bytes at ";
  const auto hexadecimal = [](size_t value) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "0x%zx", value);
    return std::string(buffer);
  };
  if (address >= m.shared && address < m.shared + kMostSharedBytes) {
    return text + "shared memory + " + hexadecimal(static_cast<size_t>(address - m.shared));
  }
  if (m.regions) {
    // The region that begins last before the address is the one that was meant.
    const cuda::Region* nearest = nullptr;
    for (const cuda::Region& region : *m.regions) {
      if (region.data <= address && (!nearest || region.data > nearest->data)) nearest = &region;
    }
    if (nearest) return text + nearest->name + " + " + hexadecimal(static_cast<size_t>(address - nearest->data));
  }
  return text + hexadecimal(reinterpret_cast<size_t>(address));
}

[[noreturn]] void refuse(const std::byte* address, size_t bytes, bool write, const std::string& why, Place at) {
  report(access_text(address, bytes, write) + " " + why, at);
}

// The cells' rule: whether what `cell` remembers happened before an access by `now`, and what to remember of it.
void judge(Cell& cell, const Actor& now, bool is_shared, bool write, const std::byte* address, size_t bytes, Place at) {
  if (cell.launch != now.launch) {
    const bool written = is_shared && cell.launch != 0 && cell.written;  // shared cells are cleared at a block's start
    cell = Cell{};
    cell.launch = now.launch;
    cell.block = now.block;
    cell.written = written;
  }
  if (cell.copying) refuse(address, bytes, write, "touches what a cp.async is still copying to: its wait is missing", at);
  const bool other_block = cell.block != now.block;
  if (cell.writer != kNobody && (other_block || cell.writer != now.thread)) {
    const bool same_warp = !other_block && cell.writer / 32 == now.warp;
    const bool before =
        !other_block && (cell.write_phase != now.block_phase || (same_warp && cell.write_warp_phase != now.warp_phase));
    if (!before) {
      refuse(address, bytes, write,
             std::string("races with the write of ") + (other_block ? "block " + std::to_string(cell.block) + ", " : "") +
                 thread_text(cell.writer, 0),
             at);
    }
  }
  if (write && cell.reader != kNobody) {
    bool before;
    if (other_block || cell.several_blocks) {
      before = false;
    } else if (cell.read_phase != now.block_phase) {
      before = true;
    } else if (cell.reader_warp == kSeveral || cell.reader_warp != now.warp) {
      before = false;
    } else {
      before = cell.reader == now.thread || cell.read_warp_phase != now.warp_phase;
    }
    if (!before) {
      refuse(address, bytes, write,
             std::string("races with the read of ") + (other_block || cell.several_blocks ? "another block, " : "") +
                 thread_text(cell.reader, cell.reader_warp),
             at);
    }
  }
  if (write) {
    cell.block = now.block;
    cell.writer = now.thread;
    cell.write_phase = now.block_phase;
    cell.write_warp_phase = now.warp_phase;
    cell.reader = cell.reader_warp = kNobody;
    cell.written = true;
    return;
  }
  if (other_block) {
    cell.several_blocks = cell.several_blocks || cell.reader != kNobody;
    cell.block = now.block;
    cell.reader = now.thread;
    cell.reader_warp = now.warp;
    cell.read_phase = now.block_phase;
    cell.read_warp_phase = now.warp_phase;
  } else if (cell.reader == kNobody || cell.read_phase != now.block_phase) {
    cell.reader = now.thread;
    cell.reader_warp = now.warp;
    cell.read_phase = now.block_phase;
    cell.read_warp_phase = now.warp_phase;
  } else {
    if (cell.reader_warp != now.warp) cell.reader_warp = kSeveral;
    if (cell.reader != now.thread) cell.reader = kSeveral;
    cell.read_warp_phase = now.warp_phase;
  }
}

Cell* global_cells(const std::byte* address) {
  Memory& m = memory();
  const uintptr_t number = reinterpret_cast<uintptr_t>(address) / kPageBytes;
  if (number != m.last_page_number || !m.last_page) {
    std::unique_ptr<Page>& page = m.pages[number];
    if (!page) page = std::make_unique<Page>();
    m.last_page_number = number;
    m.last_page = page.get();
  }
  return m.last_page->cells + reinterpret_cast<uintptr_t>(address) % kPageBytes / kGranule;
}

bool holds(const cuda::Region& region, const std::byte* address, size_t bytes) {
  if (address < region.data) return false;
  const size_t offset = static_cast<size_t>(address - region.data);
  if (region.rows <= 1 || region.pitch_bytes == region.row_bytes) return offset + bytes <= region.rows * region.row_bytes;
  return offset / region.pitch_bytes < region.rows && offset % region.pitch_bytes + bytes <= region.row_bytes;
}

void check_global(const std::byte* address, size_t bytes, bool write, Place at) {
  Memory& m = memory();
  if (!m.regions) {
    if (!is_device_memory(address, bytes)) refuse(address, bytes, write, "is outside of every allocation", at);
    return;
  }
  if (m.last_region && holds(*m.last_region, address, bytes) && (!write || m.last_region->writable)) return;
  bool read_only = false;
  for (const cuda::Region& region : *m.regions) {
    if (!holds(region, address, bytes)) continue;
    if (write && !region.writable) {
      read_only = true;
      continue;
    }
    m.last_region = &region;
    return;
  }
  if (read_only) refuse(address, bytes, write, "writes to what is only to be read", at);
  std::string known;
  for (const cuda::Region& region : *m.regions) {
    known += (known.empty() ? "" : ", ") + region.name + " (" + std::to_string(region.rows) + " rows of " +
             std::to_string(region.row_bytes) + " bytes)";
  }
  refuse(address, bytes, write, "is outside of every operand; there are " + known, at);
}

// Where this file of code, a program or an addon, lies in memory.
struct Image {
  const char *begin = nullptr, *end = nullptr;

  Image() {
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* image) {
          Image loaded{nullptr, nullptr};
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& segment = info->dlpi_phdr[i];
            if (segment.p_type != PT_LOAD) continue;
            const auto* begin = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
            if (!loaded.begin || begin < loaded.begin) loaded.begin = begin;
            loaded.end = std::max(loaded.end, begin + segment.p_memsz);
          }
          const auto* own = reinterpret_cast<const char*>(&allocate_device_memory);
          if (own < loaded.begin || own >= loaded.end) return 0;
          *static_cast<Image*>(image) = loaded;
          return 1;
        },
        this);
  }
  Image(const char* first, const char* last) : begin(first), end(last) {}
};

bool is_constant(const std::byte* address) {
  static const Image image;
  const auto* at = reinterpret_cast<const char*>(address);
  return at >= image.begin && at < image.end;
}

}  // namespace

void begin_launch(std::shared_ptr<const Regions> regions, const void* parameters, size_t parameter_bytes) {
  Memory& m = memory();
  m.regions = std::move(regions);
  m.last_region = nullptr;
  m.parameters = static_cast<const std::byte*>(parameters);
  m.parameter_bytes = parameter_bytes;
}

void begin_block(std::byte* shared, size_t bytes) {
  Memory& m = memory();
  m.shared = shared;
  m.shared_bytes = bytes;
  std::memset(shared, 0xff, bytes);
  m.shared_cells.assign((bytes + kGranule - 1) / kGranule, Cell{});
  m.copies.assign(1024, {});
}

void extend_block(size_t offset, size_t bytes) {
  Memory& m = memory();
  std::memset(m.shared + m.shared_bytes, 0xff, offset + bytes - m.shared_bytes);
  m.shared_bytes = offset + bytes;
  m.shared_cells.resize((m.shared_bytes + kGranule - 1) / kGranule);
}

// An access of a thread to memory that is not on its stack.
static void judge_access(const Actor& actor, const std::byte* address, size_t bytes, bool write, Place at) {
  Memory& m = memory();
  if (address >= m.parameters && address < m.parameters + m.parameter_bytes) return;
  const bool is_shared = address >= m.shared && address < m.shared + kMostSharedBytes;
  if (!is_shared && !write && is_constant(address)) return;
  if (reinterpret_cast<uintptr_t>(address) % std::min<size_t>(bytes, 16) != 0) {
    refuse(address, bytes, write, "is not aligned to its size", at);
  }
  if (is_shared) {
    const size_t offset = static_cast<size_t>(address - m.shared);
    if (offset + bytes > m.shared_bytes) {
      refuse(address, bytes, write, "is beyond the block's " + std::to_string(m.shared_bytes) + " bytes of shared memory", at);
    }
    Cell* cells = m.shared_cells.data() + offset / kGranule;
    for (size_t i = 0; i < (bytes + kGranule - 1) / kGranule; ++i) {
      if (cells[i].launch == 0) {
        cells[i].launch = actor.launch;
        cells[i].block = actor.block;
      }
      if (!write && !cells[i].copying && !cells[i].written) {
        refuse(address, bytes, write, "finds shared memory that nobody has written", at);
      }
      judge(cells[i], actor, true, write, address, bytes, at);
    }
    return;
  }
  check_global(address, bytes, write, at);
  for (size_t i = 0; i < bytes; i += kGranule) {
    judge(*global_cells(address + i), actor, false, write, address, bytes, at);
  }
}

void access(const void* where, size_t bytes, bool write, Place at) {
  const Running* const now = running;
  if (!now) return;  // the host's, or the emulation's own
  const auto* address = static_cast<const std::byte*>(where);
  if (address >= now->stack_begin && address < now->stack_end) return;
  const OwnCode own;
  judge_access(now->actor, address, bytes, write, at);
}

void start_copy(std::byte* shared, const std::byte* global, size_t bytes, size_t valid, Place at) {
  const OwnCode own;
  const Actor& actor = own.lane->actor;
  Memory& m = memory();
  if (valid > bytes)
    report("cp.async of " + std::to_string(bytes) + " bytes, of which " + std::to_string(valid) + " are read", at);
  if (shared < m.shared || shared >= m.shared + m.shared_bytes) report("cp.async to what is not shared memory", at);
  judge_access(actor, shared, bytes, true, at);
  if (reinterpret_cast<uintptr_t>(global) % bytes != 0)
    refuse(global, bytes, false, "by cp.async is not aligned to its size", at);
  for (size_t i = 0; i < valid; i += kGranule) judge_access(actor, global + i, std::min(kGranule, valid - i), false, at);
  std::memset(shared, 0xff, bytes);
  Cell* cells = m.shared_cells.data() + static_cast<size_t>(shared - m.shared) / kGranule;
  for (size_t i = 0; i < bytes / kGranule; ++i) cells[i].copying = true;
  m.copies[actor.thread].open.push_back({shared, global, static_cast<uint16_t>(bytes), static_cast<uint16_t>(valid)});
}

void commit_copies() {
  const OwnCode own;
  Copies& mine = memory().copies[own.lane->actor.thread];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void wait_for_copies(size_t pending) {
  const OwnCode own;
  const Actor& actor = own.lane->actor;
  Memory& m = memory();
  Copies& mine = m.copies[actor.thread];
  while (mine.groups.size() > pending) {
    for (const Copy& copy : mine.groups.front()) {
      std::memcpy(copy.to, copy.from, copy.valid);
      std::memset(copy.to + copy.valid, 0, copy.bytes - copy.valid);
      Cell* cells = m.shared_cells.data() + static_cast<size_t>(copy.to - m.shared) / kGranule;
      // The data arrive now: seen by this thread, and by others after their next barrier.
      for (size_t i = 0; i < copy.bytes / kGranule; ++i) {
        cells[i].copying = false;
        cells[i].write_phase = actor.block_phase;
        cells[i].write_warp_phase = actor.warp_phase;
      }
    }
    mine.groups.erase(mine.groups.begin());
  }
}

void end_thread() {
  const OwnCode own;
  const Copies& mine = memory().copies[own.lane->actor.thread];
  size_t copies = mine.open.size();
  for (const auto& group : mine.groups) copies += group.size();
  if (copies > 0) report("the thread ends with " + std::to_string(copies) + " cp.async copies that it never waited for");
}

}  // namespace omni_id::emulation
