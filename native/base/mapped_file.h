#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace omni_id {

// A file mapped read-only. The mapping stays valid after the file is renamed or deleted; truncating a mapped file is the one
// thing that the system answers with SIGBUS, which is why the package itself only ever replaces files by renaming.
class MappedFile {
 public:
  // Throws ERR_FILE with the system's reason.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  // Gives the pages that lie wholly inside [offset, offset + bytes) back to the system; reading them again maps them again.
  void release(size_t offset, size_t bytes) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace omni_id
