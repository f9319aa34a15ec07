// A device as the addon sees it: a name, kernels, memory and an ordered stream of calls. The CPU is built in; others come from a library of backend.h.
#pragma once
#include <memory>
#include <string>

#include "../backend.h"
#include "../cpu/dispatch.h"
#include "allocator.h"
#include "stream.h"

namespace anneal {

class Device {
 public:
  // The CPU.
  Device(const cpu::Isa* isa, int threads);
  // Device `index` of a library. Throws Failure where it cannot be opened.
  Device(const Backend& backend, int index);
  ~Device();
  Device(const Device&) = delete;

  const std::string name;
  const KernelTable* kernels;
  bool is_cpu() const { return !backend_; }

  // --- For calls on the stream's thread; they throw Failure ---

  // Throws what the last call of the library left behind.
  void check() {
    if (backend_) throw_failure();
  }
  void write(void* to, const void* from, size_t bytes);
  void read(void* to, const void* from, size_t bytes);
  // Waits for everything enqueued.
  void finish();
  void begin_capture();
  void* end_capture();
  void replay(void* graph);
  void release_graph(void* graph);
  uint64_t launches() const { return backend_ ? backend_->launches() : 0; }

 private:
  void throw_failure();
  const Backend* backend_ = nullptr;
  void* opened_ = nullptr;
  std::unique_ptr<Memory> memory_;

 public:
  Stream stream;
  Allocator allocator;
};

// A library of backend.h, loaded once per process. Throws Failure with a sentence where it cannot be used.
const Backend& load_backend(const std::string& path);

}  // namespace anneal
