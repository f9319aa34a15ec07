#include "threads.h"

#include "region.h"

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
  const int count;
  Signal start;
  Region region;
  void (*body)(void*, int, int) = nullptr;
  void* context = nullptr;
  std::atomic<bool> stop{false};
  Memory shared[8];
  std::vector<Memory> own;

  explicit State(int threads) : count(threads), region(threads), own(static_cast<size_t>(threads)) {}

  void work(int thread) {
    uint32_t seen = 0;
    for (;;) {
      start.wait_change(seen, Waiting::for_work);
      seen = start.value.load(std::memory_order_acquire);
      if (stop.load()) return;
      if (!region.join(thread)) continue;
      body(context, thread, region.limit());
      region.leave();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(new State(threads < 1 ? 1 : threads > Region::most_threads ? Region::most_threads : threads)) {
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
  threads = threads < 1 ? 1 : threads > s.count ? s.count : threads;
  s.body = body;
  s.context = context;
  s.region.open(threads);
  if (threads > 1) s.start.bump();
  body(context, 0, threads);
  s.region.close();
}

void ThreadPool::barrier() { state_->region.barrier(); }
int64_t ThreadPool::ticket(int64_t count) { return state_->region.ticket(count); }
void* ThreadPool::scratch(int slot, size_t bytes) { return state_->shared[slot].get(bytes); }
void ThreadPool::reserve_thread_scratch(size_t bytes) {
  for (Memory& memory : state_->own) memory.get(bytes);
}
void* ThreadPool::thread_scratch(int thread) { return state_->own[static_cast<size_t>(thread)].data; }

ThreadPool& pool() { return *current_pool; }
void set_pool(ThreadPool* pool) { current_pool = pool; }

}  // namespace anneal
