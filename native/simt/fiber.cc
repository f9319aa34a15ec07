#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#if defined(ANNEAL_SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace anneal::simt {

Stacks::~Stacks() {
  if (memory_) munmap(memory_, capacity_ * (bytes + guard));
  delete[] stacks_;
  delete[] free_;
}

void Stacks::reset(int count) {
  if (count > capacity_) {
    if (memory_) munmap(memory_, capacity_ * (bytes + guard));
    delete[] stacks_;
    delete[] free_;
    capacity_ = count;
    free_count_ = 0;
    void* memory = mmap(nullptr, capacity_ * (bytes + guard), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    memory_ = static_cast<char*>(memory);
    stacks_ = new Stack[capacity_];
    free_ = new Stack*[capacity_];
    for (int i = 0; i < capacity_; ++i) {
      char* low = memory_ + i * (bytes + guard);
      mprotect(low, guard, PROT_NONE);
      stacks_[i] = {low + guard, i};
    }
  }
  if (free_count_ != capacity_) {
    free_count_ = 0;
    for (int i = capacity_ - 1; i >= 0; --i) free_[free_count_++] = &stacks_[i];
  }
#if defined(ANNEAL_SIMT_ASAN)
  for (int i = 0; i < capacity_; ++i) ASAN_UNPOISON_MEMORY_REGION(stacks_[i].low, bytes);
#endif
}

Stack* Stacks::take() { return free_[--free_count_]; }

bool Stacks::in_guard(const void* address) const {
  const size_t offset = static_cast<const char*>(address) - memory_;
  return memory_ && offset < capacity_ * (bytes + guard) && offset % (bytes + guard) < guard;
}

#if defined(ANNEAL_SIMT_UCONTEXT)

void prepare(Context& context, const Stack& stack, void (*entry)()) {
  getcontext(&context.machine);
  context.machine.uc_stack.ss_sp = stack.low;
  context.machine.uc_stack.ss_size = Stacks::bytes;
  context.machine.uc_link = nullptr;
  makecontext(&context.machine, entry, 0);
#if defined(ANNEAL_SIMT_ASAN)
  context.low = stack.low;
  context.bytes = Stacks::bytes;
#endif
}

static void switch_stacks(Context& from, Context& to) { swapcontext(&from.machine, &to.machine); }

#else

// Saves the registers that a call must preserve, changes the stack pointer and restores them from the other stack.
extern "C" void anneal_simt_switch(void** save, void* to);
asm(R"(
.text
.globl anneal_simt_switch
.hidden anneal_simt_switch
.type anneal_simt_switch,@function
anneal_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size anneal_simt_switch,.-anneal_simt_switch
)");

void prepare(Context& context, const Stack& stack, void (*entry)()) {
  // Tops at different offsets in a page, so that the stacks' busiest lines fall into different sets of the cache.
  uintptr_t top = reinterpret_cast<uintptr_t>(stack.low) + Stacks::bytes - 64 - static_cast<size_t>(stack.index * 17 * 64 & 4095);
  void** slot = reinterpret_cast<void**>(top & ~uintptr_t{63});
  *--slot = nullptr;  // the return address that entry() never uses; the stack pointer is then as after a call
  *--slot = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--slot = nullptr;
  context.stack_pointer = slot;
#if defined(ANNEAL_SIMT_ASAN)
  context.low = stack.low;
  context.bytes = Stacks::bytes;
#endif
}

static void switch_stacks(Context& from, Context& to) { anneal_simt_switch(&from.stack_pointer, to.stack_pointer); }

#endif

void switch_context(Context& from, Context& to, bool ends) {
#if defined(ANNEAL_SIMT_ASAN)
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake_stack, to.low, to.bytes);
  switch_stacks(from, to);
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#else
  (void)ends;
  switch_stacks(from, to);
#endif
}

void entered(Context& main) {
#if defined(ANNEAL_SIMT_ASAN)
  const void* low = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(nullptr, &low, &size);
  // The first fiber of a block is entered from the thread's own stack.
  if (!main.low) {
    main.low = low;
    main.bytes = size;
  }
#else
  (void)main;
#endif
}

}  // namespace anneal::simt
