#include "runtime/plan.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "runtime/arena.h"

namespace omni_id {

namespace {

void stop_if(const std::atomic<bool>& cancelled) {
  if (cancelled.load(std::memory_order_relaxed)) throw EngineError(kAborted, "the run was cancelled");
}

}  // namespace

std::shared_ptr<Plan> Plan::compile(Graph graph, std::shared_ptr<Device> device, std::shared_ptr<WeightStore> weights,
                                    const std::atomic<bool>& cancelled) {
  check(graph);
  auto plan = std::make_shared<Plan>();
  plan->graph_ = std::move(graph);
  plan->device_ = std::move(device);
  plan->weights_ = std::move(weights);
  plan->places_.resize(plan->graph_.values.size());
  plan->join_of_.assign(plan->graph_.values.size(), {-1, 0});
  for (size_t i = 0; i < plan->graph_.values.size(); ++i) {
    int64_t column = 0;
    for (int part : plan->graph_.values[i].joined) {
      plan->join_of_[part] = {static_cast<int>(i), column};
      column += plan->graph_.values[part].type.columns();
    }
  }
  for (const Node& node : plan->graph_.nodes) {
    std::vector<const TensorType*> types;
    std::vector<bool> is_packed(node.inputs.size(), false);
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const int input = node.inputs[i];
      types.push_back(input < 0 ? nullptr : &plan->graph_.values[input].type);
      if (input < 0 || plan->graph_.values[input].kind != Value::Kind::weight) continue;
      stop_if(cancelled);
      const Value& value = plan->graph_.values[input];
      const InputRole role = node.row->inputs[i].role;
      require(role == InputRole::matrix || value.type.dtype == DType::f32, node.row->name,
              "weight " + value.parts[0] + " is read element by element and must be f32");
      const PackedWeight packed = plan->device_->prepare(*plan->weights_, value.parts, value.type, role);
      Place& place = plan->places_[input];
      require(!place.weight || place.weight == packed.data, node.row->name,
              "weight " + value.parts[0] + " is read both as a matrix and element by element: use two values");
      place = {Place::Kind::weight, 0, {}, packed.data};
      plan->prepared_.push_back(packed);
      is_packed[i] = role == InputRole::matrix;
    }
    Arguments arguments = checked_arguments(*node.row, types, node.attributes);
    arguments.packed = std::move(is_packed);
    plan->steps_.push_back({plan->device_->bind(*node.row, arguments), 0});
  }
  plan->plan_memory();
  plan->plan_pieces();
  return plan;
}

int Plan::root_of(int value, int64_t* column) const {
  int64_t at = 0;
  for (;;) {
    if (graph_.values[value].kind == Value::Kind::view) {
      at += graph_.values[value].column;
      value = graph_.values[value].source;
    } else if (join_of_[value].first >= 0) {
      at += join_of_[value].second;
      value = join_of_[value].first;
    } else {
      break;
    }
  }
  if (column) *column = at;
  return value;
}

