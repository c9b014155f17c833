#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "rendered/renderer.h"
#include "runtime/queue.h"

namespace omni_id::rendered {

// A renderer and threads of its own, beside those of the devices. Images take about as long as one another, so that they are
// dealt out in turn.
class RenderService {
 public:
  RenderService(FaceModel model, int threads) : renderer_(std::move(model)) {
    for (int i = 0; i < threads; ++i) queues_.push_back(std::make_unique<Queue>());
  }
  const Renderer& renderer() const { return renderer_; }
  Queue& next_queue() { return *queues_[next_++ % queues_.size()]; }

 private:
  Renderer renderer_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::atomic<size_t> next_{0};
};

}  // namespace omni_id::rendered
