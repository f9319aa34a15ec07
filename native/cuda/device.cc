// The device layer: one device per thread, its stream, its scratch, staging of host memory, graphs and faults; and the table that backend.h promises.
#include "device.h"

#include <atomic>
#include <cstdarg>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../backend.h"
#include "gemm_library.h"
#include "profile.h"
#include "table.h"

namespace anneal::cuda {

namespace {

FailureKind kind_of(cudaError_t error) { return error == cudaErrorMemoryAllocation ? FailureKind::memory : FailureKind::device; }

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw Failure(kind_of(error), std::string(what) + ": " + cudaGetErrorString(error));
}

// Pinned host memory through which small copies go, so that they need not wait: a ring of two halves, each guarded by an event.
class Staging {
 public:
  static constexpr size_t half_bytes = 8 << 20;
  void open() {
    check(cudaHostAlloc(reinterpret_cast<void**>(&memory_), 2 * half_bytes, cudaHostAllocDefault), "pinned host memory");
    for (auto& event : free_) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  }
  void close() {
    if (memory_) cudaFreeHost(memory_);
    for (auto& event : free_)
      if (event) cudaEventDestroy(event);
  }
  // Copies from host to device in the order of the stream; `from` may be reused at once.
  void write(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    for (size_t done = 0; done < bytes;) {
      if (used_ == half_bytes) turn(stream);
      size_t part = bytes - done < half_bytes - used_ ? bytes - done : half_bytes - used_;
      char* stage = memory_ + half_ * half_bytes + used_;
      std::memcpy(stage, static_cast<const char*>(from) + done, part);
      check(cudaMemcpyAsync(static_cast<char*>(to) + done, stage, part, cudaMemcpyHostToDevice, stream), "copy to the device");
      done += part;
      used_ = (used_ + part + 255) / 256 * 256;
      if (used_ > half_bytes) used_ = half_bytes;
    }
  }
  // Copies from device to host and waits, one half being filled by the device while the other is emptied here.
  void read(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    size_t previous = 0, previous_bytes = 0;
    int previous_half = -1;
    auto drain = [&] {
      if (previous_half < 0) return;
      check(cudaEventSynchronize(free_[previous_half]), "copy from the device");
      std::memcpy(static_cast<char*>(to) + previous, memory_ + previous_half * half_bytes, previous_bytes);
    };
    for (size_t done = 0; done < bytes;) {
      turn(stream);
      size_t part = bytes - done < half_bytes ? bytes - done : half_bytes;
      check(cudaMemcpyAsync(memory_ + half_ * half_bytes, static_cast<const char*>(from) + done, part, cudaMemcpyDeviceToHost, stream), "copy from the device");
      check(cudaEventRecord(free_[half_], stream), "cudaEventRecord");
      drain();
      previous = done;
      previous_bytes = part;
      previous_half = half_;
      done += part;
    }
    drain();
    used_ = half_bytes;
  }

