#pragma once

#include <stdexcept>
#include <string>

namespace omni_id {

// Every failure that the engine reports on purpose. `code` is the stable name that reaches TypeScript
// (src/errors.ts); the message names what was given and what was expected.
class EngineError : public std::runtime_error {
 public:
  EngineError(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;
};

inline constexpr const char* kInvalidArgument = "ERR_INVALID_ARGUMENT";
inline constexpr const char* kWeights = "ERR_WEIGHTS";
inline constexpr const char* kFile = "ERR_FILE";
inline constexpr const char* kPixelsInvalid = "ERR_PIXELS_INVALID";
inline constexpr const char* kDisposed = "ERR_DISPOSED";
inline constexpr const char* kDeviceUnavailable = "ERR_DEVICE_UNAVAILABLE";
inline constexpr const char* kOutOfMemory = "ERR_OUT_OF_MEMORY";
inline constexpr const char* kAborted = "ERR_ABORTED";
// A kernel that failed on a device, which a correct one does not.
inline constexpr const char* kDevice = "ERR_DEVICE";

}  // namespace omni_id
