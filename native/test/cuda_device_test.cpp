// The CUDA backend around its kernels: copies, weights, memory that runs out, recorded runs, complaints, several devices. On
// the emulation, or on a real device where it is linked with one.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <thread>

#include "base/error.h"
#include "cuda/device.h"
#include "runtime/plan.h"
#include "test/check.h"

using namespace omni_id;
using test::check;

namespace {

using Bindings = std::map<std::string, Binding>;
const std::atomic<bool> kNever{false};

std::string code_of(const std::function<void()>& body) { return test::code_of<EngineError>(body); }

Value& add_value(Graph& graph, Value::Kind kind, const TensorType& type) {
  Value& value = graph.values.emplace_back();
  value.kind = kind;
  value.type = type;
  return value;
}

// y = (a + b) + c, each of `columns` values; a weight in the place of c where `weights` names its parts.
std::shared_ptr<Plan> sum_plan(const std::shared_ptr<Device>& device, int64_t columns,
                               const std::shared_ptr<WeightStore>& weights = std::make_shared<WeightStore>(),
                               const std::vector<std::string>& parts = {}) {
  Graph graph;
  const TensorType type{DType::f32, {columns}};
  for (const char* name : {"a", "b", "c"}) add_value(graph, Value::Kind::input, type).name = name;
  if (!parts.empty()) {
    graph.values[2].kind = Value::Kind::weight;
    graph.values[2].name.clear();
    graph.values[2].parts = parts;
  }
  for (int i = 0; i < 2; ++i) add_value(graph, Value::Kind::result, type);
  graph.nodes = {{&operators::add, {0, 1}, {3}, {}}, {&operators::add, {2, 3}, {4}, {}}};
  graph.outputs = {{"y", 4}};
  return Plan::compile(std::move(graph), device, weights, kNever);
}

Bindings buffers(const std::shared_ptr<Device>& device, const std::vector<std::string>& names, int64_t columns) {
  Bindings bindings;
  for (const std::string& name : names) bindings[name] = {device->allocate(static_cast<size_t>(columns) * 4), 0};
  return bindings;
}

void fill(const std::shared_ptr<Device>& device, const Binding& binding, int64_t columns, float value) {
  const std::vector<float> values(static_cast<size_t>(columns), value);
  device->write(*binding.buffer, binding.offset, values.data(), values.size() * 4);
}

// Whether all values are this one.
bool holds(const std::shared_ptr<Device>& device, const Binding& binding, int64_t columns, float expected) {
  std::vector<float> values(static_cast<size_t>(columns));
  device->read(*binding.buffer, binding.offset, values.data(), values.size() * 4);
  return std::all_of(values.begin(), values.end(), [&](float value) { return value == expected; });
}

// One run with new values of a, b and c.
bool runs(const std::shared_ptr<Device>& device, const Plan& plan, const Bindings& bindings, int64_t columns, float a) {
  fill(device, bindings.at("a"), columns, a);
  fill(device, bindings.at("b"), columns, 10.0f);
  fill(device, bindings.at("c"), columns, 0.5f);
  plan.run(bindings, kNever);
  return holds(device, bindings.at("y"), columns, a + 10.5f);
}

void test_copies(const std::shared_ptr<Device>& device) {
  constexpr size_t kPiece = cuda::Staging::kPieceBytes;
  const std::shared_ptr<Buffer> buffer = device->allocate(3 * kPiece + 7);
  std::vector<std::byte> out(3 * kPiece);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(i * 2654435761u >> 24);
  for (const size_t bytes : {size_t{0}, size_t{1}, kPiece - 1, kPiece, kPiece + 1, 2 * kPiece, 3 * kPiece}) {
    device->write(*buffer, 7, out.data(), bytes);
    std::vector<std::byte> in(bytes);
    device->read(*buffer, 7, in.data(), bytes);
    check(std::equal(in.begin(), in.end(), out.begin()), std::to_string(bytes) + " bytes there and back");
  }
}

void test_weights(const std::shared_ptr<Device>& device) {
  // More than a piece of staging, in parts that end within one.
  const std::vector<int64_t> lengths = {700'001, 3, 600'000};
  const int64_t columns = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  auto weights = std::make_shared<WeightStore>();
  std::vector<float> expected;
  for (size_t part = 0; part < lengths.size(); ++part) {
    std::vector<float> values(static_cast<size_t>(lengths[part]));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 9973 + part);
    weights->set(std::to_string(part), {lengths[part]}, values.data());
    expected.insert(expected.end(), values.begin(), values.end());
  }
  const auto plan = sum_plan(device, columns, weights, {"0", "1", "2"});
  const Bindings bindings = buffers(device, {"a", "b", "y"}, columns);
  fill(device, bindings.at("a"), columns, 1.0f);
  fill(device, bindings.at("b"), columns, 2.0f);
  plan->run(bindings, kNever);
  std::vector<float> sums(expected.size());
  device->read(*bindings.at("y").buffer, 0, sums.data(), sums.size() * 4);
  bool same = true;
  for (size_t i = 0; i < sums.size(); ++i) same = same && sums[i] == expected[i] + 3.0f;
  check(same, "a weight of several parts");
  check(weights->packed_weights().empty(), "what lies on the device is no part of a packed cache");
  check(code_of([&] {
          sum_plan(device, columns + 1, weights, {"0", "1", "2"});
        }) == kWeights,
        "weights that do not fit are refused");
}

