// How a kernel refuses its arguments. Only the stream's own thread may fail; the pool's other threads must not.
#pragma once
#include "tensor.h"

namespace anneal {

// Stops the kernel with a message in printf's format; the stream reports it at the next fence.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...);

}  // namespace anneal

#define ANNEAL_CHECK(condition, ...) \
  do { \
    if (!(condition)) ::anneal::fail(__VA_ARGS__); \
  } while (0)
