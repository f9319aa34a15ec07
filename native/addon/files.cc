#include "files.h"

#include <cerrno>
#include <cstring>
#include <unistd.h>

#include "stream.h"

namespace anneal {

namespace {

constexpr int64_t most_at_once = 64 << 20;

[[noreturn]] void refuse(const std::string& path, const char* verb, int64_t offset, const std::string& why) {
  FailureKind kind = errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? FailureKind::disk_full : FailureKind::file;
  throw Failure(kind, path + ": cannot " + verb + " at byte " + std::to_string(offset) + ": " + why);
}

}  // namespace

void read_tensor(const Tensor& tensor, int file, int64_t offset, const std::string& path) {
  char* data = tensor.as<char>();
  for (int64_t done = 0, total = tensor.bytes(); done < total;) {
    int64_t wanted = total - done < most_at_once ? total - done : most_at_once;
    ssize_t got = pread(file, data + done, static_cast<size_t>(wanted), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse(path, "read", offset + done, strerror(errno));
    if (got == 0) {
      errno = 0;
      refuse(path, "read", offset + done, "the file ends " + std::to_string(total - done) + " bytes early; it is truncated");
    }
    done += got;
  }
}

void write_tensor(const Tensor& tensor, int file, int64_t offset, const std::string& path) {
  const char* data = tensor.as<char>();
  for (int64_t done = 0, total = tensor.bytes(); done < total;) {
    int64_t wanted = total - done < most_at_once ? total - done : most_at_once;
    ssize_t got = pwrite(file, data + done, static_cast<size_t>(wanted), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse(path, "write", offset + done, std::string(strerror(errno)) + "; " + std::to_string(total - done) + " bytes were left to write");
    done += got;
  }
}

}  // namespace anneal
