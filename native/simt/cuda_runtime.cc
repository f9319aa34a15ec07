#include "cuda_runtime.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "block.h"
#include "memory.h"
#include "profile.h"
#include "ptx.h"

namespace anneal::simt {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_message;
thread_local int device = 0;
std::atomic<uint64_t> launches{0};

// What cudaFuncSetAttribute allowed, by device and kernel: more dynamic shared memory than every kernel may have.
constexpr size_t usual_shared = 48 << 10;
std::mutex allowed_mutex;
std::map<std::pair<int, const void*>, size_t> allowed_shared;

size_t allowed_for(const void* kernel) {
  std::lock_guard lock(allowed_mutex);
  const auto found = allowed_shared.find({device, kernel});
  return found == allowed_shared.end() ? usual_shared : found->second;
}

cudaError_t set_error(cudaError_t error, std::string message) {
  last_message = std::move(message);
  return last_error = error;
}

// The kernels since the last look at the guards of buffers: one of them wrote there.
std::mutex recent_mutex;
std::vector<const void*> recent;
constexpr size_t most_recent = 32;

cudaError_t check_guards() {
  const std::string found = broken_guards();
  std::lock_guard lock(recent_mutex);
  std::string names;
  for (const void* kernel : recent) names += (names.empty() ? "" : ", ") + kernel_name(kernel);
  recent.clear();
  if (found.empty()) return cudaSuccess;
  return set_error(cudaErrorLaunchFailure, "out-of-bounds: " + found + ", by one of the last kernels: " + names);
}

std::string bad_size(const Launch& launch) {
  const uint64_t threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  if (threads == 0 || threads > 1024 || launch.block.x > 1024 || launch.block.y > 1024 || launch.block.z > 64) return std::to_string(threads) + " threads in a block";
  if (launch.shared > launch.settings.shared) return std::to_string(launch.shared) + " bytes of shared memory";
  if (launch.shared > allowed_for(launch.kernel)) return std::to_string(launch.shared) + " bytes of shared memory, which cudaFuncSetAttribute has not allowed the kernel";
  if (launch.blocks() == 0 || launch.grid.x > 0x7fffffffu || launch.grid.y > 65535 || launch.grid.z > 65535 || launch.blocks() > 0xffffffffu)
    return "a grid of " + std::to_string(launch.grid.x) + " × " + std::to_string(launch.grid.y) + " × " + std::to_string(launch.grid.z);
  if (launch.argument_bytes > 4096) return std::to_string(launch.argument_bytes) + " bytes of arguments";
  return "";
}

// A stream works on the device that was current when it was made, and CUDA refuses it while another one is.
bool owns(cudaStream_t stream) { return !stream || stream->device == device; }
cudaError_t foreign_stream(cudaStream_t stream) {
  return set_error(cudaErrorInvalidResourceHandle, "the stream is one of device " + std::to_string(stream->device) + ", but the current device is " + std::to_string(device));
}

// Copies, or says that one side is not the device memory it should be.
cudaError_t copy(void* to, const void* from, size_t bytes, bool to_device, bool from_device) {
  if (bytes == 0) return cudaSuccess;
  if ((to_device && !inside_buffer(to, bytes, device)) || (from_device && !inside_buffer(from, bytes, device)))
    return set_error(cudaErrorInvalidValue, "a copy of " + std::to_string(bytes) + " bytes is not inside one allocation of device " + std::to_string(device));
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

}  // namespace

void run(const void* kernel, dim3 grid, dim3 block, size_t shared, void (*call)(void*), void* arguments, size_t argument_bytes, const Argument* list, size_t count) {
  Launch launch;
  launch.grid = grid;
  launch.block = block;
  launch.shared = shared;
  launch.call = call;
  launch.arguments = arguments;
  launch.argument_bytes = argument_bytes;
  launch.kernel = kernel;
  launch.device = device;
  launch.settings = settings();
  if (++launches == launch.settings.fail_launch) {
    set_error(cudaErrorLaunchFailure, "in " + kernel_name(kernel) + ": ANNEAL_SIMT_FAIL_LAUNCH wants this launch to fail");
    return;
  }
  if (std::string bad = bad_size(launch); !bad.empty()) {
    set_error(cudaErrorInvalidConfiguration, "in " + kernel_name(kernel) + ": launch: " + bad);
    return;
  }
  {
    std::lock_guard lock(recent_mutex);
    if (recent.size() == most_recent) recent.erase(recent.begin());
    recent.push_back(kernel);
  }
  if (ptx::enabled()) ptx::run_launch(launch, list, count);
  else run_launch(launch);
  if (!launch.findings.empty()) set_error(cudaErrorLaunchFailure, describe(launch));
}

void submit(cudaStream_t stream, std::function<void()> run) {
  if (!owns(stream)) foreign_stream(stream);
  else if (stream && stream->capture) stream->capture->push_back(std::move(run));
  else run();
}

}  // namespace anneal::simt

