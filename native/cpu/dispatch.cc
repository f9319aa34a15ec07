#include "dispatch.h"

#include <cstring>

namespace anneal::cpu {

// The build defines ANNEAL_HAS_… for each instruction set it compiles.
namespace baseline { extern const KernelTable kernels; }
namespace avx2 { extern const KernelTable kernels; }
namespace avx512 { extern const KernelTable kernels; }
namespace avx512bf16 { extern const KernelTable kernels; }

namespace {

struct List {
  Isa isas[5] = {};
  List() {
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
    // AMD's vdpbf16ps does twice the work of an f32 multiply-add; Intel's was measured at half of it, so there plain AVX-512 comes first.
    bool bf16_first = has_bf16 && __builtin_cpu_is("amd");
    auto add_bf16 = [&] {
#if defined(ANNEAL_HAS_AVX512BF16)
      isas[n++] = {"avx512bf16", &avx512bf16::kernels};
#endif
    };
    if (bf16_first) add_bf16();
#if defined(ANNEAL_HAS_AVX512)
    if (has_avx512) isas[n++] = {"avx512", &avx512::kernels};
#endif
    if (has_bf16 && !bf16_first) add_bf16();
#if defined(ANNEAL_HAS_AVX2)
    if (has_avx2) isas[n++] = {"avx2", &avx2::kernels};
#endif
#endif
    isas[n++] = {"baseline", &baseline::kernels};
  }
};

}  // namespace

const Isa* available_isas() {
  static const List list;
  return list.isas;
}

const Isa* select_isa(const char* wanted) {
  const Isa* isa = available_isas();
  if (!wanted || !*wanted) return isa;
  for (; isa->name; ++isa)
    if (std::strcmp(isa->name, wanted) == 0) return isa;
  return nullptr;
}

}  // namespace anneal::cpu
