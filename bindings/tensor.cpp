#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/float_formats.h"
#include "cpu/device.h"
#include "cuda/device.h"
#include "objects.h"
#include "values.h"

namespace omni_id::bindings {

Napi::Function DeviceObject::define(Napi::Env env) {
  return DefineClass(env, "Device",
                     {InstanceMethod<&DeviceObject::describe>("describe"), InstanceMethod<&DeviceObject::memory>("memory"),
                      InstanceMethod<&DeviceObject::measure_peak>("measurePeak")});
}

namespace {

constexpr const char* kCuda = "cuda";

// The number of "cuda:1"; 0 for "cuda" itself.
int cuda_number(const std::string& name) {
  const std::string rest = name.substr(std::strlen(kCuda));
  if (rest.empty()) return 0;
  int number = -1;
  const char* end = rest.data() + rest.size();
  if (rest[0] != ':' || std::from_chars(rest.data() + 1, end, number).ptr != end || number < 0) {
    throw EngineError(kInvalidArgument, "unknown device \"" + name + "\": expected \"cpu\", \"cuda\" or \"cuda:1\"");
  }
  return number;
}

}  // namespace

// new Device(name, threads?, isa?): "cpu", of which the other two are, "cuda" or "cuda:1".
DeviceObject::DeviceObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&] {
    const std::string name = string_from(info[0], "device");
    if (name.starts_with(kCuda)) {
      engine_ = open_cuda_device(cuda_number(name));
      return;
    }
    if (name != "cpu") throw EngineError(kInvalidArgument, "unknown device \"" + name + "\"");
    const int threads = info[1].IsUndefined() ? 0 : static_cast<int>(integer_from(info[1], "threads"));
    engine_ = open_cpu_device(threads, info[2].IsUndefined() ? std::string() : string_from(info[2], "isa"));
  });
}

// cudaDevices(): { devices: { name, computeCapability, multiprocessors, memoryBytes, reason }[], emulated, reason }; `reason`
// tells why a device cannot be used, or why there are none.
Napi::Value cuda_devices(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const cuda::Devices devices = cuda::find_devices();
    Napi::Array array = Napi::Array::New(info.Env(), devices.found.size());
    for (size_t i = 0; i < devices.found.size(); ++i) {
      const cuda::DeviceProperties& device = devices.found[i];
      Napi::Object object = Napi::Object::New(info.Env());
      object.Set("name", device.name);
      object.Set("computeCapability",
                 std::to_string(device.compute_capability / 10) + "." + std::to_string(device.compute_capability % 10));
      object.Set("multiprocessors", device.multiprocessors);
      object.Set("memoryBytes", static_cast<double>(device.memory_bytes));
      object.Set("reason", device.reason);
      array.Set(static_cast<uint32_t>(i), object);
    }
    Napi::Object result = Napi::Object::New(info.Env());
    result.Set("devices", array);
    result.Set("emulated", cuda::emulated());
    result.Set("reason", devices.reason);
    return result;
  });
}

Napi::Value DeviceObject::describe(const Napi::CallbackInfo& info) {
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("kind", engine_->kind());
  object.Set("instructionSet", engine_->instruction_set());
  object.Set("threads", engine_->threads());
  return object;
}

Napi::Value DeviceObject::memory(const Napi::CallbackInfo& info) {
  const DeviceMemory memory = engine_->memory();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("currentBytes", static_cast<double>(memory.current_bytes));
  object.Set("peakBytes", static_cast<double>(memory.peak_bytes));
  return object;
}

Napi::Value DeviceObject::measure_peak(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string name = string_from(info[0], "what");
    const std::map<std::string, Peak> known = {{"f32", Peak::f32}, {"bf16", Peak::bf16}, {"memoryRead", Peak::memory_read}};
    const auto what = known.find(name);
    if (what == known.end() || !info[1].IsNumber()) {
      throw EngineError(kInvalidArgument, "measurePeak: \"" + name + "\", expected f32, bf16 or memoryRead, and seconds");
    }
    const double seconds = info[1].As<Napi::Number>().DoubleValue();
    const auto device = engine();
    const auto result = std::make_shared<double>(0.0);
    return Environment::of(info.Env())
        .submit(
            info.Env(), device->queue(), std::make_shared<std::atomic<bool>>(false),
            [device, peak = what->second, seconds, result] { *result = device->measure_peak(peak, seconds); },
            [result](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *result); });
  });
}

