// What kernels.def means to C++: a table of function pointers that every backend fills.
#pragma once
#include "tensor.h"

namespace anneal {

struct KernelTable {
#define KERNEL(name, params) void(*name) params;
#include "kernels.def"
#undef KERNEL
};

}  // namespace anneal
