// The CUDA runtime, linked statically.
#include "cuda/runtime.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>

#include "base/error.h"
#include "cuda/errors.h"
#include "cuda/probe.h"

namespace omni_id::cuda {

namespace {

cudaStream_t handle_of(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

// What keeps a device from loading kernels, or nothing. A driver older than the runtime (of the same major version) takes what
// was compiled for its device, and refuses what is there as PTX. Asked of no other driver: loading makes a context, which takes
// time and some of the device's memory.
std::string why_no_kernel(int device) {
  int current = 0;
  cudaGetDevice(&current);
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) error = load_probe();
  cudaGetLastError();
  cudaSetDevice(current);
  return error == cudaSuccess ? std::string() : cudaGetErrorString(error);
}

}  // namespace

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  const std::string text = std::string(what) + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
  cudaGetLastError();  // an error that is not sticky is over with this
  if (error == cudaErrorMemoryAllocation) throw EngineError(kOutOfMemory, text);
  throw EngineError(kDevice, text);
}

Devices find_devices() {
  constexpr int kLeastCapability = 80;  // bf16 on tensor cores, cp.async
  Devices devices;
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver || driver == 0) {
    cudaGetLastError();
    devices.reason = driver == 0 ? "there is no NVIDIA driver"
                                 : "the NVIDIA driver supports CUDA " + version_text(driver) + ", CUDA " +
                                       version_text(runtime) + " is needed";
    return devices;
  }
  if (error != cudaSuccess) {
    cudaGetLastError();
    devices.reason = error == cudaErrorNoDevice ? "the NVIDIA driver finds no device" : cudaGetErrorString(error);
    return devices;
  }
  for (int i = 0; i < count; ++i) {
    DeviceProperties& device = devices.found.emplace_back();
    cudaDeviceProp properties;
    if (const cudaError_t failed = cudaGetDeviceProperties(&properties, i); failed != cudaSuccess) {
      cudaGetLastError();
      device.name = "CUDA device " + std::to_string(i);
      device.reason = device.name + " does not answer: " + cudaGetErrorString(failed);
      continue;
    }
    device = {properties.name,
              properties.major * 10 + properties.minor,
              properties.multiProcessorCount,
              properties.totalGlobalMem,
              {}};
    if (device.compute_capability < kLeastCapability) {
      device.reason = device.name + " has compute capability " + std::to_string(properties.major) + "." +
                      std::to_string(properties.minor) + ", 8.0 or newer is needed";
    } else if (driver < runtime) {
      device.reason = why_no_kernel(i);
      if (!device.reason.empty()) {
        device.reason = device.name + " can load no kernel of this build: " + device.reason + "; the driver supports CUDA " +
                        version_text(driver) + ", the build is of CUDA " + version_text(runtime);
      }
    }
  }
  return devices;
}

bool emulated() { return false; }

void use_device(int device) { check(cudaSetDevice(device), "device"); }

Stream::Stream(int device) : device_(device) {
  use_device(device);
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  handle_ = stream;
}

Stream::~Stream() { cudaStreamDestroy(handle_of(*this)); }

void Stream::synchronize() const { check(cudaStreamSynchronize(handle_of(*this)), "kernels"); }

Event::Event(int device, Waits waits) {
  use_device(device);
  cudaEvent_t event;
  const unsigned flags = cudaEventDisableTiming | (waits == Waits::asleep ? cudaEventBlockingSync : 0u);
  check(cudaEventCreateWithFlags(&event, flags), "event");
  handle_ = event;
}

Event::~Event() { cudaEventDestroy(static_cast<cudaEvent_t>(handle_)); }

void Event::record(const Stream& stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(handle_), handle_of(stream)), "event");
}

void Event::synchronize() const { check(cudaEventSynchronize(static_cast<cudaEvent_t>(handle_)), "kernels and copies"); }