void test_out_of_memory() {
  const auto device = std::make_shared<CudaDevice>(0);  // one without an arena yet
  const size_t before = device->memory().current_bytes;
  check(code_of([&] { device->allocate(size_t{1} << 50); }) == kOutOfMemory, "a petabyte is refused");
  check(device->memory().current_bytes == before, "and not counted");
  if (!cuda::emulated()) return;

  constexpr int64_t kColumns = 5'000;
  const auto plan = sum_plan(device, kColumns);
  const Bindings bindings = buffers(device, {"a", "b", "c", "y"}, kColumns);
  const size_t held = device->memory().current_bytes;
  setenv("OMNI_ID_EMULATED_MEMORY", std::to_string(held + 10'000).c_str(), 1);
  check(code_of([&] { plan->run(bindings, kNever); }) == kOutOfMemory, "no memory for a plan's arena");
  check(device->memory().current_bytes <= held, "a run that found no memory holds none");
  check(code_of([&] { device->allocate(20'000); }) == kOutOfMemory, "no memory for a tensor");
  auto weights = std::make_shared<WeightStore>();
  const std::vector<float> values(kColumns);
  weights->set("w", {kColumns}, values.data());
  check(code_of([&] { sum_plan(device, kColumns, weights, {"w"}); }) == kOutOfMemory, "no memory for a weight");
  unsetenv("OMNI_ID_EMULATED_MEMORY");
  check(runs(device, *plan, bindings, kColumns, 3.0f), "the device works as before");
}

void test_recorded_work(const std::shared_ptr<Device>& device) {
  constexpr int64_t kColumns = 40;
  const TensorType type{DType::f32, {kColumns}};
  Bindings bindings = buffers(device, {"a", "b", "y"}, kColumns);
  const auto kernel = device->bind(operators::add, checked_arguments(operators::add, {&type, &type}, {}));
  KernelCall call;
  for (const char* name : {"a", "b"}) call.inputs.push_back({bindings.at(name).buffer->data(), type, kColumns});
  call.outputs = {{bindings.at("y").buffer->data(), type, kColumns}};
  fill(device, bindings.at("a"), kColumns, 1.0f);
  fill(device, bindings.at("b"), kColumns, 2.0f);
  fill(device, bindings.at("y"), kColumns, 0.0f);
  const auto work = device->record([&] { kernel->run(call); });
  device->synchronize();
  check(work && holds(device, bindings.at("y"), kColumns, 0.0f), "what is recorded is not done");
  for (const float a : {1.0f, 5.0f}) {
    fill(device, bindings.at("a"), kColumns, a);
    work->repeat();
    device->synchronize();
    check(holds(device, bindings.at("y"), kColumns, a + 2.0f), "recorded work with new values");
  }
  check(code_of([&] { device->record([] { throw EngineError(kAborted, ""); }); }) == kAborted, "a recording that ends early");
  check(code_of([&] { device->synchronize(); }).empty(), "the stream works after it");
}

void test_repeated_runs(const std::shared_ptr<Device>& device) {
  constexpr int64_t kColumns = 300;
  const auto plan = sum_plan(device, kColumns);
  std::vector<Bindings> sets;
  for (int i = 0; i < 6; ++i) sets.push_back(buffers(device, {"a", "b", "c", "y"}, kColumns));
  bool right = true;
  float a = 0.0f;
  for (int round = 0; round < 4; ++round) right = right && runs(device, *plan, sets[0], kColumns, ++a);
  check(right, "a plan with the same tensors");
  for (int round = 0; round < 8; ++round) right = right && runs(device, *plan, sets[round % 2], kColumns, ++a);
  check(right, "a plan with two sets of tensors in turn");
  for (int round = 0; round < 18; ++round) right = right && runs(device, *plan, sets[round % 6], kColumns, ++a);
  check(right, "a plan with more sets of tensors than are remembered");
  // A larger plan moves the arena.
  const auto larger = sum_plan(device, 100 * kColumns);
  const Bindings of_larger = buffers(device, {"a", "b", "c", "y"}, 100 * kColumns);
  right = right && runs(device, *larger, of_larger, 100 * kColumns, 1.0f);
  for (int round = 0; round < 3; ++round) right = right && runs(device, *plan, sets[0], kColumns, ++a);
  check(right, "a plan whose arena has moved");
  std::vector<double> seconds;
  plan->run(sets[0], kNever, &seconds);
  check(seconds.size() == 2 && seconds[0] > 0.0, "a plan whose steps are timed");
  const std::atomic<bool> cancelled{true};
  check(code_of([&] { plan->run(sets[0], cancelled); }) == kAborted, "a run that is cancelled");
  check(runs(device, *plan, sets[0], kColumns, ++a), "a run after one that was cancelled");
}

// A long run that is cancelled while it is under way: the first one with its tensors, one that is recorded, one that is
// repeated. On a real device this plan is over before anybody could cancel it.
void test_cancelled_runs(const std::shared_ptr<Device>& device) {
  if (!cuda::emulated()) return;
  constexpr int64_t kColumns = 2'000;
  constexpr int kSums = 2'000;
  Graph graph;
  const TensorType type{DType::f32, {kColumns}};
  for (const char* name : {"a", "b"}) add_value(graph, Value::Kind::input, type).name = name;
  for (int i = 0; i < kSums; ++i) {
    add_value(graph, Value::Kind::result, type);
    graph.nodes.push_back({&operators::add, {i == 0 ? 0 : i + 1, 1}, {i + 2}, {}});
  }
  graph.outputs = {{"y", kSums + 1}};
  const auto plan = Plan::compile(std::move(graph), device, std::make_shared<WeightStore>(), kNever);
  const Bindings bindings = buffers(device, {"a", "b", "y"}, kColumns);
  fill(device, bindings.at("a"), kColumns, 1.0f);
  fill(device, bindings.at("b"), kColumns, 2.0f);
  const auto code = [&](const std::atomic<bool>& cancelled) { return code_of([&] { plan->run(bindings, cancelled); }); };
  for (const char* run : {"first", "recorded", "repeated"}) {
    std::atomic<bool> cancelled{false};
    fill(device, bindings.at("y"), kColumns, 0.0f);
    std::thread later([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      cancelled = true;
    });
    const std::string ended = code(cancelled);
    later.join();
    check(ended == kAborted && holds(device, bindings.at("y"), kColumns, 0.0f), std::string("cancelled under way: ") + run);
    check(code(kNever).empty() && holds(device, bindings.at("y"), kColumns, 1.0f + 2.0f * kSums),
          std::string("and whole after it: ") + run);
  }
}

// Indices that no image has, in a first run, a recorded one, and one of another plan's.
void test_complaints(const std::shared_ptr<Device>& device) {
  Graph graph;
  add_value(graph, Value::Kind::input, {DType::f32, {1, 1, 2, 2}}).name = "images";
  add_value(graph, Value::Kind::input, {DType::i32, {2}}).name = "visible";
  add_value(graph, Value::Kind::result, {DType::f32, {2, 1}});
  graph.nodes = {{&operators::patch_gather, {0, 1}, {2}, {{"patch", int64_t{1}}}}};
  graph.outputs = {{"rows", 2}};
  const auto plan = Plan::compile(std::move(graph), device, std::make_shared<WeightStore>(), kNever);
  Bindings bindings = buffers(device, {"images", "visible", "rows"}, 4);
  const std::vector<float> images = {1.0f, 2.0f, 3.0f, 4.0f};
  device->write(*bindings.at("images").buffer, 0, images.data(), 16);
  const auto code = [&](int32_t first, int32_t second) {
    const int32_t visible[] = {first, second};
    device->write(*bindings.at("visible").buffer, 0, visible, sizeof visible);
    return code_of([&] { plan->run(bindings, kNever); });
  };
  for (const char* run : {"first", "recorded", "repeated"}) {
    check(code(1, 4) == kInvalidArgument, std::string("the ") + run + " run complains");
    check(code(1, 3).empty(), std::string("and is over it: ") + run);
    float rows[2];
    device->read(*bindings.at("rows").buffer, 0, rows, sizeof rows);
    check(rows[0] == 2.0f && rows[1] == 4.0f, std::string("with what is right: ") + run);
  }
  const auto other = sum_plan(device, 4);
  check(code(-1, 0) == kInvalidArgument && runs(device, *other, buffers(device, {"a", "b", "c", "y"}, 4), 4, 1.0f),
        "another plan hears nothing of it");
}

// An optimizer behind an operator that complains: as on the CPU, where the run ends before it, no parameter changes.
void test_complaint_before_update(const std::shared_ptr<Device>& device) {
  constexpr int64_t kCount = 5'000;
  Graph graph;
  Bindings bindings;
  const auto input = [&](const std::string& name, const TensorType& type) {
    add_value(graph, Value::Kind::input, type).name = name;
    bindings[name] = {device->allocate(type.bytes()), 0};
    return static_cast<int>(graph.values.size()) - 1;
  };
  const auto result = [&](const TensorType& type) {
    add_value(graph, Value::Kind::result, type);
    return static_cast<int>(graph.values.size()) - 1;
  };
  const TensorType vector{DType::f32, {kCount}}, one{DType::f32, {1}};
  const int images = input("images", {DType::f32, {1, 1, 2, 2}}), visible = input("visible", {DType::i32, {2}});
  const int values = input("values", vector), gradients = input("gradients", vector);
  const int first = input("first", vector), second = input("second", vector), norm = input("norm", one);
  const int settings = input("settings", {DType::f32, {5}}), segments = input("segments", {DType::i32, {2}});
  const int rates = input("rates", one), decays = input("decays", one);
  const int rows = result({DType::f32, {2, 1}});
  std::vector<int> updated;
  for (int i = 0; i < 3; ++i) updated.push_back(result(vector));
  graph.nodes = {
      {&operators::patch_gather, {images, visible}, {rows}, {{"patch", int64_t{1}}}},
      {&operators::adamw, {values, gradients, first, second, norm, settings, segments, rates, decays, -1}, updated, {}}};
  graph.outputs = {{"rows", rows}, {"new values", updated[0]}, {"new first", updated[1]}, {"new second", updated[2]}};
  bindings["rows"] = {device->allocate(8), 0};
  for (const char* name : {"values", "first", "second"}) bindings[std::string("new ") + name] = bindings.at(name);
  const auto plan = Plan::compile(std::move(graph), device, std::make_shared<WeightStore>(), kNever);
  fill(device, bindings.at("images"), 4, 1.0f);
  for (const char* name : {"values", "gradients", "first", "second"}) fill(device, bindings.at(name), kCount, 0.5f);
  for (const char* name : {"norm", "rates"}) fill(device, bindings.at(name), 1, 1.0f);
  fill(device, bindings.at("decays"), 1, 0.0f);
  const float step[] = {0.1f, 0.1f, 0.05f, 0.0f, 0.0f};
  device->write(*bindings.at("settings").buffer, 0, step, sizeof step);
  const int32_t whole[] = {0, static_cast<int32_t>(kCount)};
  device->write(*bindings.at("segments").buffer, 0, whole, sizeof whole);
  const auto code = [&](int32_t index) {
    const int32_t indices[] = {0, index};
    device->write(*bindings.at("visible").buffer, 0, indices, sizeof indices);
    return code_of([&] { plan->run(bindings, kNever); });
  };
  bool same = true;
  for (int run = 0; run < 3; ++run) {
    same = same && code(4) == kInvalidArgument;
    for (const char* name : {"values", "first", "second"}) same = same && holds(device, bindings.at(name), kCount, 0.5f);
  }
  check(same, "a complaint before the optimizer: no parameter changes");
  check(code(3).empty() && !holds(device, bindings.at("values"), kCount, 0.5f), "and without one they do");
}

void test_several_devices() {
  if (cuda::emulated()) setenv("OMNI_ID_EMULATED_DEVICES", "2", 1);
  const std::vector<cuda::DeviceProperties> found = cuda::find_devices().found;
  const size_t count = found.size();
  for (const int none : {-1, static_cast<int>(count)}) {
    check(code_of([&] { open_cuda_device(none); }) == kDeviceUnavailable,
          "device " + std::to_string(none) + " of " + std::to_string(count));
  }
  check(open_cuda_device(0) == open_cuda_device(0), "a device is opened once");
  if (count < 2 || !found[1].reason.empty()) return;
  const std::vector<std::shared_ptr<Device>> devices = {open_cuda_device(0), open_cuda_device(1)};
  auto weights = std::make_shared<WeightStore>();
  const std::vector<float> values(8, 0.5f);
  weights->set("w", {8}, values.data());
  std::vector<std::shared_ptr<Plan>> plans;
  std::vector<Bindings> bindings;
  for (const auto& device : devices) {
    plans.push_back(sum_plan(device, 8, weights, {"w"}));
    bindings.push_back(buffers(device, {"a", "b", "y"}, 8));
  }
  // In turn and from one thread.
  bool right = true;
  for (int round = 0; round < 6; ++round) {
    const size_t i = static_cast<size_t>(round % 2);
    fill(devices[i], bindings[i].at("a"), 8, static_cast<float>(round));
    fill(devices[i], bindings[i].at("b"), 8, 1.0f);
    plans[i]->run(bindings[i], kNever);
    right = right && holds(devices[i], bindings[i].at("y"), 8, static_cast<float>(round) + 1.5f);
  }
  check(right, "two devices in turn");
  if (cuda::emulated()) unsetenv("OMNI_ID_EMULATED_DEVICES");
}

void test_peaks(const std::shared_ptr<Device>& device) {
  for (const Peak what : {Peak::f32, Peak::bf16, Peak::memory_read}) {
    const double peak = device->measure_peak(what, 0.1);
    check(cuda::emulated() ? peak == 0.0 : peak > 1e9, "a peak: none of an emulation, or more than 10^9");
  }
}

}  // namespace

int main() {
  const cuda::Devices devices = cuda::find_devices();
  if (devices.found.empty() || !devices.found[0].reason.empty()) {
    std::printf("no CUDA device: %s\n", (devices.found.empty() ? devices.reason : devices.found[0].reason).c_str());
    return 1;
  }
  const std::shared_ptr<Device> device = open_cuda_device(0);
  std::printf("on %s\n", device->instruction_set().c_str());
  test_copies(device);
  test_weights(device);
  test_out_of_memory();
  test_recorded_work(device);
  test_repeated_runs(device);
  test_cancelled_runs(device);
  test_complaints(device);
  test_complaint_before_update(device);
  test_peaks(device);
  test_several_devices();
  return test::finish();
}
