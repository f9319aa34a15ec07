#include "device.h"

#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>

namespace anneal {

namespace {

class DeviceMemory : public Memory {
 public:
  DeviceMemory(const Backend& backend, void* device) : backend_(backend), device_(device) {}
  void* allocate(size_t bytes) override { return backend_.allocate(device_, bytes); }
  void release(void* segment) override { backend_.release(device_, segment); }
  bool exact() const override { return backend_.exact_allocation; }

 private:
  const Backend& backend_;
  void* device_;
};

[[noreturn]] void throw_failure_of(const Backend& backend, const char* otherwise) {
  FailureKind kind;
  const char* message;
  if (backend.take_failure(&kind, &message)) throw Failure(kind, message);
  throw Failure(FailureKind::device, otherwise);
}

void* open_device(const Backend& backend, int index) {
  void* opened = backend.open(index);
  if (!opened) throw_failure_of(backend, "the device could not be opened");
  return opened;
}

}  // namespace

Device::Device(const cpu::Isa* isa, int threads) : name("cpu"), kernels(isa->kernels), memory_(new HostMemory), stream(threads), allocator(*memory_) {}

Device::Device(const Backend& backend, int index)
    : name(index == 0 ? backend.name : std::string(backend.name).append(":").append(std::to_string(index))),
      kernels(backend.kernels),
      backend_(&backend),
      opened_(open_device(backend, index)),
      memory_(new DeviceMemory(backend, opened_)),
      stream(1),
      allocator(*memory_) {
  stream.push_always([this] { backend_->enter(opened_); });
}

Device::~Device() {
  stream.stop();
  allocator.release_all();
  if (backend_) backend_->close(opened_);
}

void Device::throw_failure() {
  FailureKind kind;
  const char* message;
  if (backend_->take_failure(&kind, &message)) throw Failure(kind, message);
}

void Device::write(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (!backend_) {
    std::memcpy(to, from, bytes);
    return;
  }
  backend_->write(to, from, bytes);
  throw_failure();
}

void Device::read(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (!backend_) {
    std::memcpy(to, from, bytes);
    return;
  }
  backend_->read(to, from, bytes);
  throw_failure();
}

void Device::finish() {
  if (!backend_) return;
  backend_->finish();
  throw_failure();
}

void Device::begin_capture() {
  backend_->begin_capture();
  capturing_ = true;
  throw_failure();
}

void* Device::end_capture() {
  void* graph = backend_->end_capture();
  capturing_ = false;
  throw_failure();
  return graph;
}

void Device::replay(void* graph) {
  if (profile_ && !capturing_) return timed(Profile::graphs, [&] { backend_->replay(graph); });
  backend_->replay(graph);
  throw_failure();
}

void Device::release_graph(void* graph) { backend_->release_graph(graph); }

const Backend& load_backend(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, const Backend*> loaded;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = loaded.find(path);
  if (found != loaded.end()) return *found->second;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw Failure(FailureKind::device, dlerror());
  auto entry = reinterpret_cast<const Backend* (*)()>(dlsym(library, "anneal_backend"));
  if (!entry) throw Failure(FailureKind::device, path + " is not a device library of anneal");
  const Backend* backend = entry();
  if (std::strcmp(backend->interface, ANNEAL_INTERFACE) != 0)
    throw Failure(FailureKind::device, path + " was built from other sources than the addon; build both again");
  loaded[path] = backend;
  return *backend;
}

}  // namespace anneal
