// Every row of the operator table, on every instruction set of this machine (and, compiled with OMNI_ID_TEST_CUDA, on a CUDA
// device, emulated or real), in f32 and bf16, against the row's reference in double precision; and the same with matrices and
// vectors that are columns of wider ones. A row without cases fails. Every element may be off by what its reference says
// (graph/rounding.h) and by the rounding of the output; bf16 inputs are rounded before both computations. And what must be
// refused is (operator_rejections.h).
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#ifdef OMNI_ID_TEST_CUDA
#include "cuda/device.h"
#include "cuda/operators/operators.h"
#else
#include "cpu/device.h"
#include "cpu/isa.h"
#endif
#include "test/check.h"
#include "test/operator_case.h"
#include "test/operator_rejections.h"

using namespace omni_id;
using test::check;
using test::Mode;
using test::Result;
using test::run_case;

namespace {

// The row that the command line names; all without.
std::string only;

// Whether every element is off by what it may be off at most; the largest error / tolerance.
double checked_result(const Result& result, const std::string& what) {
  double worst = 0.0, off = 0.0, allowed = 0.0;
  for (size_t j = 0; j < result.expected.size(); ++j) {
    const double error = std::abs(result.expected[j] - result.actual[j]), tolerance = result.tolerance[j];
    // A value that must be exact and is: 0 of 0. NaN is the worst: it would be forgotten at the next element.
    const double ratio = error == 0.0 ? 0.0 : std::isnan(error) ? std::numeric_limits<double>::infinity() : error / tolerance;
    if (!(ratio <= worst)) worst = ratio, off = error, allowed = tolerance;
  }
  check(worst <= 1.0, what + ": error " + std::to_string(off) + ", at most " + std::to_string(allowed));
  return worst;
}

void test_against_reference(const std::shared_ptr<Device>& device) {
  const std::string isa = device->instruction_set();
  for (const OperatorRow* row : operator_table()) {
    if (!only.empty() && only != row->name) continue;
    check(!row->cases.empty(), std::string(row->name) + " has cases");
    size_t ran = 0;
    const bool has_matrices = std::any_of(row->inputs.begin(), row->inputs.end(),
                                          [](const InputRule& rule) { return rule.role == InputRole::matrix; });
    for (const Mode& mode : {Mode{false, true, false},
                             {true, true, false},
                             {false, false, false},
                             {true, false, false},
                             {false, false, true},
                             {true, false, true}}) {
      const auto& [narrow, packed, views] = mode;
      if (!packed && !views && !has_matrices) continue;
      double worst = 0.0;  // error / tolerance
      for (const OperatorCase& one : row->cases) {
        std::vector<Result> results;
        try {
          results = run_case(*row, one, mode, device);
        } catch (const EngineError& error) {
          check(false, std::string(row->name) + " on " + isa + (narrow ? " bf16" : " f32") + " with " +
                           to_string(one.inputs[0]) + ": " + error.code() + ", " + error.what());
          continue;
        }
        for (size_t output = 0; output < results.size(); ++output) {
          const double of_case = checked_result(
              results[output], std::string(row->name) + " on " + isa + (narrow ? " bf16" : " f32") + (views ? " views" : "") +
                                   " with " + to_string(one.inputs[0]) + ", output " + std::to_string(output));
          if (!(of_case <= worst)) worst = of_case;
        }
        ++ran;
      }
      std::printf("%-12s %-24s %-5s %-9s worst error %.2f of the tolerance\n", isa.c_str(), row->name, narrow ? "bf16" : "f32",
                  views           ? "views"
                  : !has_matrices ? ""
                  : packed        ? "packed"
                                  : "unpacked",
                  worst);
    }
    check(ran > 0, std::string(row->name) + " ran");
  }
}

// Small whole numbers are exact in f32 and bf16 and so are their sums below 2^24: a product of them must be right to the bit.
void test_exact_products(const std::shared_ptr<Device>& device) {
  const std::string isa = device->instruction_set();
  std::mt19937 random(7);
  std::uniform_int_distribution<int> small(-3, 3);
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {5, 33, 2}, {12, 32, 256}, {13, 31, 257}, {241, 130, 515}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      std::vector<float> x(static_cast<size_t>(m * k)), w(static_cast<size_t>(n * k));
      for (float& v : x) v = static_cast<float>(small(random));
      for (float& v : w) v = static_cast<float>(small(random));
      auto weights = std::make_shared<WeightStore>();
      weights->set("w", {n, k}, w.data());
      Graph graph;
      const auto add = [&](Value::Kind kind, DType type, const Shape& shape) -> Value& {
        Value& value = graph.values.emplace_back();
        value.kind = kind;
        value.type = {type, shape};
        return value;
      };
      add(Value::Kind::input, DType::f32, {m, k}).name = "x";
      add(Value::Kind::weight, dtype, {n, k}).parts = {"w"};
      add(Value::Kind::result, DType::f32, {m, n});
      graph.nodes = {{&operators::linear, {0, 1}, {2}, {}}};
      graph.outputs = {{"y", 2}};
      const std::atomic<bool> cancelled{false};
      const auto plan = Plan::compile(graph, device, weights, cancelled);
      std::map<std::string, Binding> bindings{{"x", {device->allocate(x.size() * 4), 0}},
                                              {"y", {device->allocate(static_cast<size_t>(m * n) * 4), 0}}};
      device->write(*bindings["x"].buffer, 0, x.data(), x.size() * 4);
      plan->run(bindings, cancelled);
      std::vector<float> y(static_cast<size_t>(m * n));
      device->read(*bindings["y"].buffer, 0, y.data(), y.size() * 4);
      int64_t wrong = 0;
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          float sum = 0.0f;
          for (int64_t l = 0; l < k; ++l) sum += x[static_cast<size_t>(i * k + l)] * w[static_cast<size_t>(j * k + l)];
          wrong += y[static_cast<size_t>(i * n + j)] != sum;
        }
      }
      check(wrong == 0, std::string("exact product on ") + isa + " " + name_of(dtype) + " " + to_string(Shape{m, n, k}) + ": " +
                            std::to_string(wrong) + " wrong");
    }
  }
}

