// This instruction set's kernels as one table; a kernel without a body fails to link.
#include "../kernels.h"
#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {

extern const KernelTable kernels;
const KernelTable kernels = {
#define KERNEL(name, params) .name = name,
#include "../kernels.def"
#undef KERNEL
};

}  // namespace anneal::cpu::ANNEAL_ISA
