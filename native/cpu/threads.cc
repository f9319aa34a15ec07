#include "threads.h"

#include "signal.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace anneal {

namespace {

struct Memory {
  void* data = nullptr;
  size_t size = 0;
  ~Memory() { std::free(data); }
  void* get(size_t bytes) {
    if (bytes <= size) return data;
    constexpr size_t huge = 2u << 20;
    size_t alignment = bytes >= huge ? huge : 64;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    std::free(data);
    data = std::aligned_alloc(alignment, rounded);
    if (!data) {
      size = 0;
      throw std::bad_alloc();
    }
    size = rounded;
#if defined(__linux__)
    if (alignment == huge) madvise(data, rounded, MADV_HUGEPAGE);
#endif
    return data;
  }
};

thread_local ThreadPool* current_pool = nullptr;

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> threads;
  Signal start, done, meet;
  int count = 1;   // threads of the pool
  int active = 1;  // threads of the running region
  alignas(64) std::atomic<int> pending{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int64_t> next_ticket{0};
  void (*body)(void*, int, int) = nullptr;
  void* context = nullptr;
  std::atomic<bool> stop{false};
  Memory shared[8];
  std::vector<Memory> own;

  void work(int id) {
    uint32_t seen = 0;
    for (;;) {
      start.wait_change(seen);
      seen = start.value.load(std::memory_order_acquire);
      if (stop.load()) return;
      if (id < active) body(context, id, active);
      if (pending.fetch_sub(1) == 1) done.bump();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(new State) {
  state_->count = threads < 1 ? 1 : threads;
  state_->own = std::vector<Memory>(static_cast<size_t>(state_->count));
  try {
    for (int id = 1; id < state_->count; ++id)
      state_->threads.emplace_back([this, id] {
        current_pool = this;
        state_->work(id);
      });
  } catch (...) {  // the system gives no more threads
    end();
    throw;
  }
}

ThreadPool::~ThreadPool() { end(); }

void ThreadPool::end() {
  state_->stop = true;
  state_->start.bump();
  for (std::thread& thread : state_->threads) thread.join();
  delete state_;
}

int ThreadPool::size() const { return state_->count; }

void ThreadPool::run(int threads, void (*body)(void*, int, int), void* context) {
  State& s = *state_;
  if (threads > s.count) threads = s.count;
  s.next_ticket.store(0, std::memory_order_relaxed);
  if (threads <= 1) {
    s.active = 1;
    body(context, 0, 1);
    return;
  }
  s.body = body;
  s.context = context;
  s.active = threads;
  uint32_t before = s.done.value.load();
  s.pending.store(s.count - 1, std::memory_order_relaxed);
  s.start.bump();
  body(context, 0, threads);
  s.done.wait_change(before);
}

void ThreadPool::barrier() {
  State& s = *state_;
  if (s.active == 1) {
    s.next_ticket.store(0, std::memory_order_relaxed);
    return;
  }
  uint32_t generation = s.meet.value.load();
  if (s.arrived.fetch_add(1) == s.active - 1) {
    s.arrived.store(0);
    s.next_ticket.store(0);
    s.meet.bump();
  } else {
    s.meet.wait_change(generation);
  }
}

int64_t ThreadPool::ticket() { return state_->next_ticket.fetch_add(1, std::memory_order_relaxed); }
void* ThreadPool::scratch(int slot, size_t bytes) { return state_->shared[slot].get(bytes); }
void ThreadPool::reserve_thread_scratch(size_t bytes) {
  for (Memory& memory : state_->own) memory.get(bytes);
}
void* ThreadPool::thread_scratch(int thread) { return state_->own[static_cast<size_t>(thread)].data; }

ThreadPool& pool() { return *current_pool; }
void set_pool(ThreadPool* pool) { current_pool = pool; }

}  // namespace anneal
