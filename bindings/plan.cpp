#include "base/error.h"
#include "objects.h"
#include "values.h"

namespace omni_id::bindings {

namespace {

// { op, inputs, outputs, attributes, seconds, flops, bytes }[]
Napi::Value to_js(Napi::Env env, const std::vector<StepDescription>& steps, const std::vector<double>& seconds) {
  const auto types = [env](const std::vector<TensorType>& from) {
    Napi::Array array = Napi::Array::New(env, from.size());
    for (size_t i = 0; i < from.size(); ++i) array.Set(static_cast<uint32_t>(i), bindings::to_js(env, from[i]));
    return array;
  };
  Napi::Array array = Napi::Array::New(env, steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    Napi::Object step = Napi::Object::New(env);
    step.Set("op", steps[i].row->name);
    step.Set("inputs", types(steps[i].inputs));
    step.Set("outputs", types(steps[i].outputs));
    step.Set("attributes", bindings::to_js(env, steps[i].attributes));
    step.Set("seconds", seconds[i]);
    step.Set("flops", steps[i].flops);
    step.Set("bytes", steps[i].bytes);
    array.Set(static_cast<uint32_t>(i), step);
  }
  return array;
}

}  // namespace

Napi::Function CancellationObject::define(Napi::Env env) {
  return DefineClass(env, "Cancellation", {InstanceMethod<&CancellationObject::cancel>("cancel")});
}

CancellationObject::CancellationObject(const Napi::CallbackInfo& info)
    : ObjectWrap(info), flag_(std::make_shared<std::atomic<bool>>(false)) {}

void CancellationObject::cancel(const Napi::CallbackInfo&) { flag_->store(true); }

Napi::Function PlanObject::define(Napi::Env env) {
  return DefineClass(
      env, "Plan",
      {InstanceMethod<&PlanObject::run>("run"), InstanceMethod<&PlanObject::profile>("profile"),
       InstanceAccessor<&PlanObject::arena_bytes>("arenaBytes"), InstanceMethod<&PlanObject::dispose>("dispose")});
}

// Only `compile` makes plans: it passes the engine's plan as an external value.
PlanObject::PlanObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (info.Length() == 1 && info[0].IsExternal()) engine_ = *info[0].As<Napi::External<std::shared_ptr<Plan>>>().Data();
}

Napi::Value PlanObject::compile(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Environment& environment = Environment::of(info.Env());
    const auto device = unwrap<DeviceObject>(info[0], environment.device, "a Device").engine();
    WeightsObject& weights_object = unwrap<WeightsObject>(info[1], environment.weights, "Weights");
    const auto weights = weights_object.engine();
    const CancelFlag cancelled = unwrap<CancellationObject>(info[3], environment.cancellation, "a Cancellation").flag();
    auto graph = std::make_shared<Graph>(graph_from(info[2]));
    check(*graph);
    auto plan = std::make_shared<std::shared_ptr<Plan>>();
    return environment.submit(
        info.Env(), device->queue(), cancelled,
        [graph, device, weights, cancelled, plan] { *plan = Plan::compile(std::move(*graph), device, weights, *cancelled); },
        [plan, &weights_object](Napi::Env env) -> Napi::Value {
          weights_object.report(env);
          auto external = Napi::External<std::shared_ptr<Plan>>::New(env, plan.get());
          return Environment::of(env).plan.New({external});
        },
        {info[1].As<Napi::Object>()});
  });
}

// run(tensors: { name: { tensor, element } }, cancellation): Promise<void>. Inputs and outputs by name, each at an element of a
// tensor.
Napi::Value PlanObject::run(const Napi::CallbackInfo& info) { return submit(info, nullptr); }

Napi::Value PlanObject::profile(const Napi::CallbackInfo& info) {
  return submit(info, std::make_shared<std::vector<double>>());
}

Napi::Value PlanObject::submit(const Napi::CallbackInfo& info, std::shared_ptr<std::vector<double>> step_seconds) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Environment& environment = Environment::of(info.Env());
    const std::shared_ptr<Plan> plan = engine();
    const CancelFlag cancelled = unwrap<CancellationObject>(info[1], environment.cancellation, "a Cancellation").flag();
    if (!info[0].IsObject()) throw EngineError(kInvalidArgument, "run: expected an object of tensors");
    const Napi::Object given = info[0].As<Napi::Object>();
    const Napi::Array names = given.GetPropertyNames();
    std::map<std::string, Binding> bindings;
    for (uint32_t i = 0; i < names.Length(); ++i) {
      const std::string name = names.Get(i).ToString().Utf8Value();
      const Napi::Value value = given.Get(name);
      if (!value.IsObject()) throw EngineError(kInvalidArgument, "run: " + name + " is not { tensor, element }");
      const auto one = value.As<Napi::Object>();
      const auto& tensor = unwrap<TensorObject>(one.Get("tensor"), environment.tensor, "a Tensor").engine();
      const int64_t element = integer_from(one.Get("element"), "element");
      if (element < 0) throw EngineError(kInvalidArgument, "run: a negative element");
      if (tensor->device.get() != &plan->device())
        throw EngineError(kInvalidArgument, "run: " + name + " is on another device");
      bindings[name] = {tensor->buffer, static_cast<size_t>(element) * size_of(tensor->type.dtype)};
    }
    plan->check_bindings(bindings);
    return environment.submit(
        info.Env(), plan->device().queue(), cancelled,
        [plan, bindings, cancelled, step_seconds] { plan->run(bindings, *cancelled, step_seconds.get()); },
        [plan, step_seconds](Napi::Env env) {
          return step_seconds ? to_js(env, plan->steps(), *step_seconds) : env.Undefined();
        });
  });
}

Napi::Value PlanObject::arena_bytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), static_cast<double>(engine()->arena_bytes())); });
}

void PlanObject::dispose(const Napi::CallbackInfo&) { engine_.reset(); }

}  // namespace omni_id::bindings
