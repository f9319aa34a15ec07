// What a device library (native/cuda, compiled by nvcc or for the emulator) gives the addon that loads it. Plain C calls, as two libraries may not
// throw at each other: a call that fails leaves its failure for take_failure().
#pragma once
#include <cstddef>
#include <cstdint>

#include "failure.h"
#include "kernels.h"

namespace anneal {

// Raised whenever this file or kernels.def changes meaning; the build fills in a fingerprint of both.
#ifndef ANNEAL_INTERFACE
#define ANNEAL_INTERFACE "development"
#endif

struct DeviceDescription {
  char name[256];
  int32_t compute;  // 10 * major + minor
  int32_t multiprocessors;
  size_t memory;  // bytes
};

struct Backend {
  const char* interface;  // ANNEAL_INTERFACE of its build
  const char* name;
  // Each tensor has memory of its own, so that an access outside it is seen (the emulator).
  bool exact_allocation;
  const KernelTable* kernels;

  // Number of devices; -1 with a failure where the driver is missing or too old.
  int (*count)();
  bool (*describe)(int index, DeviceDescription* description);
  // What multiplies large matrices, in words: a library's name and version, or why it is not used.
  const char* (*gemm_library)();
  // Opens a device; null with a failure. Any thread may allocate and release; the rest belongs to the one thread that called enter().
  void* (*open)(int index);
  void (*close)(void* device);
  void* (*allocate)(void* device, size_t bytes);
  void (*release)(void* device, void* memory);  // waits for what uses it

  void (*enter)(void* device);
  // `from` and `to` in host memory may be reused once the call returns; read() waits for everything enqueued before.
  void (*write)(void* to, const void* from, size_t bytes);
  void (*read)(void* to, const void* from, size_t bytes);
  // Waits for everything enqueued, and fails with what went wrong on the device.
  void (*finish)();
  // Kernel launches since the device was opened.
  uint64_t (*launches)();
  // Launches between begin_capture() and end_capture() are kept, not run; replay() runs them again on the same memory.
  void (*begin_capture)();
  void* (*end_capture)();
  void (*replay)(void* graph);
  void (*release_graph)(void* graph);

  // Whether the calling thread's last calls failed; the message stays valid until its next call.
  bool (*take_failure)(FailureKind* kind, const char** message);
};

}  // namespace anneal

// The one symbol that a device library exports.
extern "C" const anneal::Backend* anneal_backend();
