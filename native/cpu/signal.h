// A counter that threads wait on. The spin budget adapts: a wait that ended in sleep halves it, one that ended while spinning lets it grow back,
// so a busy machine is not slowed by spinning threads. 1000 pauses are about 25 µs: waking a sleeper costs more, and a small model's regions lie closer.
// Who waits for work waits for the thread that enqueues it, too, which may need this very processor: such a wait gives way between two looks. Within a region
// all who are waited for are computing, and giving way would only make this thread late.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>

namespace anneal {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

enum class Waiting { for_work, in_region };

struct Signal {
  static constexpr int most_spins = 16000, fewest_spins = 1000, spins_before_giving_way = 200;
  alignas(64) std::atomic<uint32_t> value{0};
  alignas(64) std::atomic<bool> asleep{false};
  std::atomic<int> spins{most_spins};

  void wait_change(uint32_t old, Waiting waiting) {
    int budget = spins.load(std::memory_order_relaxed);
    for (int i = 0; i < budget; ++i) {
      if (value.load(std::memory_order_acquire) != old) {
        if (budget < most_spins) spins.store(budget + budget / 8 + 1, std::memory_order_relaxed);
        return;
      }
      if (waiting == Waiting::for_work && i >= spins_before_giving_way && i % 32 == 0) std::this_thread::yield();
      relax();
    }
    spins.store(budget / 2 < fewest_spins ? fewest_spins : budget / 2, std::memory_order_relaxed);
    for (;;) {
      asleep.store(true);
      if (value.load() != old) return;
      value.wait(old);
    }
  }
  void bump() {
    // A flag taken before the change is of sleepers that this change wakes, and is taken once, however long they need to come; one set since is seen after it.
    const bool slept = asleep.load() && asleep.exchange(false);
    value.fetch_add(1);
    if (slept || asleep.load()) value.notify_all();
  }
};

}  // namespace anneal
