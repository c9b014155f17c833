#include <cstring>

#include "base/error.h"
#include "objects.h"
#include "values.h"

namespace omni_id::bindings {

namespace {

size_t size_from(const Napi::Value& value, const char* what) {
  const int64_t size = integer_from(value, what);
  if (size < 0)
    throw EngineError(kInvalidArgument, std::string(what) + " is " + std::to_string(size) + ", expected at least 0");
  return static_cast<size_t>(size);
}

Napi::Uint8Array copy_of(Napi::Env env, const std::byte* data, size_t bytes) {
  Napi::Uint8Array array = Napi::Uint8Array::New(env, bytes);
  if (bytes) std::memcpy(array.Data(), data, bytes);
  return array;
}

void check_range(size_t offset, size_t bytes, size_t total, const char* what) {
  if (offset > total || bytes > total - offset) {
    throw EngineError(kInvalidArgument, std::string(what) + ": bytes " + std::to_string(offset) + " + " +
                                            std::to_string(bytes) + " of " + std::to_string(total));
  }
}

}  // namespace

Napi::Function MappedFileObject::define(Napi::Env env) {
  return DefineClass(env, "MappedFile",
                     {InstanceAccessor<&MappedFileObject::byte_length>("byteLength"),
                      InstanceMethod<&MappedFileObject::bytes>("bytes"), InstanceMethod<&MappedFileObject::close>("close")});
}

MappedFileObject::MappedFileObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&] { engine_ = std::make_shared<MappedFile>(string_from(info[0], "path")); });
}

Napi::Value MappedFileObject::byte_length(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), static_cast<double>(engine()->size())); });
}

Napi::Value MappedFileObject::bytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const size_t offset = size_from(info[0], "offset"), bytes = size_from(info[1], "length");
    check_range(offset, bytes, engine()->size(), "bytes");
    return copy_of(info.Env(), engine()->data() + offset, bytes);
  });
}

void MappedFileObject::close(const Napi::CallbackInfo&) { engine_.reset(); }

Napi::Function WeightsObject::define(Napi::Env env) {
  return DefineClass(
      env, "Weights",
      {InstanceMethod<&WeightsObject::set_mapped>("setMapped"), InstanceMethod<&WeightsObject::set>("set"),
       InstanceMethod<&WeightsObject::set_normal>("setNormal"), InstanceMethod<&WeightsObject::names>("names"),
       InstanceMethod<&WeightsObject::type>("type"), InstanceMethod<&WeightsObject::read>("read"),
       InstanceMethod<&WeightsObject::packed>("packed"), InstanceMethod<&WeightsObject::read_packed>("readPacked"),
       InstanceMethod<&WeightsObject::set_packed>("setPacked"), InstanceMethod<&WeightsObject::dispose>("dispose")});
}

WeightsObject::WeightsObject(const Napi::CallbackInfo& info) : ObjectWrap(info) { engine_ = std::make_shared<WeightStore>(); }

WeightsObject::~WeightsObject() {
  if (reported_) report_memory(Env(), -reported_);
}

void WeightsObject::report(Napi::Env env) {
  const int64_t now = engine_ ? static_cast<int64_t>(engine_->owned_bytes()) : 0;
  report_memory(env, now - reported_);
  reported_ = now;
}

void WeightsObject::set_mapped(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const auto& file = unwrap<MappedFileObject>(info[2], Environment::of(info.Env()).mapped_file, "a MappedFile").engine();
    const TensorType type = type_from(info[1]);
    if (type.dtype == DType::i32) throw EngineError(kWeights, "weights are F32, F16 or BF16, not i32");
    engine()->set_mapped(string_from(info[0], "name"), type, file, size_from(info[3], "offset"));
  });
}

void WeightsObject::set(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const Shape shape = shape_from(info[1]);
    if (!info[2].IsTypedArray() || info[2].As<Napi::TypedArray>().TypedArrayType() != napi_float32_array ||
        static_cast<int64_t>(info[2].As<Napi::TypedArray>().ElementLength()) != elements_of(shape)) {
      throw EngineError(kInvalidArgument, "set: expected a Float32Array of the shape's size");
    }
    engine()->set(string_from(info[0], "name"), shape, info[2].As<Napi::Float32Array>().Data());
    report(info.Env());
  });
}

