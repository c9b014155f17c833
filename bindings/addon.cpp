// The addon's entry: the engine's classes and functions, one to one. No logic lives here.
#include <napi.h>

#include "base/error.h"
#include "base/float_formats.h"
#include "base/thread_pool.h"
#include "cpu/isa.h"
#include "environment.h"
#include "graph/operators.h"
#include "image/clip_preprocess.h"
#include "objects.h"
#include "values.h"

namespace omni_id::bindings {

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = __VERSION__;  // "Clang 14.0.6"
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

Napi::Value strings(Napi::Env env, const std::vector<std::string>& values) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) array.Set(static_cast<uint32_t>(i), values[i]);
  return array;
}

// Calls body(row, arguments) for (op, inputs: ({ dtype, shape } | null)[], attributes), checked against the operator's row.
template <typename Body>
Napi::Value with_arguments(const Napi::CallbackInfo& info, const Body& body) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const OperatorRow& row = operator_named(info[0].ToString().Utf8Value());
    require(info[1].IsArray(), row.name, "expected an array of inputs");
    const auto given = info[1].As<Napi::Array>();
    std::vector<TensorType> types(given.Length());
    std::vector<const TensorType*> inputs;
    for (uint32_t i = 0; i < given.Length(); ++i) {
      const Napi::Value one = given.Get(i);
      if (!one.IsNull()) types[i] = type_from(one);
      inputs.push_back(one.IsNull() ? nullptr : &types[i]);
    }
    return body(row, checked_arguments(row, inputs, attributes_from(info[2])));
  });
}

// inferShapes(op, inputs, attributes): { dtype, shape }[], by the operator's row.
Napi::Value infer_shapes(const Napi::CallbackInfo& info) {
  return with_arguments(info, [&](const OperatorRow& row, const Arguments& arguments) {
    const std::vector<TensorType> outputs = row.shapes(arguments);
    Napi::Array array = Napi::Array::New(info.Env(), outputs.size());
    for (size_t i = 0; i < outputs.size(); ++i) array.Set(static_cast<uint32_t>(i), to_js(info.Env(), outputs[i]));
    return array;
  });
}

// operatorFlops(op, inputs, attributes): multiplications and additions, by the operator's row.
Napi::Value operator_flops(const Napi::CallbackInfo& info) {
  return with_arguments(info, [&](const OperatorRow& row, const Arguments& arguments) {
    row.shapes(arguments);  // throws where they do not fit
    return Napi::Number::New(info.Env(), row.flops(arguments));
  });
}

// firstNotFinite(values: Float32Array): the index of the first value that is infinite or NaN, or −1.
Napi::Value not_finite(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) {
      throw EngineError(kInvalidArgument, "firstNotFinite: expected a Float32Array");
    }
    const auto values = info[0].As<Napi::Float32Array>();
    const int64_t first = first_not_finite(values.Data(), static_cast<int64_t>(values.ElementLength()));
    return Napi::Number::New(info.Env(), static_cast<double>(first));
  });
}

Napi::Value operators(const Napi::CallbackInfo& info) {
  std::vector<std::string> names;
  for (const OperatorRow* row : operator_table()) names.emplace_back(row->name);
  return strings(info.Env(), names);
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  Environment::attach(env);
  Environment& environment = Environment::of(env);
  const auto add = [&](const char* name, Napi::Function constructor, Napi::FunctionReference& keep) {
    keep = Napi::Persistent(constructor);
    exports.Set(name, constructor);
  };
  add("Device", DeviceObject::define(env), environment.device);
  add("Tensor", TensorObject::define(env), environment.tensor);
  add("MappedFile", MappedFileObject::define(env), environment.mapped_file);
  add("Weights", WeightsObject::define(env), environment.weights);
  add("Cancellation", CancellationObject::define(env), environment.cancellation);
  add("Plan", PlanObject::define(env), environment.plan);
  add("FaceRenderer", FaceRendererObject::define(env), environment.face_renderer);
  exports.Set("compile", Napi::Function::New<PlanObject::compile>(env, "compile"));
  exports.Set("preprocess", Napi::Function::New<preprocess>(env, "preprocess"));
  exports.Set("cudaDevices", Napi::Function::New<cuda_devices>(env, "cudaDevices"));
  exports.Set("inferShapes", Napi::Function::New<infer_shapes>(env, "inferShapes"));
  exports.Set("operatorFlops", Napi::Function::New<operator_flops>(env, "operatorFlops"));
  exports.Set("firstNotFinite", Napi::Function::New<not_finite>(env, "firstNotFinite"));
  exports.Set("evaluateReference", Napi::Function::New<evaluate_reference>(env, "evaluateReference"));
  exports.Set("operatorCases", Napi::Function::New<operator_cases>(env, "operatorCases"));
  exports.Set("operators", Napi::Function::New<operators>(env, "operators"));
  exports.Set("instructionSets",
              Napi::Function::New(env, [](const Napi::CallbackInfo& info) { return strings(info.Env(), available_isas()); }));
  exports.Set("availableParallelism", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return Napi::Number::New(info.Env(), available_parallelism());
              }));
  exports.Set("processorName", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return Napi::String::New(info.Env(), processor_name());
              }));
  exports.Set("version", OMNI_ID_VERSION);
  exports.Set("packedLayout", kPackedLayout);
  exports.Set("compiler", kCompiler);
  return exports;
}

}  // namespace

}  // namespace omni_id::bindings

static Napi::Object initialize_addon(Napi::Env env, Napi::Object exports) {
  return omni_id::bindings::initialize(env, exports);
}

NODE_API_MODULE(omni_id, initialize_addon)
