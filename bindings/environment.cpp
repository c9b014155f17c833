#include "environment.h"

#include <condition_variable>
#include <mutex>
#include <new>

#include "base/error.h"

namespace omni_id::bindings {

struct Environment::Job {
  Napi::Promise::Deferred deferred;
  std::function<Napi::Value(Napi::Env)> result;
  std::vector<Napi::ObjectReference> keep;
  std::exception_ptr failure;
};

// Outlives the environment: jobs on the queues hold it.
struct Environment::Shared {
  std::mutex mutex;
  std::condition_variable idle;
  int active = 0;  // jobs queued or running
  std::multiset<CancelFlag> flags;
};

Environment::Environment(Napi::Env env) : shared_(std::make_shared<Shared>()) {
  way_ = Way::New(env, "omni-id", 0, 1);
  way_.Unref(env);
}

void Environment::attach(Napi::Env env) {
  auto* environment = new Environment(env);
  env.SetInstanceData(environment);
  // Hooks run in reverse order: this one before the one by which the thread-safe function closes itself.
  env.AddCleanupHook([environment] { environment->close(); });
}

void Environment::close() {
  std::unique_lock lock(shared_->mutex);
  for (const CancelFlag& flag : shared_->flags) flag->store(true);
  shared_->idle.wait(lock, [this] { return shared_->active == 0; });
}

Napi::Promise Environment::submit(Napi::Env env, Queue& queue, CancelFlag cancelled, std::function<void()> work,
                                  std::function<Napi::Value(Napi::Env)> result, std::vector<Napi::Object> keep) {
  auto* job = new Job{Napi::Promise::Deferred::New(env), std::move(result), {}, nullptr};
  for (const Napi::Object& object : keep) job->keep.push_back(Napi::Persistent(object));
  const Napi::Promise promise = job->deferred.Promise();
  if (pending_++ == 0) way_.Ref(env);
  {
    std::lock_guard lock(shared_->mutex);
    ++shared_->active;
    shared_->flags.insert(cancelled);
  }
  queue.submit([shared = shared_, way = way_, job, cancelled, work = std::move(work)]() mutable {
    try {
      if (cancelled->load()) throw EngineError(kAborted, "the run was cancelled");
      work();
    } catch (...) {
      job->failure = std::current_exception();
    }
    work = nullptr;  // what it holds may be the last owner of a large object: let go before anybody waits no longer
    std::lock_guard lock(shared->mutex);
    shared->flags.erase(shared->flags.find(cancelled));
    // Called under the lock: once `active` is 0 the environment, and `way` with it, may be gone.
    way.NonBlockingCall(job);
    if (--shared->active == 0) shared->idle.notify_all();
  });
  return promise;
}

void Environment::settle(Napi::Env env, Napi::Function, std::nullptr_t*, Job* job) {
  std::unique_ptr<Job> owned(job);
  if (env == nullptr) {  // the environment is ending; its references end with it
    for (Napi::ObjectReference& reference : owned->keep) reference.SuppressDestruct();
    return;
  }
  // A worker thread that is being terminated refuses every call into JavaScript, also the one that would report it: there is
  // nobody left to tell, and an exception must not leave this function.
  try {
    Napi::HandleScope scope(env);
    Environment& environment = of(env);
    if (--environment.pending_ == 0) environment.way_.Unref(env);
    try {
      if (owned->failure) {
        owned->deferred.Reject(error_of(env, owned->failure).Value());
      } else {
        owned->deferred.Resolve(owned->result(env));
      }
    } catch (const Napi::Error& error) {
      owned->deferred.Reject(error.Value());
    } catch (...) {
      owned->deferred.Reject(error_of(env, std::current_exception()).Value());
    }
  } catch (const Napi::Error&) {
  }
}

void report_memory(Napi::Env env, int64_t change) {
  int64_t total;
  napi_adjust_external_memory(env, change, &total);
}

Napi::Error error_with_code(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

Napi::Error error_of(Napi::Env env, const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const EngineError& error) {
    return error_with_code(env, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return error_with_code(env, kOutOfMemory, "out of memory");
  } catch (const std::exception& error) {
    return error_with_code(env, "ERR_INTERNAL", error.what());
  }
}

}  // namespace omni_id::bindings