// setNormal(device, name, shape, seed, mean, standardDeviation, cancellation, drawnAs = name): Promise<void>
Napi::Value WeightsObject::set_normal(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Environment& environment = Environment::of(info.Env());
    const auto device = unwrap<DeviceObject>(info[0], environment.device, "a Device").engine();
    const std::string name = string_from(info[1], "name");
    const Shape shape = shape_from(info[2]);
    const size_t seed = size_from(info[3], "seed");
    const double mean = info[4].ToNumber(), deviation = info[5].ToNumber();
    const CancelFlag cancelled = unwrap<CancellationObject>(info[6], environment.cancellation, "a Cancellation").flag();
    const std::string drawn_as = info[7].IsUndefined() ? name : string_from(info[7], "drawnAs");
    return environment.submit(
        info.Env(), device->queue(), cancelled,
        [device, weights = engine(), name, shape, seed, mean, deviation, drawn_as] {
          const auto parallel_for = [&](int64_t tasks, const std::function<void(int64_t)>& body) {
            device->parallel_for(tasks, body);
          };
          weights->set_normal(name, shape, seed, mean, deviation, parallel_for, drawn_as);
        },
        [this](Napi::Env env) {
          report(env);
          return env.Undefined();
        },
        {info.This().As<Napi::Object>()});
  });
}

Napi::Value WeightsObject::names(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    Napi::Array array = Napi::Array::New(info.Env());
    uint32_t i = 0;
    for (const std::string& name : engine()->names()) array.Set(i++, name);
    return array;
  });
}

Napi::Value WeightsObject::type(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return to_js(info.Env(), engine()->at(string_from(info[0], "name")).type); });
}

// read(name, dtype, first, count): elements converted to dtype, as bytes.
Napi::Value WeightsObject::read(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const WeightTensor tensor = engine()->at(string_from(info[0], "name"));
    const DType dtype = dtype_named(string_from(info[1], "dtype"));
    if (dtype == DType::i32) throw EngineError(kInvalidArgument, "read: expected f32, f16 or bf16");
    const size_t first = size_from(info[2], "first"), count = size_from(info[3], "count");
    check_range(first, count, static_cast<size_t>(tensor.type.elements()), "read");
    Napi::Uint8Array array = Napi::Uint8Array::New(info.Env(), count * size_of(dtype));
    read_as(tensor, static_cast<int64_t>(first), static_cast<int64_t>(count), dtype,
            reinterpret_cast<std::byte*>(array.Data()));
    return array;
  });
}

// packed(): [{ key, byteLength }], what the plans so far have packed.
Napi::Value WeightsObject::packed(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    Napi::Array array = Napi::Array::New(info.Env());
    uint32_t i = 0;
    for (const auto& [key, weight] : engine()->packed_weights()) {
      Napi::Object one = Napi::Object::New(info.Env());
      one.Set("key", key);
      one.Set("byteLength", static_cast<double>(weight.bytes));
      array.Set(i++, one);
    }
    return array;
  });
}

Napi::Value WeightsObject::read_packed(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto packed = engine()->packed_weights();
    const auto found = packed.find(string_from(info[0], "key"));
    if (found == packed.end()) throw EngineError(kWeights, "there is no such packed weight");
    const size_t first = size_from(info[1], "first"), bytes = size_from(info[2], "bytes");
    check_range(first, bytes, found->second.bytes, "readPacked");
    return copy_of(info.Env(), found->second.data + first, bytes);
  });
}

// setPacked(key, file, offset, byteLength): a packed weight inside a mapped cache.
void WeightsObject::set_packed(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const auto& file = unwrap<MappedFileObject>(info[1], Environment::of(info.Env()).mapped_file, "a MappedFile").engine();
    const size_t offset = size_from(info[2], "offset"), bytes = size_from(info[3], "byteLength");
    check_range(offset, bytes, file->size(), "setPacked");
    if (offset % 64 != 0) throw EngineError(kInvalidArgument, "setPacked: packed weights are aligned to 64 bytes");
    engine()->set_packed(string_from(info[0], "key"), {file->data() + offset, bytes, file});
  });
}

void WeightsObject::dispose(const Napi::CallbackInfo& info) {
  engine_.reset();
  report(info.Env());
}

}  // namespace omni_id::bindings
