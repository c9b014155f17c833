// A thread pool runs every task once, brings the first exception of a loop to the caller, and works as before afterwards.
#include "base/thread_pool.h"

#include <stdexcept>

#include "base/error.h"
#include "test/check.h"

using namespace omni_id;
using test::check;

namespace {

bool runs_every_task_once(ThreadPool& pool, int64_t tasks) {
  std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
  std::atomic<bool> known_worker{true};
  pool.parallel_for(tasks, [&](int64_t task, int worker) {
    ++runs[static_cast<size_t>(task)];
    if (worker < 0 || worker >= pool.size()) known_worker = false;
  });
  bool once = true;
  for (const std::atomic<int>& count : runs) once = once && count == 1;
  return once && known_worker;
}

void test_loops(int threads) {
  ThreadPool pool(threads);
  const std::string what = std::to_string(threads) + " threads";
  for (const int64_t tasks : {0, 1, 2, 3, 100, 10000}) {
    check(runs_every_task_once(pool, tasks), what + " run " + std::to_string(tasks) + " tasks once");
  }
  bool all = true;
  for (int i = 0; i < 1000; ++i) all = all && runs_every_task_once(pool, threads + i % 3);
  check(all, what + " run loop after loop");
}

// Whichever task throws, on whichever thread, and when all of them do.
void test_exceptions(int threads) {
  ThreadPool pool(threads);
  const std::string what = std::to_string(threads) + " threads";
  for (const int64_t thrower : {0, 1, 57, 99}) {
    std::atomic<int> later{0};
    const std::string code = test::code_of<EngineError>([&] {
      pool.parallel_for(100, [&](int64_t task, int) {
        if (task == thrower) throw EngineError(kWeights, "thrown by a task");
        later += task > thrower;
      });
    });
    check(code == kWeights, what + ": the exception of task " + std::to_string(thrower) + " reaches the caller");
    check(later <= 99 - thrower, what + ": no task runs twice");
    check(runs_every_task_once(pool, 100), what + " work after task " + std::to_string(thrower) + " threw");
  }
  int caught = 0;
  for (int i = 0; i < 200; ++i) {
    try {
      pool.parallel_for(64, [](int64_t, int) { throw std::runtime_error("thrown by all"); });
    } catch (const std::runtime_error& error) {
      caught += std::string(error.what()) == "thrown by all";
    }
  }
  check(caught == 200, what + ": one of many exceptions reaches the caller");
  check(runs_every_task_once(pool, 1000), what + " work after all tasks threw");
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 4, 7}) {
    test_loops(threads);
    test_exceptions(threads);
  }
  check(available_parallelism() >= 1, "there is a processor");
  return test::finish();
}
