// What each kernel demands of its arguments: shapes, dtypes and numbers, whatever the backend. A call is checked before it is enqueued, so that its error has
// the caller's stack; what the contents of tensors must be, the kernels see themselves.
#pragma once
#include "kernels.h"

namespace anneal::checks {

#define KERNEL(name, params) void name params;
#include "kernels.def"
#undef KERNEL

}  // namespace anneal::checks
