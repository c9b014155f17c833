#pragma once

#include <napi.h>

#include <map>
#include <string>

#include "graph/graph.h"

// JavaScript values to the engine's and back. The TypeScript layer has validated them; what is checked here is what memory
// safety needs.
namespace omni_id::bindings {

// Throws ERR_INVALID_ARGUMENT.
int64_t integer_from(const Napi::Value& value, const char* what);
std::string string_from(const Napi::Value& value, const char* what);
Shape shape_from(const Napi::Value& value);
TensorType type_from(const Napi::Value& value);  // { dtype, shape }
Attributes attributes_from(const Napi::Value& value);
Graph graph_from(const Napi::Value& value);

Napi::Array to_js(Napi::Env env, const Shape& shape);
Napi::Object to_js(Napi::Env env, const TensorType& type);
Napi::Object to_js(Napi::Env env, const Attributes& attributes);

}  // namespace omni_id::bindings
