#include "context.h"

#include <cstdlib>
#include <future>
#include <string>
#include <thread>

namespace anneal {

namespace {

int default_threads() {
  if (const char* wanted = std::getenv("ANNEAL_THREADS")) {
    int threads = std::atoi(wanted);
    if (threads > 0) return threads;
  }
  unsigned hardware = std::thread::hardware_concurrency();
  return hardware ? static_cast<int>(hardware) : 1;
}

const char* code_of(FailureKind kind) {
  switch (kind) {
    case FailureKind::memory: return "ERR_OUT_OF_MEMORY";
    case FailureKind::file: return "ERR_FILE_FORMAT";
    case FailureKind::disk_full: return "ERR_DISK_FULL";
    case FailureKind::device: return "ERR_DEVICE";
    default: return "ERR_KERNEL";
  }
}

std::string shape_text(const int64_t* shape, int rank) {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace

struct Context::Fence {
  Napi::Promise::Deferred deferred;
  Napi::Reference<Napi::Value> value;
  Failure failure{FailureKind::none, ""};
  uint64_t failures = 0;
};

Context::Context(Napi::Env env)
    : env(env), isa(cpu::select_isa(std::getenv("ANNEAL_ISA"))), threads(default_threads()) {
  devices_.push_back(std::make_unique<Device>(isa, threads));
  fences_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "anneal fence", 0, 1);
  fences_.Unref(env);
  // Hooks run in reverse order: the streams are joined before Node destroys the thread-safe function that they call.
  env.AddCleanupHook([](Context* context) {
    for (auto& device : context->devices_) device->stream.stop();
  }, this);
}

Context& Context::of(napi_env env) { return *Napi::Env(env).GetInstanceData<Context>(); }

double Context::occupy(Device& device, const Tensor& tensor, Allocator::Block* block) {
  int32_t index = first_free_;
  if (index >= 0) {
    first_free_ = slots_[index].next_free;
  } else {
    index = static_cast<int32_t>(slots_.size());
    if (index + 1 >= index_range) raise("ERR_OUT_OF_MEMORY", "more than 16 million tensors are alive; dispose of them or use scope()");
    slots_.emplace_back();
  }
  Slot& slot = slots_[index];
  slot.tensor = tensor;
  slot.block = block;
  slot.device = &device;
  return slot.generation * index_range + index + 1;
}

// A tensor without memory; refuses sizes that would overflow.
Tensor Context::describe(DType dtype, const int64_t* shape, int rank) const {
  Tensor tensor{};
  tensor.dtype = dtype;
  tensor.rank = rank;
  tensor.size = 1;
  for (int i = 0; i < rank; ++i) {
    tensor.shape[i] = shape[i];
    if (__builtin_mul_overflow(tensor.size, shape[i], &tensor.size) || tensor.size > (int64_t{1} << 48))
      raise("ERR_SHAPE", "a tensor of shape " + shape_text(shape, rank) + " is too large");
  }
  return tensor;
}

double Context::create(Device& device, DType dtype, const int64_t* shape, int rank) {
  Tensor tensor = describe(dtype, shape, rank);
  size_t bytes = static_cast<size_t>(tensor.bytes());
  Allocator::Block* block = device.allocator.allocate(bytes);
  if (!block) {
    empty_cache(device);
    device.stream.drain();
    block = device.allocator.allocate(bytes);
  }
  if (!block)
    raise("ERR_OUT_OF_MEMORY", "cannot allocate " + std::to_string(bytes) + " bytes for a tensor of shape " + shape_text(shape, rank) + ", " +
                                   dtype_names[static_cast<int>(dtype)] + (device.is_cpu() ? "" : ", on " + device.name) + "; " +
                                   std::to_string(device.allocator.statistics().live) + " bytes are in use");
  tensor.data = block->data;
  account(false);
  return occupy(device, tensor, block);
}

double Context::view(double handle, int64_t byte_offset, DType dtype, const int64_t* shape, int rank) {
  Slot* source = slot_of(handle);
  if (!source) raise("ERR_DISPOSED", "a view was asked of a tensor that was disposed");
  Tensor tensor = describe(dtype, shape, rank);
  if (byte_offset < 0 || byte_offset % dtype_bytes[static_cast<int>(dtype)] != 0 || byte_offset + tensor.bytes() > source->tensor.bytes())
    raise("ERR_SHAPE", "a view of shape " + shape_text(shape, rank) + " does not fit into its tensor");
  tensor.data = static_cast<char*>(source->tensor.data) + byte_offset;
  Allocator::Block* block = source->block;
  Device& device = *source->device;
  device.allocator.retain(block);
  return occupy(device, tensor, block);
}

Context::Slot* Context::slot_of(double handle) {
  if (!(handle >= 1 && handle <= 9007199254740991.0)) return nullptr;
  double generation = static_cast<double>(static_cast<uint64_t>(handle / index_range));
  double index = handle - generation * index_range - 1;
  if (index < 0 || index >= static_cast<double>(slots_.size()) || index != static_cast<double>(static_cast<int64_t>(index))) return nullptr;
  Slot& slot = slots_[static_cast<size_t>(index)];
  return slot.block && slot.generation == static_cast<uint32_t>(generation) ? &slot : nullptr;
}

Context::Located Context::find(double handle) {
  Slot* slot = slot_of(handle);
  if (slot && capture_ && capture_->tape && capture_->device == slot->device) {
    slot->device->allocator.retain(slot->block);
    capture_->used.push_back(slot->block);
  }
  return slot ? Located{slot->tensor, slot->device} : Located{{}, nullptr};
}

void Context::release(double handle, bool forgotten) {
  Slot* slot = slot_of(handle);
  if (!slot) return;
  free_block(*slot->device, slot->block);
  slot->block = nullptr;
  // 2^29 generations fit beside the index in a double's 53 bits.
  slot->generation = (slot->generation + 1) & ((1u << 29) - 1);
  slot->next_free = first_free_;
  first_free_ = static_cast<int32_t>(slot - slots_.data());
  if (forgotten) account(true);
}

void Context::free_block(Device& device, Allocator::Block* block) {
  if (capture_ && capture_->device == &device) {
    capture_->blocks.push_back(block);
    return;
  }
  device.allocator.release(block);
  if (device.allocator.exact()) empty_cache(device);
}

// Tells V8 how much native memory its small tensor objects stand for, in steps of 16 MiB, so that it collects forgotten ones in time: the most there was at a
// time. V8 collects everything whenever that has grown by some 64 MiB, so a step that makes and disposes of as much must not look as if it grew again and
// again. Only what the collector itself finds is taken off: then there was something to collect.
void Context::account(bool forgotten) {
  int64_t live = 0;
  for (auto& device : devices_) live += static_cast<int64_t>(device->allocator.statistics().live);
  const int64_t grown = live - accounted_;
  if (grown > (16 << 20) || (forgotten && -grown > (16 << 20))) {
    Napi::MemoryManagement::AdjustExternalMemory(env, grown);
    accounted_ = live;
  }
}

Napi::Promise Context::fence(Device& device, Napi::Value value) {
  auto* fence = new Fence{Napi::Promise::Deferred::New(env), {}};
  if (!value.IsEmpty() && value.IsObject()) fence->value = Napi::Persistent(value);
  if (pending_fences_++ == 0) fences_.Ref(env);
  Napi::Promise promise = fence->deferred.Promise();
  device.stream.push_always([this, &device, fence] {
    try {
      device.finish();
    } catch (const Failure& failure) {
      device.stream.fail(failure);
    }
    fence->failure = device.stream.failure();
    fence->failures = device.stream.failures();
    fences_.NonBlockingCall(fence, [this, &device](Napi::Env env, Napi::Function, Fence* pointer) {
      std::unique_ptr<Fence> done(pointer);
      if (--pending_fences_ == 0) fences_.Unref(env);
      try {
        if (done->failure.kind != FailureKind::none) {
          done->deferred.Reject(make_error(code_of(done->failure.kind), done->failure.message));
          // What JavaScript pushed before it knew would compute from what the failed call left, an optimizer's step too: until here all of it is skipped.
          device.stream.recover(done->failures);
        } else {
          done->deferred.Resolve(done->value.IsEmpty() ? env.Undefined() : done->value.Value());
        }
      } catch (const Napi::Error&) {
        // A worker is being terminated: no JavaScript can run any more, so nobody waits.
      }
    });
  });
  return promise;
}

void Context::copy(const Located& to, const Located& from) {
  size_t bytes = static_cast<size_t>(from.tensor.bytes());
  if (bytes == 0) return;
  Device* source = from.device;
  Device* target = to.device;
  // The two streams meet in a buffer of the host: the source fills it when it gets there, the target waits for that.
  auto filled = std::make_shared<std::promise<std::string>>();
  auto buffer = std::make_shared<std::future<std::string>>(filled->get_future());
  source->stream.push_always([source, filled, data = from.tensor.data, bytes] {
    if (source->stream.failure().kind != FailureKind::none) {
      filled->set_exception(std::make_exception_ptr(source->stream.failure()));
      return;
    }
    try {
      std::string host(bytes, '\0');
      source->read(host.data(), data, bytes);
      filled->set_value(std::move(host));
    } catch (const Failure& failure) {
      filled->set_exception(std::make_exception_ptr(failure));
      throw;
    }
  });
  target->stream.push([target, buffer, data = to.tensor.data, bytes] { target->write(data, buffer->get().data(), bytes); });
}

void Context::empty_cache(Device& device) {
  std::vector<void*> segments = device.allocator.take_free_segments();
  if (segments.empty()) return;
  // A library's release waits for what still uses the segment.
  device.stream.push_always([&device, segments = std::move(segments)] {
    for (void* segment : segments) device.allocator.free_segment(segment);
  });
}

void Context::set_threads(int count) {
  threads = count;
  cpu().stream.push_always([this, count] { cpu().stream.set_threads(count); });
}

void Context::set_isa(const cpu::Isa* wanted) {
  isa = wanted;
  cpu().kernels = wanted->kernels;
}

int Context::open_device(const std::string& library, int index) {
  devices_.push_back(std::make_unique<Device>(load_backend(library), index));
  return device_count() - 1;
}

void Context::begin_capture(Device& device) {
  if (capture_) raise("ERR_DEVICE", "a graph is already being captured");
  capture_ = std::make_unique<Graph>(Graph{&device, std::make_shared<void*>(nullptr), device.is_cpu() ? std::make_shared<Tape>() : nullptr, {}, {}});
  if (device.is_cpu()) device.stream.record(capture_->tape);
  else device.stream.push([&device] { device.begin_capture(); });
}

int Context::end_capture(Device& device) {
  if (!capture_ || capture_->device != &device) raise("ERR_DEVICE", "no graph is being captured on " + device.name);
  if (device.is_cpu()) device.stream.record(nullptr);
  else device.stream.push_always([&device, executable = capture_->executable] { *executable = device.end_capture(); });
  graphs_.push_back(std::move(capture_));
  return static_cast<int>(graphs_.size()) - 1;
}

void Context::replay(int number) {
  if (number < 0 || number >= static_cast<int>(graphs_.size()) || !graphs_[number]) raise("ERR_DISPOSED", "a graph was replayed after it was disposed");
  Graph& graph = *graphs_[number];
  // A graph that is replayed while another one is captured becomes part of it, and so does the memory it uses.
  if (graph.tape && capture_ && capture_->tape && capture_->device == graph.device)
    for (const auto* blocks : {&graph.blocks, &graph.used})
      for (Allocator::Block* block : *blocks) {
        graph.device->allocator.retain(block);
        capture_->used.push_back(block);
      }
  if (graph.tape) graph.device->stream.push([tape = graph.tape] { tape->run(); });
  else graph.device->stream.push([device = graph.device, executable = graph.executable] { device->replay(*executable); });
}

void Context::release_graph(int number) {
  if (number < 0 || number >= static_cast<int>(graphs_.size()) || !graphs_[number]) return;
  std::unique_ptr<Graph> graph = std::move(graphs_[number]);
  if (!graph->tape) graph->device->stream.push_always([device = graph->device, executable = graph->executable] {
    if (*executable) device->release_graph(*executable);
  });
  for (Allocator::Block* block : graph->blocks) free_block(*graph->device, block);
  for (Allocator::Block* block : graph->used) free_block(*graph->device, block);
}

Napi::Value Context::make_error(const char* code, const std::string& message) {
  if (!error_factory.IsEmpty()) return error_factory.Call({Napi::String::New(env, code), Napi::String::New(env, message)});
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", code);
  return error.Value();
}

void Context::raise(const char* code, const std::string& message) const {
  Napi::Value error = const_cast<Context*>(this)->make_error(code, message);
  throw Napi::Error(env, error);
}

}  // namespace anneal
