#pragma once

#include <climits>
#include <tuple>

#include "base/error.h"
#include "test/check.h"
#include "test/operator_case.h"

// Index inputs come with every run, from outside: what must be refused is, and touches no memory beyond the operands.
namespace omni_id::test {

// The code that a run with these inputs throws, or "".
inline std::string code_of_run(OperatorRow row, const OperatorCase& one, const std::shared_ptr<Device>& device) {
  // These would read out of bounds too, so only the plan's own check can be what answers.
  row.reference = [](const Arguments&, const std::vector<ReferenceTensor>&, std::vector<ReferenceTensor>&) {};
  row.fit_inputs = nullptr;
  return code_of<EngineError>([&] { run_case(row, one, {false, true, false}, device); });
}

// Offsets must rise from 0 to the number of rows: every one of `good`'s is put where it may not be.
inline void test_offsets(const OperatorRow& row, const OperatorCase& good, size_t input,
                         const std::shared_ptr<Device>& device) {
  const std::string name = std::string(row.name) + ", " + row.inputs[input].name;
  check(code_of_run(row, good, device).empty(), name + ": takes the offsets that the others are made of");
  const std::vector<int32_t>& offsets = good.indices.at(input);
  const size_t last = offsets.size() - 1;
  const int32_t end = offsets[last];
  for (size_t i = 0; i <= last; ++i) {
    std::vector<int32_t> wrong{-1, INT32_MIN, end + 1, end + 400, INT32_MAX};
    if (i == 0) wrong.push_back(1);
    if (i == last) wrong.push_back(end - 1);
    if (i < last && offsets[i + 1] < end) wrong.push_back(offsets[i + 1] + 1);
    for (const int32_t offset : wrong) {
      OperatorCase bad = good;
      bad.indices[input][i] = offset;
      check(code_of_run(row, bad, device) == kInvalidArgument,
            name + ": rejects " + std::to_string(offset) + " as offset " + std::to_string(i));
    }
  }
  check(code_of_run(row, good, device).empty(), name + ": takes what is right after what was not");
}

// Pieces of x, from row starts[i] on, that lie in y's rows [offsets[i], offsets[i + 1]).
inline void test_pieces(const OperatorRow& row, const OperatorCase& good, int64_t source_rows,
                        const std::shared_ptr<Device>& device) {
  const std::vector<int32_t>& offsets = good.indices.at(2);
  for (size_t piece = 0; piece + 1 < offsets.size(); ++piece) {
    // One row too early or late for x, and where adding the piece's length would overflow.
    const int32_t last = static_cast<int32_t>(source_rows) - (offsets[piece + 1] - offsets[piece]);
    for (const int32_t start : {-1, INT32_MIN, last + 1, INT32_MAX}) {
      OperatorCase bad = good;
      bad.indices[1][piece] = start;
      check(code_of_run(row, bad, device) == kInvalidArgument,
            std::string(row.name) + " rejects piece " + std::to_string(piece) + " from row " + std::to_string(start));
    }
    OperatorCase at_the_end = good;
    at_the_end.indices[1][piece] = last;
    check(code_of_run(row, at_the_end, device).empty(), std::string(row.name) + " takes the last rows of x");
  }
}

// `once`: whether no patch may be named twice.
inline void test_visible(const OperatorRow& row, int32_t patches, bool once, const std::shared_ptr<Device>& device) {
  const auto fits = [](const OperatorCase& one) { return one.indices.count(1) && one.indices.at(1).size() == 4; };
  const OperatorCase good = *std::find_if(row.cases.begin(), row.cases.end(), fits);
  const auto code = [&](size_t k, int32_t patch) {
    OperatorCase one = good;
    one.indices[1][k] = patch;
    return code_of_run(row, one, device);
  };
  for (size_t k = 0; k < 4; ++k) {
    for (const int32_t patch : {-1, INT32_MIN, patches, INT32_MAX}) {
      check(code(k, patch) == kInvalidArgument, std::string(row.name) + " rejects patch " + std::to_string(patch));
    }
  }
  const std::string twice = code(0, good.indices.at(1)[1]);  // two of the first image's
  check(once ? twice == kInvalidArgument : twice.empty(), std::string(row.name) + " and a patch that is visible twice");
  check(code(0, good.indices.at(1)[0]).empty(), std::string(row.name) + " takes what is right after what was not");
}

// Of every row that has index inputs, or of the row that `only` names.
inline void test_rejections(const std::shared_ptr<Device>& device, const std::string& only) {
  using operators::attention, operators::attention_gradient, operators::concat_rows, operators::concat_rows_gradient;
  std::set<std::pair<std::string, size_t>> tested;
  const auto of = [&](const OperatorRow& row, std::initializer_list<size_t> inputs) {
    for (const size_t input : inputs) tested.insert({row.name, input});
    return only.empty() || only == row.name;
  };
  for (const auto& [row, number, first] :
       {std::tuple<const OperatorRow*, size_t, size_t>{&attention, 6, 3}, {&attention_gradient, 8, 6}}) {
    if (!of(*row, {first, first + 1})) continue;
    for (const size_t input : {first, first + 1}) test_offsets(*row, row->cases[number], input, device);
  }
  for (const OperatorRow* row : {&concat_rows, &concat_rows_gradient}) {
    if (!of(*row, {1, 2})) continue;
    const OperatorCase& pieces = row->cases[1];
    test_offsets(*row, pieces, 2, device);
    const int64_t rows = row == &concat_rows ? pieces.inputs[0][0] : std::get<int64_t>(pieces.attributes.at("rows"));
    test_pieces(*row, pieces, rows, device);
  }
  if (of(operators::adamw, {6})) {
    for (const OperatorCase& one : operators::adamw.cases) test_offsets(operators::adamw, one, 6, device);
  }
  if (of(operators::gradient_norm, {1})) test_offsets(operators::gradient_norm, operators::gradient_norm.cases[3], 1, device);
  for (const auto& [row, patches, once] : {std::tuple<const OperatorRow*, int32_t, bool>{&operators::patch_gather, 6, false},
                                           {&operators::patch_gather_gradient, 6, false},
                                           {&operators::patch_scatter, 9, true},
                                           {&operators::patch_scatter_gradient, 9, true}}) {
    if (of(*row, {1})) test_visible(*row, patches, once, device);
  }
  for (const OperatorRow* row : operator_table()) {
    for (size_t input = 0; input < row->inputs.size(); ++input) {
      if (row->inputs[input].role != InputRole::index) continue;
      check(tested.count({row->name, input}) == 1,
            std::string(row->name) + ": what " + row->inputs[input].name + " may not be is tested");
    }
  }
}

}  // namespace omni_id::test
