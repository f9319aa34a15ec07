// The race detector: happens-before by vector clocks, which only __syncthreads, __syncwarp and named barriers join; shuffles and matrix instructions
// order nothing, and of two blocks of a launch only the last to arrive at a counter comes after those that arrived before. Shadow memory has a cell for each
// byte.
//
// After a barrier of the whole block every thread knows the same, so that is kept once (Block::base), and what a thread has learned since then in a
// row of its own that covers the threads known_low … known_high - 1.
#if defined(ANNEAL_SIMT_HOOKS)
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "memory.h"
#include "profile.h"

namespace anneal::simt {

// The last write of a byte and two reads since: the latest, and the latest of another warp. A thread is its number in the grid plus 1.
struct Cell {
  uint32_t writer, write_clock, reader, read_clock, other_reader, other_clock;
  uint32_t write_place, read_place;  // the low halves of addresses of instructions
};

namespace {

// Beside a writer: it was atomic; it is an asynchronous copy that has not arrived.
constexpr uint32_t atomic_flag = 0x80000000u, under_way_flag = 0x40000000u, thread_bits = 0x3fffffffu;
constexpr size_t page_bytes = 256;

// The memory that a kernel has beside buffers: its library's constants, and its arguments.
struct Library {
  const void* kernel = nullptr;
  std::vector<std::pair<uintptr_t, uintptr_t>> segments;
};
Library library;

int find_segments(dl_phdr_info* info, size_t, void* result) {
  std::vector<std::pair<uintptr_t, uintptr_t>> segments;
  bool contains = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
    const uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
    segments.push_back({start, start + info->dlpi_phdr[i].p_memsz});
    const uintptr_t kernel = reinterpret_cast<uintptr_t>(static_cast<Library*>(result)->kernel);
    contains = contains || (kernel >= start && kernel < segments.back().second);
  }
  if (contains) static_cast<Library*>(result)->segments = segments;
  return contains;
}

bool in_data_of_kernel(const Launch& launch, const unsigned char* p) {
  auto* arguments = static_cast<const unsigned char*>(launch.arguments);
  if (p >= arguments && p < arguments + launch.argument_bytes) return true;
  if (library.kernel != launch.kernel) {
    library.kernel = launch.kernel;
    dl_iterate_phdr(find_segments, &library);
  }
  for (auto& [start, end] : library.segments)
    if (reinterpret_cast<uintptr_t>(p) >= start && reinterpret_cast<uintptr_t>(p) < end) return true;
  return false;
}

struct Shadow {
  const std::vector<Buffer*>* buffers = nullptr;
  Buffer* last = nullptr;
  std::vector<Cell*> spare;
  std::vector<std::pair<Buffer*, size_t>> used;
  bool race = true;
};
Shadow shadow;
bool inside = false;  // the emulator's own code may be instrumented where it shares templates with kernels

size_t page_count(const Buffer& buffer) { return (buffer.bytes + page_bytes - 1) / page_bytes; }

Cell& cell_of(Buffer& buffer, size_t offset) {
  if (!buffer.pages) buffer.pages = static_cast<Cell**>(std::calloc(page_count(buffer), sizeof(Cell*)));
  Cell*& page = buffer.pages[offset / page_bytes];
  if (!page) {
    if (shadow.spare.empty()) {
      page = new_cells(page_bytes);
    } else {
      page = shadow.spare.back();
      shadow.spare.pop_back();
      clear_cells(page, page_bytes);
    }
    shadow.used.push_back({&buffer, offset / page_bytes});
  }
  return page[offset % page_bytes];
}

// The buffer whose bytes or guards contain the address.
Buffer* find_buffer(const unsigned char* p) {
  auto near = [&](const Buffer& buffer) { return p + guard_bytes >= buffer.data && p < buffer.data + buffer.bytes + guard_bytes; };
  if (shadow.last && near(*shadow.last)) return shadow.last;
  const auto& all = *shadow.buffers;
  auto after = std::upper_bound(all.begin(), all.end(), p + guard_bytes, [](const unsigned char* at, const Buffer* buffer) { return at < buffer->data; });
  if (after == all.begin() || !near(**std::prev(after))) return nullptr;
  return shadow.last = *std::prev(after);
}

// Full addresses of the instructions seen as conflicting: a cell has only their low halves, and all lie in one library.
const void* whole_pc(uint32_t low, const void* near) {
  const uintptr_t base = reinterpret_cast<uintptr_t>(near);
  uintptr_t pc = (base & ~uintptr_t{0xffffffff}) | low;
  if (pc > base + 0x80000000u) pc -= uintptr_t{1} << 32;
  else if (pc + 0x80000000u < base) pc += uintptr_t{1} << 32;
  return reinterpret_cast<const void*>(pc);
}

bool reads(Access access) { return access == Access::read || access == Access::departure; }
const char* verb(Access access) {
  switch (access) {
    case Access::read: return "read";
    case Access::write: return "write";
    case Access::atomic: return "atomic access";
    case Access::departure: return "read of an asynchronous copy";
    default: return "asynchronous copy";
  }
}

bool told(const Launch& launch, const char* kind, const void* pc) {
  for (auto& finding : launch.findings)
    if (finding.kind == kind && finding.pc == pc) return true;
  return false;
}

void find_once(Launch& launch, const char* kind, const void* pc, const void* other_pc, std::string text) {
  if (!told(launch, kind, pc)) launch.find({kind, std::move(text), pc, other_pc});
}

std::string who(const Fiber& fiber) { return "block " + std::to_string(fiber.block->linear) + ", thread " + std::to_string(fiber.linear); }

struct Checker {
  Fiber& fiber;
  Block& block;
  bool shared;
  uint32_t first;  // number of the block's first thread
  uint32_t me;

