// The operator table's references and cases, for tests of what is stated in TypeScript: gradients.
#include "graph/reference.h"

#include "base/error.h"
#include "objects.h"
#include "values.h"

namespace omni_id::bindings {

namespace {

Napi::Float64Array to_js(Napi::Env env, const std::vector<double>& values) {
  Napi::Float64Array array = Napi::Float64Array::New(env, values.size());
  if (!values.empty()) std::copy(values.begin(), values.end(), array.Data());
  return array;
}

const char* name_of(InputRole role) {
  return role == InputRole::matrix ? "matrix" : role == InputRole::index ? "index" : "plain";
}

}  // namespace

// evaluateReference(graph, inputs: { name: Float64Array }, bf16: boolean): { name: Float64Array }
Napi::Value evaluate_reference(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const Graph graph = graph_from(info[0]);
    require(info[1].IsObject(), "reference", "expected an object of Float64Arrays");
    const Napi::Object given = info[1].As<Napi::Object>();
    const Napi::Array names = given.GetPropertyNames();
    ReferenceValues inputs;
    for (uint32_t i = 0; i < names.Length(); ++i) {
      const std::string name = names.Get(i).ToString().Utf8Value();
      const Napi::Value value = given.Get(name);
      require(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_float64_array, "reference",
              name + " is not a Float64Array");
      const auto array = value.As<Napi::Float64Array>();
      inputs[name] = {array.Data(), array.Data() + array.ElementLength()};
    }
    Napi::Object outputs = Napi::Object::New(info.Env());
    const bool bf16 = info[2].ToBoolean();
    for (const auto& [name, values] : omni_id::evaluate_reference(graph, inputs, bf16))
      outputs.Set(name, to_js(info.Env(), values));
    return outputs;
  });
}

// operatorCases(op): { attributes, inputs: ({ name, role, shape, values: Float64Array } | null)[] }[], the values drawn anew
// from the same seeds at every call.
Napi::Value operator_cases(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const OperatorRow& row = operator_named(string_from(info[0], "op"));
    Napi::Array cases = Napi::Array::New(info.Env(), row.cases.size());
    for (uint32_t i = 0; i < row.cases.size(); ++i) {
      const OperatorCase& one = row.cases[i];
      const std::vector<ReferenceTensor> drawn = draw_inputs(row, one, i + 1);
      Napi::Array inputs = Napi::Array::New(info.Env(), row.inputs.size());
      for (uint32_t j = 0; j < row.inputs.size(); ++j) {
        if (j >= one.inputs.size() || one.inputs[j].empty()) {
          inputs.Set(j, info.Env().Null());
          continue;
        }
        Napi::Object input = Napi::Object::New(info.Env());
        input.Set("name", row.inputs[j].name);
        input.Set("role", name_of(row.inputs[j].role));
        input.Set("shape", bindings::to_js(info.Env(), one.inputs[j]));
        input.Set("values", to_js(info.Env(), drawn[j].values));
        inputs.Set(j, input);
      }
      Napi::Object object = Napi::Object::New(info.Env());
      object.Set("attributes", bindings::to_js(info.Env(), one.attributes));
      object.Set("inputs", inputs);
      cases.Set(i, object);
    }
    return cases;
  });
}

}  // namespace omni_id::bindings