// Queries and keys whose scores are about −80 to −200, different from query to query.
void lower_scores(ReferenceTensor& q, ReferenceTensor& k, double dim) {
  const double size = std::sqrt(120.0 / std::sqrt(dim));
  const auto columns = static_cast<size_t>(q.shape[1]);
  for (size_t i = 0; i < q.values.size(); ++i) {
    const double factor = 0.75 + static_cast<double>(i / columns % 8) / 9.0;
    q.values[i] = test::rounded(factor * size * (1.0 + q.values[i] / 16.0), DType::bf16);
  }
  for (double& value : k.values) value = test::rounded(-size * (1.0 + value / 16.0), DType::bf16);
}

// Far below zero, where a key behind a sequence's end, whose score is 0, outweighs all others, or has an infinite weight as
// soon as logsumexp is taken off, so that it must be left out and not only be multiplied by zeros.
void test_low_scores(const std::shared_ptr<Device>& device) {
  OperatorRow forward = operators::attention, backward = operators::attention_gradient;
  forward.fit_inputs = [](const Arguments& a, std::vector<ReferenceTensor>& in) {
    lower_scores(in[0], in[1], static_cast<double>(a[0].columns() / a.integer("heads")));
  };
  backward.fit_inputs = [](const Arguments& a, std::vector<ReferenceTensor>& in) {
    lower_scores(in[1], in[2], static_cast<double>(a[1].columns() / a.integer("heads")));
    operators::attention_gradient.fit_inputs(a, in);
  };
  struct Sizes {
    int64_t heads, width;
    std::vector<int32_t> queries, keys;
  };
  for (const auto& [heads, width, queries, keys] :
       {Sizes{2, 32, {0, 4, 5, 9}, {0, 1, 34, 40}}, {1, 24, {0, 3, 70}, {0, 67, 103}}, {1, 80, {0, 9, 9}, {0, 5, 38}}}) {
    const Shape of_queries{queries.back(), width}, of_keys{keys.back(), width}, ends{static_cast<int64_t>(keys.size())};
    const Attributes attributes{{"heads", heads}, {"sequences", ends[0] - 1}};
    OperatorCase one{{of_queries, of_keys, of_keys, ends, ends}, attributes, {{3, queries}, {4, keys}}};
    one.attributes["statistics"] = int64_t{1};
    const OperatorCase gradient{{of_queries, of_queries, of_keys, of_keys, of_queries, {of_queries[0], heads}, ends, ends},
                                attributes,
                                {{6, queries}, {7, keys}}};
    for (const bool narrow : {false, true}) {
      const std::string where = " on " + device->instruction_set() + (narrow ? " bf16" : " f32") + " with low scores of " +
                                to_string(of_queries) + ", output ";
      if (only.empty() || only == forward.name) {
        const std::vector<Result> results = run_case(forward, one, {narrow, false, false}, device);
        for (size_t i = 0; i < results.size(); ++i) checked_result(results[i], forward.name + where + std::to_string(i));
        const auto& [least, most] = std::minmax_element(results[1].expected.begin(), results[1].expected.end());
        check(*least < -140.0 && *least > -220.0 && *most < -75.0,
              "their sum is " + std::to_string(*least) + " to " + std::to_string(*most) + where + "1");
      }
      if (only.empty() || only == backward.name) {
        const std::vector<Result> results = run_case(backward, gradient, {narrow, false, false}, device);
        for (size_t i = 0; i < results.size(); ++i) checked_result(results[i], backward.name + where + std::to_string(i));
      }
    }
  }
}

}  // namespace

// With an argument, only the row of that name.
int main(int count, char** arguments) {
  if (count > 1) only = arguments[1];
#ifdef OMNI_ID_TEST_CUDA
  const std::vector<std::shared_ptr<Device>> devices = {open_cuda_device(0)};
  for (const OperatorRow* row : operator_table()) {
    if (only.empty() || only == row->name)
      check(cuda::kernel_for(*row) != nullptr, std::string(row->name) + " has a CUDA twin");
  }
#else
  std::vector<std::shared_ptr<Device>> devices;
  for (const std::string& isa : available_isas()) devices.push_back(std::make_shared<CpuDevice>(2, isa));
#endif
  for (const auto& device : devices) {
    test_against_reference(device);
    if (only.empty() || only == "linear") test_exact_products(device);
    test_low_scores(device);
    test::test_rejections(device, only);
  }
  return test::finish();
}
