// One parallel region of a pool. Its caller always takes part; another thread joins where it comes while the region is open. So a thread that is late, as
// other programs have its processor, costs nothing: the others take its work. Work goes by tickets, in phases that barriers part. Each thread begins with a
// range of its own, the same for the same count, and helps the others when that is done: what a thread wrote in one region it reads in the next, where its
// caches still hold it.
#pragma once
#include "signal.h"

#include <atomic>
#include <cstdint>
#include <vector>

namespace anneal {

class Region {
 public:
  static constexpr int most_threads = 4095;

  explicit Region(int threads) : taken_(static_cast<size_t>(threads)) {}

  // By the caller, thread 0, who has joined then. Threads 1 … limit - 1 may.
  void open(int limit) {
    phases_before_ += phase_of(state_.load(std::memory_order_relaxed)) + 1;
    place = {0, 0, 0, 0};
    state_.store(one_joined | limit * one_limit | (limit > 1 ? opened : 0), std::memory_order_release);
  }
  bool join(int thread) {
    uint64_t state = state_.load(std::memory_order_acquire);
    do {
      if (!(state & opened) || thread >= limit_of(state)) return false;
    } while (!state_.compare_exchange_weak(state, state + one_joined, std::memory_order_acq_rel));
    place = {thread, 0, 0, phase_of(state)};
    return true;
  }
  int limit() const { return limit_of(state_.load(std::memory_order_relaxed)); }

  // An unclaimed ticket of 0 … count - 1 in this phase, or -1: none is left, or the phase was over before this thread came.
  int64_t ticket(int64_t count) {
    if (place.phase < place.present) return -1;
    for (const int threads = limit(); place.helped < threads; ++place.helped) {
      const int64_t of = (place.thread + place.helped) % threads, begin = count * of / threads, end = count * (of + 1) / threads;
      const int64_t next = begin + take(taken_[static_cast<size_t>(of)].value, end - begin);
      if (next < end) return next;
    }
    return -1;
  }

  // Waits until all who have joined arrive.
  void barrier() {
    if (place.phase < place.present) {
      ++place.phase;
      return;
    }
    place.helped = 0;
    state_.fetch_add(one_arrived, std::memory_order_acq_rel);
    for (;;) {
      const uint32_t seen = meet_.value.load(std::memory_order_acquire);
      uint64_t state = state_.load(std::memory_order_acquire);
      if (phase_of(state) != place.phase) break;
      if (arrived_of(state) < joined_of(state)) {
        meet_.wait_change(seen, Waiting::in_region);
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
      if (joined_of(state) > 1) done_.wait_change(seen, Waiting::in_region);
    }
  }

 private:
  // 12 bits each for who joined, who arrived and how many may join, then the phase and whether the region is open.
  static constexpr uint64_t one_joined = 1, one_arrived = uint64_t{1} << 12, one_limit = uint64_t{1} << 24,
                            one_phase = uint64_t{1} << 36, opened = uint64_t{1} << 63;
  static uint64_t joined_of(uint64_t state) { return state & 0xfff; }
  static uint64_t arrived_of(uint64_t state) { return state >> 12 & 0xfff; }
  static int limit_of(uint64_t state) { return static_cast<int>(state >> 24 & 0xfff); }
  static uint32_t phase_of(uint64_t state) { return static_cast<uint32_t>((state & ~opened) >> 36); }

  // How many tickets of a thread's range are taken. The upper bits are the phase, counted through all regions, so that nobody has to set them back.
  struct alignas(64) Taken {
    std::atomic<uint64_t> value{0};
  };
  static constexpr int ticket_bits = 28;
  int64_t take(std::atomic<uint64_t>& taken, int64_t length) {
    constexpr uint64_t tickets = (uint64_t{1} << ticket_bits) - 1;
    const uint64_t start = (phases_before_ + place.phase) << ticket_bits;
    uint64_t now = taken.load(std::memory_order_relaxed);
    for (;;) {
      const uint64_t next = (now & ~tickets) == start ? now : start;
      if (static_cast<int64_t>(next & tickets) >= length) return length;
      if (taken.compare_exchange_weak(now, next + 1, std::memory_order_relaxed)) return static_cast<int64_t>(next & tickets);
    }
  }

  // Where the running thread is: the range it takes from, its phase, and the phase that the region was in when it last knew.
  struct Place {
    int thread, helped;
    uint32_t phase, present;
  };
  static inline thread_local Place place{0, 0, 0, 0};

  alignas(64) std::atomic<uint64_t> state_{0};
  uint64_t phases_before_ = 0;  // of regions that are over
  std::vector<Taken> taken_;    // of each thread's range
  Signal meet_, done_;
};

}  // namespace anneal
