// How device code reports a wrong value.
#pragma once
#include "device.h"
#include "simt.h"

namespace anneal::cuda {

// Keeps the first fault of all threads.
ANNEAL_DEVICE void report(Fault* fault, FaultSite site, int64_t index, int64_t value, int64_t limit) {
  if (atomicCAS(&fault->site, 0, static_cast<int>(site)) == 0) {
    fault->index = index;
    fault->value = value;
    fault->limit = limit;
  }
}
// Whether an earlier kernel reported one: whatever updates parameters must then leave them alone.
ANNEAL_DEVICE bool faulted(const Fault* fault) { return fault->site != 0; }

}  // namespace anneal::cuda
