// Links every kernel of every instruction set into a plain executable, so that a missing body fails the build. Prints what this machine can run.
#include <cstdio>

#include "cpu/dispatch.h"

int main() {
  for (const anneal::cpu::Isa* isa = anneal::cpu::available_isas(); isa->name; ++isa) std::puts(isa->name);
}