Napi::Function TensorObject::define(Napi::Env env) {
  return DefineClass(env, "Tensor",
                     {InstanceMethod<&TensorObject::write>("write"), InstanceMethod<&TensorObject::read>("read"),
                      InstanceMethod<&TensorObject::dispose>("dispose")});
}

TensorObject::TensorObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&] {
    const auto& device = unwrap<DeviceObject>(info[0], Environment::of(info.Env()).device, "a Device").engine();
    const TensorType type = type_from(info[1]);
    engine_ = std::make_shared<TensorData>(TensorData{type, device, device->allocate(type.bytes())});
    reported_ = static_cast<int64_t>(type.bytes());
    report_memory(info.Env(), reported_);
  });
}

TensorObject::~TensorObject() {
  if (reported_) report_memory(Env(), -reported_);
}

void TensorObject::dispose(const Napi::CallbackInfo& info) {
  engine_.reset();
  report_memory(info.Env(), -reported_);
  reported_ = 0;
}

// write(values: Float32Array | Int32Array, firstElement): the index of the first value that is not finite, or −1 when all were
// written. Nothing is written otherwise. Floats are rounded for a bf16 tensor.
Napi::Value TensorObject::write(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const TensorData& tensor = *engine();
    if (!info[0].IsTypedArray()) throw EngineError(kInvalidArgument, "write: expected a typed array");
    const auto array = info[0].As<Napi::TypedArray>();
    const bool floats = tensor.type.dtype == DType::f32 || tensor.type.dtype == DType::bf16;
    const bool fits = (array.TypedArrayType() == napi_float32_array && floats) ||
                      (array.TypedArrayType() == napi_int32_array && tensor.type.dtype == DType::i32);
    if (!fits) throw EngineError(kInvalidArgument, "write: the array's type is not the tensor's, " + to_string(tensor.type));
    const int64_t first = integer_from(info[1], "first element"), total = tensor.type.elements();
    const int64_t count = static_cast<int64_t>(array.ElementLength());
    if (first < 0 || count > total || first > total - count) {
      throw EngineError(kInvalidArgument, "write: elements " + std::to_string(first) + " + " + std::to_string(count) + " of " +
                                              to_string(tensor.type));
    }
    const auto* bytes = static_cast<const std::byte*>(array.ArrayBuffer().Data()) + array.ByteOffset();
    if (floats) {
      const int64_t bad = first_not_finite(reinterpret_cast<const float*>(bytes), count);
      if (bad >= 0) return Napi::Number::New(info.Env(), static_cast<double>(bad));
    }
    if (tensor.type.dtype == DType::bf16) {
      const auto* values = reinterpret_cast<const float*>(bytes);
      std::vector<uint16_t> rounded(static_cast<size_t>(count));
      std::transform(values, values + count, rounded.begin(), bf16_from_float);
      tensor.device->write(*tensor.buffer, static_cast<size_t>(first) * 2, rounded.data(), static_cast<size_t>(count) * 2);
    } else {
      tensor.device->write(*tensor.buffer, static_cast<size_t>(first) * 4, bytes, static_cast<size_t>(count) * 4);
    }
    return Napi::Number::New(info.Env(), -1);
  });
}

// read(firstElement, count): a copy, Float32Array (also of bf16) or Int32Array.
Napi::Value TensorObject::read(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const TensorData& tensor = *engine();
    const int64_t first = integer_from(info[0], "first element"), count = integer_from(info[1], "count");
    const int64_t total = tensor.type.elements();
    if (first < 0 || count < 0 || count > total || first > total - count) {
      throw EngineError(kInvalidArgument, "read: elements " + std::to_string(first) + " + " + std::to_string(count) + " of " +
                                              to_string(tensor.type));
    }
    const auto n = static_cast<size_t>(count);
    Napi::ArrayBuffer memory = Napi::ArrayBuffer::New(info.Env(), n * 4);
    if (tensor.type.dtype == DType::bf16) {
      std::vector<uint16_t> halves(n);
      tensor.device->read(*tensor.buffer, static_cast<size_t>(first) * 2, halves.data(), n * 2);
      std::transform(halves.begin(), halves.end(), static_cast<float*>(memory.Data()), float_from_bf16);
    } else {
      tensor.device->read(*tensor.buffer, static_cast<size_t>(first) * 4, memory.Data(), n * 4);
    }
    if (tensor.type.dtype == DType::i32) return Napi::Int32Array::New(info.Env(), n, memory, 0);
    return Napi::Float32Array::New(info.Env(), n, memory, 0);
  });
}

}  // namespace omni_id::bindings
