// One parallel region of a pool. Its caller always takes part; another thread joins where it comes while the region is open. So a thread that is late, as
// other programs have its processor, costs nothing: the others take its work. Work goes by tickets, in phases that barriers part.
#pragma once
#include "signal.h"

#include <atomic>
#include <cstdint>

namespace anneal {

class Region {
 public:
  static constexpr int most_threads = 4095;

  // By the caller, who has joined then. Threads 1 … limit - 1 may.
  void open(int limit) {
    tickets_.store(0, std::memory_order_relaxed);
    place = {0, 0};
    state_.store(one_joined | limit * one_limit | (limit > 1 ? opened : 0), std::memory_order_release);
  }
  bool join(int thread) {
    uint64_t state = state_.load(std::memory_order_acquire);
    do {
      if (!(state & opened) || thread >= limit_of(state)) return false;
    } while (!state_.compare_exchange_weak(state, state + one_joined, std::memory_order_acq_rel));
    place = {0, phase_of(state)};
    return true;
  }
  int limit() const { return limit_of(state_.load(std::memory_order_relaxed)); }

  // The next unclaimed ticket of this phase: 0, 1, 2, … For who came late there is none in the phases that are over.
  int64_t ticket() {
    if (place.phase < place.present) return none;
    const uint64_t phase = place.phase;
    uint64_t next = tickets_.load(std::memory_order_relaxed);
    while (next >> 32 != phase)
      if (tickets_.compare_exchange_weak(next, phase << 32 | 1, std::memory_order_relaxed)) return 0;
    return static_cast<int64_t>(tickets_.fetch_add(1, std::memory_order_relaxed) & 0xffffffff);
  }

  // Waits until all who have joined arrive.
  void barrier() {
    if (place.phase < place.present) {
      ++place.phase;
      return;
    }
    state_.fetch_add(one_arrived, std::memory_order_acq_rel);
    for (;;) {
      const uint32_t seen = meet_.value.load(std::memory_order_acquire);
      uint64_t state = state_.load(std::memory_order_acquire);
      if (phase_of(state) != place.phase) break;
      if (arrived_of(state) < joined_of(state)) {
        meet_.wait_change(seen);
        continue;
      }
      const uint64_t next = state - arrived_of(state) * one_arrived + one_phase;
      if (!state_.compare_exchange_strong(state, next, std::memory_order_acq_rel)) continue;  // somebody joined just now
      if (joined_of(next) > 1) meet_.bump();
      break;
    }
    place.present = ++place.phase;
  }

  // By who joined, when its work is done.
  void leave() {
    const uint64_t state = state_.fetch_sub(one_joined, std::memory_order_acq_rel) - one_joined;
    if (!(state & opened) && joined_of(state) == 1) done_.bump();
  }
  // By the caller: nobody joins any more. Returns when all others have left.
  void close() {
    uint64_t state = state_.fetch_and(~opened, std::memory_order_acq_rel);
    while (joined_of(state) > 1) {
      const uint32_t seen = done_.value.load(std::memory_order_acquire);
      state = state_.load(std::memory_order_acquire);
      if (joined_of(state) > 1) done_.wait_change(seen);
    }
  }

 private:
  // 12 bits each for who joined, who arrived and how many may join, then the phase and whether the region is open.
  static constexpr uint64_t one_joined = 1, one_arrived = uint64_t{1} << 12, one_limit = uint64_t{1} << 24,
                            one_phase = uint64_t{1} << 36, opened = uint64_t{1} << 63;
  static constexpr int64_t none = int64_t{1} << 40;
  static uint64_t joined_of(uint64_t state) { return state & 0xfff; }
  static uint64_t arrived_of(uint64_t state) { return state >> 12 & 0xfff; }
  static int limit_of(uint64_t state) { return static_cast<int>(state >> 24 & 0xfff); }
  static uint32_t phase_of(uint64_t state) { return static_cast<uint32_t>((state & ~opened) >> 36); }

  // Where the running thread is, and where the region was when it last knew.
  struct Place {
    uint32_t phase, present;
  };
  static inline thread_local Place place{0, 0};

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<uint64_t> tickets_{0};  // the phase in the upper half
  Signal meet_, done_;
};

}  // namespace anneal
