#include "files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unistd.h>

namespace anneal {

namespace {

constexpr int64_t most_at_once = 64 << 20;

[[noreturn]] void refuse(const std::string& path, const char* verb, int64_t offset, const std::string& why) {
  FailureKind kind = errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? FailureKind::disk_full : FailureKind::file;
  throw Failure(kind, path + ": cannot " + verb + " at byte " + std::to_string(offset) + ": " + why);
}

}  // namespace

void read_tensor(Device& device, const Tensor& tensor, int file, int64_t offset, const std::string& path) {
  char* data = tensor.as<char>();
  std::string staged(device.is_cpu() ? 0 : static_cast<size_t>(std::min(tensor.bytes(), most_at_once)), '\0');
  for (int64_t done = 0, total = tensor.bytes(); done < total;) {
    int64_t wanted = total - done < most_at_once ? total - done : most_at_once;
    ssize_t got = pread(file, device.is_cpu() ? data + done : staged.data(), static_cast<size_t>(wanted), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse(path, "read", offset + done, strerror(errno));
    if (got == 0) {
      errno = 0;
      refuse(path, "read", offset + done, "the file ends " + std::to_string(total - done) + " bytes early; it is truncated");
    }
    if (!device.is_cpu()) device.write(data + done, staged.data(), static_cast<size_t>(got));
    done += got;
  }
}

void write_tensor(Device& device, const Tensor& tensor, int file, int64_t offset, const std::string& path) {
  const char* data = tensor.as<char>();
  std::string staged;
  for (int64_t done = 0, total = tensor.bytes(); done < total;) {
    int64_t wanted = total - done < most_at_once ? total - done : most_at_once;
    const char* from = data + done;
    if (!device.is_cpu()) {
      staged.resize(static_cast<size_t>(wanted));
      device.read(staged.data(), from, staged.size());
      from = staged.data();
    }
    for (int64_t written = 0; written < wanted;) {
      ssize_t got = pwrite(file, from + written, static_cast<size_t>(wanted - written), offset + done + written);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) refuse(path, "write", offset + done + written, std::string(strerror(errno)) + "; " + std::to_string(total - done - written) + " bytes were left to write");
      written += got;
    }
    done += wanted;
  }
}

}  // namespace anneal