void Plan::plan_memory() {
  const int steps = static_cast<int>(steps_.size());
  // block_of[value]: the block of memory that a result lives in. Results that take over an input's memory share its block.
  std::vector<int> block_of(graph_.values.size(), -1), last_use(graph_.values.size(), -1);
  std::vector<bool> bound(graph_.values.size(), false);
  std::vector<Lifetime> blocks;

  for (size_t i = 0; i < graph_.values.size(); ++i) {
    if (graph_.values[i].kind == Value::Kind::input) {
      places_[i] = {Place::Kind::bound, 0, graph_.values[i].name, nullptr};
      bound[i] = true;
    }
  }
  for (const GraphOutput& output : graph_.outputs) {
    require(!bound[output.value], "graph", "output " + output.name + " is named twice");
    places_[output.value] = {Place::Kind::bound, 0, output.name, nullptr};
    bound[output.value] = true;
  }
  for (int step = 0; step < steps; ++step) {
    for (int input : graph_.nodes[step].inputs) {
      if (input >= 0) last_use[root_of(input)] = step;
    }
  }
  for (int step = 0; step < steps; ++step) {
    const Node& node = graph_.nodes[step];
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const int output = node.outputs[i];
      if (bound[output]) continue;
      if (const int join = join_of_[output].first; join >= 0) {
        // The first part brings the memory of the whole.
        if (block_of[join] < 0) {
          block_of[join] = static_cast<int>(blocks.size());
          blocks.push_back({graph_.values[join].type.bytes(), step, last_use[join]});
        }
        blocks[block_of[join]].last = std::max(blocks[block_of[join]].last, step);
        continue;
      }
      const int last = std::max(step, last_use[output]);
      const int in_place = node.row->in_place_input;
      const int given = i == 0 && in_place >= 0 && in_place < static_cast<int>(node.inputs.size()) ? node.inputs[in_place] : -1;
      const bool takes_over = given >= 0 && block_of[given] >= 0 && last_use[given] == step &&
                              graph_.values[given].kind == Value::Kind::result &&
                              graph_.values[given].type == graph_.values[output].type &&
                              std::count(node.inputs.begin(), node.inputs.end(), given) == 1 &&
                              std::none_of(node.inputs.begin(), node.inputs.end(),
                                           [&](int other) { return other >= 0 && other != given && root_of(other) == given; });
      if (takes_over) {
        block_of[output] = block_of[given];
        blocks[block_of[output]].last = last;
      } else {
        block_of[output] = static_cast<int>(blocks.size());
        blocks.push_back({graph_.values[output].type.bytes(), step, last});
      }
    }
  }
  const size_t value_blocks = blocks.size();
  for (int step = 0; step < steps; ++step) blocks.push_back({steps_[step].kernel->workspace_bytes(), step, step});

  const ArenaLayout layout = place(blocks);
  for (size_t i = 0; i < graph_.values.size(); ++i) {
    if (block_of[i] >= 0) places_[i].offset = layout.offsets[block_of[i]];
  }
  for (int step = 0; step < steps; ++step) steps_[step].workspace = layout.offsets[value_blocks + step];
  arena_bytes_ = layout.bytes;
}

void Plan::plan_pieces() {
  // As many flops as a GPU does in the time that it takes to read a byte, more or less.
  constexpr double kFlopsOfByte = 100.0;
  double work = 0.0;
  size_t first = 0;
  const std::vector<StepDescription> described = steps();
  for (size_t step = 0; step < described.size(); ++step) {
    work += described[step].flops + kFlopsOfByte * described[step].bytes;
    if (work < device_->piece_of_work() && step + 1 < described.size()) continue;
    pieces_.push_back({first, step + 1});
    first = step + 1;
    work = 0.0;
  }
}

TensorView Plan::view_of(int value, std::byte* arena, const std::map<std::string, Binding>& bindings) const {
  if (value < 0) return {};
  int64_t column = 0;
  const int root = root_of(value, &column);
  const Place& place = places_[root];
  TensorView view;
  view.type = graph_.values[value].type;
  view.row_stride = graph_.values[root].type.columns();
  if (place.kind == Place::Kind::weight) {
    view.data = const_cast<std::byte*>(place.weight);  // kernels never write to their inputs
  } else if (place.kind == Place::Kind::bound) {
    const Binding& binding = bindings.at(place.binding);
    view.data = binding.buffer->data() + binding.offset;
  } else {
    view.data = arena + place.offset;
  }
  view.data += static_cast<size_t>(column) * size_of(view.type.dtype);
  return view;
}

void Plan::check_bindings(const std::map<std::string, Binding>& bindings) const {
  std::map<std::string, size_t> wanted;
  for (const Value& value : graph_.values) {
    if (value.kind == Value::Kind::input) wanted[value.name] = value.type.bytes();
  }
  for (const GraphOutput& output : graph_.outputs) wanted[output.name] = graph_.values[output.value].type.bytes();
  for (const auto& [name, bytes] : wanted) {
    const auto given = bindings.find(name);
    require(given != bindings.end(), "run", "no tensor for " + name);
    const Binding& binding = given->second;
    require(binding.offset <= binding.buffer->bytes() && bytes <= binding.buffer->bytes() - binding.offset &&
                binding.offset % 4 == 0,
            "run", "tensor for " + name + " is too small: " + std::to_string(bytes) + " bytes needed");
  }
  for (const auto& [name, binding] : bindings) {
    require(wanted.count(name) == 1, "run", "the plan has neither an input nor an output named " + name);
  }
}

