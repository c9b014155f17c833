#include "cpu/isa.h"

#include <cstdlib>
#include <fstream>

#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace omni_id {

namespace {

struct Isa {
  const char* name;
  const cpu::KernelTable& (*kernels)();
  bool (*supported)();
};

#if defined(__x86_64__)

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false;
};

Features detect() {
  Features features;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
  const bool fma = c & (1u << 12), osxsave = c & (1u << 27), f16c = c & (1u << 29);
  if (!osxsave || !fma || !f16c) return features;
  // The processor having the registers is not enough: the operating system must save them too (XCR0).
  unsigned xcr0, high;
  asm volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  if ((xcr0 & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
  features.avx2 = b & (1u << 5);
  const unsigned f_dq_bw_vl = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
  features.avx512 = features.avx2 && (xcr0 & 0xe6) == 0xe6 && (b & f_dq_bw_vl) == f_dq_bw_vl;
  if (features.avx512 && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) features.avx512bf16 = a & (1u << 5);
  return features;
}

const Features& features() {
  static const Features detected = detect();
  return detected;
}

#elif defined(__aarch64__)

// HWCAP2_BF16 of the kernel's ABI (BFDOT, BFMMLA and BFCVT), which C libraries older than the extension do not name.
constexpr unsigned long kHwcap2Bf16 = 1ul << 14;

#endif

// Best first.
constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512bf16", cpu::avx512bf16::kernels, [] { return features().avx512bf16; }},
    {"avx512", cpu::avx512::kernels, [] { return features().avx512; }},
    {"avx2", cpu::avx2::kernels, [] { return features().avx2; }},
#elif defined(__aarch64__)
    {"neonbf16", cpu::neonbf16::kernels, [] { return (getauxval(AT_HWCAP2) & kHwcap2Bf16) != 0; }},
    {"neon", cpu::neon::kernels, [] { return true; }},  // a part of the 64-bit Arm architecture
#endif
    {"portable", cpu::portable::kernels, [] { return true; }},
};

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) {
    if (isa.supported()) names.emplace_back(isa.name);
  }
  return names;
}

const cpu::KernelTable& kernels_for(const std::string& requested) {
  std::string name = requested;
  if (name.empty()) {
    if (const char* forced = std::getenv("OMNI_ID_ISA")) name = forced;
  }
  std::string known;
  for (const Isa& isa : kIsas) {
    if (name.empty() && isa.supported()) return isa.kernels();
    if (name == isa.name) {
      if (isa.supported()) return isa.kernels();
      throw EngineError(kDeviceUnavailable, "OMNI_ID_ISA=" + name + ": " + processor_name() +
                                                " does not have this instruction set; it has " + available_isas().front() +
                                                " at best");
    }
    known += std::string(known.empty() ? "" : ", ") + isa.name;
  }
  throw EngineError(kInvalidArgument, "OMNI_ID_ISA=" + name + " is unknown: expected one of " + known);
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
#if defined(__x86_64__)
  return "x86-64 processor";
#elif defined(__aarch64__)
  return "arm64 processor";
#else
  return "processor";
#endif
}

}  // namespace omni_id