 private:
  // Goes on to the other half once the device has done with it.
  void turn(cudaStream_t stream) {
    check(cudaEventRecord(free_[half_], stream), "cudaEventRecord");
    half_ = 1 - half_;
    used_ = 0;
    check(cudaEventSynchronize(free_[half_]), "copy to the device");
  }
  char* memory_ = nullptr;
  cudaEvent_t free_[2] = {};
  int half_ = 0;
  size_t used_ = 0;
};

// Working memory of launchers: handed out front to back, all of it free again at the next call. Chunks are never returned while the device is
// open, as a captured graph may use them.
class Scratch {
 public:
  void* take(size_t bytes, bool exact) {
    if (exact) {
      chunks_.push_back({allocate(bytes), bytes, bytes});
      return chunks_.back().data;
    }
    bytes = (bytes + 255) / 256 * 256;
    for (auto& chunk : chunks_)
      if (chunk.bytes - chunk.used >= bytes) return take_from(chunk, bytes);
    size_t size = total_ > (size_t{32} << 20) ? total_ : size_t{32} << 20;
    if (size < bytes || size > (size_t{1} << 30)) size = bytes;
    chunks_.push_back({allocate(size), size, 0});
    total_ += size;
    return take_from(chunks_.back(), bytes);
  }
  void reset(bool exact) {
    if (exact) close();
    for (auto& chunk : chunks_) chunk.used = 0;
  }
  // How much of each chunk is taken; given back to rewind(), all taken since is free again.
  std::vector<size_t> mark() const {
    std::vector<size_t> used;
    for (auto& chunk : chunks_) used.push_back(chunk.used);
    return used;
  }
  void rewind(const std::vector<size_t>& used, bool exact) {
    if (exact) {
      for (; chunks_.size() > used.size(); chunks_.pop_back()) cudaFree(chunks_.back().data);
      return;
    }
    for (size_t i = 0; i < chunks_.size(); ++i) chunks_[i].used = i < used.size() ? used[i] : 0;
  }
  // What a captured graph uses stays; in exact mode each call of the graph has chunks of its own.
  void keep() {
    kept_.insert(kept_.end(), chunks_.begin(), chunks_.end());
    chunks_.clear();
  }
  void close() {
    for (auto& chunk : chunks_) cudaFree(chunk.data);
    chunks_.clear();
  }
  void close_kept() {
    for (auto& chunk : kept_) cudaFree(chunk.data);
    kept_.clear();
  }

 private:
  struct Chunk {
    char* data;
    size_t bytes, used;
  };
  static char* allocate(size_t bytes) {
    void* data = nullptr;
    cudaError_t error = cudaMalloc(&data, bytes);
    if (error != cudaSuccess) {
      cudaGetLastError();
      throw Failure(kind_of(error), "a kernel could not get " + std::to_string(bytes) + " bytes of working memory: " + cudaGetErrorString(error));
    }
    return static_cast<char*>(data);
  }
  static void* take_from(Chunk& chunk, size_t bytes) {
    void* data = chunk.data + chunk.used;
    chunk.used += bytes;
    return data;
  }
  std::vector<Chunk> chunks_, kept_;
  size_t total_ = 0;
};

struct Device {
  int index = 0;
  cudaStream_t stream = nullptr;
  DeviceTraits traits{};
  Staging staging;
  Scratch scratch;
  Fault* fault = nullptr;
  uint32_t* arrivals = nullptr;
  std::map<const void*, size_t> allowed_shared;
  uint64_t launches = 0;
  bool capturing = false;
  Profile profile;
};

thread_local Device* current = nullptr;
thread_local FailureKind failure_kind = FailureKind::none;
thread_local std::string failure_message;

#if defined(ANNEAL_SIMT)
constexpr bool exact = true;
#else
constexpr bool exact = false;
#endif

void keep_failure(FailureKind kind, std::string message) {
  if (failure_kind != FailureKind::none) return;
  failure_kind = kind;
  failure_message = std::move(message);
}

// Calls body(); what it throws is kept for take_failure(), and `otherwise` is returned.
template <class F, class R = decltype(std::declval<F>()())> R guarded(F&& body, R otherwise = R()) noexcept {
  try {
    return body();
  } catch (const Failure& failure) {
    keep_failure(failure.kind, failure.message);
  } catch (const std::bad_alloc&) {
    keep_failure(FailureKind::memory, "host memory ran out");
  } catch (const std::exception& error) {
    keep_failure(FailureKind::kernel, error.what());
  }
  return otherwise;
}

int count_devices() {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  cudaGetLastError();
  if (error == cudaErrorNoDevice) return 0;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  if (error == cudaErrorInsufficientDriver)
    throw Failure(FailureKind::device, driver == 0 ? std::string("no NVIDIA driver is installed")
                                                   : "the NVIDIA driver supports CUDA " + version(driver) + ", but this build needs " + version(runtime) + "; update the driver");
  throw Failure(FailureKind::device, cudaGetErrorString(error));
}

void describe_device(int index, DeviceDescription* description) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  std::memset(description, 0, sizeof *description);
  snprintf(description->name, sizeof description->name, "%.*s", static_cast<int>(sizeof description->name) - 1, properties.name);
  description->compute = properties.major * 10 + properties.minor;
  description->multiprocessors = properties.multiProcessorCount;
  description->memory = properties.totalGlobalMem;
}

