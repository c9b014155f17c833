#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "runtime/device.h"

namespace omni_id {

// A piece of a buffer that a run reads an input from or writes an output to.
struct Binding {
  std::shared_ptr<Buffer> buffer;
  size_t offset = 0;
};

// What a step of a plan is and does, for profiles. Flops are those of the operator table.
struct StepDescription {
  const OperatorRow* row = nullptr;
  std::vector<TensorType> inputs;  // those that are there
  std::vector<TensorType> outputs;
  Attributes attributes;  // those that are not at their default
  double flops = 0;
  double bytes = 0;  // inputs, weights and outputs, each read or written once
};

// A graph bound to a device: operators to kernels, values to places in the device's arena. Immutable after compilation but for
// what it has recorded; runs happen on the device's queue thread, one at a time.
class Plan {
 public:
  // Runs on the device's queue thread: it packs the weights that no plan has packed yet. `cancelled` is looked at between
  // weights. Throws ERR_INVALID_ARGUMENT, ERR_WEIGHTS, ERR_OUT_OF_MEMORY or ERR_ABORTED.
  static std::shared_ptr<Plan> compile(Graph graph, std::shared_ptr<Device> device, std::shared_ptr<WeightStore> weights,
                                       const std::atomic<bool>& cancelled);

  // Throws ERR_INVALID_ARGUMENT when a binding is missing, unknown or too small. From any thread.
  void check_bindings(const std::map<std::string, Binding>& bindings) const;

  // Looks at `cancelled` between operators (between pieces of work, where the device is not done when they return) and throws
  // ERR_ABORTED. On the queue thread. With `step_seconds`, the time that each
  // step took is added to its element; steps are not timed without.
  void run(const std::map<std::string, Binding>& bindings, const std::atomic<bool>& cancelled,
           std::vector<double>* step_seconds = nullptr) const;

  std::vector<StepDescription> steps() const;

  const Graph& graph() const { return graph_; }
  Device& device() const { return *device_; }
  size_t arena_bytes() const { return arena_bytes_; }

 private:
  struct Step {
    std::unique_ptr<Kernel> kernel;
    size_t workspace = 0;  // offset in the arena
  };
  // Where a value lives. Views follow their source, parts of a join the join.
  struct Place {
    enum class Kind { arena, bound, weight } kind = Kind::arena;
    size_t offset = 0;    // arena
    std::string binding;  // bound
    const std::byte* weight = nullptr;
  };

  void plan_memory();
  // The value whose memory another lies in, and at which column.
  int root_of(int value, int64_t* column = nullptr) const;
  // Cuts the steps into pieces of as much work as the device takes at a time.
  void plan_pieces();
  struct Steps {
    size_t first, end;
  };
  // Gives these steps to the device's queue.
  void enqueue(Steps given, std::byte* arena, const std::map<std::string, Binding>& bindings,
               const std::atomic<bool>& cancelled, std::vector<double>* step_seconds) const;
  // All of them, piece by piece; by recordings, where this is not the first run with these addresses.
  void enqueue_or_repeat(std::byte* arena, const std::map<std::string, Binding>& bindings,
                         const std::atomic<bool>& cancelled) const;
  TensorView view_of(int value, std::byte* arena, const std::map<std::string, Binding>& bindings) const;

  Graph graph_;
  std::shared_ptr<Device> device_;
  std::shared_ptr<WeightStore> weights_;
  std::vector<PackedWeight> prepared_;  // keeps them alive
  std::vector<Step> steps_;
  std::vector<Steps> pieces_;
  std::vector<Place> places_;
  std::vector<std::pair<int, int64_t>> join_of_;  // of a join's parts: the join and the column, otherwise −1
  size_t arena_bytes_ = 0;

  // Runs by the addresses that they worked on, the latest last.
  struct Recorded {
    std::vector<const std::byte*> addresses;
    std::vector<std::unique_ptr<RecordedWork>> pieces;  // none after the first run
  };
  mutable std::vector<Recorded> recorded_;
};

}  // namespace omni_id
