// The kernel table of this backend, as the addon calls it: nothing is thrown out of it.
#pragma once
#include "../failure.h"
#include "../kernels.h"

namespace anneal::cuda {

extern const KernelTable table;

// Of device.cc: what each call of the table begins and ends with, and where its failure goes.
void begin_call(const char* kernel);
void end_call();
void keep(const Failure& failure);

}  // namespace anneal::cuda
