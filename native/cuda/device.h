// What launchers ask of the device layer. A thread has one device; each call of the kernel table starts with an empty scratch.
#pragma once
#include <cuda_runtime.h>

#include <vector>

#include "../check.h"
#include "../tensor.h"

namespace anneal::cuda {

// The stream of the calling thread's device.
cudaStream_t stream();
// Uninitialised device memory of at least `bytes`, 256-byte aligned, valid until the current kernel-table call returns (the stream keeps the order).
void* scratch(size_t bytes);
template <class T> T* scratch_of(int64_t count) { return static_cast<T*>(scratch(static_cast<size_t>(count) * sizeof(T))); }

// Scratch taken during a frame's life is free again after it (the stream keeps the order): for launchers that others call again and again.
class ScratchFrame {
 public:
  ScratchFrame();
  ~ScratchFrame();
  ScratchFrame(const ScratchFrame&) = delete;
  ScratchFrame& operator=(const ScratchFrame&) = delete;

 private:
  std::vector<size_t> used_;
};

struct DeviceTraits {
  int multiprocessors;
  int shared_per_block;  // bytes a block may have with opt-in
  int compute;           // 10 * major + minor
};
const DeviceTraits& traits();

// Counters in device memory, 0 between launches: the kernel that counts up to a limit starts again at 0 (last_block.h).
constexpr int64_t most_arrivals = 4096;
uint32_t* arrivals(int64_t count);

// Lets a kernel have more than 48 KB of dynamic shared memory.
void allow_shared(const void* kernel, size_t bytes, const char* from);
// Counts a launch and reports one that failed.
void count_launch(const char* from);

// --- Values that only the device can see to be wrong: the first is reported by the next fence, and parameters are not updated after it. ---

enum class FaultSite : int32_t {
  none,
#define FAULT(name, message) name,
#include "faults.def"
#undef FAULT
};
struct Fault {
  int32_t site;
  int32_t pad;
  long long index, value, limit;
};
// In device memory; pass it to kernels that check values.
Fault* fault();

}  // namespace anneal::cuda
