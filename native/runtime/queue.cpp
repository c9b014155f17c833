#include "runtime/queue.h"

#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/thread_pool.h"

namespace omni_id {

struct Queue::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::function<void()>> jobs;
  bool stopping = false;
};

Queue::Queue() : state_(std::make_shared<State>()), thread_([state = state_] { work(*state); }) {}

Queue::~Queue() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_one();
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void Queue::submit(std::function<void()> job) {
  {
    std::lock_guard lock(state_->mutex);
    state_->jobs.push_back(std::move(job));
  }
  state_->wake.notify_one();
}

void Queue::work(State& state) {
  flush_denormals_on_this_thread();
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(state.mutex);
      state.wake.wait(lock, [&] { return state.stopping || !state.jobs.empty(); });
      if (state.jobs.empty()) return;
      job = std::move(state.jobs.front());
      state.jobs.pop_front();
    }
    job();
  }
}

}  // namespace omni_id
