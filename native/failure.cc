#include "failure.h"

#include <cstdarg>
#include <cstdio>

#include "check.h"

namespace anneal {

void fail(const char* format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw Failure(FailureKind::kernel, message);
}

}  // namespace anneal
