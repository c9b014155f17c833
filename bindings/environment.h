#pragma once

#include <napi.h>

#include <atomic>
#include <functional>
#include <memory>
#include <set>

#include "runtime/device.h"

namespace omni_id::bindings {

using CancelFlag = std::shared_ptr<std::atomic<bool>>;

// What belongs to one JavaScript environment (the main thread, or a worker thread): its way back from the engine's threads, and
// the jobs it has under way. When the environment ends, its jobs are cancelled and waited for; other environments do not
// notice.
//
// Jobs run on the device's own queues, never on libuv's four threads, where a long embedding would make file reads wait. The
// thread-safe function is referenced only while a job is pending, so that an idle addon does not keep the process alive.
class Environment {
 public:
  static void attach(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  explicit Environment(Napi::Env env);

  // Queues `work` on a queue of the device and returns a promise of what `result`, called on this environment's thread, makes
  // of it. What `work` throws rejects the promise with a `code`. `keep` holds JavaScript objects alive (and their memory in
  // place) until then; `work` itself must keep the device alive.
  Napi::Promise submit(Napi::Env env, Queue& queue, CancelFlag cancelled, std::function<void()> work,
                       std::function<Napi::Value(Napi::Env)> result, std::vector<Napi::Object> keep = {});

  Napi::FunctionReference device, tensor, mapped_file, weights, plan, cancellation, face_renderer;  // constructors

 private:
  struct Job;
  struct Shared;
  static void settle(Napi::Env env, Napi::Function, std::nullptr_t*, Job* job);
  using Way = Napi::TypedThreadSafeFunction<std::nullptr_t, Job, &Environment::settle>;

  void close();

  std::shared_ptr<Shared> shared_;
  Way way_;
  int pending_ = 0;
};

// Tells V8 that native memory grew or shrank. Does nothing where the environment is ending, as destructors need.
void report_memory(Napi::Env env, int64_t change);

// A JavaScript error with the engine's `code`.
Napi::Error error_with_code(Napi::Env env, const char* code, const std::string& message);
// The same for whatever exception is being handled.
Napi::Error error_of(Napi::Env env, const std::exception_ptr& failure);

// Runs `body`, turning the engine's exceptions into JavaScript ones.
template <typename Body>
auto guarded(Napi::Env env, Body&& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw error_of(env, std::current_exception());
  }
}

}  // namespace omni_id::bindings
