// The emulator's own view of a launch and of the block that a thread of the system is running.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core.h"
#include "fiber.h"
#include "settings.h"

namespace anneal::simt {

struct Block;
struct Warp;

struct Counts {
  uint64_t blocks = 0, threads = 0, switches = 0, barriers = 0, shuffles = 0, ldmatrix = 0, mma = 0, async_bytes = 0, shared_bytes = 0, global_bytes = 0;
  void add(const Counts& other);
};

// Something that the emulator found wrong; the places of the code are looked up when it is told.
struct Finding {
  std::string kind, text;
  const void* pc = nullptr;
  const void* other_pc = nullptr;
};

// Blocks, each with the clocks of its threads when it arrived.
using Arrivals = std::map<uint32_t, std::vector<uint32_t>>;

struct Launch {
  dim3 grid, block;
  size_t shared = 0;
  void (*call)(void*) = nullptr;
  void* arguments = nullptr;
  size_t argument_bytes = 0;
  const void* kernel = nullptr;
  int device = 0;
  Settings settings;

  std::vector<uint32_t> order;  // of the blocks, where it is random
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::vector<Finding> findings;
  Counts counts;
  std::map<const void*, Arrivals> arrivals;  // by counter

  uint64_t blocks() const { return uint64_t{grid.x} * grid.y * grid.z; }
  int threads() const { return static_cast<int>(block.x * block.y * block.z); }
  void find(Finding finding);
};

struct AsyncCopy {
  unsigned char* to;
  const unsigned char* from;
  int bytes;
  bool valid;
  const void* pc;
};
// The copies of one thread: groups end at `ends`; what lies before `done` has arrived.
struct AsyncCopies {
  std::vector<AsyncCopy> queue;
  std::vector<size_t> ends;
  size_t done = 0, groups_done = 0;
  void clear();
};

// One CUDA thread.
struct Fiber : Lane {
  Context context;
  Stack* stack = nullptr;  // none before it starts and after it ends
  Block* block = nullptr;
  Warp* warp = nullptr;
  int linear = 0;
  const char* waits = nullptr;  // what for, while it is suspended in a collective
  Site site;
  // Race detector: its clock, and what it knows of the clocks of threads known_low … known_high - 1 beyond the block's last barrier.
  uint32_t clock = 1;
  int known_low = 0, known_high = 0;
};

// A collective that some lanes have reached and others not.
struct Pending {
  uint32_t arrived = 0, mask = 0;
  Collective kind = Collective::none;
  const char* name = "";
  Site site;
  void (*apply)(void**, uint32_t) = nullptr;
  void* operands[32];
};

struct Warp {
  int index = 0;
  uint32_t ready = 0, members = 0, ended = 0;
  int pending_count = 0;
  Pending pending[4];
  const void* pc = nullptr;  // of the collective being completed
};

struct Barrier {
  int arrived = 0, wanted = 0;
  uint32_t waiting[32] = {};
  const char* name = "";
  Site site;
};

struct Cell;
struct SharedArray {
  const void* tag;  // none for dynamic shared memory
  unsigned char* data;
  size_t bytes;
  Cell* cells;
  bool in_use;
};

class BlockProfile;

struct Block {
  ~Block();
  Launch* launch = nullptr;
  uint32_t linear = 0;
  int threads = 0, warp_count = 0, live = 0;
  uint32_t warps_ready = 0;
  uint64_t random = 1;
  bool abandoned = false;
  Order order = Order::ascending;

  Warp warps[32];
  Barrier barriers[16];
  uint32_t barriers_used = 0;  // by the running block
  int votes = 0, voted = 0, vote_result = 0;
  std::vector<Fiber> fibers;
  std::vector<AsyncCopies> copies;
  Stacks stacks;
  Context main;

  std::vector<SharedArray> shared;  // [0] is the dynamic one
  Counts counts;

  Arrivals after;                            // the blocks of the launch after which this one is ordered
  std::vector<uint32_t> base;                // what every thread knows of the clocks since the last full barrier
  std::unique_ptr<uint32_t[]> known;         // threads × threads
  size_t known_size = 0;
  std::shared_ptr<BlockProfile> profile;
};

inline Fiber* current_fiber() { return static_cast<Fiber*>(current_lane); }

// --- scheduler.cc ---
void set_ready(Block& block, Warp& warp, uint32_t lanes);
void clear_ready(Block& block, Fiber& fiber);
// Suspends the running fiber, which is not ready, until something makes it so.
void suspend(Block& block, Fiber& fiber, const char* waits, Site site);
// A point where the random order may go on with another fiber.
void maybe_yield(Block& block, Fiber& fiber);
[[noreturn]] void abandon();
void run_launch(Launch& launch);

// --- collectives.cc ---
// The thread has returned: collectives that waited for it alone are complete.
void thread_ended(Block& block, Fiber& fiber);

// --- memory.cc ---
void prepare_shared(Block& block);
// Whether the block wrote beyond its shared memory.
void check_shared(Block& block);
const SharedArray* find_shared(const Block& block, const void* address, size_t bytes);

// --- race.cc; without hooks these do nothing ---
#if defined(ANNEAL_SIMT_HOOKS)
void race_begin(Launch& launch);
void race_end(Launch& launch);
void race_begin(Block& block);
void race_join_all(Block& block);
void race_join(Block& block, const std::vector<Fiber*>& members);
Cell* new_cells(size_t count);
void clear_cells(Cell* cells, size_t count);
void delete_cells(Cell* cells);
// `copy` is the start of an asynchronous copy to the address, `arrival` its end and `departure` the read at its end: of these only the start is profiled.
enum class Access : uint8_t { read, write, atomic, copy, arrival, departure };
// Checks an access for races, bounds and uninitialised data, and profiles it.
void touch(Fiber& fiber, const void* address, size_t bytes, Access access, const void* pc);
#endif

// --- report.cc ---
std::string kernel_name(const void* kernel);
// "gemm.cu:40" or, where the library has no line numbers, "function+offset"; in the order of `pcs`.
std::vector<std::string> locate(const std::vector<const void*>& pcs);
std::string describe(const Launch& launch);
std::string format_site(Site site);

// --- signals.cc ---
// From now on an invalid access of a kernel on this thread is an error of its launch.
void catch_faults();

}  // namespace anneal::simt