namespace {

// What this process has taken of a device's memory and keeps for whoever asks next (CUDA's stream-ordered allocator), until its
// last buffer goes: to give memory back to the driver at every synchronisation and to take it anew costs more than the work of
// a small plan. A pool of its own, since the device's is that of everything in the process that uses CUDA. Some virtual devices
// have no pools: then buffers are the driver's one by one, and releasing waits for the device.
class Pool {
 public:
  explicit Pool(int device) {
    int supported = 0;
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    uint64_t everything = UINT64_MAX;
    if (cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device) != cudaSuccess || !supported ||
        cudaMemPoolCreate(&pool_, &properties) != cudaSuccess ||
        cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &everything) != cudaSuccess) {
      pool_ = nullptr;
    }
    cudaGetLastError();
  }

  cudaError_t take(const Stream& stream, void** memory, size_t bytes) {
    if (!pool_) return cudaMalloc(memory, bytes);
    cudaError_t error = cudaMallocFromPoolAsync(memory, bytes, pool_, handle_of(stream));
    if (error == cudaErrorMemoryAllocation) {  // in one piece, perhaps, when all that is unused is the driver's again
      cudaGetLastError();
      trim(stream);
      error = cudaMallocFromPoolAsync(memory, bytes, pool_, handle_of(stream));
    }
    if (error == cudaSuccess) {
      ++buffers_;
      error = cudaStreamSynchronize(handle_of(stream));
    }
    return error;
  }

  void release(const Stream& stream, void* memory) {
    if (!pool_) {
      cudaFree(memory);
      return;
    }
    cudaFreeAsync(memory, handle_of(stream));
    if (--buffers_ == 0) trim(stream);
  }

  // Bytes that are kept and not used.
  size_t unused() const {
    uint64_t reserved = 0, used = 0;
    if (pool_) {
      cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved);
      cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used);
    }
    return static_cast<size_t>(reserved - used);
  }

 private:
  void trim(const Stream& stream) {
    cudaStreamSynchronize(handle_of(stream));  // what was released is unused then
    cudaMemPoolTrimTo(pool_, 0);
  }

  cudaMemPool_t pool_ = nullptr;
  std::atomic<size_t> buffers_ = 0;
};

Pool& pool_of(int device) {
  static std::mutex mutex;
  static auto* const pools = new std::map<int, Pool>;  // never destroyed: buffers may outlive static objects
  const std::lock_guard lock(mutex);
  return pools->try_emplace(device, device).first->second;
}

}  // namespace

std::byte* allocate(const Stream& stream, size_t bytes) {
  use_device(stream.device());
  void* memory = nullptr;
  Pool& pool = pool_of(stream.device());
  const cudaError_t error = pool.take(stream, &memory, std::max<size_t>(bytes, 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw EngineError(kOutOfMemory, "no " + std::to_string(bytes) + " bytes of memory on CUDA device " +
                                        std::to_string(stream.device()) + ": " + std::to_string(free + pool.unused()) + " of " +
                                        std::to_string(total) + " bytes are free");
  }
  check(error, "memory");
  return static_cast<std::byte*>(memory);
}

void release(const Stream& stream, std::byte* memory) noexcept {
  if (cudaSetDevice(stream.device()) != cudaSuccess) return;  // the process ends, and the device is gone already
  pool_of(stream.device()).release(stream, memory);
}

std::byte* allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  if (cudaMallocHost(&memory, bytes) != cudaSuccess) {
    cudaGetLastError();
    throw EngineError(kOutOfMemory, "no " + std::to_string(bytes) + " bytes of page-locked memory");
  }
  return static_cast<std::byte*>(memory);
}

void release_pinned(std::byte* memory) noexcept { cudaFreeHost(memory); }

void copy_to_device(const Stream& stream, std::byte* to, const void* from, size_t bytes) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, handle_of(stream)), "copy to the device");
}

void copy_to_host(const Stream& stream, void* to, const std::byte* from, size_t bytes) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, handle_of(stream)), "copy to the host");
}

void fill_zeros(const Stream& stream, std::byte* to, size_t bytes) {
  if (bytes > 0) check(cudaMemsetAsync(to, 0, bytes, handle_of(stream)), "zeros");
}

Recording::Recording(const Stream& stream, const std::function<void()>& body) {
  check(cudaStreamBeginCapture(handle_of(stream), cudaStreamCaptureModeThreadLocal), "recording");
  cudaGraph_t graph = nullptr;
  try {
    body();
  } catch (...) {
    cudaStreamEndCapture(handle_of(stream), &graph);
    if (graph) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(handle_of(stream), &graph), "recording");
  cudaGraphExec_t executable;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "recording");
  handle_ = executable;
}

Recording::~Recording() { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_)); }

void Recording::launch(const Stream& stream) const {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), handle_of(stream)), "recorded work");
}

void declare_regions(const std::string&, std::vector<Region>) {}

}  // namespace omni_id::cuda
