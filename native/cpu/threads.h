// The CPU stream's threads. A kernel runs on the stream's thread and may spread a region over the pool (region.h); waits spin briefly, then sleep.
#pragma once
#include <cstddef>
#include <cstdint>

namespace anneal {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Runs body(context, thread, threads) on the calling thread, 0, and on those of 1 … min(threads, size()) - 1 that come while it runs; returns when all are
  // done. So body takes its work by tickets, and may do it all. It must not throw.
  void run(int threads, void (*body)(void* context, int thread, int threads), void* context);
  // Inside run: waits for all who have come. Then all tickets are unclaimed again.
  void barrier();
  // Inside run: an unclaimed ticket of 0 … count - 1, first from the thread's own part of them; -1 when none is left. All threads give the same count, below 2^28.
  int64_t ticket(int64_t count);
  // Memory that lives until a later call for the same slot asks for more; 64-byte aligned, huge pages where large. Slots 0 … 7; not for pool threads.
  void* scratch(int slot, size_t bytes);
  // The same, one per thread of the pool. reserve_thread_scratch is called before run, where there may be an error; inside, each thread asks for its own.
  void reserve_thread_scratch(size_t bytes);
  void* thread_scratch(int thread);

 private:
  void end();
  struct State;
  State* state_;
};

// The pool of the stream that runs on this thread.
ThreadPool& pool();
// Sets it; the stream does this once, and a benchmark or test without a stream may.
void set_pool(ThreadPool* pool);

// f(thread, threads) on up to `threads` threads.
template <class F> static inline void parallel(int threads, F&& f) {
  auto* function = &f;
  using Pointer = decltype(function);
  struct Call {
    static void body(void* context, int thread, int count) { (*static_cast<Pointer>(context))(thread, count); }
  };
  pool().run(threads, Call::body, const_cast<void*>(static_cast<const void*>(function)));
}

// Inside parallel: f(ticket) for this thread's share of the tickets 0 … count - 1.
template <class F> static inline void take_tickets(int64_t count, F&& f) {
  for (int64_t ticket; (ticket = pool().ticket(count)) >= 0;) f(ticket);
}

// f(begin, end) over [0, items) in contiguous pieces of at least `grain` items, as many as there are threads.
template <class F> static inline void parallel_for(int64_t items, int64_t grain, F&& f) {
  if (items <= 0) return;
  const int64_t wanted = grain > 0 ? (items + grain - 1) / grain : items;
  const int pieces = static_cast<int>(wanted < pool().size() ? wanted : pool().size());
  if (pieces <= 1) { f(int64_t{0}, items); return; }
  parallel(pieces, [&](int, int) {
    take_tickets(pieces, [&](int64_t piece) {
      const int64_t begin = items * piece / pieces, end = items * (piece + 1) / pieces;
      if (begin < end) f(begin, end);
    });
  });
}

}  // namespace anneal