  bool ordered(uint32_t thread, uint32_t clock) const {
    thread &= thread_bits;
    if (thread == 0 || thread == me) return true;
    if (thread < first || thread >= first + block.threads) {
      if (shared || block.after.empty()) return false;
      const auto other = block.after.find((thread - 1) / block.threads);
      return other != block.after.end() && clock <= other->second[(thread - 1) % block.threads];
    }
    const int other = static_cast<int>(thread - first);
    if (clock <= block.base[other]) return true;
    return other >= fiber.known_low && other < fiber.known_high && clock <= block.known[static_cast<size_t>(fiber.linear) * block.threads + other];
  }
  bool same_warp(uint32_t a, uint32_t b) const { return (a - first) >> 5 == (b - first) >> 5; }

  // The conflict that the access has with the cell, or none: sets the other thread and its place.
  bool conflict(const Cell& cell, Access access, uint32_t* other, bool* other_writes, uint32_t* place) const {
    const bool both_atomic = access == Access::atomic && (cell.writer & atomic_flag);
    if (!both_atomic && !ordered(cell.writer, cell.write_clock)) return *other = cell.writer & thread_bits, *other_writes = true, *place = cell.write_place, true;
    if (reads(access)) return false;
    if (!ordered(cell.reader, cell.read_clock)) return *other = cell.reader, *other_writes = false, *place = cell.read_place, true;
    if (!ordered(cell.other_reader, cell.other_clock)) return *other = cell.other_reader, *other_writes = false, *place = 0, true;
    return false;
  }
  void note(Cell& cell, Access access, uint32_t place) const {
    if (reads(access)) {
      if (cell.reader && cell.reader != me && !same_warp(cell.reader, me)) cell.other_reader = cell.reader, cell.other_clock = cell.read_clock;
      cell.reader = me, cell.read_clock = fiber.clock, cell.read_place = place;
    } else {
      cell.writer = me | (access == Access::atomic ? atomic_flag : access == Access::copy ? under_way_flag : 0), cell.write_clock = fiber.clock, cell.write_place = place;
      cell.reader = cell.other_reader = 0;
    }
  }
};

}  // namespace

Cell* new_cells(size_t count) { return static_cast<Cell*>(std::calloc(count, sizeof(Cell))); }
void clear_cells(Cell* cells, size_t count) { std::memset(static_cast<void*>(cells), 0, count * sizeof(Cell)); }
void delete_cells(Cell* cells) { std::free(cells); }

void race_begin(Launch& launch) {
  shadow.buffers = &sorted_buffers();
  shadow.last = nullptr;
  shadow.race = launch.settings.race;
}

void race_end(Launch&) {
  for (auto& [buffer, page] : shadow.used) {
    shadow.spare.push_back(buffer->pages[page]);
    buffer->pages[page] = nullptr;
  }
  shadow.used.clear();
}

void race_begin(Block& block) {
  block.after.clear();
  block.base.assign(block.threads, 0);
  const size_t size = static_cast<size_t>(block.threads) * block.threads;
  if (block.known_size < size) {
    block.known.reset(new uint32_t[size]);
    block.known_size = size;
  }
  for (int i = 0; i < block.threads; ++i) {
    block.fibers[i].clock = 1;
    block.fibers[i].known_low = block.fibers[i].known_high = 0;
  }
}

// One thread calls it, between two barriers of the block: all that its threads did before the first is below `base`.
void block_arrived(const void* counter, bool last) {
  Block& block = *current_fiber()->block;
  Launch& launch = *block.launch;
  std::lock_guard<std::mutex> lock(launch.mutex);
  Arrivals& all = launch.arrivals[counter];
  all.insert(block.after.begin(), block.after.end());
  all[block.linear] = block.base;
  if (!last) return;
  block.after = std::move(all);
  launch.arrivals.erase(counter);
}

void race_join_all(Block& block) {
  for (int i = 0; i < block.threads; ++i) {
    Fiber& fiber = block.fibers[i];
    block.base[i] = fiber.clock++;
    fiber.known_low = fiber.known_high = 0;
  }
}

