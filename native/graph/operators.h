#pragma once

#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/tensor.h"

namespace omni_id {

class CpuDevice;

using Attribute = std::variant<int64_t, double, std::string>;
using Attributes = std::map<std::string, Attribute>;

// How an operator reads an input, which decides the form in which a weight reaches it.
enum class InputRole {
  plain,   // row-major values: activations, and weights that are read element by element (biases, norms, embeddings)
  matrix,  // a matrix [outputs, ...] that the operator multiplies by: a weight is packed for the device's GEMM; a value of
           // another kind (a parameter that changes with every step) comes row by row, and the operator packs it itself
  index,   // i32 offsets or row numbers, checked before every run
};

struct InputRule {
  const char* name;
  InputRole role;
  bool optional = false;
};

// An attribute with its default; the default's alternative is the attribute's type.
struct AttributeRule {
  const char* name;
  Attribute fallback;
};

// The types and attributes of one use of an operator. Absent optional inputs are null.
struct Arguments {
  std::vector<const TensorType*> inputs;
  Attributes attributes;
  std::vector<bool> packed = {};  // which inputs come packed; none when there are no entries

  bool has(size_t input) const { return inputs[input] != nullptr; }
  bool is_packed(size_t input) const { return input < packed.size() && packed[input]; }
  const TensorType& operator[](size_t input) const { return *inputs[input]; }
  int64_t integer(const char* name) const { return std::get<int64_t>(attributes.at(name)); }
  double number(const char* name) const { return std::get<double>(attributes.at(name)); }
  const std::string& text(const char* name) const { return std::get<std::string>(attributes.at(name)); }
};

// What a bound operator computes with. Inputs and outputs stand in the order of the operator's row; absent ones have no data.
struct KernelCall {
  std::vector<TensorView> inputs;
  std::vector<TensorView> outputs;
  std::byte* workspace = nullptr;
};

// An operator bound to a device for one set of types.
class Kernel {
 public:
  virtual ~Kernel() = default;
  // Memory from the plan's arena that this call needs besides inputs and outputs.
  virtual size_t workspace_bytes() const { return 0; }
  virtual void run(const KernelCall& call) = 0;
};

// A tensor in double precision, for references. Index inputs hold whole numbers.
struct ReferenceTensor {
  Shape shape;
  std::vector<double> values;
  // Of outputs: how far each value may be off, for the types given, before it is rounded to the output's type (rounding.h).
  std::vector<double> errors;
};

// One use of an operator with awkward sizes, for the tests and the kernel benchmarks.
struct OperatorCase {
  std::vector<Shape> inputs;  // an empty shape: this optional input is absent
  Attributes attributes;
  std::map<size_t, std::vector<int32_t>> indices;  // the values of index inputs
};

// One row of the operator table: everything that the rest of the engine, the tests and the benchmarks know of an operator.
struct OperatorRow {
  const char* name;
  std::vector<InputRule> inputs;
  std::vector<AttributeRule> attributes;
  // Types of the outputs, or ERR_INVALID_ARGUMENT saying what does not fit. All memory safety rests on this rule, so it checks
  // everything that kernels rely on.
  std::vector<TensorType> (*shapes)(const Arguments&);
  // An input whose memory the first output may take over when nothing reads it later, or -1.
  int in_place_input = -1;
  std::unique_ptr<Kernel> (*cpu)(const Arguments&, CpuDevice&);
  // Fills values and errors of the outputs, which have their sizes.
  void (*reference)(const Arguments&, const std::vector<ReferenceTensor>& inputs, std::vector<ReferenceTensor>& outputs);
  // Replaces drawn inputs by what must fit the others, such as the forward's results that a gradient reads. Null: none must.
  void (*fit_inputs)(const Arguments&, std::vector<ReferenceTensor>& inputs) = nullptr;
  // Multiplications and additions, for GFLOP/s.
  double (*flops)(const Arguments&);
  // The length of the longest sum behind one output element, which rounding errors depend on.
  int64_t (*sum_length)(const Arguments&);
  std::vector<OperatorCase> cases;
};

// The one list of operators.
const std::vector<const OperatorRow*>& operator_table();
// Throws ERR_INVALID_ARGUMENT naming the known ones.
const OperatorRow& operator_named(const std::string& name);

// Checks inputs against the row's rules and fills in default attributes.
Arguments checked_arguments(const OperatorRow& row, std::vector<const TensorType*> inputs, const Attributes& attributes);

// Throws ERR_INVALID_ARGUMENT, "<operator>: <what>", unless `holds`.
void require(bool holds, const char* op, const std::string& what);

namespace operators {
extern const OperatorRow linear;
extern const OperatorRow layer_norm;
extern const OperatorRow attention;
extern const OperatorRow attention_gradient;
extern const OperatorRow patch_embedding;
extern const OperatorRow concat_rows;
extern const OperatorRow linear_input_gradient;
extern const OperatorRow linear_weight_gradient;
extern const OperatorRow layer_norm_gradient;
extern const OperatorRow concat_rows_gradient;
extern const OperatorRow place_columns;
extern const OperatorRow patch_embedding_gradient;
extern const OperatorRow patch_gather;
extern const OperatorRow patch_gather_gradient;
extern const OperatorRow patch_scatter;
extern const OperatorRow patch_scatter_gradient;
extern const OperatorRow masked_l1;
extern const OperatorRow masked_l1_gradient;
extern const OperatorRow add;
extern const OperatorRow activation_gradient;
extern const OperatorRow gate_gradient;
extern const OperatorRow column_sums;
extern const OperatorRow gradient_norm;
extern const OperatorRow adamw;
}  // namespace operators

}  // namespace omni_id
