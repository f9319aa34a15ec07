// How a call of a kernel is refused, by native/checks before it is enqueued or by the kernel itself. Of the stream only its own thread may fail; the pool's
// other threads must not.
#pragma once
#include "tensor.h"

namespace anneal {

// Stops with a message in printf's format: the caller gets it at the call, or from the stream at the next fence.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...);

}  // namespace anneal

#define ANNEAL_CHECK(condition, ...) \
  do { \
    if (!(condition)) ::anneal::fail(__VA_ARGS__); \
  } while (0)
