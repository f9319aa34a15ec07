// Counts of what kernels do, for ANNEAL_SIMT_PROFILE: bank conflicts and sectors of every access site (instrumented builds), instructions and bytes.
#pragma once
#include "block.h"

namespace anneal::simt {

#if defined(ANNEAL_SIMT_HOOKS)
void profile_begin(Block& block);
void profile_end(Block& block);
// Adds the counts of a launch that is complete.
void profile_launch(const Launch& launch);
void profile_access(Fiber& fiber, const void* address, size_t bytes, bool write, bool shared, const void* pc);
#endif
// Writes everything so far to the file of the settings, if there is one: whenever the host has waited for the device, as a test runner may kill the process.
void write_profile();

}  // namespace anneal::simt
