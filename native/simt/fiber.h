// Stacks and the switch between them.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#define ANNEAL_SIMT_UCONTEXT 1
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define ANNEAL_SIMT_ASAN 1
#endif

namespace anneal::simt {

// Where a suspended fiber goes on.
struct Context {
  void* stack_pointer = nullptr;
#if defined(ANNEAL_SIMT_UCONTEXT)
  ucontext_t machine{};
#endif
#if defined(ANNEAL_SIMT_ASAN)
  void* fake_stack = nullptr;
  const void* low = nullptr;
  size_t bytes = 0;
#endif
};

struct Stack {
  char* low = nullptr;
  int index = 0;
};

// One stack for each thread of the largest block so far, each above a page that faults.
class Stacks {
 public:
#if defined(ANNEAL_SIMT_ASAN)
  static constexpr size_t bytes = 256 << 10;
#else
  static constexpr size_t bytes = 64 << 10;
#endif
  ~Stacks();
  // All `count` stacks are free again.
  void reset(int count);
  Stack* take();
  void give_back(Stack* stack) { free_[free_count_++] = stack; }
  bool in_guard(const void* address) const;

 private:
  static constexpr size_t guard = 4096;
  char* memory_ = nullptr;
  Stack* stacks_ = nullptr;
  Stack** free_ = nullptr;
  int capacity_ = 0, free_count_ = 0;
};

// Lets `context` begin with entry() on the stack.
void prepare(Context& context, const Stack& stack, void (*entry)());
// Suspends `from`; with `ends`, for good.
void switch_context(Context& from, Context& to, bool ends);
// First thing on a new stack: `main` is the context that started the block.
void entered(Context& main);

}  // namespace anneal::simt
