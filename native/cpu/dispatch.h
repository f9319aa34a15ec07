// Chooses the instruction set at run time.
#pragma once
#include "../kernels.h"

namespace anneal::cpu {

struct Isa {
  const char* name;         // baseline, avx2, avx512 or avx512bf16
  const KernelTable* kernels;
};

// The best this machine has, or the one ANNEAL_ISA names; null where the machine lacks the named one.
const Isa* select_isa(const char* wanted);
// Those this machine can run, best first, ended by a null name.
const Isa* available_isas();

}  // namespace anneal::cpu
