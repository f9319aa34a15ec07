// A device as the addon sees it: a name, kernels, memory and an ordered stream of calls. The CPU is built in; others come from a library of backend.h.
#pragma once
#include <chrono>
#include <memory>
#include <string>

#include "../backend.h"
#include "../cpu/dispatch.h"
#include "allocator.h"
#include "stream.h"

namespace anneal {

// How often each kernel of kernels.def ran and for how many seconds; the last entry is what graphs of a GPU took.
struct Profile {
#define KERNEL(name, params) +1
  static constexpr size_t graphs = 0
#include "../kernels.def"
      ;
#undef KERNEL
  struct Entry { double calls = 0, seconds = 0; };
  Entry of[graphs + 1];
};

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
  // A kernel, timed where a profile is being taken, and then with what is enqueued before it done.
  template <class F> void run(size_t kernel, F&& call) {
    if (profile_ && !capturing_) return timed(kernel, [&] { call(); });
    call();
    check();
  }
  // Starts a profile, or ends it; null where there was none.
  std::unique_ptr<Profile> exchange_profile(std::unique_ptr<Profile> profile) { return std::exchange(profile_, std::move(profile)); }
  void begin_capture();
  void* end_capture();
  void replay(void* graph);
  void release_graph(void* graph);
  uint64_t launches() const { return backend_ ? backend_->launches() : 0; }

 private:
  template <class F> void timed(size_t entry, F&& call) {
    finish();
    const auto start = std::chrono::steady_clock::now();
    call();
    check();
    finish();
    Profile::Entry& e = profile_->of[entry];
    e.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    ++e.calls;
  }
  void throw_failure();
  std::unique_ptr<Profile> profile_;
  bool capturing_ = false;
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