void Plan::run(const std::map<std::string, Binding>& bindings, const std::atomic<bool>& cancelled,
               std::vector<double>* step_seconds) const {
  if (step_seconds) step_seconds->resize(steps_.size());
  stop_if(cancelled);
  try {
    std::byte* arena = device_->arena(arena_bytes_);
    if (step_seconds || !device_->records()) {
      enqueue({0, steps_.size()}, arena, bindings, cancelled, step_seconds);
    } else {
      enqueue_or_repeat(arena, bindings, cancelled);
    }
    device_->synchronize();
  } catch (...) {
    device_->abandon();
    throw;
  }
}

void Plan::enqueue(Steps given, std::byte* arena, const std::map<std::string, Binding>& bindings,
                   const std::atomic<bool>& cancelled, std::vector<double>* step_seconds) const {
  using Clock = std::chrono::steady_clock;
  for (size_t step = given.first; step < given.end; ++step) {
    stop_if(cancelled);
    const Node& node = graph_.nodes[step];
    KernelCall call;
    for (int input : node.inputs) call.inputs.push_back(view_of(input, arena, bindings));
    call.inputs.resize(node.row->inputs.size());
    for (int output : node.outputs) call.outputs.push_back(view_of(output, arena, bindings));
    call.workspace = arena + steps_[step].workspace;
    const Clock::time_point begin = step_seconds ? Clock::now() : Clock::time_point();
    steps_[step].kernel->run(call);
    if (step_seconds) device_->synchronize();
    if (step_seconds) (*step_seconds)[step] += std::chrono::duration<double>(Clock::now() - begin).count();
  }
}

// A recording holds addresses, not buffers: it serves whatever lies there by then, which check_bindings has measured. Few sets
// of addresses come again (two, where the next batch is brought in beside a step); what comes once is never recorded, which
// takes longer than to run.
void Plan::enqueue_or_repeat(std::byte* arena, const std::map<std::string, Binding>& bindings,
                             const std::atomic<bool>& cancelled) const {
  constexpr size_t kMostRecorded = 4;
  std::vector<const std::byte*> addresses{arena};
  for (const auto& [name, binding] : bindings) addresses.push_back(binding.buffer->data() + binding.offset);
  auto found =
      std::find_if(recorded_.begin(), recorded_.end(), [&](const Recorded& one) { return one.addresses == addresses; });
  // give(piece) for each of them, one ahead of what is done.
  const auto in_pieces = [&](const auto& give) {
    for (size_t piece = 0; piece < pieces_.size(); ++piece) {
      if (piece > 0) device_->end_piece();
      stop_if(cancelled);
      give(piece);
    }
  };
  if (found == recorded_.end()) {
    in_pieces([&](size_t piece) { enqueue(pieces_[piece], arena, bindings, cancelled, nullptr); });
    if (recorded_.size() == kMostRecorded) recorded_.erase(recorded_.begin());
    recorded_.push_back({std::move(addresses), {}});
    return;
  }
  std::rotate(found, found + 1, recorded_.end());
  Recorded& one = recorded_.back();
  one.pieces.resize(pieces_.size());
  in_pieces([&](size_t piece) {
    const auto enqueued = [&] { enqueue(pieces_[piece], arena, bindings, cancelled, nullptr); };
    std::unique_ptr<RecordedWork>& work = one.pieces[piece];
    if (!work) work = device_->record(enqueued);
    work ? work->repeat() : enqueued();
  });
}

std::vector<StepDescription> Plan::steps() const {
  std::vector<StepDescription> steps;
  for (const Node& node : graph_.nodes) {
    StepDescription step;
    step.row = node.row;
    std::vector<const TensorType*> types;
    for (int input : node.inputs) {
      types.push_back(input < 0 ? nullptr : &graph_.values[input].type);
      if (input >= 0) step.inputs.push_back(*types.back());
    }
    for (int output : node.outputs) step.outputs.push_back(graph_.values[output].type);
    const Arguments arguments = checked_arguments(*node.row, types, node.attributes);
    for (const AttributeRule& rule : node.row->attributes) {
      const Attribute& value = arguments.attributes.at(rule.name);
      if (value != rule.fallback) step.attributes[rule.name] = value;
    }
    step.flops = node.row->flops(arguments);
    for (const auto* side : {&step.inputs, &step.outputs}) {
      for (const TensorType& type : *side) step.bytes += static_cast<double>(type.bytes());
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace omni_id
