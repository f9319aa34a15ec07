#include "context.h"

#include <cstdlib>
#include <memory>
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
};

Context::Context(Napi::Env env)
    : env(env), isa(cpu::select_isa(std::getenv("ANNEAL_ISA"))), threads(default_threads()), stream(threads) {
  fences_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "anneal fence", 0, 1);
  fences_.Unref(env);
  // Hooks run in reverse order: the stream is joined before Node destroys the thread-safe function that it calls.
  env.AddCleanupHook([](Context* context) { context->stream.stop(); }, this);
}

Context& Context::of(napi_env env) { return *Napi::Env(env).GetInstanceData<Context>(); }

double Context::occupy(const Tensor& tensor, Allocator::Block* block) {
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

double Context::create(DType dtype, const int64_t* shape, int rank) {
  Tensor tensor = describe(dtype, shape, rank);
  size_t bytes = static_cast<size_t>(tensor.bytes());
  Allocator::Block* block = allocator.allocate(bytes);
  if (!block) {
    empty_cache();
    block = allocator.allocate(bytes);
  }
  if (!block)
    raise("ERR_OUT_OF_MEMORY", "cannot allocate " + std::to_string(bytes) + " bytes for a tensor of shape " + shape_text(shape, rank) + ", " +
                                   dtype_names[static_cast<int>(dtype)] + "; " + std::to_string(allocator.statistics().live) + " bytes are in use");
  tensor.data = block->data;
  account();
  return occupy(tensor, block);
}

double Context::view(double handle, int64_t byte_offset, DType dtype, const int64_t* shape, int rank) {
  Slot* source = slot_of(handle);
  if (!source) raise("ERR_DISPOSED", "a view was asked of a tensor that was disposed");
  Tensor tensor = describe(dtype, shape, rank);
  if (byte_offset < 0 || byte_offset % dtype_bytes[static_cast<int>(dtype)] != 0 || byte_offset + tensor.bytes() > source->tensor.bytes())
    raise("ERR_SHAPE", "a view of shape " + shape_text(shape, rank) + " does not fit into its tensor");
  tensor.data = static_cast<char*>(source->tensor.data) + byte_offset;
  Allocator::Block* block = source->block;
  allocator.retain(block);
  return occupy(tensor, block);
}

Context::Slot* Context::slot_of(double handle) {
  if (!(handle >= 1 && handle <= 9007199254740991.0)) return nullptr;
  double generation = static_cast<double>(static_cast<uint64_t>(handle / index_range));
  double index = handle - generation * index_range - 1;
  if (index < 0 || index >= static_cast<double>(slots_.size()) || index != static_cast<double>(static_cast<int64_t>(index))) return nullptr;
  Slot& slot = slots_[static_cast<size_t>(index)];
  return slot.block && slot.generation == static_cast<uint32_t>(generation) ? &slot : nullptr;
}

const Tensor* Context::find(double handle) const {
  Slot* slot = const_cast<Context*>(this)->slot_of(handle);
  return slot ? &slot->tensor : nullptr;
}

void Context::release(double handle) {
  Slot* slot = slot_of(handle);
  if (!slot) return;
  allocator.release(slot->block);
  slot->block = nullptr;
  // 2^29 generations fit beside the index in a double's 53 bits.
  slot->generation = (slot->generation + 1) & ((1u << 29) - 1);
  slot->next_free = first_free_;
  first_free_ = static_cast<int32_t>(slot - slots_.data());
  account();
}

// Tells V8 how much native memory its small tensor objects stand for, in steps of 16 MiB, so that it collects forgotten ones in time.
void Context::account() {
  int64_t live = static_cast<int64_t>(allocator.statistics().live);
  if (live - accounted_ > (16 << 20) || accounted_ - live > (16 << 20)) {
    Napi::MemoryManagement::AdjustExternalMemory(env, live - accounted_);
    accounted_ = live;
  }
}

Napi::Promise Context::fence(Napi::Value value) {
  auto* fence = new Fence{Napi::Promise::Deferred::New(env), {}};
  if (!value.IsEmpty() && value.IsObject()) fence->value = Napi::Persistent(value);
  if (pending_fences_++ == 0) fences_.Ref(env);
  Napi::Promise promise = fence->deferred.Promise();
  stream.push_always([this, fence] {
    fence->failure = stream.take_failure();
    fences_.NonBlockingCall(fence, [this](Napi::Env env, Napi::Function, Fence* pointer) {
      std::unique_ptr<Fence> done(pointer);
      if (--pending_fences_ == 0) fences_.Unref(env);
      try {
        if (done->failure.kind != FailureKind::none)
          done->deferred.Reject(make_error(code_of(done->failure.kind), done->failure.message));
        else
          done->deferred.Resolve(done->value.IsEmpty() ? env.Undefined() : done->value.Value());
      } catch (const Napi::Error&) {
        // A worker is being terminated: no JavaScript can run any more, so nobody waits.
      }
    });
  });
  return promise;
}

void Context::empty_cache() {
  std::vector<void*> segments = allocator.take_free_segments();
  if (segments.empty()) return;
  stream.push_always([segments = std::move(segments)] {
    for (void* segment : segments) Allocator::free_segment(segment);
  });
}

void Context::set_threads(int count) {
  threads = count;
  stream.push_always([this, count] { stream.set_threads(count); });
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
