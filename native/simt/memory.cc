#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "block.h"

namespace anneal::simt {
namespace {

#if defined(ANNEAL_SIMT_ASAN)
// The address sanitizer guards better.
constexpr size_t buffer_guard = 0, shared_guard = 0;
#else
constexpr size_t buffer_guard = guard_bytes, shared_guard = 1024;
#endif
constexpr unsigned char guard_value = 0xEE;
// NaN in every float format, and as an index far outside everything.
constexpr unsigned char unwritten = 0xFF;
constexpr size_t largest_static_shared = 48 << 10;

struct Buffers {
  std::mutex mutex;
  std::map<uintptr_t, Buffer> by_address;
  std::vector<Buffer*> sorted;
  bool changed = true;
  size_t allocated[16] = {};
};
Buffers& buffers() {
  static Buffers* const all = new Buffers;
  return *all;
}

unsigned char* allocate(size_t bytes, size_t guard) {
  void* p = nullptr;
  if (posix_memalign(&p, 1024, bytes + 2 * std::max<size_t>(guard, 1))) return nullptr;
  auto* start = static_cast<unsigned char*>(p);
  std::memset(start, guard_value, guard);
  std::memset(start + guard, unwritten, bytes);
  std::memset(start + guard + bytes, guard_value, guard);
  return start + guard;
}
void release(unsigned char* data, size_t guard) { std::free(data - guard); }

bool untouched(const unsigned char* data, size_t bytes) { return bytes == 0 || (data[0] == guard_value && std::memcmp(data, data + 1, bytes - 1) == 0); }
// Where around the data something else than the guard's value stands, restored; empty if nowhere.
std::string check_guard(unsigned char* data, size_t bytes, size_t guard) {
  unsigned char* const sides[] = {data - guard, data + bytes};
  std::string found;
  for (int side = 0; side < 2; ++side) {
    if (untouched(sides[side], guard)) continue;
    size_t first = 0;
    while (sides[side][first] == guard_value) ++first;
    const long long offset = static_cast<long long>(sides[side] - data) + static_cast<long long>(first);
    if (found.empty()) found = "offset " + std::to_string(offset) + " of " + std::to_string(bytes) + " bytes was written";
    std::memset(sides[side], guard_value, guard);
  }
  return found;
}

}  // namespace

// --- Device memory ---

void* allocate_buffer(size_t bytes, int device) {
  Buffers& all = buffers();
  const size_t limit = settings().memory;
  std::lock_guard lock(all.mutex);
  if (bytes > limit || all.allocated[device] > limit - bytes) return nullptr;
  unsigned char* data = allocate(bytes, buffer_guard);
  if (!data) return nullptr;
  all.by_address[reinterpret_cast<uintptr_t>(data)] = {data, bytes, device, nullptr};
  all.allocated[device] += bytes;
  all.changed = true;
  return data;
}

bool free_buffer(void* p) {
  Buffers& all = buffers();
  std::lock_guard lock(all.mutex);
  auto found = all.by_address.find(reinterpret_cast<uintptr_t>(p));
  if (found == all.by_address.end()) return false;
  all.allocated[found->second.device] -= found->second.bytes;
  std::free(found->second.pages);
  release(found->second.data, buffer_guard);
  all.by_address.erase(found);
  all.changed = true;
  return true;
}

size_t allocated_bytes(int device) {
  Buffers& all = buffers();
  std::lock_guard lock(all.mutex);
  return all.allocated[device];
}

bool inside_buffer(const void* p, size_t bytes, int device) {
  Buffers& all = buffers();
  std::lock_guard lock(all.mutex);
  auto after = all.by_address.upper_bound(reinterpret_cast<uintptr_t>(p));
  if (after == all.by_address.begin()) return false;
  const Buffer& buffer = std::prev(after)->second;
  return buffer.device == device && static_cast<const unsigned char*>(p) + bytes <= buffer.data + buffer.bytes;
}

Buffer find_buffer(const void* p) {
  Buffers& all = buffers();
  std::lock_guard lock(all.mutex);
  auto after = all.by_address.upper_bound(reinterpret_cast<uintptr_t>(p));
  if (after == all.by_address.begin()) return {};
  const Buffer& buffer = std::prev(after)->second;
  return static_cast<const unsigned char*>(p) < buffer.data + buffer.bytes ? buffer : Buffer{};
}

std::string broken_guards() {
  Buffers& all = buffers();
  std::lock_guard lock(all.mutex);
  std::string found;
  for (auto& [address, buffer] : all.by_address) {
    std::string one = check_guard(buffer.data, buffer.bytes, buffer_guard);
    if (!one.empty()) found += (found.empty() ? "" : "; ") + one;
  }
  return found;
}

std::string buffer_guard_broken(void* p) {
  Buffers& all = buffers();
  std::lock_guard lock(all.mutex);
  auto found = all.by_address.find(reinterpret_cast<uintptr_t>(p));
  if (found == all.by_address.end()) return "";
  const Buffer& buffer = found->second;
  return untouched(buffer.data - buffer_guard, buffer_guard) && untouched(buffer.data + buffer.bytes, buffer_guard) ? "" : "broken";
}

const std::vector<Buffer*>& sorted_buffers() {
  Buffers& all = buffers();
  std::lock_guard lock(all.mutex);
  if (all.changed) {
    all.sorted.clear();
    for (auto& [address, buffer] : all.by_address) all.sorted.push_back(&buffer);
    all.changed = false;
  }
  return all.sorted;
}

// --- Shared memory: [0] is the dynamic part, the others are arrays by their tag, kept for the next launch ---

void prepare_shared(Block& block) {
  const size_t bytes = block.launch->shared;
  if (block.shared.empty()) block.shared.push_back({});
  SharedArray& dynamic = block.shared[0];
  if (dynamic.bytes != bytes) {
    if (dynamic.data) release(dynamic.data, shared_guard);
    dynamic.data = bytes ? allocate(bytes, shared_guard) : nullptr;
    dynamic.bytes = bytes;
#if defined(ANNEAL_SIMT_HOOKS)
    delete_cells(dynamic.cells);
    dynamic.cells = bytes ? new_cells(bytes) : nullptr;
#endif
  }
  dynamic.in_use = false;
  for (auto& array : block.shared) array.in_use = false;
  if (!bytes) return;
  dynamic.in_use = true;
  std::memset(dynamic.data, unwritten, bytes);
#if defined(ANNEAL_SIMT_HOOKS)
  clear_cells(dynamic.cells, bytes);
#endif
}

void check_shared(Block& block) {
  for (auto& array : block.shared) {
    if (!array.in_use) continue;
    std::string found = check_guard(array.data, array.bytes, shared_guard);
    if (!found.empty()) block.launch->find({"out-of-bounds", std::string(array.tag ? "an array in shared memory" : "dynamic shared memory") + " of block " + std::to_string(block.linear) + ": " + found});
  }
}

const SharedArray* find_shared(const Block& block, const void* address, size_t bytes) {
  auto* p = static_cast<const unsigned char*>(address);
  for (auto& array : block.shared)
    if (array.in_use && p >= array.data && p + bytes <= array.data + array.bytes) return &array;
  return nullptr;
}

void* dynamic_shared() {
  Block& block = *current_fiber()->block;
  if (!block.launch->shared) fail("launch", "the kernel uses dynamic shared memory, but the launch gives it none");
  return block.shared[0].data;
}

void* static_shared(const void* tag, size_t bytes, size_t) {
  Block& block = *current_fiber()->block;
  for (auto& array : block.shared)
    if (array.tag == tag) {
      if (array.in_use) return array.data;
      array.in_use = true;
      std::memset(array.data, unwritten, bytes);
#if defined(ANNEAL_SIMT_HOOKS)
      clear_cells(array.cells, bytes);
#endif
      return array.data;
    }
  size_t used = bytes;
  for (auto& array : block.shared) used += array.in_use && array.tag ? array.bytes : 0;
  if (used > largest_static_shared) fail("launch", "%zu bytes of shared arrays; a kernel may have %zu, more only as dynamic shared memory", used, largest_static_shared);
  if (used + block.launch->shared > block.launch->settings.shared) fail("launch", "%zu bytes of shared memory, more than a block can have", used + block.launch->shared);
  SharedArray array{tag, allocate(bytes, shared_guard), bytes, nullptr, true};
#if defined(ANNEAL_SIMT_HOOKS)
  array.cells = new_cells(bytes);
#endif
  block.shared.push_back(array);
  return array.data;
}

Block::~Block() {
  for (auto& array : shared) {
    if (array.data) release(array.data, shared_guard);
#if defined(ANNEAL_SIMT_HOOKS)
    delete_cells(array.cells);
#endif
  }
}

// --- Accesses with a required alignment ---

void misaligned(const char* what, const void* address, size_t bytes, Site site) {
  fail("misaligned", "%s %s: address ends in %zu, but %zu bytes at once want a multiple of %zu; block %u, thread %d", what, format_site(site).c_str(),
       reinterpret_cast<size_t>(address) & (bytes - 1), bytes, bytes, current_fiber()->block->linear, current_fiber()->linear);
}

#if defined(ANNEAL_SIMT_HOOKS)
void load(void* to, const void* from, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(from) & (bytes - 1)) misaligned("load", from, bytes, site);
  touch(*current_fiber(), from, bytes, Access::read, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}
void store(void* to, const void* from, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(to) & (bytes - 1)) misaligned("store", to, bytes, site);
  touch(*current_fiber(), to, bytes, Access::write, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}
void atomic_access(const void* address, size_t bytes) { touch(*current_fiber(), address, bytes, Access::atomic, __builtin_return_address(0)); }
#endif

// --- cp.async: nothing arrives before it is waited for, and until then the destination holds NaNs ---

void copy_async(void* to, const void* from, int bytes, bool valid, Site site) {
  Fiber& fiber = *current_fiber();
  Block& block = *fiber.block;
  if (reinterpret_cast<uintptr_t>(to) & (bytes - 1)) misaligned("cp.async to", to, bytes, site);
  if (reinterpret_cast<uintptr_t>(from) & (bytes - 1)) misaligned("cp.async from", from, bytes, site);
  if (!find_shared(block, to, bytes)) fail("out-of-bounds", "cp.async %s: the destination is outside shared memory; block %u, thread %d", format_site(site).c_str(), block.linear, fiber.linear);
  const void* pc = __builtin_return_address(0);
#if defined(ANNEAL_SIMT_HOOKS)
  if (valid) touch(fiber, from, bytes, Access::read, pc);
  touch(fiber, to, bytes, Access::copy, pc);
#endif
  block.counts.async_bytes += valid ? bytes : 0;
  std::memset(to, unwritten, bytes);
  block.copies[fiber.linear].queue.push_back({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes, valid, pc});
}

void copy_async_commit() {
  Fiber& fiber = *current_fiber();
  AsyncCopies& copies = fiber.block->copies[fiber.linear];
  copies.ends.push_back(copies.queue.size());
}

void copy_async_wait(int pending) {
  Fiber& fiber = *current_fiber();
  AsyncCopies& copies = fiber.block->copies[fiber.linear];
  const size_t groups = copies.ends.size(), upto = groups > static_cast<size_t>(pending) ? groups - pending : 0;
  for (; copies.groups_done < upto; ++copies.groups_done)
    for (; copies.done < copies.ends[copies.groups_done]; ++copies.done) {
      const AsyncCopy& copy = copies.queue[copies.done];
#if defined(ANNEAL_SIMT_HOOKS)
      if (copy.valid) touch(fiber, copy.from, copy.bytes, Access::departure, copy.pc);
      touch(fiber, copy.to, copy.bytes, Access::arrival, copy.pc);
#endif
      if (copy.valid) std::memcpy(copy.to, copy.from, copy.bytes);
      else std::memset(copy.to, 0, copy.bytes);
    }
  if (copies.done == copies.queue.size() && copies.groups_done == groups) copies.clear();
}

}  // namespace anneal::simt
