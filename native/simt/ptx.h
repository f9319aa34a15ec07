// Runs the PTX that nvcc made of the kernels in place of what the host compiler made of them, on the same memory, where ANNEAL_SIMT_PTX names a folder
// of .ptx files. Host and nvcc mangle names alike, so a kernel's own symbol finds its entry.
#pragma once
#include "block.h"
#include "emulator.h"

namespace anneal::simt::ptx {

bool enabled();
// Runs all blocks of the launch. What is wrong with them becomes its finding.
void run_launch(Launch& launch, const Argument* arguments, size_t count);

}  // namespace anneal::simt::ptx
