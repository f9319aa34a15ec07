// Every file of native/cpu but threads.cc and dispatch.cc is compiled once per instruction set, into the namespace that ANNEAL_ISA names. Such files
// hold internal linkage only (anonymous namespaces, static) besides the kernels: a function the linker could merge across instruction
// sets would crash older machines.
#pragma once
#include "../check.h"
#include "../operations.h"
#include "../tensor.h"
#include "threads.h"

#ifndef ANNEAL_ISA
#define ANNEAL_ISA baseline
#endif

namespace anneal::cpu::ANNEAL_ISA {
#define KERNEL(name, params) void name params;
#include "../kernels.def"
#undef KERNEL
}  // namespace anneal::cpu::ANNEAL_ISA
