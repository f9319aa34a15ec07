// Runs the threads of a block as fibers, one block at a time on a thread of the system. A fiber gets a stack only when it first runs, and the fiber
// that starts where another ended takes over its stack: a kernel without barriers runs all its threads on one.
#include <algorithm>
#include <bit>
#include <condition_variable>
#include <thread>

#include "block.h"
#include "profile.h"

namespace anneal::simt {

thread_local Lane* current_lane = nullptr;
thread_local Place place;

#if defined(ANNEAL_SIMT_HOOKS)
uint3 thread_index() { return current_lane->index; }
uint3 block_index() { return place.block; }
dim3 block_size() { return place.block_size; }
dim3 grid_size() { return place.grid_size; }
int lane_index() { return current_lane->lane; }
#endif

namespace {

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

int nth_bit(uint32_t bits, int n) {
  while (n--) bits &= bits - 1;
  return std::countr_zero(bits);
}

// The fiber to run next, of the same warp where the order allows; none if all wait.
Fiber* pick(Block& block, int warp_now) {
  if (!block.warps_ready) return nullptr;
  int warp = warp_now, lane;
  const bool stay = block.warps_ready >> warp_now & 1;
  switch (block.order) {
    case Order::ascending:
      if (!stay) warp = std::countr_zero(block.warps_ready);
      lane = std::countr_zero(block.warps[warp].ready);
      break;
    case Order::descending:
      if (!stay) warp = 31 - std::countl_zero(block.warps_ready);
      lane = 31 - std::countl_zero(block.warps[warp].ready);
      break;
    default: {
      // Mostly in bursts of one warp: a warp far ahead of the others shows more than an even advance of all.
      const uint64_t r = next_random(block.random);
      if (!stay || !(r & 7)) warp = nth_bit(block.warps_ready, static_cast<int>((r >> 8) % std::popcount(block.warps_ready)));
      lane = nth_bit(block.warps[warp].ready, static_cast<int>((r >> 32) % std::popcount(block.warps[warp].ready)));
    }
  }
  return &block.fibers[warp * 32 + lane];
}

void run_fibers();

// Goes from one suspended or ended context to a fiber, or to the block's own context where there is none.
void go_to(Block& block, Context& from, Fiber* to, bool ends) {
  ++block.counts.switches;
  current_lane = to;
  if (!to) return switch_context(from, block.main, ends);
  if (!to->stack) {
    to->stack = block.stacks.take();
    prepare(to->context, *to->stack, run_fibers);
  }
  switch_context(from, to->context, ends);
}

// What runs on each stack: a fiber and, after it, those that start when it has ended.
void run_fibers() {
  Block& block = *current_fiber()->block;
  entered(block.main);
  for (;;) {
    block.launch->call(block.launch->arguments);
    Fiber& fiber = *current_fiber();
    thread_ended(block, fiber);
    Fiber* next = pick(block, fiber.warp->index);
    if (next && !next->stack) {
      next->stack = fiber.stack;
      fiber.stack = nullptr;
      current_lane = next;
      continue;
    }
    block.stacks.give_back(fiber.stack);
    fiber.stack = nullptr;
    go_to(block, fiber.context, next, true);
  }
}

void prepare_fibers(Block& block) {
  const dim3 size = block.launch->block;
  const int count = block.threads;
  if (static_cast<int>(block.fibers.size()) < count) {
    block.fibers.resize(count);
    block.copies.resize(count);
  }
  block.warp_count = (count + 31) / 32;
  block.warps_ready = 0;
  for (int w = 0; w < block.warp_count; ++w) {
    Warp& warp = block.warps[w];
    const int lanes = std::min(32, count - w * 32);
    warp.index = w;
    warp.members = lanes == 32 ? ~0u : (1u << lanes) - 1;
    warp.ended = warp.ready = 0;
    for (auto& pending : warp.pending) pending.arrived = 0;
    warp.pending_count = 0;
    set_ready(block, warp, warp.members);
  }
  uint3 index{0, 0, 0};
  for (int i = 0; i < count; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.index = index;
    fiber.lane = i & 31;
    fiber.stack = nullptr;
    fiber.block = &block;
    fiber.warp = &block.warps[i >> 5];
    fiber.linear = i;
    fiber.waits = nullptr;
    block.copies[i].clear();
    if (++index.x == size.x) {
      index.x = 0;
      if (++index.y == size.y) index.y = 0, ++index.z;
    }
  }
}

void report_deadlock(Block& block) {
  std::map<std::string, int> waiting;
  for (int i = 0; i < block.threads; ++i) {
    const Fiber& fiber = block.fibers[i];
    if (fiber.waits) ++waiting[std::string(fiber.waits) + " " + format_site(fiber.site)];
  }
  std::string text = "block " + std::to_string(block.linear) + ": " + std::to_string(block.live) + " threads wait for ever:";
  for (auto& [where, count] : waiting) text += " " + std::to_string(count) + " at " + where + ";";
  text.pop_back();
  block.launch->find({"deadlock", text});
}

void run_block(Block& block) {
  block.live = block.threads;
  block.abandoned = false;
  block.votes = block.voted = 0;
  for (uint32_t used = block.barriers_used; used; used &= used - 1) block.barriers[std::countr_zero(used)] = {};
  block.barriers_used = 0;
  prepare_fibers(block);
  prepare_shared(block);
  block.stacks.reset(block.threads);
#if defined(ANNEAL_SIMT_HOOKS)
  race_begin(block);
  profile_begin(block);
#endif
  ++block.counts.blocks;
  block.counts.threads += block.threads;
  go_to(block, block.main, pick(block, 0), false);
  if (block.abandoned) return;
  if (block.live) report_deadlock(block);
  check_shared(block);
#if defined(ANNEAL_SIMT_HOOKS)
  profile_end(block);
#endif
}

// Takes blocks of the launch until none is left or one has failed.
void run_blocks(Launch& launch) {
  static thread_local std::unique_ptr<Block> own;
  if (!own) own = std::make_unique<Block>();
  catch_faults();
  Block& block = *own;
  block.launch = &launch;
  block.threads = launch.threads();
  block.order = launch.settings.order;
  block.counts = {};
  const dim3 grid = launch.grid;
  const uint64_t count = launch.blocks();
  place.block_size = launch.block;
  place.grid_size = grid;
  while (!launch.failed.load(std::memory_order_relaxed)) {
    const uint64_t turn = launch.next.fetch_add(1, std::memory_order_relaxed);
    if (turn >= count) break;
    const uint64_t linear = launch.settings.order == Order::ascending ? turn : launch.settings.order == Order::descending ? count - 1 - turn : launch.order[turn];
    block.linear = static_cast<uint32_t>(linear);
    block.random = ((launch.settings.seed + 1) * 0x9E3779B97F4A7C15ull ^ linear * 0xD1B54A32D192ED03ull) | 1;
    place.block = {static_cast<unsigned>(linear % grid.x), static_cast<unsigned>(linear / grid.x % grid.y),
                   static_cast<unsigned>(linear / (uint64_t{grid.x} * grid.y))};
    run_block(block);
  }
  std::lock_guard lock(launch.mutex);
  launch.counts.add(block.counts);
}

#if !defined(ANNEAL_SIMT_HOOKS)
// Threads of the system that help with launches of many blocks, one launch at a time. They live as long as the process.
class Helpers {
 public:
  void run(Launch& launch, int wanted) {
    {
      std::lock_guard lock(mutex_);
      if (launch_) wanted = 0;  // another device's launch has them
      while (started_ < wanted) {
        std::thread([this] { help(); }).detach();
        ++started_;
      }
      if (wanted) {
        launch_ = &launch;
        places_ = wanted;
      }
    }
    if (wanted) wake_.notify_all();
    run_blocks(launch);
    if (!wanted) return;
    std::unique_lock lock(mutex_);
    launch_ = nullptr;
    done_.wait(lock, [this] { return active_ == 0; });
  }

