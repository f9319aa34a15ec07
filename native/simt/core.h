// What a kernel compiled by a C++ compiler needs of the emulator: who the running thread is, and the calls that may suspend it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace anneal::simt {

// A place in a kernel's source, for messages.
struct Site {
  const char* file = "";
  int line = 0;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// The part of a thread that the kernel itself reads.
struct Lane {
  uint3 index{};
  int lane = 0;
};
struct Place {
  uint3 block{};
  dim3 block_size, grid_size;
};

// Resolved at load time, not through __tls_get_addr: threadIdx is read often.
extern thread_local Lane* current_lane __attribute__((tls_model("initial-exec")));
extern thread_local Place place __attribute__((tls_model("initial-exec")));

#if defined(ANNEAL_SIMT_HOOKS)
// Calls, so that reading these is not itself instrumented.
uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
int lane_index();
#else
inline const uint3& thread_index() { return current_lane->index; }
inline const uint3& block_index() { return place.block; }
inline const dim3& block_size() { return place.block_size; }
inline const dim3& grid_size() { return place.grid_size; }
inline int lane_index() { return current_lane->lane; }
#endif

// Ends the launch with this error: nothing of it runs on.
[[noreturn]] void fail(const char* kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

enum class Collective : uint8_t { none, shuffle, vote, sync, ldmatrix, mma };
// Deposits `operand` and waits until every lane of `mask` has called with the same kind, name and mask; the last one calls
// `apply(operands, mask)` with the operands of all lanes.
void collective(Collective kind, uint32_t mask, void* operand, void (*apply)(void** operands, uint32_t mask), const char* name, Site site);
// count < 0: all threads of the block that have not ended.
void barrier(int id, int count, const char* name, Site site);
enum class BlockVote { all, any, count };
int barrier_vote(bool predicate, BlockVote vote, Site site);

void* dynamic_shared();
// The block's array of this tag, the same for all its threads.
void* static_shared(const void* tag, size_t bytes, size_t alignment);

void copy_async(void* to, const void* from, int bytes, bool valid, Site site);
void copy_async_commit();
void copy_async_wait(int pending);

#if defined(ANNEAL_SIMT_HOOKS)
// Tells the race detector and the profile of an atomic access; the calling instruction is its site.
void atomic_access(const void* address, size_t bytes);
// The running block has counted its arrival; the last one is ordered after all that arrived there, and after what those were ordered after.
void block_arrived(const void* counter, bool last);
#else
inline void atomic_access(const void*, size_t) {}
inline void block_arrived(const void*, bool) {}
#endif

[[noreturn]] void misaligned(const char* what, const void* address, size_t bytes, Site site);
// Accesses of a whole vector, which the hardware wants aligned.
#if defined(ANNEAL_SIMT_HOOKS)
void load(void* to, const void* from, size_t bytes, Site site);
void store(void* to, const void* from, size_t bytes, Site site);
#else
inline void load(void* to, const void* from, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(from) & (bytes - 1)) misaligned("load", from, bytes, site);
  std::memcpy(to, from, bytes);
}
inline void store(void* to, const void* from, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(to) & (bytes - 1)) misaligned("store", to, bytes, site);
  std::memcpy(to, from, bytes);
}
#endif

}  // namespace anneal::simt