void race_join(Block& block, const std::vector<Fiber*>& members) {
  int low = block.threads, high = 0;
  for (Fiber* member : members) {
    low = std::min(low, member->linear);
    high = std::max(high, member->linear + 1);
    if (member->known_low < member->known_high) {
      low = std::min(low, member->known_low);
      high = std::max(high, member->known_high);
    }
  }
  std::vector<uint32_t> joined(high - low, 0);
  for (Fiber* member : members) {
    const uint32_t* row = &block.known[static_cast<size_t>(member->linear) * block.threads];
    for (int i = member->known_low; i < member->known_high; ++i) joined[i - low] = std::max(joined[i - low], row[i]);
  }
  for (Fiber* member : members) joined[member->linear - low] = member->clock;
  for (Fiber* member : members) {
    std::copy(joined.begin(), joined.end(), &block.known[static_cast<size_t>(member->linear) * block.threads + low]);
    member->known_low = low;
    member->known_high = high;
    ++member->clock;
  }
}

void touch(Fiber& fiber, const void* address, size_t bytes, Access access, const void* pc) {
  auto* p = static_cast<const unsigned char*>(address);
  if (fiber.stack && p >= reinterpret_cast<unsigned char*>(fiber.stack->low) && p < reinterpret_cast<unsigned char*>(fiber.stack->low) + Stacks::bytes) return;
  if (inside) return;
  inside = true;
  struct Leave {
    ~Leave() { inside = false; }
  } leave;
  Block& block = *fiber.block;
  Launch& launch = *block.launch;

  const SharedArray* array = nullptr;
  Buffer* buffer = nullptr;
  const unsigned char* data = nullptr;
  size_t size = 0;
  for (auto& one : block.shared)
    if (one.in_use && p + bytes > one.data - guard_bytes && p < one.data + one.bytes + guard_bytes) {
      array = &one;
      data = one.data;
      size = one.bytes;
      if (p >= data && p < data + size) break;
    }
  if (!array) {
    buffer = find_buffer(p);
    if (!buffer) {
      if (in_data_of_kernel(launch, p)) return;
      char text[200];
      std::snprintf(text, sizeof text, "%s of %zu bytes @ at address %p, which is in no buffer; %s", verb(access), bytes, address, who(fiber).c_str());
      launch.find({"out-of-bounds", text, pc});
      inside = false;
      abandon();
    }
    data = buffer->data;
    size = buffer->bytes;
    if (buffer->device != launch.device) {
      const std::string text = std::string(verb(access)) + " of " + std::to_string(bytes) + " bytes @ of memory of device " + std::to_string(buffer->device) + " by a kernel of device " + std::to_string(launch.device) + "; " + who(fiber);
      launch.find({"out-of-bounds", text, pc});
      inside = false;
      abandon();
    }
  }
  if (p < data || p + bytes > data + size) {
    const std::string text = std::string(verb(access)) + " of " + std::to_string(bytes) + " bytes @ at offset " + std::to_string(p - data) + " of a " + std::to_string(size) +
                             "-byte " + (array ? "array in shared memory" : "buffer") + "; " + who(fiber);
    launch.find({"out-of-bounds", text, pc});
    inside = false;
    abandon();
  }
  const bool shared = array != nullptr;
  if (access != Access::arrival && access != Access::departure) {
    (shared ? block.counts.shared_bytes : block.counts.global_bytes) += bytes;
    if (block.profile && access != Access::atomic) profile_access(fiber, address, bytes, !reads(access), shared, pc);
  }
  if (!shadow.race) return;

  const uint32_t first = shared ? 1 : block.linear * static_cast<uint32_t>(block.threads) + 1;
  const Checker checker{fiber, block, shared, first, first + static_cast<uint32_t>(fiber.linear)};
  const uint32_t place = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pc));
  const size_t offset = p - data;
  for (size_t i = offset; i < offset + bytes; ++i) {
    Cell& cell = shared ? array->cells[i] : cell_of(*buffer, i);
    if (shared && access == Access::read && !cell.writer) {
      find_once(launch, "uninitialised", pc, nullptr, "read @ of shared memory that nothing has written, at offset " + std::to_string(i) + " of " + std::to_string(size) + "; " + who(fiber));
      return;
    }
    if (shared && reads(access) && (cell.writer & under_way_flag)) {
      find_once(launch, "cp.async", pc, whole_pc(cell.write_place, pc), "read @ of shared memory before the copy & has arrived; " + who(fiber));
      return;
    }
    uint32_t other = 0, other_place = 0;
    bool other_writes = false;
    if (checker.conflict(cell, access, &other, &other_writes, &other_place)) {
      find_once(launch, "race", pc, other_place ? whole_pc(other_place, pc) : nullptr,
                std::string(verb(access)) + " @ by " + who(fiber) + " is not ordered after the " + (other_writes ? "write" : "read") + (other_place ? " &" : "") + " by block " +
                    std::to_string(shared ? block.linear : (other - 1) / block.threads) + ", thread " + std::to_string((other - 1) % block.threads) + "; offset " + std::to_string(i) + " of a " +
                    std::to_string(size) + "-byte " + (shared ? "array in shared memory" : "buffer"));
      return;
    }
    checker.note(cell, access, place);
  }
}

}  // namespace anneal::simt
#endif
