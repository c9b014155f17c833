#pragma once

#include <functional>
#include <memory>
#include <thread>

namespace omni_id {

// One thread that runs jobs in the order in which they came. A device has one for its runs, which never overlap and so
// can share its arena and all of its threads, and one for work beside them. Jobs must not throw.
class Queue {
 public:
  Queue();
  ~Queue();  // runs what is still queued, then ends the thread
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  void submit(std::function<void()> job);

 private:
  struct State;
  static void work(State& state);

  // Shared with the thread: the last owner of a device, and so of its queue, may be a job on that very queue.
  std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace omni_id