void close_device(Device* device) {
  cudaSetDevice(device->index);
  if (device->stream) cudaStreamSynchronize(device->stream);
  device->profile.close();
  device->scratch.close();
  device->scratch.close_kept();
  device->staging.close();
  if (device->fault) cudaFree(device->fault);
  if (device->arrivals) cudaFree(device->arrivals);
  if (device->stream) cudaStreamDestroy(device->stream);
  delete device;
}

Device* open_device(int index) {
  int count = count_devices();
  if (count == 0) throw Failure(FailureKind::device, "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES");
  if (index >= count) throw Failure(FailureKind::device, "device cuda:" + std::to_string(index) + " does not exist; this machine has " + std::to_string(count) + (count == 1 ? " GPU" : " GPUs"));
  check(cudaSetDevice(index), "cudaSetDevice");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  if (properties.major < 8)
    throw Failure(FailureKind::device, std::string(properties.name) + " has compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) + "; the kernels need 8.0 (Ampere) or newer");
  std::unique_ptr<Device, void (*)(Device*)> device(new Device, close_device);
  device->index = index;
  device->traits = {properties.multiProcessorCount, static_cast<int>(properties.sharedMemPerBlockOptin), properties.major * 10 + properties.minor};
  check(cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaMalloc(reinterpret_cast<void**>(&device->fault), sizeof(Fault)), "cudaMalloc");
  check(cudaMemsetAsync(device->fault, 0, sizeof(Fault), device->stream), "cudaMemset");
  check(cudaMalloc(reinterpret_cast<void**>(&device->arrivals), most_arrivals * sizeof(uint32_t)), "cudaMalloc");
  check(cudaMemsetAsync(device->arrivals, 0, most_arrivals * sizeof(uint32_t), device->stream), "cudaMemset");
  device->staging.open();
  return device.release();
}

Device& here() {
  if (!current) throw Failure(FailureKind::device, "a device call was made outside its stream");
  return *current;
}

const char* const fault_messages[] = {
    "",
#define FAULT(name, message) message,
#include "faults.def"
#undef FAULT
};

void finish_device() {
  Device& device = here();
  Fault fault{};
  device.staging.read(&fault, device.fault, sizeof fault, device.stream);
  check(cudaStreamSynchronize(device.stream), "the device");
  check(cudaGetLastError(), "the device");
  if (fault.site == 0) return;
  check(cudaMemsetAsync(device.fault, 0, sizeof(Fault), device.stream), "cudaMemset");
  std::string message = fault_messages[fault.site];
  for (const auto& [name, number] : {std::pair{"{value}", fault.value}, std::pair{"{index}", fault.index}, std::pair{"{limit}", fault.limit}})
    for (size_t at; (at = message.find(name)) != std::string::npos;) message.replace(at, std::strlen(name), std::to_string(number));
  throw Failure(FailureKind::kernel, message);
}

bool begin_capture_here() {
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "the capture of a graph");
  here().capturing = true;
  return true;
}

void* end_capture_here() {
  // An earlier failure keeps calls from running, the capture's beginning too.
  if (!here().capturing) throw Failure(FailureKind::device, "the graph was not captured, as an earlier call had failed");
  cudaGraph_t graph = nullptr;
  if (exact) here().scratch.keep();
  here().capturing = false;
  check(cudaStreamEndCapture(here().stream, &graph), "the end of a graph's capture");
  cudaGraphExec_t executable = nullptr;
  cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "cudaGraphInstantiate");
  return executable;
}

void replay_here(void* graph) {
  if (!graph) throw Failure(FailureKind::device, "the graph cannot run: its capture failed");
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream()), "the run of a graph");
}

// A captured copy would read the staging memory of then at each replay.
void refuse_copy_in_capture() {
  if (here().capturing) throw Failure(FailureKind::device, "a graph cannot copy between host and device; make its tensors before the capture, and read them after a replay");
}

}  // namespace

