// A kernel that touches memory which does not exist fails its launch instead of ending the process.
#include <signal.h>

#include <cstdlib>

#include "block.h"

namespace anneal::simt {
namespace {

struct sigaction before_segv, before_bus;

void on_fault(int signal, siginfo_t* info, void* context) {
  if (current_lane) {
    Fiber& fiber = *current_fiber();
    Block& block = *fiber.block;
    char text[256];
    if (block.stacks.in_guard(info->si_addr))
      std::snprintf(text, sizeof text, "block %u: the stack of thread %d overflows", block.linear, fiber.linear);
    else
      std::snprintf(text, sizeof text, "block %u: thread %d touches address %p, where there is no memory", block.linear, fiber.linear, info->si_addr);
    block.launch->find({"out-of-bounds", text});
    abandon();
  }
  // Not the emulator's: what handled it before does now.
  const struct sigaction& before = signal == SIGSEGV ? before_segv : before_bus;
  if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
  sigaction(signal, &before, nullptr);  // the access is repeated and ends the process
}

}  // namespace

void catch_faults() {
#if !defined(ANNEAL_SIMT_ASAN)
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    // The handler never returns: the signal must not stay blocked.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
    return true;
  }();
  (void)installed;
  // A stack of its own for the handler, as the fiber's may be the one that overflowed; kept by the thread of the system.
  static thread_local bool has_stack = false;
  if (has_stack) return;
  has_stack = true;
  stack_t current{};
  sigaltstack(nullptr, &current);
  if (!(current.ss_flags & SS_DISABLE)) return;
  stack_t stack{};
  stack.ss_size = 64 << 10;
  stack.ss_sp = std::malloc(stack.ss_size);
  sigaltstack(&stack, nullptr);
#endif
}

}  // namespace anneal::simt
