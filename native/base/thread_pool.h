#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace omni_id {

// The number of processors this process may use: its affinity mask, lowered by the cgroup's CPU quota (v1 and v2).
// At least 1. A container limited to half a core gets 1.
int available_parallelism();

// A fixed set of threads that share loops. The calling thread works too, so a pool of n has n − 1 threads of its own.
// Work is handed out task by task from one counter; results must not depend on which worker ran a task. A loop ends when its
// tasks have ended: a thread that is asleep, or was preempted before it announced itself, is not
// waited for.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Runs body(task, worker) for every task in [0, tasks), worker in [0, size()). Returns when all have run. Rethrows the
  // first exception. One loop at a time: only the device's queue thread calls this.
  void parallel_for(int64_t tasks, const std::function<void(int64_t task, int worker)>& body);

 private:
  void work(int worker);
  void drain(int worker);

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  const std::function<void(int64_t, int)>* body_ = nullptr;
  int64_t tasks_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> generation_{0};  // counts loops
  // A worker announces itself in `inside_` before it looks at `open_`, and the caller closes `open_` before it looks at
  // `inside_`: one of the two sees the other (both are sequentially consistent), so that nobody reads a loop that is gone.
  std::atomic<bool> open_{false};
  std::atomic<int> inside_{0};
  std::atomic<bool> stopping_{false};
  std::exception_ptr failure_;
};

// Denormals are flushed to zero on the engine's threads, and only there: they cost a hundred cycles each.
void flush_denormals_on_this_thread();

}  // namespace omni_id