cudaStream_t stream() { return here().stream; }
void* scratch(size_t bytes) { return here().scratch.take(bytes ? bytes : 1, exact); }
ScratchFrame::ScratchFrame() : used_(here().scratch.mark()) {}
ScratchFrame::~ScratchFrame() {
  if (!(exact && current->capturing)) current->scratch.rewind(used_, exact);
}
const DeviceTraits& traits() { return here().traits; }
Fault* fault() { return here().fault; }
uint32_t* arrivals(int64_t count) {
  ANNEAL_CHECK(count <= most_arrivals, "a kernel needs %lld counters, but there are %lld", static_cast<long long>(count), static_cast<long long>(most_arrivals));
  return here().arrivals;
}

void allow_shared(const void* kernel, size_t bytes, const char* from) {
  size_t& allowed = here().allowed_shared[kernel];
  if (allowed >= bytes) return;
  if (bytes > static_cast<size_t>(here().traits.shared_per_block))
    fail("%s: the kernel needs %zu bytes of shared memory, but this GPU gives a block %d", from, bytes, here().traits.shared_per_block);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), from);
  allowed = bytes;
}

void count_launch(const char* from) {
  ++here().launches;
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw Failure(kind_of(error), std::string(from) + ": the kernel could not run: " + cudaGetErrorString(error));
}

void begin_call(const char* kernel) {
  Device& device = here();
  if (device.profile.enabled() && !device.capturing) device.profile.begin(kernel, device.stream);
  if (exact && device.capturing) device.scratch.keep();
  device.scratch.reset(exact);
}
void end_call() {
  if (current && current->profile.enabled() && !current->capturing) current->profile.end(current->stream);
}
void keep(const Failure& failure) { keep_failure(failure.kind, failure.message); }

}  // namespace anneal::cuda

using namespace anneal;
using namespace anneal::cuda;

extern "C" __attribute__((visibility("default"))) const Backend* anneal_backend() {
  static const Backend backend = {
      .interface = ANNEAL_INTERFACE,
#if defined(ANNEAL_SIMT)
      .name = "simt",
#else
      .name = "cuda",
#endif
      .exact_allocation = exact,
      .kernels = &table,
      .count = [] { return guarded([] { return count_devices(); }, -1); },
      .describe = [](int index, DeviceDescription* description) { return guarded([=] { return describe_device(index, description), true; }, false); },
      .gemm_library = anneal_gemm_library,
      .open = [](int index) { return static_cast<void*>(guarded([=] { return open_device(index); })); },
      .close = [](void* device) { close_device(static_cast<Device*>(device)); },
      .allocate = [](void* device, size_t bytes) -> void* {
        cudaSetDevice(static_cast<Device*>(device)->index);
        void* memory = nullptr;
        if (cudaMalloc(&memory, bytes) == cudaSuccess) return memory;
        cudaGetLastError();
        return nullptr;
      },
      .release = [](void* device, void* memory) {
        cudaSetDevice(static_cast<Device*>(device)->index);
        cudaFree(memory);
      },
      .enter = [](void* device) {
        current = static_cast<Device*>(device);
        cudaSetDevice(current->index);
      },
      .write = [](void* to, const void* from, size_t bytes) { guarded([=] { return refuse_copy_in_capture(), here().staging.write(to, from, bytes, stream()), true; }); },
      .read = [](void* to, const void* from, size_t bytes) { guarded([=] { return refuse_copy_in_capture(), here().staging.read(to, from, bytes, stream()), true; }); },
      .finish = [] { guarded([] { return finish_device(), true; }); },
      .launches = [] { return current ? current->launches : 0; },
      .begin_capture = [] { guarded([] { return begin_capture_here(); }); },
      .end_capture = [] { return guarded([] { return end_capture_here(); }); },
      .replay = [](void* graph) { guarded([=] { return replay_here(graph), true; }); },
      .release_graph = [](void* graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); },
      .take_failure = [](FailureKind* kind, const char** message) {
        if (failure_kind == FailureKind::none) return false;
        *kind = failure_kind;
        failure_kind = FailureKind::none;
        *message = failure_message.c_str();
        return true;
      },
  };
  return &backend;
}
