#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace omni_id {

MappedFile::MappedFile(const std::string& path) {
  const auto fail = [&](const char* what) {
    throw EngineError(kFile, std::string("cannot ") + what + " " + path + ": " + std::strerror(errno));
  };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail("open");
  struct stat status;
  if (fstat(file, &status) != 0 || (S_ISREG(status.st_mode) ? 0 : (errno = EINVAL))) {
    const int reason = errno;
    close(file);
    errno = reason;
    fail("map (not a regular file?)");
  }
  size_ = static_cast<size_t>(status.st_size);
  if (size_ > 0) {
    void* mapping = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    const int reason = errno;
    close(file);
    if (mapping == MAP_FAILED) {
      errno = reason;
      fail("map");
    }
    data_ = static_cast<const std::byte*>(mapping);
  } else {
    close(file);
  }
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(size_t offset, size_t bytes) const {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = (offset + bytes) / page * page;
  if (begin < end) madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace omni_id
