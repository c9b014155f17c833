#include "values.h"

#include <cmath>

#include "base/error.h"

namespace omni_id::bindings {

namespace {

[[noreturn]] void wrong(const char* what, const char* expected) {
  throw EngineError(kInvalidArgument, std::string(what) + ": expected " + expected);
}

Napi::Object object_from(const Napi::Value& value, const char* what) {
  if (!value.IsObject()) wrong(what, "an object");
  return value.As<Napi::Object>();
}

Napi::Array array_from(const Napi::Value& value, const char* what) {
  if (!value.IsArray()) wrong(what, "an array");
  return value.As<Napi::Array>();
}

}  // namespace

int64_t integer_from(const Napi::Value& value, const char* what) {
  if (!value.IsNumber()) wrong(what, "a whole number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(std::abs(number) <= 0x1p53) || number != std::floor(number)) wrong(what, "a whole number");
  return static_cast<int64_t>(number);
}

std::string string_from(const Napi::Value& value, const char* what) {
  if (!value.IsString()) wrong(what, "a string");
  return value.As<Napi::String>().Utf8Value();
}

Shape shape_from(const Napi::Value& value) {
  const Napi::Array array = array_from(value, "shape");
  Shape shape;
  for (uint32_t i = 0; i < array.Length(); ++i) shape.push_back(integer_from(array.Get(i), "dimension"));
  elements_of(shape);
  return shape;
}

TensorType type_from(const Napi::Value& value) {
  const Napi::Object object = object_from(value, "type");
  return {dtype_named(string_from(object.Get("dtype"), "dtype")), shape_from(object.Get("shape"))};
}

Attributes attributes_from(const Napi::Value& value) {
  Attributes attributes;
  if (value.IsUndefined()) return attributes;
  const Napi::Object object = object_from(value, "attributes");
  const Napi::Array names = object.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).ToString().Utf8Value();
    const Napi::Value given = object.Get(name);
    if (given.IsString()) {
      attributes[name] = given.As<Napi::String>().Utf8Value();
    } else if (given.IsNumber()) {
      const double number = given.As<Napi::Number>().DoubleValue();
      if (number == std::floor(number) && std::abs(number) <= 0x1p53) {
        attributes[name] = static_cast<int64_t>(number);
      } else {
        attributes[name] = number;
      }
    } else {
      wrong("attribute", "a number or a string");
    }
  }
  return attributes;
}

Graph graph_from(const Napi::Value& value) {
  const Napi::Object object = object_from(value, "graph");
  Graph graph;
  const Napi::Array values = array_from(object.Get("values"), "values");
  for (uint32_t i = 0; i < values.Length(); ++i) {
    const Napi::Object given = object_from(values.Get(i), "value");
    Value one;
    one.type = type_from(given);
    const std::string kind = string_from(given.Get("kind"), "kind");
    if (kind == "input") {
      one.name = string_from(given.Get("name"), "name");
    } else if (kind == "weight") {
      one.kind = Value::Kind::weight;
      const Napi::Array parts = array_from(given.Get("parts"), "parts");
      for (uint32_t j = 0; j < parts.Length(); ++j) one.parts.push_back(string_from(parts.Get(j), "part"));
    } else if (kind == "view") {
      one.kind = Value::Kind::view;
      one.source = static_cast<int>(integer_from(given.Get("source"), "source"));
      one.column = integer_from(given.Get("column"), "column");
    } else if (kind == "join") {
      one.kind = Value::Kind::join;
      const Napi::Array joined = array_from(given.Get("joined"), "joined");
      for (uint32_t j = 0; j < joined.Length(); ++j) {
        one.joined.push_back(static_cast<int>(integer_from(joined.Get(j), "joined")));
      }
    } else if (kind == "result") {
      one.kind = Value::Kind::result;
    } else {
      wrong("kind", "input, weight, view, join or result");
    }
    graph.values.push_back(std::move(one));
  }
  const Napi::Array nodes = array_from(object.Get("nodes"), "nodes");
  for (uint32_t i = 0; i < nodes.Length(); ++i) {
    const Napi::Object given = object_from(nodes.Get(i), "node");
    Node node;
    node.row = &operator_named(string_from(given.Get("op"), "op"));
    const Napi::Array inputs = array_from(given.Get("inputs"), "inputs"), outputs = array_from(given.Get("outputs"), "outputs");
    for (uint32_t j = 0; j < inputs.Length(); ++j) {
      const Napi::Value input = inputs.Get(j);
      node.inputs.push_back(input.IsNull() ? -1 : static_cast<int>(integer_from(input, "input")));
    }
    for (uint32_t j = 0; j < outputs.Length(); ++j)
      node.outputs.push_back(static_cast<int>(integer_from(outputs.Get(j), "output")));
    node.attributes = attributes_from(given.Get("attributes"));
    graph.nodes.push_back(std::move(node));
  }
  const Napi::Array outputs = array_from(object.Get("outputs"), "outputs");
  for (uint32_t i = 0; i < outputs.Length(); ++i) {
    const Napi::Object given = object_from(outputs.Get(i), "output");
    graph.outputs.push_back(
        {string_from(given.Get("name"), "name"), static_cast<int>(integer_from(given.Get("value"), "value"))});
  }
  return graph;
}

Napi::Array to_js(Napi::Env env, const Shape& shape) {
  Napi::Array array = Napi::Array::New(env, shape.size());
  for (size_t i = 0; i < shape.size(); ++i)
    array.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(shape[i])));
  return array;
}

Napi::Object to_js(Napi::Env env, const TensorType& type) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("dtype", Napi::String::New(env, name_of(type.dtype)));
  object.Set("shape", to_js(env, type.shape));
  return object;
}

Napi::Object to_js(Napi::Env env, const Attributes& attributes) {
  Napi::Object object = Napi::Object::New(env);
  for (const auto& [name, attribute] : attributes) {
    std::visit(
        [&object, &key = name](const auto& value) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
            object.Set(key, value);
          } else {
            object.Set(key, static_cast<double>(value));
          }
        },
        attribute);
  }
  return object;
}

}  // namespace omni_id::bindings
