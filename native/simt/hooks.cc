// In an instrumented build the kernels are compiled with -fsanitize=thread, but linked with these functions instead of that sanitizer's runtime: every
// access of a kernel arrives here. The emulator itself is compiled without.
#if defined(ANNEAL_SIMT_HOOKS)
#include "block.h"

namespace {

using anneal::simt::Access;

inline void note(const void* address, size_t bytes, Access access, const void* pc) {
  if (anneal::simt::current_lane) anneal::simt::touch(*anneal::simt::current_fiber(), address, bytes, access, pc);
}

}  // namespace

#define PC __builtin_return_address(0)
#define ACCESSES(n)                                                                              \
  void __tsan_read##n(void* p) { note(p, n, Access::read, PC); }                                 \
  void __tsan_write##n(void* p) { note(p, n, Access::write, PC); }                               \
  void __tsan_unaligned_read##n(void* p) { note(p, n, Access::read, PC); }                       \
  void __tsan_unaligned_write##n(void* p) { note(p, n, Access::write, PC); }                     \
  void __tsan_volatile_read##n(void* p) { note(p, n, Access::read, PC); }                        \
  void __tsan_volatile_write##n(void* p) { note(p, n, Access::write, PC); }
// Atomic operations of kernels are announced by atomic_access(); those of the standard library are none of the kernel's.
#define ATOMICS(bits)                                                                                                                             \
  uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }              \
  void __tsan_atomic##bits##_store(volatile uint##bits##_t* p, uint##bits##_t v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }              \
  uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t* p, uint##bits##_t v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
  uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t* p, uint##bits##_t v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); } \
  uint##bits##_t __tsan_atomic##bits##_fetch_sub(volatile uint##bits##_t* p, uint##bits##_t v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); } \
  bool __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* p, uint##bits##_t* expected, uint##bits##_t v, int, int) {          \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                                \
  }                                                                                                                                               \
  bool __tsan_atomic##bits##_compare_exchange_weak(volatile uint##bits##_t* p, uint##bits##_t* expected, uint##bits##_t v, int, int) {            \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                                \
  }

extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
ATOMICS(8)
ATOMICS(16)
ATOMICS(32)
ATOMICS(64)
void __tsan_read_range(void* p, unsigned long bytes) { note(p, bytes, Access::read, PC); }
void __tsan_write_range(void* p, unsigned long bytes) { note(p, bytes, Access::write, PC); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_atomic_thread_fence(int) {}
void __tsan_init() {}
}
#endif