 private:
  void help() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return launch_ && places_ > 0; });
      --places_;
      ++active_;
      Launch& launch = *launch_;
      lock.unlock();
      run_blocks(launch);
      lock.lock();
      if (--active_ == 0) done_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Launch* launch_ = nullptr;
  int started_ = 0, places_ = 0, active_ = 0;
};
#endif

}  // namespace

void Counts::add(const Counts& other) {
  blocks += other.blocks;
  threads += other.threads;
  switches += other.switches;
  barriers += other.barriers;
  shuffles += other.shuffles;
  ldmatrix += other.ldmatrix;
  mma += other.mma;
  async_bytes += other.async_bytes;
  shared_bytes += other.shared_bytes;
  global_bytes += other.global_bytes;
}

void AsyncCopies::clear() {
  queue.clear();
  ends.clear();
  done = groups_done = 0;
}

void set_ready(Block& block, Warp& warp, uint32_t lanes) {
  warp.ready |= lanes;
  if (warp.ready) block.warps_ready |= 1u << warp.index;
}

void clear_ready(Block& block, Fiber& fiber) {
  Warp& warp = *fiber.warp;
  warp.ready &= ~(1u << fiber.lane);
  if (!warp.ready) block.warps_ready &= ~(1u << warp.index);
}

void suspend(Block& block, Fiber& fiber, const char* waits, Site site) {
  fiber.waits = waits;
  fiber.site = site;
  // Where nobody can go on, the block's own context finds the deadlock.
  go_to(block, fiber.context, pick(block, fiber.warp->index), false);
  fiber.waits = nullptr;
}

void maybe_yield(Block& block, Fiber& fiber) {
  if (block.order != Order::random || (next_random(block.random) & 1)) return;
  Fiber* next = pick(block, fiber.warp->index);
  if (next != &fiber) go_to(block, fiber.context, next, false);
}

void abandon() {
  Fiber& fiber = *current_fiber();
  Block& block = *fiber.block;
  block.abandoned = true;
  go_to(block, fiber.context, nullptr, true);
  __builtin_unreachable();
}

void run_launch(Launch& launch) {
  const uint64_t count = launch.blocks();
  if (launch.settings.order == Order::random) {
    launch.order.resize(count);
    for (uint64_t i = 0; i < count; ++i) launch.order[i] = static_cast<uint32_t>(i);
    uint64_t state = launch.settings.seed * 0x9E3779B97F4A7C15ull + 1;
    for (uint64_t i = count; i > 1; --i) std::swap(launch.order[i - 1], launch.order[next_random(state) % i]);
  }
#if defined(ANNEAL_SIMT_HOOKS)
  // One thread, one launch at a time: the shadow memory is shared.
  static std::mutex alone;
  std::lock_guard lock(alone);
  race_begin(launch);
  run_blocks(launch);
  race_end(launch);
  profile_launch(launch);
#else
  static Helpers* const helpers = new Helpers;
  // Waking a helper costs as much as running a few hundred short threads.
  const bool worthwhile = count > 1 && count * launch.threads() >= 2048;
  helpers->run(launch, worthwhile ? static_cast<int>(std::min<uint64_t>(launch.settings.threads, count)) - 1 : 0);
#endif
}

}  // namespace anneal::simt