using namespace anneal::simt;

// Opening a device begins with this: the settings are read anew, so that a test may change them between devices.
cudaError_t cudaGetDeviceCount(int* count) {
  read_settings();
  const int devices = settings().devices;
  *count = devices > 0 ? devices : 0;
  return devices > 0 ? cudaSuccess : set_error(devices == 0 ? cudaErrorNoDevice : cudaErrorInsufficientDriver, "no device");
}
cudaError_t cudaSetDevice(int index) {
  if (index < 0 || index >= settings().devices) return set_error(cudaErrorInvalidDevice, "invalid device ordinal");
  device = index;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  const Settings now = settings();
  *properties = {"emulator", now.compute / 10, now.compute % 10, 4, now.memory, now.shared};
  return cudaSuccess;
}
// ANNEAL_SIMT_DEVICES=-1 has a driver of CUDA 11.8, -2 none.
cudaError_t cudaDriverGetVersion(int* version) {
  const int devices = settings().devices;
  *version = devices >= 0 ? 13000 : devices == -1 ? 11080 : 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = settings().memory;
  *free = *total - allocated_bytes(device);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = allocate_buffer(bytes, device);
  return *p ? cudaSuccess : set_error(cudaErrorMemoryAllocation, "out of memory");
}
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  const std::string found = buffer_guard_broken(p);
  if (!found.empty()) check_guards();
  return free_buffer(p) ? cudaSuccess : set_error(cudaErrorInvalidValue, "cudaFree of what is no allocation of the device");
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  *p = std::malloc(bytes ? bytes : 1);
  return *p ? cudaSuccess : set_error(cudaErrorMemoryAllocation, "out of memory");
}
cudaError_t cudaFreeHost(void* p) { return std::free(p), cudaSuccess; }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  cudaError_t result = cudaSuccess;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (!owns(stream)) return foreign_stream(stream);
  if (stream && stream->capture) submit(stream, [=] { copy(to, from, bytes, to_device, from_device); });
  else result = copy(to, from, bytes, to_device, from_device);
  return result;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (!owns(stream)) return foreign_stream(stream);
  if (bytes && !inside_buffer(to, bytes, device)) return set_error(cudaErrorInvalidValue, "a memset outside the allocations of the device");
  submit(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

// A device opens with a stream: launches are counted from 1.
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  launches = 0;
  *stream = new SimtStream{nullptr, device};
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  write_profile();
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  check_guards();
  write_profile();
  return cudaGetLastError();
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = new SimtEvent{device}, cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (!owns(stream)) return foreign_stream(stream);
  return event->device == device ? cudaSuccess : set_error(cudaErrorInvalidResourceHandle, "the event is one of another device than the stream");
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) { return *milliseconds = 0, cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) { return stream->capture = new SimtGraph, cudaSuccess; }
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->capture;
  stream->capture = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) { return *executable = new SimtGraph(*graph), cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (!owns(stream)) return foreign_stream(stream);
  for (auto& run : *executable) run();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return delete executable, cudaSuccess; }

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : last_message.c_str(); }
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  const size_t bytes = static_cast<size_t>(value);
  if (bytes > settings().shared) return set_error(cudaErrorInvalidValue, "more dynamic shared memory than a block can have");
  std::lock_guard lock(allowed_mutex);
  allowed_shared[{device, kernel}] = bytes;
  return cudaSuccess;
}
